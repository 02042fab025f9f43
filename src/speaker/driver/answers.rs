//! What the driver answers to the status socket: reports, moves and drains that are asked for.

use std::borrow::Cow;

use herald_leader_election::raft::sanity::Refusal;
use herald_leader_election::{ClaimKey, MoveRefusal, NodeName, View, clock};

use super::Driver;
use crate::allocator;
use crate::kubernetes::lease::gate::Waits;
use crate::speaker::cluster::Cluster;
use crate::speaker::electing::Leases;
use crate::speaker::flows::Book;
use crate::speaker::report::{self, Material, report};
use crate::speaker::socket::{Answer, Ask};

impl Driver {
    /// As one JSON value.
    pub(super) fn answer(&mut self, ask: Ask) -> String {
        let named = |node: Option<String>| node.map_or(self.parts.me.clone(), NodeName::from);
        let (node, done) = match ask {
            Ask::Status => return self.report(),
            Ask::Flows { after } => {
                self.read_flows();
                return self.parts.flows.recent(&self.parts.me, after);
            }
            Ask::Move { vip, node } => {
                let node = NodeName::from(node);
                let key = ClaimKey::Vip(vip);
                (node.clone(), self.parts.election.move_to(key, node))
            }
            Ask::Drain { node } => {
                let node = named(node);
                (node.clone(), self.parts.election.drain_node(node))
            }
            Ask::Undrain { node } => {
                let node = named(node);
                (node.clone(), self.parts.election.undrain_node(node))
            }
        };
        let answer = match done {
            Ok(()) => Answer::Accepted { node: node.to_string() },
            Err(refusal) => refused(&refusal),
        };
        serde_json::to_string(&answer).unwrap_or_default()
    }

    pub(super) fn read_flows(&mut self) {
        let (view, snapshot) = (self.view.borrow(), self.parts.snapshots.borrow());
        let (me, decision, observed) = (&self.parts.me, self.last.as_ref(), &snapshot.observed);
        self.parts.flows.read(Book { me, observed, view: &view, decision });
    }

    fn report(&mut self) -> String {
        self.read_flows();
        let mut counters = report::announcer(&self.parts.announcer.counters());
        let refused = self.parts.election.refusals();
        counters.extend(refused.into_iter().map(|(why, n)| (format!("peer_refused_{why}"), n)));
        match self.parts.carriers.datapath().map(|datapath| datapath.counters()) {
            Some(Ok(packets)) => {
                counters.extend(
                    packets.iter().map(|c| (format!("xdp_{}", c.reason.label()), c.packets)),
                );
            }
            Some(Err(error)) => tracing::warn!(%error, "cannot read the data plane's counters"),
            None => {}
        }
        let spent = u64::try_from(self.rounds.time.as_micros()).unwrap_or(u64::MAX);
        counters.insert("speaker_rounds".to_owned(), self.rounds.count);
        counters.insert("speaker_rounds_microseconds".to_owned(), spent);
        counters.extend(self.parts.leases.iter().flat_map(Leases::counters));
        counters.extend(self.parts.cluster.iter().flat_map(Cluster::counters));
        let view = self.view.borrow().clone();
        let snapshot = self.parts.snapshots.borrow().clone();
        let links = self.parts.links.borrow().clone();
        // What was performed last, or what would be once this process has a session.
        let decided = self.last.is_none().then(|| self.decide(&view, &snapshot, &links, false));
        let Some(decision) = self.last.as_ref().or(decided.as_ref()) else {
            return String::new();
        };
        let (observed, config) = (&snapshot.observed, &self.parts.allocator);
        let plan = match &decision.plan {
            Some(plan) => Cow::Borrowed(plan),
            None => Cow::Owned(allocator::allocate(observed, &decision.current, config)),
        };
        let material = Material {
            me: &self.parts.me,
            view: &view,
            observed,
            decision,
            plan: &plan,
            deadline: *self.deadline.borrow(),
            waits: self.waits(&view),
            lease: self.parts.leases.as_ref().map(|leases| leases.status(clock::boot_now())),
            members: self.parts.election.members(),
            founding: self.parts.election.founding(),
            now: clock::boot_now(),
            datapath: self.parts.carriers.report(),
            counters,
            flows: self.parts.flows.report(),
            frames: self.parts.announcer.counters().vips,
            problems: snapshot.problems.clone(),
            conflicts: self.parts.announcer.conflicts().borrow().as_ref().clone(),
        };
        serde_json::to_string(&report(material))
            .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// Why this speaker takes nothing, if so.
    fn waits(&self, view: &View) -> Option<Waits> {
        let reason = Refusal::DuplicateName.label();
        let is_doubled = self.parts.leases.is_some()
            && !view.sessions.contains_key(&self.parts.me)
            && self.parts.election.refusals().contains_key(reason);
        if !is_doubled {
            return self.parts.gate.borrow().waits(view.epoch);
        }
        let message = "a speaker on another machine has this node's name: this one waits until that \
                       one is gone; is --node-name right?";
        Some(Waits { reason, message: message.to_owned() })
    }
}

fn refused(refusal: &MoveRefusal) -> Answer {
    Answer::Refused { reason: refusal.label().to_owned(), message: refusal.to_string() }
}
