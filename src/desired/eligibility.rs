//! Which nodes may hold a VIP, on which interfaces, and why the others may not (pure).

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_leader_election::{NodeName, SessionState};

use super::{Context, Ineligible};
use crate::facts::Interface;
use crate::observed::{Advertisement, Node, Service};

impl Context<'_> {
    /// What announces addresses of the pool for these Services.
    pub(super) fn advertisements(
        &self,
        pool: &str,
        services: &[&Service],
    ) -> Result<Vec<&Advertisement>, Ineligible> {
        let pool = self.observed.pools.get(pool).ok_or(Ineligible::NoAdvertisement)?;
        let covering: Vec<&Advertisement> = self
            .observed
            .advertisements
            .values()
            .filter(|ad| ad.covers(pool) && services.iter().all(|s| ad.covers_service(s)))
            .collect();
        if covering.is_empty() {
            return Err(Ineligible::NoAdvertisement);
        }
        let is_safe = |ad: &&Advertisement| services.len() == 1 || !ad.selects_services();
        let safe: Vec<&Advertisement> = covering.into_iter().filter(is_safe).collect();
        if safe.is_empty() { Err(Ineligible::SharedAddress) } else { Ok(safe) }
    }

    /// The interfaces a node may announce a VIP on: those the advertisements name, or all in a
    /// network that contains the VIP where they name none.
    pub(super) fn eligibility(
        &self,
        vip: IpAddr,
        name: &NodeName,
        node: &Node,
        advertisements: &[&Advertisement],
    ) -> Result<BTreeSet<String>, Ineligible> {
        if node.excluded {
            return Err(Ineligible::Excluded);
        }
        if node.network_unavailable {
            return Err(Ineligible::NetworkUnavailable);
        }
        let selected: Vec<_> = advertisements.iter().filter(|ad| ad.selects_node(node)).collect();
        if selected.is_empty() {
            return Err(Ineligible::NotSelected);
        }
        let session = self.view.sessions.get(name);
        let session = session.filter(|session| session.state == SessionState::Open);
        let session = session.ok_or(Ineligible::NoSession)?;
        if session.draining {
            return Err(Ineligible::Draining);
        }
        let usable = self.facts.get(name).map(|facts| &facts.interfaces[..]).unwrap_or_default();
        let mut interfaces = BTreeSet::new();
        for advertisement in &selected {
            let may = |interface: &&Interface| match advertisement.names_interfaces() {
                true => advertisement.selects_interface(&interface.name),
                false => interface.is_in_network_of(vip),
            };
            interfaces.extend(usable.iter().filter(may).map(|interface| interface.name.clone()));
        }
        if !interfaces.is_empty() {
            return Ok(interfaces);
        }
        match selected.iter().any(|ad| !ad.names_interfaces()) {
            true => Err(Ineligible::NotInSubnet),
            false => Err(Ineligible::NoSuchInterface),
        }
    }
}
