//! From what is observed to what is wanted: for each assigned VIP, which nodes may hold it and
//! where its traffic goes, each "no" with its named reason (pure).
//!
//! Must not know who holds a VIP, nor what the kernel can do: election and driver decide those.

mod announcing;
mod backends;
mod eligibility;
mod ground;
mod places;
mod reasons;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use herald_leader_election::{NodeName, View};

use self::announcing::StandIns;
pub use self::ground::Memory;
#[cfg(test)]
pub(crate) use self::ground::tests::World;
use self::ground::{Ground, Remembered};
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
    /// Whether it is some node's own address. The fence must not know it: it would silence the
    /// node.
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

/// What the wanted VIPs follow from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The node from which it is seen.
    pub me: &'a NodeName,
    /// The cluster, as its manifests say.
    pub observed: &'a Observed,
    /// Which Service has which addresses.
    pub assignments: &'a BTreeMap<ServiceName, Assignment>,
    /// The election's view.
    pub view: &'a View,
    /// The facts in that view.
    pub facts: &'a BTreeMap<NodeName, Facts>,
    /// Nodes that do not answer any more.
    pub gone: &'a BTreeSet<NodeName>,
    /// VIPs that were announced since they were assigned.
    pub announced: &'a BTreeSet<IpAddr>,
}

/// The wanted VIPs. What is remembered of the last time makes it faster and nothing else.
pub fn desired(seen: &Seen<'_>, memory: &mut Memory) -> BTreeMap<IpAddr, Arc<Vip>> {
    let Seen { observed, assignments, .. } = *seen;
    let ground = Ground::of(seen);
    let mut before = std::mem::take(&mut memory.vips);
    if ground != memory.ground {
        before.clear();
        memory.ground = ground;
    }
    let mut context = Context::on(&memory.ground);
    let mut shared: BTreeMap<IpAddr, (Origin<'_>, Vec<Served>)> = BTreeMap::new();
    for (name, assignment) in assignments {
        let Some(service) = observed.services.get(name) else { continue };
        let served = Served::of(observed, service);
        for address in &assignment.addresses {
            let origin = Origin::Pool(&assignment.pool);
            shared.entry(*address).or_insert((origin, vec![])).1.push(served.clone());
        }
    }
    for (address, services) in context.external(observed) {
        // What is assigned to somebody is not taken by somebody else's naming it.
        shared.entry(address).or_insert((Origin::External, services));
    }
    let known = |(address, (origin, services)): (IpAddr, (Origin<'_>, Vec<Served>))| {
        let known = before.remove(&address).filter(|it| it.follows_from(origin, &services));
        let known = known.unwrap_or_else(|| {
            let vip = Arc::new(context.vip(address, origin, &services));
            Remembered { services, vip }
        });
        context.judged = Judged::of(&known.vip);
        (address, known)
    };
    memory.vips = shared.into_iter().map(known).collect();
    memory.vips.iter().map(|(address, known)| (*address, Arc::clone(&known.vip))).collect()
}

/// A Service with its endpoints. Cheap to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    service: Arc<Service>,
    endpoints: Option<Arc<[Endpoint]>>,
}

impl Served {
    fn of(observed: &Observed, service: &Arc<Service>) -> Self {
        let endpoints = observed.endpoints.get(&service.name).cloned();
        Self { service: Arc::clone(service), endpoints }
    }

    fn endpoints(&self) -> &[Endpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }
}

impl Deref for Served {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
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

impl<'a> Origin<'a> {
    const fn pool(self) -> &'a str {
        match self {
            Self::Pool(pool) => pool,
            Self::External => EXTERNAL,
        }
    }
}

struct Context<'a> {
    ground: &'a Ground,
    stand_ins: StandIns,
    /// The names of the Nodes, to be copied instead of made again for each VIP.
    names: BTreeMap<&'a str, NodeName>,
    /// What the VIP before was judged: most VIPs are alike, and share it.
    judged: Judged,
}

/// Which nodes may hold a VIP, with their interfaces, and which may not.
#[derive(Clone, Default)]
struct Judged {
    eligible: Arc<BTreeMap<NodeName, BTreeSet<String>>>,
    ineligible: Arc<BTreeMap<NodeName, Ineligible>>,
}

impl Judged {
    fn of(vip: &Vip) -> Self {
        let Vip { eligible, ineligible, .. } = vip;
        Self { eligible: Arc::clone(eligible), ineligible: Arc::clone(ineligible) }
    }
}

impl<'a> Context<'a> {
    fn on(ground: &'a Ground) -> Self {
        let names = ground.nodes.keys().map(|name| (&name[..], NodeName::from(&name[..])));
        Self {
            ground,
            stand_ins: StandIns::new(),
            names: names.collect(),
            judged: Judged::default(),
        }
    }

    /// The externalIPs that policies announce, each with the Services that name it.
    fn external(&self, observed: &Observed) -> BTreeMap<IpAddr, Vec<Served>> {
        let mut external = BTreeMap::<_, Vec<_>>::new();
        let named = observed.services.values().filter(|it| !it.external_ips.is_empty());
        let policies = || self.ground.advertisements.values();
        for service in named.filter(|it| policies().any(|ad| ad.covers_external_ips(it))) {
            for address in service.external_ips.iter().collect::<BTreeSet<_>>() {
                let served = Served::of(observed, service);
                external.entry(*address).or_default().push(served);
            }
        }
        external
    }

    fn vip(&self, vip: IpAddr, origin: Origin<'_>, services: &[Served]) -> Vip {
        let backends = services.iter().flat_map(|service| self.backends(vip, service)).collect();
        let announcing = self.announcing(vip, origin, services);
        let found = announcing.as_ref().map_err(|why| *why);
        let found = found.map(|it| &it.advertisements[..]);
        let Judged { eligible, ineligible } = self.candidates(vip, found, services);
        let preference = self.preference(found.unwrap_or_default(), eligible.keys());
        let is_kept = |it: &&Served| it.endpoints().iter().any(|endpoint| endpoint.kept);
        Vip {
            services: services.iter().map(|service| service.name.clone()).collect(),
            pool: origin.pool().to_owned(),
            eligible,
            ineligible,
            preference,
            backends,
            kept: services.iter().filter(is_kept).map(|it| it.name.clone()).collect(),
            uncertain: announcing.ok().and_then(|it| it.uncertain),
        }
    }

    /// The name of a node, whether or not there is a Node of it.
    fn node_name(&self, name: &str) -> NodeName {
        self.names.get(name).cloned().unwrap_or_else(|| NodeName::from(name))
    }
}

#[cfg(test)]
mod tests;
