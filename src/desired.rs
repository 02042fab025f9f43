//! From what is observed to what is wanted: for each assigned VIP, which nodes may hold it and
//! where its traffic goes, each "no" with its named reason (pure).
//!
//! Must not know who holds a VIP, nor what the kernel can do: election and driver decide those.

mod backends;
mod eligibility;
mod reasons;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use herald_leader_election::{NodeName, View};

pub use self::reasons::{Ineligible, Unused};
use crate::allocator::Assignment;
use crate::facts::Facts;
use crate::observed::{Observed, Protocol, Service, ServiceName, TrafficPolicy};

/// One wanted VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The Services it is for: more than one where they share it.
    pub services: Vec<ServiceName>,
    /// The pool it came from.
    pub pool: String,
    /// Nodes that may hold it, each with the interfaces to announce it on.
    pub eligible: BTreeMap<NodeName, BTreeSet<String>>,
    /// Nodes that may not, and why.
    pub ineligible: BTreeMap<NodeName, Ineligible>,
    /// How much a node is preferred, where it is at all.
    pub preference: BTreeMap<NodeName, u32>,
    /// Endpoints by Service port.
    pub backends: Vec<Backend>,
}

/// An endpoint of a VIP's Service, at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service it is an endpoint of.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The pod's address and port.
    pub address: SocketAddr,
    /// Its node, if known.
    pub node: Option<NodeName>,
    /// The MAC to send new flows to, or why none goes there.
    pub target: Result<[u8; 6], Unused>,
    /// The MAC to send flows to that it already has, where it gets no new ones.
    pub draining: Option<[u8; 6]>,
}

/// Facts of all nodes that ever published any, by the election's view.
pub fn facts(view: &View) -> BTreeMap<NodeName, Facts> {
    let decode = |session: &herald_leader_election::Session| Facts::decode(&session.facts);
    view.sessions.iter().map(|(node, session)| (node.clone(), decode(session))).collect()
}

/// The wanted VIPs, as seen from `me`; `facts` are those of the view, and `gone` are the nodes that
/// do not answer any more.
pub fn desired(
    me: &NodeName,
    observed: &Observed,
    assignments: &BTreeMap<ServiceName, Assignment>,
    view: &View,
    facts: &BTreeMap<NodeName, Facts>,
    gone: &BTreeSet<NodeName>,
) -> BTreeMap<IpAddr, Vip> {
    let context = Context { me, observed, view, facts, gone };
    let mut shared: BTreeMap<IpAddr, (&str, Vec<&Service>)> = BTreeMap::new();
    for (name, assignment) in assignments {
        let Some(service) = observed.services.get(name) else { continue };
        for address in &assignment.addresses {
            shared.entry(*address).or_insert((&assignment.pool, vec![])).1.push(service);
        }
    }
    let vip = |(address, (pool, services)): (IpAddr, (&str, Vec<&Service>))| {
        (address, context.vip(address, pool, &services))
    };
    shared.into_iter().map(vip).collect()
}

struct Context<'a> {
    me: &'a NodeName,
    observed: &'a Observed,
    view: &'a View,
    facts: &'a BTreeMap<NodeName, Facts>,
    gone: &'a BTreeSet<NodeName>,
}

impl Context<'_> {
    fn vip(&self, vip: IpAddr, pool: &str, services: &[&Service]) -> Vip {
        let backends: Vec<Backend> =
            services.iter().flat_map(|service| self.backends(vip, service)).collect();
        let local: Vec<&Service> = services
            .iter()
            .copied()
            .filter(|service| service.external_traffic_policy == TrafficPolicy::Local)
            .collect();
        let has_local = |node: &NodeName, service: &Service| {
            let is_here = |b: &Backend| b.node.as_ref() == Some(node) && b.service == service.name;
            backends.iter().any(|backend| is_here(backend) && backend.target.is_ok())
        };
        let advertisements = self.advertisements(pool, services);
        let mut eligible = BTreeMap::new();
        let mut ineligible = BTreeMap::new();
        for (node_name, node) in &self.observed.nodes {
            let node_name = NodeName(node_name.clone());
            let found = advertisements.as_ref().map_err(|why| *why);
            match found.and_then(|ads| self.eligibility(vip, &node_name, node, ads)) {
                Ok(_) if !local.iter().all(|service| has_local(&node_name, service)) => {
                    ineligible.insert(node_name, Ineligible::NoLocalEndpoint);
                }
                Ok(interfaces) => drop(eligible.insert(node_name, interfaces)),
                Err(reason) => drop(ineligible.insert(node_name, reason)),
            }
        }
        let services = services.iter().map(|service| service.name.clone()).collect();
        Vip {
            services,
            pool: pool.into(),
            eligible,
            ineligible,
            backends,
            preference: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
