//! The speaker's one decision (pure): from everything known to everything to be done. Level, not
//! edge: the same knowledge always gives the same decision, so a lost action is decided again.
//!
//! Must never let the kernel or the announcer speak for a VIP whose claim this node does not hold
//! in the view it is given. Read [`crate::desired`] first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_announcer::{Announced, Answering, Links, MacAddr, Neighbourhood, Standing};
use herald_ebpf::picture::{Affinity, Locality};
use herald_ebpf::{Backend, Picture, Protocol as Carried, ServicePort};
use herald_leader_election::{ClaimKey, Guard, NodeName, View, Wanted};

use crate::allocator::{self, Assignment, Plan};
use crate::desired::{self, Vip};
use crate::facts::Facts;
use crate::observed::{Observed, Protocol, ServiceName, SessionAffinity, TrafficPolicy};
use crate::speaker::records;

/// Everything known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// The cluster, as its manifests say.
    pub observed: &'a Observed,
    /// The election's view.
    pub view: &'a View,
    /// This machine's interfaces.
    pub links: &'a Links,
    /// Interfaces this speaker serves, each with whether XDP carries its traffic.
    pub interfaces: &'a BTreeMap<String, Carrier>,
    /// What the announcer found out about the VIPs it was told of.
    pub standings: &'a BTreeMap<IpAddr, Standing>,
    /// Which Services are ours.
    pub allocator: &'a allocator::Config,
    /// Where assignments are kept.
    pub database: Database,
    /// The speaker is about to end: it gives everything away.
    pub leaving: bool,
}

/// Where assignments are kept. They come back from there as observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// In the election's records: there is no API server.
    Records,
    /// In the Services' status.
    ServiceStatus,
}

/// Who carries an interface's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The XDP program, which also answers ARP and neighbour solicitations.
    Xdp,
    /// kube-proxy; the announcer answers from userspace.
    Off,
}

/// Everything to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For the election: who may hold what.
    pub wanted: Wanted,
    /// Claims to give back, once they are silent.
    pub releases: BTreeSet<ClaimKey>,
    /// Records to write: assignments, while this node is the allocator, and which VIPs were ever
    /// announced, by their holders.
    pub puts: BTreeMap<String, Put>,
    /// Whether this node is the allocator, and its plan is to be carried out.
    pub allocates: bool,
    /// For the data plane.
    pub picture: Picture,
    /// For the announcer.
    pub announced: Announced,
    /// For the announcer: VIPs to probe for, and who is not foreign.
    pub neighbourhood: Neighbourhood,
    /// What this node publishes about itself.
    pub facts: Facts,
    /// For status: the wanted VIPs.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// For status: the assignments in force.
    pub current: BTreeMap<ServiceName, Assignment>,
    /// For status: the allocator's plan, on whichever node it acts.
    pub plan: Plan,
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The new value; `None` removes the record.
    pub value: Option<Vec<u8>>,
    /// The claim it depends on.
    pub guard: Guard,
}

/// VIPs with the interfaces of this node they are for.
type ByVip = BTreeMap<IpAddr, BTreeSet<String>>;

/// Decides.
pub fn decide(known: &Knowledge<'_>) -> Decision {
    let current = match known.database {
        Database::Records => records::assignments(&known.view.records),
        Database::ServiceStatus => allocator::reported(known.observed, known.allocator),
    };
    let plan = allocator::allocate(known.observed, &current, known.allocator);
    let facts = desired::facts(known.view);
    let vips = desired::desired(known.me, known.observed, &current, known.view, &facts);
    let held: ByVip = vips
        .iter()
        .filter(|_| !known.leaving)
        .filter(|(vip, _)| known.view.held(known.me, &ClaimKey::Vip(**vip)).is_some())
        .filter_map(|(vip, wanted)| Some((*vip, wanted.eligible.get(known.me)?.clone())))
        .collect();
    // A leaving speaker gives everything away in one command (`drain`): a claim released before
    // the others know that it leaves could come straight back.
    let releases = known
        .view
        .claims_of(known.me)
        .filter(|_| !known.leaving)
        .filter(|claim| matches!(claim.key, ClaimKey::Vip(vip) if !held.contains_key(&vip)))
        .map(|claim| claim.key)
        .collect();
    let (spoken, probed) = introduce(known, held);
    let guard = allocating(known);
    let mut puts = guard.map(|guard| assignments(known, &plan, guard)).unwrap_or_default();
    puts.extend(marks(known, &spoken));
    Decision {
        wanted: wanted(known.view, &vips),
        releases,
        puts,
        allocates: guard.is_some(),
        picture: picture(known, &facts, &vips, &spoken),
        announced: announced(known, &spoken),
        neighbourhood: Neighbourhood { probed, peers: peers(known, &facts) },
        facts: Facts::of(known.links, known.interfaces.keys()),
        vips,
        current,
        plan,
    }
}

