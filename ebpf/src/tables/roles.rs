//! Which backends of a service do what (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Spec;
use crate::picture::{Backend, Locality};
use crate::rendezvous::Candidate;

/// Which backends of a service do what.
pub(super) struct Roles {
    /// All that live.
    pub(super) members: BTreeMap<SocketAddr, Backend>,
    /// Those that get new flows; side by side by weight, see [`crate::rendezvous::slots`].
    pub(super) candidates: Vec<Candidate>,
    /// Those that only keep theirs.
    pub(super) draining: BTreeSet<SocketAddr>,
    /// Candidates on this node.
    pub(super) local: Vec<SocketAddr>,
    /// The candidates get no new flows after all: there are only such.
    pub(super) drains_only: bool,
}

impl Roles {
    pub(super) fn of(spec: &Spec) -> Self {
        let counts = |backend: &&Backend| match spec.policy.locality {
            Locality::Cluster => true,
            Locality::Local => backend.is_local,
        };
        let weight = |address| spec.policy.weights.get(address).copied().unwrap_or(1);
        let set = || spec.set.iter().filter(counts);
        let draining = || spec.policy.draining.iter().filter(counts);
        let members = draining().chain(set()).map(|b| (b.address, *b)).collect();
        let mut new: BTreeMap<SocketAddr, &Backend> =
            set().filter(|b| weight(&b.address) > 0).map(|b| (b.address, b)).collect();
        let is_closed = new.is_empty();
        if is_closed {
            // The flows they have find them by their slots; new ones are turned away.
            new = draining().map(|b| (b.address, b)).collect();
        }
        let drains_only = is_closed && !new.is_empty();
        let mut candidates: Vec<_> =
            new.keys().map(|address| (weight(address).max(1), *address)).collect();
        candidates.sort_unstable();
        let local = new.values().filter(|b| b.is_local).map(|b| b.address).collect();
        let draining =
            draining().map(|b| b.address).filter(|address| !new.contains_key(address)).collect();
        Self {
            members,
            candidates: candidates.into_iter().map(|(w, a)| Candidate::new(a, w)).collect(),
            draining,
            local,
            drains_only,
        }
    }

    /// The backends that get new flows.
    pub(super) fn open(&self) -> impl Iterator<Item = SocketAddr> {
        self.candidates.iter().filter(|_| !self.drains_only).map(Candidate::address)
    }
}
