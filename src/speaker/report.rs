//! From what the driver knows to the report that `herald status` prints (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use herald_announcer::{Conflict, Counters, OfVip};
use herald_leader_election::{BootTime, ClaimKey, Founding, NodeName, SessionState, View};

use crate::allocator::{Count, Plan};
use crate::desired::{Backend, Uncertain, Vip};
use crate::facts::Facts;
use crate::kubernetes::lease::gate::Waits;
use crate::observed::{IpFamily, Observed, Pool, PoolKind};
use crate::problem::Problem;
use crate::speaker::decide::{Decision, carried};
use crate::status;

/// What a report is made of.
pub struct Material<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// The election's view.
    pub view: &'a View,
    /// The picture it was decided on.
    pub observed: &'a Observed,
    /// The last decision.
    pub decision: &'a Decision,
    /// What the allocator plans, or would plan if it were this node.
    pub plan: &'a Plan,
    /// Until when this node may speak, if it may.
    pub deadline: Option<BootTime>,
    /// How the API server serves the election, where Leases decide.
    pub lease: Option<status::Lease>,
    /// Who takes part in raft, and whether it votes.
    pub members: BTreeMap<NodeName, bool>,
    /// What this node waits for before it takes part in raft.
    pub founding: Option<Founding>,
    /// Why this speaker is silent because of others that elect in another way.
    pub waits: Option<Waits>,
    /// The present.
    pub now: BootTime,
    /// The interfaces and their modes.
    pub datapath: Vec<status::Datapath>,
    /// All counters by name.
    pub counters: BTreeMap<String, u64>,
    /// The flow samples.
    pub flows: status::Flows,
    /// Frames that the announcer counted by VIP.
    pub frames: BTreeMap<IpAddr, OfVip>,
    /// Foreign machines that use a VIP.
    pub conflicts: BTreeMap<IpAddr, Conflict>,
    /// The source's problems.
    pub problems: Vec<Problem>,
}

/// The report.
pub fn report(material: Material<'_>) -> status::Report {
    let left = material.deadline.map(|deadline| deadline.since(material.now));
    let left = left.filter(|left| *left > Duration::ZERO);
    status::Report {
        node: material.me.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        election: material.election(left),
        vips: material.decision.vips.iter().map(|(ip, vip)| material.vip(*ip, vip, left)).collect(),
        services: material.services(),
        pools: material.observed.pools.values().map(|pool| material.pool(pool)).collect(),
        datapath: material.datapath,
        counters: material.counters,
        flows: material.flows,
        problems: material.problems,
    }
}

/// The announcer's counters by name.
pub fn announcer(counters: &Counters) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::from([
        ("announcer_requests".to_owned(), counters.requests),
        ("announcer_replies".to_owned(), counters.replies),
        ("announcer_announcements".to_owned(), counters.announcements),
        ("announcer_fenced".to_owned(), counters.fenced),
        ("announcer_send_failures".to_owned(), counters.send_failures),
        ("announcer_probes".to_owned(), counters.probes),
        ("announcer_defences".to_owned(), counters.defences),
        ("announcer_claims".to_owned(), counters.claims),
        ("announcer_claims_dropped".to_owned(), counters.claims_dropped),
    ]);
    let ignored = counters.ignored.iter();
    named.extend(ignored.map(|(why, count)| (format!("announcer_ignored_{why}"), *count)));
    named
}

