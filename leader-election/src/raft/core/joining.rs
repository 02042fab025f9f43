//! A node that is no member yet: it asks to join, or founds the cluster with the others that are
//! new too.
//!
//! Two clusters must never come of one set of nodes. The first founder by name decides, once in the
//! life of its state directory, and only after every founder has answered *it* that it is new and
//! promised, durably, to found with nobody else; nobody who ever promised may decide. A node that
//! is told of a cluster never founds one. The argument is in [`crate::raft`]. Until it is a
//! member, a node votes for nobody and takes no entries: it enters by a snapshot, or as a founder.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::raft::RawNode;

use super::config::raft_config;
use super::{Action, Core, Out};
use crate::model::{BootTime, NodeName};
use crate::placement::fnv1a;
use crate::raft::frame::{Founders, Frame, Knock, Renewal};
use crate::raft::machine::Machine;
use crate::raft::sanity::Refusal;
use crate::raft::store::{Image, Store};

/// What a node has heard while it is no member.
#[derive(Default)]
pub(super) struct Joining {
    /// Answers of other nodes that are new, to this process.
    fresh: BTreeMap<NodeName, (Knock, BootTime)>,
    /// Somebody said that there is a cluster.
    cluster_exists: bool,
    /// Since when a founder that this node promised to found with is no node of the source.
    unlisted: Option<BootTime>,
}

/// A promised founder has this many ttl, and no less than [`LEAST_PATIENCE`], to come back to the
/// source. By then any member that can be reached has said that there is a cluster.
const PATIENCE_TTLS: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// What a node waits for that is no member of any cluster yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Who founds the cluster, if there is none.
    pub founders: BTreeSet<NodeName>,
    /// Those of them that have not answered lately that they are new, as far as this node asks.
    pub waiting_for: BTreeSet<NodeName>,
    /// There is a cluster, which has not taken this node in yet.
    pub cluster_exists: bool,
    /// Since when this process waits.
    pub since: BootTime,
}

impl Core {
    /// Whether this node takes part, with or without a vote.
    pub(super) fn is_member(&self) -> bool {
        self.joining.is_none()
    }

    /// What this node waits for before it takes part.
    pub fn founding(&self) -> Option<Founding> {
        let joining = self.joining.as_ref()?;
        let founders = self.founders();
        let decides = founders.first() == Some(&self.me);
        // Only the first founder asks the others; all others wait for it alone.
        let waits = |node: &&NodeName| match decides {
            true => **node != self.me && !self.is_new(node),
            false => founders.first() == Some(*node),
        };
        Some(Founding {
            waiting_for: founders.iter().filter(waits).cloned().collect(),
            cluster_exists: joining.cluster_exists,
            since: self.born,
            founders,
        })
    }

    /// Asks around, and founds the cluster if it is this node's turn.
    pub(super) fn join(&mut self, beat: bool, out: &mut Out) {
        if self.member.closing.is_some() {
            return;
        }
        self.reconsider(out);
        let Some(joining) = &self.joining else { return };
        let founders = self.founders();
        let decides = founders.first() == Some(&self.me) && self.may_promise(&founders);
        if decides && !joining.cluster_exists {
            self.promise(&founders, out);
            if let Some(agreed) = self.agreed(&founders) {
                self.enter(agreed, out);
                self.settle(out);
                return;
            }
        }
        if beat {
            // One founder after the other, in the order of their names: two that would decide never
            // wait for each other's promises in a circle.
            let missing = founders.iter().find(|node| **node != self.me && !self.is_new(node));
            let after = |node: &NodeName| missing.is_some_and(|first| node > first);
            let id = self.raft.raft.id;
            for node in self.nodes.iter().filter(|node| **node != self.me) {
                // Whoever's turn has not come is only asked whether there is a cluster.
                let early = decides && founders.contains(node) && after(node);
                let founders = if early { BTreeSet::new() } else { founders.clone() };
                out.send(node.clone(), Frame::Knock(Knock { id, founders }));
            }
        }
    }