/// The held VIPs to speak for, and those to probe for first: a VIP that nobody ever announced
/// could be somebody else's address (RFC 5227 2.1). One that a foreign machine uses stays held and
/// silent: given to another node, it would be announced there.
fn introduce(known: &Knowledge<'_>, held: ByVip) -> (ByVip, ByVip) {
    let is_first = |vip: &IpAddr| !known.view.records.contains_key(&records::announced_key(*vip));
    held.into_iter().partition(|(vip, _)| match known.standings.get(vip) {
        Some(Standing::Blocked) => false,
        Some(Standing::Clear) => true,
        Some(Standing::Probing) | None => !is_first(vip),
    })
}

/// The allocator's claim, if this node holds it.
fn allocating(known: &Knowledge<'_>) -> Option<Guard> {
    let claim = known.view.held(known.me, &ClaimKey::Allocator).filter(|_| !known.leaving)?;
    Some(Guard { key: claim.key, term: claim.term })
}

/// The allocator's records to write: assignments, unless they are kept elsewhere, and marks of
/// VIPs that are nobody's any more.
fn assignments(known: &Knowledge<'_>, plan: &Plan, guard: Guard) -> BTreeMap<String, Put> {
    let records = &known.view.records;
    let writes = match known.database {
        Database::Records => records::difference(records, &plan.assignments),
        Database::ServiceStatus => records::stale_marks(records, &plan.assignments),
    };
    writes.into_iter().map(|(key, value)| (key, Put { value, guard })).collect()
}

/// Remembers for all nodes and restarts which VIPs were announced: they are not probed again.
fn marks(known: &Knowledge<'_>, spoken: &ByVip) -> BTreeMap<String, Put> {
    let mut marks = BTreeMap::new();
    for vip in spoken.keys() {
        let key = records::announced_key(*vip);
        let claim = known.view.held(known.me, &ClaimKey::Vip(*vip));
        if let Some(claim) = claim.filter(|_| !known.view.records.contains_key(&key)) {
            let guard = Guard { key: claim.key, term: claim.term };
            marks.insert(key, Put { value: Some(known.me.0.clone().into_bytes()), guard });
        }
    }
    marks
}

/// The MACs of the other speakers: a late frame of theirs is no foreign claim.
fn peers(known: &Knowledge<'_>, facts: &BTreeMap<NodeName, Facts>) -> BTreeSet<MacAddr> {
    let others = facts.iter().filter(|(node, _)| *node != known.me);
    let interfaces = others.flat_map(|(_, facts)| &facts.interfaces);
    interfaces.filter_map(|interface| interface.mac().map(MacAddr)).collect()
}

/// All VIPs, and the allocator, which any living speaker may be.
fn wanted(view: &View, vips: &BTreeMap<IpAddr, Vip>) -> Wanted {
    let speakers = view.sessions.keys().filter(|node| view.is_alive(node)).cloned().collect();
    let mut claims = BTreeMap::from([(ClaimKey::Allocator, speakers)]);
    for (vip, wanted) in vips {
        claims.insert(ClaimKey::Vip(*vip), wanted.eligible.keys().cloned().collect());
    }
    Wanted { claims }
}

fn picture(
    known: &Knowledge<'_>,
    facts: &BTreeMap<NodeName, Facts>,
    vips: &BTreeMap<IpAddr, Vip>,
    spoken: &ByVip,
) -> Picture {
    let index = |name: &String| {
        let is_xdp = known.interfaces.get(name) == Some(&Carrier::Xdp);
        known.links.by_name.get(name).filter(|_| is_xdp).map(|link| link.index)
    };
    let mut picture = Picture::default();
    for (vip, interfaces) in spoken {
        picture.vips.extend(interfaces.iter().filter_map(index).map(|index| (*vip, index)));
    }
    for link in known.interfaces.keys().filter_map(|name| known.links.by_name.get(name)) {
        if let (Some(mac), Some(index)) = (link.mac, index(&link.name)) {
            picture.links.insert(index, mac.0);
        }
    }
    for (_, facts) in facts.iter().filter(|(node, _)| *node != known.me) {
        let macs = facts.interfaces.iter().filter_map(|i| Some((i.mac()?, addresses(i))));
        picture.peers.extend(macs);
    }
    // The fence keeps anybody on this node from claiming what it does not hold.
    picture.all_vips = vips.keys().copied().collect();
    for (vip, wanted) in vips {
        services(known, *vip, wanted, &mut picture);
    }
    picture
}

