//! What every VIP follows from (pure), and the VIPs of before, taken over where nothing that they
//! follow from has changed: in a burst of changes most have not, and judging ten thousand anew
//! takes longer than all the rest of a decision.
//!
//! A VIP is judged from its Services and their endpoints, and from nothing else but the ground:
//! what is not in it cannot be read while judging, so it cannot be forgotten when comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_leader_election::{NodeName, Session};

use super::{Origin, Places, Seen, Served, Unused, Vip, backends};
use crate::facts::Facts;
use crate::observed::{Advertisement, Exclusions, Node, Pool};

/// What every VIP follows from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ground {
    /// Without their status, which tells of VIPs and does not make any.
    pub pools: BTreeMap<String, Pool>,
    pub pools_incomplete: bool,
    pub advertisements: BTreeMap<String, Advertisement>,
    pub advertisements_incomplete: bool,
    pub exclusions: Exclusions,
    pub nodes: BTreeMap<String, Node>,
    pub places: Places,
    pub sessions: BTreeMap<NodeName, Session>,
    pub drained: BTreeSet<NodeName>,
    pub facts: BTreeMap<NodeName, Facts>,
    /// The MAC of each node that has had a session, or why it has none.
    pub reached: BTreeMap<NodeName, Result<[u8; 6], Unused>>,
    /// VIPs that were announced since they were assigned. Nobody asks while all announcements can
    /// be read.
    pub announced: BTreeSet<IpAddr>,
}

impl Ground {
    pub fn of(seen: &Seen<'_>) -> Self {
        let Seen { me, observed, view, facts, gone, announced, .. } = *seen;
        let stateless = |pool: &Pool| Pool { status: serde_json::Value::Null, ..pool.clone() };
        let pools = observed.pools.iter().map(|(name, pool)| (name.clone(), stateless(pool)));
        let asked = observed.advertisements_incomplete.then_some(announced);
        Self {
            pools: pools.collect(),
            pools_incomplete: observed.pools_incomplete,
            advertisements: observed.advertisements.clone(),
            advertisements_incomplete: observed.advertisements_incomplete,
            exclusions: observed.exclusions.clone(),
            nodes: observed.nodes.clone(),
            places: Places::of(observed),
            sessions: view.sessions.clone(),
            drained: view.drained.clone(),
            facts: facts.clone(),
            reached: backends::reached(me, view, facts, gone),
            announced: asked.cloned().unwrap_or_default(),
        }
    }
}

/// The ground and the VIPs of the last time.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) ground: Ground,
    pub(super) vips: BTreeMap<IpAddr, Remembered>,
}

impl Memory {
    /// Where the endpoints of the last time were.
    pub fn places(&self) -> &Places {
        &self.ground.places
    }
}

/// A VIP with what it alone follows from.
#[derive(Debug)]
pub(super) struct Remembered {
    pub services: Vec<Served>,
    pub vip: Arc<Vip>,
}

impl Remembered {
    pub fn follows_from(&self, origin: Origin<'_>, services: &[Served]) -> bool {
        self.vip.pool == origin.pool() && self.services == services
    }
}

#[cfg(test)]
pub(crate) mod tests;