    pub(super) fn take_knock(
        &mut self,
        from: &NodeName,
        knock: &Knock,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        if self.is_member() {
            let founders = self.raft.store().founders();
            if founders.get(from) == Some(&knock.id) {
                let founders = founders.clone();
                out.send(from.clone(), Frame::Founded(founders));
            }
            out.send(from.clone(), Frame::Member);
            self.heard_knock(from, knock.id);
            return Ok(());
        }
        if knock.founders.first() != Some(from) {
            // It only looks for a cluster.
            return Ok(());
        }
        if knock.founders.contains(&self.me) {
            let agrees = self.voters.any_node() || knock.founders == self.founders();
            // A promise is one to whoever decides: if that node asks for another, it has decided
            // nothing, and never will by the last.
            let decider = self.raft.store().promised().and_then(|promised| promised.first());
            let is_deciders = self.voters.any_node() && decider == Some(from);
            if !agrees || !(is_deciders || self.may_promise(&knock.founders)) {
                return Err(Refusal::OtherFounders);
            }
            self.promise(&knock.founders, out);
        }
        let mine = Knock { id: self.raft.raft.id, founders: self.founders() };
        out.send(from.clone(), Frame::Fresh(knock.id, mine));
        Ok(())
    }

    pub(super) fn take_fresh(&mut self, from: &NodeName, asked: u64, knock: Knock) {
        let now = self.now;
        if let Some(joining) = self.joining.as_mut().filter(|_| asked == self.raft.raft.id) {
            joining.fresh.insert(from.clone(), (knock, now));
        }
    }

    pub(super) fn take_cluster_exists(&mut self) {
        if let Some(joining) = &mut self.joining {
            joining.cluster_exists = true;
        }
    }

    /// The founder that decides has done so, with this node.
    pub(super) fn take_founded(&mut self, founders: Founders, out: &mut Out) {
        let promised = self.raft.store().promised();
        let ours = founders.get(&self.me) == Some(&self.raft.raft.id)
            && promised.is_some_and(|promised| match self.voters.any_node() {
                // What it decided between two promises is as good: it decides once.
                true => promised.first() == founders.keys().next(),
                false => promised.iter().eq(founders.keys()),
            });
        if !self.is_member() && ours {
            self.enter(founders, out);
        }
    }

    /// A member that no leader talks to may be none any more: the others know, and say so.
    pub(super) fn ask_whether_gone(&mut self, beat: bool, out: &mut Out) {
        let lonely = self.leading.is_none() && self.now >= self.votes_from + self.timing.ttl;
        if !beat || !lonely || !self.is_member() || self.member.closing.is_some() {
            return;
        }
        // The numbers are nobody's: this asks for no grant.
        let renewal = Renewal { raft_term: 0, epoch: 0, seq: 0 };
        for node in self.nodes.iter().filter(|node| **node != self.me) {
            out.send(node.clone(), Frame::Renew(self.raft.raft.id, renewal));
        }
    }

    /// This node was a member and is none any more: what it knows is the past. It keeps the epoch
    /// of its sessions and comes again under another id.
    pub(super) fn take_gone(&mut self, id: u64, out: &mut Out) {
        if id != self.raft.raft.id || !self.is_member() || self.leading.is_some() {
            return;
        }
        let id = fresh_id(self.seed ^ id ^ self.now.as_nanos());
        let image = Image { id, epoch: self.member.epoch, ..Image::default() };
        let Ok(raft) = raft_node(&image, 0, &self.timing) else { return };
        self.silence(out);
        out.durable.push(Action::Rewrite(image));
        self.raft = raft;
        self.machine = Machine::default();
        self.joining = Some(Joining { cluster_exists: true, ..Joining::default() });
        self.votes_from = self.now + self.timing.promise();
        self.led_by = (0, 0);
        out.view_changed = true;
    }

    /// Who founds the cluster if there is none: as promised once, whatever the source says since.
    fn founders(&self) -> BTreeSet<NodeName> {
        let promised = self.raft.store().promised().filter(|_| self.voters.any_node());
        promised.cloned().unwrap_or_else(|| self.voters.founders(&self.nodes))
    }

    fn may_promise(&self, founders: &BTreeSet<NodeName>) -> bool {
        self.raft.store().promised().is_none_or(|promised| promised == founders)
    }

    /// Promises to found with these, instead of whom it promised to before.
    fn promise(&mut self, founders: &BTreeSet<NodeName>, out: &mut Out) {
        if self.raft.store().promised() != Some(founders) {
            self.raft.mut_store().promise(founders.clone());
            out.durable.push(Action::Rewrite(self.raft.store().image(self.member.epoch)));
        }
    }

