//! How a leader looks after the members: [`crate::raft::membership`] says what should change.
//!
//! A change of voters waits until a quorum of the present voters has answered a question asked
//! after the last change took effect. So any quorum that confirmed this leader meets every quorum
//! that could elect another one, and the promises hold across changes.

use std::collections::{BTreeMap, BTreeSet};

use ::raft::eraftpb::{Entry, Message, MessageType};

use super::{Core, Out};
use crate::model::{BootTime, NodeName, SessionState};
use crate::raft::command::{Change, Command};
use crate::raft::convert;
use crate::raft::frame::Frame;
use crate::raft::membership::{Picture, next_change};

/// A log this close to the leader's end is all but complete.
const NEARLY: u64 = 64;

/// What a leader knows of members and of those that want to be some.
#[derive(Default)]
pub(super) struct Tending {
    /// When each id was last heard.
    heard: BTreeMap<u64, BootTime>,
    /// Who asks to join, under which id, and when it last did.
    knocks: BTreeMap<NodeName, (u64, BootTime)>,
    /// Since when a member's node is missing from the source.
    missing: BTreeMap<NodeName, BootTime>,
    /// When the voters last changed.
    pub(super) changed: Option<BootTime>,
    /// When the latest question was asked that a quorum has answered.
    pub(super) confirmed: Option<BootTime>,
}

impl Core {
    pub(super) fn heard_knock(&mut self, from: &NodeName, id: u64) {
        let now = self.now;
        if let Some(leading) = &mut self.leading {
            leading.tending.knocks.insert(from.clone(), (id, now));
        }
    }

    pub(super) fn heard_member(&mut self, id: u64) {
        let now = self.now;
        if let Some(leading) = &mut self.leading {
            leading.tending.heard.insert(id, now);
        }
    }

    /// Tells a member of the past that it is none, if that is beyond doubt.
    pub(super) fn tell_gone(&self, from: &NodeName, id: u64, out: &mut Out) -> bool {
        let certain = self.leading.as_ref().is_some_and(|leading| leading.confirmed(self.now));
        let gone = certain && !self.machine.members.contains_key(&id);
        if gone {
            out.send(from.clone(), Frame::Gone(id));
        }
        gone
    }

    /// Once per heartbeat, while this leader is confirmed.
    pub(super) fn tend(&mut self, out: &mut Out) {
        self.invite(out);
        let listed = &self.nodes;
        let now = self.now;
        let members = &self.machine.members;
        let Some(leading) = &mut self.leading else { return };
        leading.tending.missing.retain(|node, _| !listed.contains(node));
        for member in members.values().filter(|member| !listed.contains(&member.node)) {
            leading.tending.missing.entry(member.node.clone()).or_insert(now);
        }
        leading.tending.knocks.retain(|node, (_, heard)| {
            listed.contains(node) && now.since(*heard) < self.timing.ttl
        });
        let settled = leading.tending.changed.is_none_or(|at| leading.tending.confirmed > Some(at));
        if !settled || self.raft.raft.has_pending_conf() {
            return;
        }
        if let Some((id, node, change)) = self.next_change() {
            self.propose_change(&Command::Member { id, node, change });
        }
    }

    /// Nodes of the source that are no members may not know that there is a cluster.
    fn invite(&self, out: &mut Out) {
        let members = self.machine.member_names();
        for node in self.nodes.iter().filter(|node| !members.contains(node)) {
            out.send(node.clone(), Frame::Member);
        }
    }

    fn next_change(&self) -> Option<(u64, NodeName, Change)> {
        let leading = self.leading.as_ref()?;
        let (now, me) = (self.now, self.raft.raft.id);
        let tending = &leading.tending;
        let members = &self.machine.members;
        let since = |id: &u64| tending.heard.get(id).copied().unwrap_or(leading.elected());
        let heard =
            |id: &u64| tending.heard.contains_key(id) && now.since(since(id)) < self.timing.ttl;
        let ids = |so: &dyn Fn(&u64) -> bool| -> BTreeSet<u64> {
            members.keys().filter(|id| so(id)).copied().collect()
        };
        let ended = |node: &NodeName| {
            self.machine.sessions.get(node).is_none_or(|s| s.state != SessionState::Open)
        };
        let last = self.raft.raft.raft_log.last_index();
        let caught_up = |id: &u64| {
            let progress = self.raft.raft.prs().get(*id);
            progress.is_some_and(|progress| progress.matched + NEARLY >= last)
        };
        let forgotten = |id: &u64| {
            let node = &members[id].node;
            let missing = tending.missing.get(node);
            missing.is_some_and(|at| now.since(*at) >= self.patience.forget_after) && ended(node)
        };
        let dead = |id: &u64| *id != me && now.since(since(id)) >= self.patience.replace_after;
        let knocking = tending.knocks.iter().filter(|(node, _)| ended(node));
        next_change(&Picture {
            me,
            members,
            voters: &self.voters,
            listed: &self.nodes,
            living: &ids(&|id| *id == me || heard(id)),
            caught_up: &ids(&caught_up),
            dead: &ids(&dead),
            forgotten: &ids(&forgotten),
            knocking: &knocking.map(|(node, (id, _))| (node.clone(), *id)).collect(),
        })
    }

    fn propose_change(&mut self, command: &Command) {
        let entry = convert::with_data(Entry::default(), command.encode());
        let id = self.raft.raft.id;
        let mut message = Message { from: id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        // Dropped proposals are made again at the next heartbeat.
        let _ = self.raft.raft.step(message);
    }

    /// What a change of members that took effect means for raft.
    pub(super) fn members_changed(&mut self, id: u64, change: Change) {
        // Fails only for what the state does not let through: no voters, or several at once.
        let _ = self.raft.apply_conf_change(&convert::change_to_raft(id, change));
        self.compact_due = true;
        let now = self.now;
        if let Some(leading) = self.leading.as_mut().filter(|_| change != Change::Learn) {
            leading.tending.changed = Some(now);
        }
    }
}