/// The ports of a VIP's Services and where each leads.
fn services(known: &Knowledge<'_>, vip: IpAddr, wanted: &Vip, picture: &mut Picture) {
    for backend in &wanted.backends {
        let port = ServicePort { vip, port: backend.port, protocol: carried(backend.protocol) };
        // A port whose endpoints all drop out stays, empty: its packets are counted as such.
        let set = picture.services.entry(port).or_default();
        let policy = picture.policies.entry(port).or_default();
        let service = known.observed.services.get(&backend.service);
        let is_local = service.is_some_and(|s| s.external_traffic_policy == TrafficPolicy::Local);
        let is_sticky = service.is_some_and(|s| s.session_affinity == SessionAffinity::ClientIp);
        policy.affinity = if is_sticky { Affinity::Client } else { Affinity::None };
        policy.locality = if is_local { Locality::Local } else { Locality::Cluster };
        let is_here = backend.node.as_ref() == Some(known.me);
        let to = |node_mac| Backend { address: backend.address, node_mac, is_local: is_here };
        set.extend(backend.target.ok().map(to));
        policy.draining.extend(backend.draining.map(to));
    }
}

const fn carried(protocol: Protocol) -> Carried {
    match protocol {
        Protocol::Tcp => Carried::Tcp,
        Protocol::Udp => Carried::Udp,
        Protocol::Sctp => Carried::Sctp,
    }
}

/// A peer's own addresses on an interface, by which it is told from the clients it forwards for.
fn addresses(interface: &crate::facts::Interface) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let mut v4 = None;
    let mut v6 = None;
    for network in &interface.addresses {
        match network.ip() {
            IpAddr::V4(ip) => v4 = v4.or(Some(ip)),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
            IpAddr::V6(ip) => v6 = v6.or(Some(ip)),
        }
    }
    (v4, v6)
}