    /// Takes a promise back that cannot be kept: a founder is no longer a node of the source, so it
    /// will never answer. Only where nobody can have founded with this node by that promise: this
    /// node itself decides and has not, or the one that decides is itself gone, and no member that
    /// can be reached has spoken up for long. The argument is in [`crate::raft`].
    fn reconsider(&mut self, out: &mut Out) {
        let promised = self.raft.store().promised().filter(|_| self.voters.any_node());
        let broken = promised.filter(|promised| !promised.is_subset(&self.nodes)).cloned();
        let (now, nodes) = (self.now, &self.nodes);
        let Some(joining) = &mut self.joining else { return };
        let Some(broken) = broken.filter(|_| !joining.cluster_exists) else {
            joining.unlisted = None;
            return;
        };
        let patience = (self.timing.ttl * PATIENCE_TTLS).max(LEAST_PATIENCE);
        let since = *joining.unlisted.get_or_insert(now);
        // Without these, whoever decided has no majority.
        let left = broken.intersection(nodes).count();
        let decider = broken.first();
        let is_orphan = decider.is_none_or(|it| !nodes.contains(it)) && left * 2 > broken.len();
        let is_free = decider == Some(&self.me) || is_orphan;
        if is_free && now.since(since) >= patience {
            joining.unlisted = None;
            joining.fresh.clear();
            // Those who promised did so to this node, so it has to remain the one that decides.
            let decides = broken.first() == Some(&self.me);
            let may_found = |node: &&NodeName| !decides || **node >= self.me;
            let listed = self.nodes.iter().filter(may_found).cloned().collect();
            let founders = self.voters.founders(&listed);
            tracing::warn!(
                before = names(&broken),
                now = names(&founders),
                "a founder is gone from the source before it ever ran: founding with others"
            );
            self.promise(&founders, out);
        }
    }

    /// Whether the node said lately, to this process, that it is new.
    fn is_new(&self, node: &NodeName) -> bool {
        let lately = self.now.earlier(self.timing.ttl);
        let heard = self.joining.as_ref().and_then(|joining| joining.fresh.get(node));
        heard.is_some_and(|(_, heard)| *heard >= lately)
    }

    /// All founders with their ids, if all of them promised lately and are still new.
    fn agreed(&self, founders: &BTreeSet<NodeName>) -> Option<Founders> {
        let joining = self.joining.as_ref()?;
        let id = |node: &NodeName| {
            if *node == self.me {
                return Some(self.raft.raft.id);
            }
            let (knock, _) = joining.fresh.get(node).filter(|_| self.is_new(node))?;
            (knock.founders == *founders).then_some(knock.id)
        };
        // Nodes that took part in a cluster would say so: most of all must be new, not only the
        // founders, or a list of other nodes could found another cluster.
        let new = self.nodes.iter().filter(|node| **node == self.me || self.is_new(node)).count();
        if self.voters.any_node() && new <= self.nodes.len() / 2 {
            return None;
        }
        founders.iter().map(|node| Some((node.clone(), id(node)?))).collect()
    }

    fn enter(&mut self, founders: Founders, out: &mut Out) {
        let machine = Machine::founded(&founders);
        let image = Image { founders, ..self.raft.store().image(self.member.epoch) };
        let Ok(raft) = raft_node(&image, 0, &self.timing) else { return };
        let others: Vec<NodeName> =
            image.founders.keys().filter(|node| **node != self.me).cloned().collect();
        for node in others {
            out.send(node, Frame::Founded(image.founders.clone()));
        }
        out.durable.push(Action::Rewrite(image));
        self.raft = raft;
        self.machine = machine;
        self.joining = None;
        self.heard_leader();
        self.stand_alone();
    }

    /// The only voter needs nobody's answer, nor does anybody wait for its promises.
    pub(super) fn stand_alone(&mut self) {
        let id = self.raft.raft.id;
        if self.is_member() && self.machine.voters().eq([id]) {
            self.votes_from = self.now;
            // Fails only where there is nothing to stand for.
            let _ = self.raft.campaign();
        }
    }
}

fn names(nodes: &BTreeSet<NodeName>) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(",")
}

/// The library on top of what is durable.
pub(super) fn raft_node(
    image: &Image,
    applied: u64,
    timing: &crate::timing::Timing,
) -> ::raft::Result<RawNode<Store>> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&raft_config(image.id, applied, timing), Store::new(image), &logger)
}

/// A raft id for a state directory, from a number that no other one was made of.
pub(super) fn fresh_id(seed: u64) -> u64 {
    // Zero is raft's "nobody".
    fnv1a(seed.to_be_bytes().into_iter().chain(*b"raft id")).max(1)
}
