//! From what is observed to what is wanted: for each assigned VIP, which nodes may hold it and
//! where its traffic goes, each "no" with its named reason (pure).
//!
//! Must not know who holds a VIP, nor what the kernel can do: election and driver decide those.

mod announcing;
mod backends;
mod eligibility;
mod places;
mod reasons;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use herald_leader_election::{NodeName, View};

use self::announcing::StandIns;
pub use self::places::Places;
pub use self::reasons::{Ineligible, Uncertain, Unused};
use crate::allocator::Assignment;
use crate::facts::Facts;
use crate::observed::{Endpoint, Observed, Protocol, Service, ServiceName};

/// In place of a pool's name: the address is one of a Service's externalIPs. No object is named so.
pub const EXTERNAL: &str = "externalIPs";

/// One wanted VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The Services it is for: more than one where they share it.
    pub services: Vec<ServiceName>,
    /// The pool it came from; [`EXTERNAL`] if from none.
    pub pool: String,
    /// Nodes that may hold it, each with the interfaces to announce it on.
    pub eligible: Arc<BTreeMap<NodeName, BTreeSet<String>>>,
    /// Nodes that may not, and why.
    pub ineligible: Arc<BTreeMap<NodeName, Ineligible>>,
    /// How much a node is preferred, where it is at all.
    pub preference: BTreeMap<NodeName, u32>,
    /// Endpoints by Service port.
    pub backends: Vec<Backend>,
    /// Services whose endpoints all stopped being ready together, and count all the same.
    pub kept: BTreeSet<ServiceName>,
    /// What is unknown about it, where it is announced all the same.
    pub uncertain: Option<Uncertain>,
}

impl Vip {
    /// Whether it is some node's own address. The fence must not know it: it would silence the node.
    pub fn is_address_of_a_node(&self) -> bool {
        self.ineligible.values().any(|why| *why == Ineligible::AddressOfNode)
    }
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
    /// How many new flows it gets, compared with the others.
    pub weight: u32,
}

/// Facts of all nodes that ever published any, by the election's view.
pub fn facts(view: &View) -> BTreeMap<NodeName, Facts> {
    let decode = |session: &herald_leader_election::Session| Facts::decode(&session.facts);
    view.sessions.iter().map(|(node, session)| (node.clone(), decode(session))).collect()
}

/// The wanted VIPs, as seen from `me`; `facts` are those of the view, and `gone` are the nodes that
/// do not answer any more, and `announced` the VIPs that were announced since they were assigned.
pub fn desired(
    me: &NodeName,
    observed: &Observed,
    assignments: &BTreeMap<ServiceName, Assignment>,
    view: &View,
    facts: &BTreeMap<NodeName, Facts>,
    gone: &BTreeSet<NodeName>,
    announced: &BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, Vip> {
    let mut context = Context {
        observed,
        view,
        facts,
        announced,
        places: Places::of(observed),
        stand_ins: StandIns::new(),
        names: observed.nodes.keys().map(|name| (&name[..], NodeName::from(&name[..]))).collect(),
        reached: backends::reached(me, view, facts, gone),
        judged: Judged::default(),
    };
    let mut shared: BTreeMap<IpAddr, (Origin<'_>, Vec<Served<'_>>)> = BTreeMap::new();
    for (name, assignment) in assignments {
        let Some(service) = observed.services.get(name) else { continue };
        let served = Served::of(observed, service);
        for address in &assignment.addresses {
            let origin = Origin::Pool(&assignment.pool);
            shared.entry(*address).or_insert((origin, vec![])).1.push(served);
        }
    }
    for (address, services) in context.external() {
        // What is assigned to somebody is not taken by somebody else's naming it.
        shared.entry(address).or_insert((Origin::External, services));
    }
    let vip = |(address, (origin, services)): (IpAddr, (Origin<'_>, Vec<Served<'_>>))| {
        (address, context.vip(address, origin, &services))
    };
    shared.into_iter().map(vip).collect()
}

/// A Service with its endpoints.
#[derive(Clone, Copy, Debug)]
struct Served<'a> {
    service: &'a Service,
    endpoints: &'a [Endpoint],
}