fn announced(known: &Knowledge<'_>, spoken: &ByVip) -> Announced {
    let answering = known.interfaces.iter().map(|(name, carrier)| {
        let answering = match carrier {
            Carrier::Xdp => Answering::Datapath,
            Carrier::Off => Answering::Userspace,
        };
        (name.clone(), answering)
    });
    Announced { vips: spoken.clone(), answering: answering.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{
        VIP, assigned, claimed, links, mac, node, observed, service_name, view, vip_key,
    };

    fn decision(view: &View, me: u8, leaving: bool) -> Decision {
        decide_with(&observed(), view, me, Carrier::Xdp, leaving)
    }

    fn decide_with(
        observed: &Observed,
        view: &View,
        me: u8,
        carrier: Carrier,
        leaving: bool,
    ) -> Decision {
        let standings = BTreeMap::from([(IpAddr::from(VIP), Standing::Clear)]);
        decide_standing(observed, view, me, carrier, leaving, &standings)
    }

    fn decide_standing(
        observed: &Observed,
        view: &View,
        me: u8,
        carrier: Carrier,
        leaving: bool,
        standings: &BTreeMap<IpAddr, Standing>,
    ) -> Decision {
        decide(&Knowledge {
            me: &node(me),
            observed,
            view,
            links: &links(me),
            interfaces: &BTreeMap::from([("eth0".to_owned(), carrier)]),
            standings,
            allocator: &allocator::Config::default(),
            database: Database::Records,
            leaving,
        })
    }

    #[test]
    fn only_the_allocator_writes_assignments() {
        assert_eq!(decision(&view(1), 1, false).puts, BTreeMap::new());
        let view = claimed(view(1), ClaimKey::Allocator, 1);
        let decided = decision(&view, 1, false);
        let guard = Guard { key: ClaimKey::Allocator, term: 1 };
        let puts: Vec<_> = decided.puts.iter().map(|(key, put)| (&key[..], put.guard)).collect();
        assert_eq!(puts, [("assignment/default/echo", guard)]);
        assert_eq!(decision(&assigned(view), 1, false).puts, BTreeMap::new(), "already written");
    }

    #[test]
    fn wants_every_assigned_vip_held_by_an_eligible_node() {
        let all: BTreeSet<NodeName> = (1..=3).map(node).collect();
        let wanted = decision(&assigned(view(1)), 1, false).wanted.claims;
        assert_eq!(wanted, BTreeMap::from([(ClaimKey::Allocator, all.clone()), (vip_key(), all)]));
    }

    #[test]
    fn speaks_only_for_the_vip_it_holds() {
        let view = claimed(assigned(view(1)), vip_key(), 1);
        let ours = decision(&view, 1, false);
        assert_eq!(ours.picture.vips, BTreeSet::from([(IpAddr::from(VIP), 2)]));
        assert_eq!(ours.announced.vips.len(), 1);
        let theirs = decision(&View { me: node(2), ..view }, 2, false);
        assert_eq!((theirs.picture.vips.len(), theirs.announced.vips.len()), (0, 0));
        assert_eq!(theirs.picture.services.len(), 2, "but it delivers to its own pods");
    }

    #[test]
    fn probes_for_a_vip_nobody_ever_announced_and_is_silent_meanwhile() {
        let view = claimed(assigned(view(1)), vip_key(), 1);
        for standings in [BTreeMap::new(), BTreeMap::from([(VIP.into(), Standing::Probing)])] {
            let decided = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &standings);
            assert!(decided.neighbourhood.probed.contains_key(&IpAddr::from(VIP)));
            assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
            assert_eq!(decided.puts, BTreeMap::new());
            assert_eq!(decided.releases, BTreeSet::new());
        }
        let peers = decision(&view, 1, false).neighbourhood.peers;
        assert_eq!(peers, BTreeSet::from([MacAddr(mac(2)), MacAddr(mac(3))]));
    }

    #[test]
    fn remembers_an_announced_vip_and_takes_it_over_without_a_probe() {
        let mut view = claimed(assigned(view(1)), vip_key(), 1);
        let puts = decision(&view, 1, false).puts;
        let key = records::announced_key(VIP.into());
        let put = Put { value: Some(b"n1".to_vec()), guard: Guard { key: vip_key(), term: 1 } };
        assert_eq!(puts, BTreeMap::from([(key.clone(), put)]));
        view.records.insert(key, b"n1".to_vec());
        let at_once = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &BTreeMap::new());
        assert_eq!((at_once.picture.vips.len(), at_once.announced.vips.len()), (1, 1));
        assert_eq!(at_once.puts, BTreeMap::new());
    }

    #[test]
    fn keeps_a_vip_that_somebody_else_uses_but_does_not_speak_for_it() {
        let view = claimed(assigned(view(1)), vip_key(), 1);
        let blocked = BTreeMap::from([(VIP.into(), Standing::Blocked)]);
        let decided = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &blocked);
        assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
        assert_eq!(decided.releases, BTreeSet::new());
    }

    #[test]
    fn is_silent_once_leaving() {
        let view = claimed(assigned(view(1)), vip_key(), 1);
        let decided = decision(&view, 1, true);
        assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
        assert_eq!(decided.releases, BTreeSet::new(), "the drain gives it away");
    }

    #[test]
    fn gives_back_a_vip_nobody_wants_any_more() {
        let mut observed = observed();
        observed.services.remove(&service_name());
        let view = claimed(assigned(view(1)), vip_key(), 1);
        let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
        assert_eq!(decided.releases, BTreeSet::from([vip_key()]));
        assert_eq!(decided.picture.vips.len(), 0);
    }

    #[test]
    fn knows_which_backends_are_here() {
        let picture = decision(&assigned(view(2)), 2, false).picture;
        let vip = IpAddr::from(VIP);
        let web = ServicePort { vip, port: 80, protocol: Carried::Tcp };
        let here: Vec<_> =
            picture.services[&web].iter().map(|b| (b.node_mac, b.is_local)).collect();
        assert_eq!(here, [(mac(1), false), (mac(2), true), (mac(3), false)]);
        let peers: Vec<_> = picture.peers.keys().copied().collect();
        assert_eq!(peers, [mac(1), mac(3)]);
        assert_eq!(picture.links, BTreeMap::from([(2, mac(2))]));
    }

    #[test]
    fn without_xdp_the_announcer_answers_and_the_kernel_does_not() {
        let view = claimed(assigned(view(1)), vip_key(), 1);
        let decided = decide_with(&observed(), &view, 1, Carrier::Off, false);
        assert_eq!(decided.picture.vips, BTreeSet::new());
        assert_eq!(decided.announced.answering["eth0"], Answering::Userspace);
        assert_eq!(decided.announced.vips.len(), 1);
    }
}
