//! A node that is no member yet: it asks to join, or founds the cluster with the others that are
//! new too.
//!
//! Two clusters must never come of one set of nodes. The first founder by name decides, once in the
//! life of its state directory, and only after every founder has answered *it* that it is new and
//! promised, durably, to found with nobody else; nobody who ever promised may decide. A node that
//! is told of a cluster never founds one. The argument is in [`crate::raft`]. Until it is a
//! member, a node votes for nobody and takes no entries: it enters by a snapshot, or as a founder.

use std::collections::{BTreeMap, BTreeSet};

use ::raft::RawNode;

use super::config::raft_config;
use super::{Action, Core, Out};
use crate::model::{BootTime, NodeName};
use crate::placement::fnv1a;
use crate::raft::frame::{Founders, Frame, Knock};
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
}

impl Core {
    /// Whether this node takes part, with or without a vote.
    pub(super) fn is_member(&self) -> bool {
        self.joining.is_none()
    }

    /// Asks around, and founds the cluster if it is this node's turn.
    pub(super) fn join(&mut self, beat: bool, out: &mut Out) {
        if self.is_member() || self.member.closing.is_some() {
            return;
        }
        let founders = self.founders();
        let decides = founders.first() == Some(&self.me) && self.may_promise(&self.me);
        let exists = self.joining.as_ref().is_some_and(|joining| joining.cluster_exists);
        if decides && !exists {
            self.promise_to(&self.me.clone(), out);
            if let Some(agreed) = self.agreed(&founders) {
                self.enter(agreed, out);
                self.settle(out);
                return;
            }
        }
        if beat {
            let knock = Knock { id: self.raft.raft.id, founders };
            for node in self.nodes.iter().filter(|node| **node != self.me) {
                out.send(node.clone(), Frame::Knock(knock.clone()));
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
        let founders = self.founders();
        if knock.founders.first() != Some(from) {
            // It only looks for a cluster.
            return Ok(());
        }
        if founders != knock.founders {
            return Err(Refusal::OtherFounders);
        }
        if founders.contains(&self.me) {
            if !self.may_promise(from) {
                return Err(Refusal::OtherFounders);
            }
            self.promise_to(from, out);
        }
        let mine = Knock { id: self.raft.raft.id, founders };
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
        let decided_by = founders.keys().next();
        let ours = founders.get(&self.me) == Some(&self.raft.raft.id)
            && decided_by.is_some_and(|node| self.raft.store().promised() == Some(node));
        if !self.is_member() && ours {
            self.enter(founders, out);
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

    /// Who founds the cluster if there is none.
    fn founders(&self) -> BTreeSet<NodeName> {
        self.voters.founders(&self.nodes)
    }

    fn may_promise(&self, to: &NodeName) -> bool {
        self.raft.store().promised().is_none_or(|promised| promised == to)
    }

    fn promise_to(&mut self, node: &NodeName, out: &mut Out) {
        if self.raft.store().promised().is_none() {
            self.raft.mut_store().promise(node.clone());
            out.durable.push(Action::Rewrite(self.raft.store().image(self.member.epoch)));
        }
    }

    /// All founders with their ids, if all of them said lately that they are new.
    fn agreed(&self, founders: &BTreeSet<NodeName>) -> Option<Founders> {
        let joining = self.joining.as_ref()?;
        let lately = self.now.earlier(self.timing.ttl);
        let fresh = |node: &NodeName| {
            let (knock, heard) = joining.fresh.get(node)?;
            (knock.founders == *founders && *heard >= lately).then_some(knock.id)
        };
        let id = |node: &NodeName| {
            if *node == self.me { Some(self.raft.raft.id) } else { fresh(node) }
        };
        // Nodes that took part in a cluster would say so: most of all must be new, not only the
        // founders, or a list of other nodes could found another cluster.
        let new = self.nodes.iter().filter(|node| id(node).is_some()).count();
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
