//! The speaker's one decision (pure): from everything known to everything to be done. Level, not
//! edge: the same knowledge always gives the same decision, so a lost action is decided again.
//!
//! Must never let the kernel or the announcer speak for a VIP whose claim this node does not hold
//! in the view it is given. Read [`crate::desired`] first.

mod attendance;
mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_announcer::{Announced, Answering, Links, MacAddr, Neighbourhood, Presence, Standing};
use herald_ebpf::Picture;
use herald_leader_election::{ClaimKey, Eligible, Guard, NodeName, View, Wanted};

pub(crate) use self::picture::carried;
use crate::allocator::{self, Assignment, Plan};
use crate::desired::{self, Seen, Vip};
use crate::facts::{Carrier, Facts};
use crate::observed::{Observed, ServiceName};
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
    /// Whether nodes without a living speaker answer on the link, by their addresses.
    pub presences: &'a BTreeMap<IpAddr, Presence>,
    /// Which Services are ours.
    pub allocator: &'a allocator::Config,
    /// Where assignments are kept.
    pub database: Database,
    /// The API server will be told of this decision. Else the allocator makes no plan for it.
    pub is_reported: bool,
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

/// What is remembered of the last decision.
#[derive(Debug, Default)]
pub struct Memory {
    vips: desired::Memory,
    picture: picture::Memory,
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
    /// For the data plane.
    pub picture: Picture,
    /// For the announcer.
    pub announced: Announced,
    /// For the announcer: VIPs to probe for, and who is not foreign.
    pub neighbourhood: Neighbourhood,
    /// For the roll call: nodes without a living speaker.
    pub silent: BTreeMap<IpAddr, MacAddr>,
    /// What this node publishes about itself.
    pub facts: Facts,
    /// For status: the wanted VIPs.
    pub vips: BTreeMap<IpAddr, Arc<Vip>>,
    /// For status: the assignments in force.
    pub current: BTreeMap<ServiceName, Assignment>,
    /// This node is the allocator.
    pub allocates: bool,
    /// The plan to be carried out, if this node is the allocator and there is somebody to be told
    /// of it: it takes as long as all the rest.
    pub plan: Option<Plan>,
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

/// Decides. What is remembered of the last decision makes this one faster and nothing else.
pub fn decide(known: &Knowledge<'_>, memory: &mut Memory) -> Decision {
    let current = match known.database {
        Database::Records => records::assignments(&known.view.records),
        Database::ServiceStatus => allocator::reported(known.observed, known.allocator),
    };
    let guard = allocating(known);
    let is_planned = known.is_reported || known.database == Database::Records;
    let plan = guard
        .filter(|_| is_planned)
        .map(|_| allocator::allocate(known.observed, &current, known.allocator));
    // Of its own interfaces this node knows before the others do: what just went down is not used
    // until they have heard.
    let ours = Facts::of(known.links, known.interfaces);
    let mut facts = desired::facts(known.view);
    facts.insert(known.me.clone(), ours.clone());
    let silent = attendance::silent(known, &facts, &assigned(known, &current));
    let gone = attendance::gone(known, &silent);
    let told = records::announced(&known.view.records);
    let seen = Seen {
        me: known.me,
        observed: known.observed,
        assignments: &current,
        view: known.view,
        facts: &facts,
        gone: &gone,
        announced: &told,
    };
    let vips = desired::desired(&seen, &mut memory.vips);
    // What somebody asked this node to hand over is silenced first, like what it may not hold.
    let is_asked_for = |key: &ClaimKey| known.view.handovers.contains_key(key);
    let held: ByVip = vips
        .iter()
        .filter(|_| !known.leaving)
        .filter(|(vip, _)| !is_asked_for(&ClaimKey::Vip(**vip)))
        .filter(|(vip, _)| known.view.held(known.me, &ClaimKey::Vip(**vip)).is_some())
        .filter_map(|(vip, wanted)| Some((*vip, wanted.eligible.get(known.me)?.clone())))
        .collect();
    // A leaving speaker gives everything away in one command (`drain`): a claim released before
    // the others know that it leaves could come straight back.
    let releases = known
        .view
        .claims_of(known.me)
        .filter(|_| !known.leaving)
        .filter(|claim| match claim.key {
            ClaimKey::Vip(vip) => !held.contains_key(&vip),
            ClaimKey::Allocator => is_asked_for(&claim.key),
        })
        .map(|claim| claim.key)
        .collect();
    let (spoken, probed) = introduce(known, held);
    let allocation = guard.zip(plan.as_ref());
    let puts = allocation.map(|(guard, plan)| assignments(known, plan, &vips, guard));
    let mut puts = puts.unwrap_or_default();
    puts.extend(marks(known, &spoken));
    Decision {
        wanted: wanted(known.view, &vips),
        releases,
        puts,
        picture: picture::picture(
            known,
            &facts,
            &vips,
            &spoken,
            memory.vips.places(),
            &mut memory.picture,
        ),
        announced: announced(known, &spoken),
        neighbourhood: Neighbourhood { probed, peers: peers(known, &facts) },
        silent: silent.into_values().flatten().collect(),
        facts: ours,
        vips,
        current,
        allocates: guard.is_some(),
        plan,
    }
}

/// The addresses of Services, but for those that are a node's own.
fn assigned(
    known: &Knowledge<'_>,
    current: &BTreeMap<ServiceName, Assignment>,
) -> BTreeSet<IpAddr> {
    let mut assigned: BTreeSet<IpAddr> =
        current.values().flat_map(|assignment| &assignment.addresses).copied().collect();
    let services = known.observed.services.values();
    assigned.extend(services.flat_map(|service| &service.external_ips));
    for address in known.observed.nodes.values().flat_map(|node| &node.addresses) {
        assigned.remove(address);
    }
    assigned
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
    let key = ClaimKey::Allocator;
    let is_leaving = known.leaving || known.view.handovers.contains_key(&key);
    let claim = known.view.held(known.me, &key).filter(|_| !is_leaving)?;
    Some(Guard { key: claim.key, term: claim.term })
}

/// The allocator's records to write: assignments, unless they are kept elsewhere, and marks of
/// VIPs that are nobody's any more.
fn assignments(
    known: &Knowledge<'_>,
    plan: &Plan,
    vips: &BTreeMap<IpAddr, Arc<Vip>>,
    guard: Guard,
) -> BTreeMap<String, Put> {
    let records = &known.view.records;
    let mut writes = match known.database {
        Database::Records => records::difference(records, &plan.assignments),
        Database::ServiceStatus => records::stale_marks(records, &plan.assignments),
    };
    // A Service's externalIPs are announced, though nobody assigned them.
    let external = vips.iter().filter(|(_, vip)| vip.pool == desired::EXTERNAL);
    for (vip, _) in external {
        writes.remove(&records::announced_key(*vip));
    }
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
            marks.insert(key, Put { value: Some(known.me.as_str().as_bytes().to_vec()), guard });
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
fn wanted(view: &View, vips: &BTreeMap<IpAddr, Arc<Vip>>) -> Wanted {
    let speakers = view.sessions.keys().filter(|node| view.is_alive(node)).cloned().collect();
    let mut claims = BTreeMap::from([(ClaimKey::Allocator, speakers)]);
    // Most VIPs are alike, and share what is said of them.
    let mut before: Option<(&Vip, Eligible)> = None;
    for (vip, wanted) in vips {
        let is_alike = |other: &Vip| {
            Arc::ptr_eq(&other.eligible, &wanted.eligible) && other.preference == wanted.preference
        };
        let eligible = match &before {
            Some((other, eligible)) if is_alike(other) => eligible.clone(),
            _ => {
                let preference = |node| wanted.preference.get(node).copied().unwrap_or(0);
                wanted.eligible.keys().map(|node| (node.clone(), preference(node))).collect()
            }
        };
        claims.insert(ClaimKey::Vip(*vip), eligible.clone());
        before = Some((wanted, eligible));
    }
    Wanted { claims }
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
mod tests;