impl Material<'_> {
    fn election(&self, left: Option<Duration>) -> status::Election {
        let view = self.view;
        let sessions = view.sessions.values().map(|session| status::Session {
            node: session.node.to_string(),
            epoch: session.epoch,
            state: match session.state {
                SessionState::Open => "open",
                SessionState::Revoked => "revoked",
                SessionState::Closed => "closed",
            },
            draining: session.draining,
        });
        let names = |nodes: &BTreeSet<NodeName>| nodes.iter().map(ToString::to_string).collect();
        let member = |(node, voter): (&NodeName, &bool)| status::Member {
            node: node.to_string(),
            voter: *voter,
        };
        status::Election {
            backend: if self.lease.is_some() { "lease" } else { "raft" },
            leader: view.leader.as_ref().map(ToString::to_string),
            term: view.raft_term,
            drained: view.drained.iter().map(ToString::to_string).collect(),
            sessions: sessions.collect(),
            deadline_ms: left.map(milliseconds),
            lease: self.lease.clone(),
            members: self.members.iter().map(member).collect(),
            founding: self.founding.as_ref().map(|founding| status::Founding {
                founders: names(&founding.founders),
                waiting_for: names(&founding.waiting_for),
                cluster_exists: founding.cluster_exists,
                since_ms: milliseconds(self.now.since(founding.since)),
            }),
            waits: self
                .waits
                .as_ref()
                .map(|it| status::Waits { reason: it.reason, message: it.message.clone() }),
        }
    }

    fn vip(&self, address: IpAddr, vip: &Vip, left: Option<Duration>) -> status::Vip {
        let key = ClaimKey::Vip(address);
        let holder = self.view.holder(&key);
        let is_ours = holder == Some(self.me);
        let interfaces: Vec<String> =
            vip.eligible.get(self.me).into_iter().flatten().cloned().collect();
        let ineligible = vip.ineligible.iter().map(|(node, reason)| status::Ineligible {
            node: node.to_string(),
            reason: reason.label(),
        });
        status::Vip {
            address,
            service: vip.services.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            pool: vip.pool.clone(),
            holder: holder.map(ToString::to_string),
            term: self.view.claims.get(&key).map_or(0, |claim| claim.term),
            expires_ms: left.filter(|_| is_ours).map(milliseconds),
            announcing: left.is_some()
                && self.waits.is_none()
                && self.decision.announced.vips.contains_key(&address),
            mac: interfaces.first().and_then(|name| self.mac(name)),
            interfaces,
            conflict: self.conflicts.get(&address).map(|found| self.conflict(found)),
            preference: vip.preference.iter().map(|(node, it)| (node.to_string(), *it)).collect(),
            ineligible: ineligible.collect(),
            backends: vip.backends.iter().map(backend).collect(),
            kept: vip.kept.iter().map(ToString::to_string).collect(),
            frames: self.frames.get(&address).map(|frames| status::Frames {
                requests: frames.requests,
                replies: frames.replies,
                announcements: frames.announcements,
            }),
            uncertain: vip.uncertain.map(Uncertain::label),
        }
    }

    fn pool(&self, pool: &Pool) -> status::Pool {
        let count = Count::of(pool, self.plan);
        let assignments = self.plan.assignments.values();
        status::Pool {
            name: pool.name.clone(),
            kind: match pool.kind {
                PoolKind::MetalLb => "metallb",
                PoolKind::Cilium => "cilium",
            },
            services: assignments.filter(|it| it.pool == pool.name).count(),
            ipv4: addresses(&count, IpFamily::V4),
            ipv6: addresses(&count, IpFamily::V6),
            conflict: pool.conflict.clone(),
        }
    }

    fn conflict(&self, found: &Conflict) -> status::Conflict {
        status::Conflict {
            state: found.state.label(),
            mac: found.mac.to_string(),
            interface: found.interface.clone(),
            since_ms: milliseconds(self.now.since(BootTime(found.since))),
            count: found.count,
        }
    }

    fn mac(&self, interface: &str) -> Option<String> {
        let Facts { interfaces, .. } = &self.decision.facts;
        interfaces.iter().find(|ours| ours.name == interface).map(|ours| ours.mac.clone())
    }

    /// Services with addresses, and those the allocator refuses.
    fn services(&self) -> Vec<status::Service> {
        let mut services = BTreeMap::new();
        for (name, assignment) in &self.decision.current {
            let service = status::Service {
                name: name.to_string(),
                addresses: assignment.addresses.clone(),
                reason: None,
                message: None,
            };
            services.insert(name.clone(), service);
        }
        for (name, refusal) in &self.plan.refusals {
            let service = services.entry(name.clone()).or_insert_with(|| status::Service {
                name: name.to_string(),
                addresses: Vec::new(),
                reason: None,
                message: None,
            });
            service.reason = Some(refusal.reason.label().to_owned());
            service.message = Some(refusal.message.clone());
        }
        services.into_values().collect()
    }
}

fn addresses(count: &Count, family: IpFamily) -> status::Addresses {
    let cut = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    let (total, used) = count.of_family(family);
    status::Addresses { total: cut(total), used: cut(used) }
}

fn backend(backend: &Backend) -> status::Backend {
    status::Backend {
        address: backend.address.ip(),
        port: backend.address.port(),
        node: backend.node.as_ref().map(ToString::to_string),
        protocol: carried(backend.protocol).label(),
        service_port: backend.port,
        used: backend.target.is_ok(),
        weight: backend.weight,
        reason: backend.target.err().map(|unused| unused.label()),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