impl<'a> Served<'a> {
    fn of(observed: &'a Observed, service: &'a Service) -> Self {
        let endpoints = observed.endpoints.get(&service.name);
        Self { service, endpoints: endpoints.map(|it| &it[..]).unwrap_or_default() }
    }
}

impl Deref for Served<'_> {
    type Target = Service;

    fn deref(&self) -> &Service {
        self.service
    }
}

/// Where a VIP comes from.
#[derive(Clone, Copy, Debug)]
enum Origin<'a> {
    /// A pool, by an assignment.
    Pool(&'a str),
    /// The externalIPs of Services.
    External,
}

struct Context<'a> {
    observed: &'a Observed,
    view: &'a View,
    facts: &'a BTreeMap<NodeName, Facts>,
    announced: &'a BTreeSet<IpAddr>,
    places: Places<'a>,
    stand_ins: StandIns,
    /// The names of the Nodes, to be copied instead of made again for each VIP.
    names: BTreeMap<&'a str, NodeName>,
    /// The MAC of each node that has had a session, or why it has none.
    reached: BTreeMap<NodeName, Result<[u8; 6], Unused>>,
    /// What the VIP before was judged: most VIPs are alike, and share it.
    judged: Judged,
}

/// Which nodes may hold a VIP, with their interfaces, and which may not.
#[derive(Clone, Default)]
struct Judged {
    eligible: Arc<BTreeMap<NodeName, BTreeSet<String>>>,
    ineligible: Arc<BTreeMap<NodeName, Ineligible>>,
}

impl<'a> Context<'a> {
    /// The externalIPs that policies announce, each with the Services that name it.
    fn external(&self) -> BTreeMap<IpAddr, Vec<Served<'a>>> {
        let mut external = BTreeMap::<_, Vec<_>>::new();
        let all = self.observed.services.values().map(Arc::as_ref);
        let named = all.filter(|it| !it.external_ips.is_empty());
        let policies = || self.observed.advertisements.values();
        for service in named.filter(|it| policies().any(|ad| ad.covers_external_ips(it))) {
            for address in service.external_ips.iter().collect::<BTreeSet<_>>() {
                let served = Served::of(self.observed, service);
                external.entry(*address).or_default().push(served);
            }
        }
        external
    }

    fn vip(&mut self, vip: IpAddr, origin: Origin<'_>, services: &[Served<'_>]) -> Vip {
        let backends = services.iter().flat_map(|service| self.backends(vip, service)).collect();
        let announcing = self.announcing(vip, origin, services);
        let found = announcing.as_ref().map_err(|why| *why);
        let found = found.map(|it| &it.advertisements[..]);
        let judged = self.candidates(vip, found, services);
        let preference = self.preference(found.unwrap_or_default(), judged.eligible.keys());
        let uncertain = announcing.ok().and_then(|it| it.uncertain);
        self.judged = judged;
        let Judged { eligible, ineligible } = self.judged.clone();
        let is_kept = |it: &&Served<'_>| it.endpoints.iter().any(|endpoint| endpoint.kept);
        Vip {
            services: services.iter().map(|service| service.name.clone()).collect(),
            pool: match origin {
                Origin::Pool(pool) => pool.to_owned(),
                Origin::External => EXTERNAL.to_owned(),
            },
            eligible,
            ineligible,
            preference,
            backends,
            kept: services.iter().filter(is_kept).map(|it| it.name.clone()).collect(),
            uncertain,
        }
    }

    /// The name of a node, whether or not there is a Node of it.
    fn node_name(&self, name: &str) -> NodeName {
        self.names.get(name).cloned().unwrap_or_else(|| NodeName::from(name))
    }
}

#[cfg(test)]
mod tests;
