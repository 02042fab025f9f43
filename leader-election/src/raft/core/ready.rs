//! What the raft library has ready: entries to persist and to apply, messages, proofs of quorum.
//!
//! The library is told at once that its entries are persisted. That is true by the time it matters:
//! the batch is an action in front of every message of the same call, and of every later call. It
//! must never be told so of anything that is not in an action. Also notices when raft's role
//! changed.

use std::mem;

use ::raft::eraftpb::{Entry, Message, MessageType};
use ::raft::{ReadState, SnapshotStatus, StateRole};

use super::{Action, Batch, Core, Out};
use crate::raft::command::Command;
use crate::raft::convert;
use crate::raft::frame::Frame;
use crate::raft::machine::{Machine, Outcome};
use crate::raft::sanity::Refusal;

/// The log is replaced by the state whenever the members change (a new one can only start from the
/// state, and who votes must be durable before it is relied on), once it has this many entries...
const COMPACT_ENTRIES: usize = 1024;
/// ...or this many bytes in them.
const COMPACT_SIZE: usize = 4 * 1024 * 1024;

impl Core {
    /// Works through what the library has ready, until it has nothing more.
    pub(super) fn settle(&mut self, out: &mut Out) {
        self.notice_role(out);
        while self.raft.has_ready() {
            self.take_ready(out);
            self.notice_role(out);
        }
    }

    fn notice_role(&mut self, out: &mut Out) {
        let raft = &self.raft.raft;
        let led_by = (raft.leader_id, raft.term);
        let leads = (raft.state == StateRole::Leader).then_some(raft.term);
        if leads != self.leading.as_ref().map(|leading| leading.term) {
            // Either way silent at once. A new leader's grant as a follower must end before anybody
            // can learn of its leadership; a former leader is about to help elect another.
            self.leading = None;
            if !self.speaks_on(leads) {
                self.silence(out);
            }
            if let Some(term) = leads {
                self.begin_leading(term);
            }
        }
        if led_by != self.led_by {
            self.led_by = led_by;
            self.member.renew_due = true;
            out.view_changed = true;
        }
    }

    fn take_ready(&mut self, out: &mut Out) {
        let mut ready = self.raft.ready();
        let must_sync = ready.must_sync();
        let entries = ready.take_entries();
        let hard = ready.hs().cloned();
        let replaced = !ready.snapshot().is_empty();
        if replaced {
            self.restore(ready.snapshot().clone(), out);
        }
        let mut batch = Batch {
            entries: entries.iter().map(convert::entry_from_raft).collect(),
            ..Batch::default()
        };
        let store = self.raft.mut_store();
        store.append(entries);
        if let Some(hard) = hard {
            // A commit position alone is not worth a write: a restarted node learns it again.
            batch.hard = must_sync.then(|| convert::hard_from_raft(&hard));
            store.set_hard(hard);
        }
        if replaced {
            out.durable.push(Action::Rewrite(store.image(self.member.epoch)));
        } else if batch != Batch::default() {
            out.durable.push(Action::Persist(batch));
        }
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        self.take_reads(&ready.take_read_states());
        self.apply(&ready.take_committed_entries(), out);
        let mut light = self.raft.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raft.mut_store().set_commit(commit);
        }
        messages.append(&mut light.take_messages());
        self.apply(&light.take_committed_entries(), out);
        self.raft.advance_apply();
        self.send_all(&messages, out);
    }

    fn restore(&mut self, snapshot: ::raft::eraftpb::Snapshot, out: &mut Out) {
        let index = snapshot.get_metadata().index;
        // It was decoded once when it was checked; one that cannot be read never comes here.
        if let Ok(machine) = Machine::decode(index, &snapshot.data) {
            self.machine = machine;
        }
        let joined = self.joining.take().is_some();
        let before = self.machine.sessions.get(&self.me).map(|session| session.epoch);
        if let Some(before) = before.filter(|before| joined && *before >= self.member.epoch) {
            // Of the state directory before this one. `Rewrite` makes it durable.
            self.member.epoch = before + 1;
        }
        self.raft.mut_store().restore(snapshot);
        self.member.forget_given_up(&self.machine, &self.me);
        self.member.renew_due = true;
        out.view_changed = true;
    }

    fn send_all(&mut self, messages: &[Message], out: &mut Out) {
        for message in messages {
            let to = self.name_of(message.to);
            if let (Some(to), Some(frame)) = (to, convert::message_from_raft(message)) {
                out.send(to, Frame::Raft(frame));
            }
            if message.get_msg_type() == MessageType::MsgSnapshot {
                // The transport may lose it like anything else. The library then probes, and sends
                // another one if the follower has not got this one.
                self.raft.report_snapshot(message.to, SnapshotStatus::Finish);
            }
        }
    }

    fn take_reads(&mut self, reads: &[ReadState]) {
        let lease = self.timing.lease();
        if let Some(leading) = &mut self.leading {
            for read in reads {
                leading.heard_quorum(&read.request_ctx, lease);
            }
        }
    }

    fn apply(&mut self, entries: &[Entry], out: &mut Out) {
        for entry in entries {
            out.view_changed = true;
            let Ok(command) = Command::decode(convert::data_of(entry)) else {
                // Raft's own empty entry of a new leader. Ours were encoded here, by the leader.
                self.machine.applied = entry.index;
                continue;
            };
            match (self.machine.apply(entry.index, &command), &command) {
                (Outcome::Applied, Command::Member { id, change, .. }) => {
                    self.members_changed(*id, *change);
                }
                (Outcome::Applied | Outcome::Stale, _) => {}
                (Outcome::Full, _) => {
                    out.sends.push(Action::Refused(self.me.clone(), Refusal::StateFull));
                }
            }
            self.applied(entry.term, &command);
        }
        if !entries.is_empty() {
            self.member.forget_given_up(&self.machine, &self.me);
        }
    }

    fn applied(&mut self, raft_term: u64, command: &Command) {
        if let Command::OpenSession { node, epoch, .. } = command
            && *node == self.me
            && *epoch == self.member.epoch
        {
            self.member.renew_due = true;
        }
        let now = self.now;
        if let Some(leading) = &mut self.leading {
            leading.applied(raft_term, command, &self.me, now);
        }
    }

    /// Everything this node does by itself, once per call and after each change.
    pub(super) fn duties(&mut self, out: &mut Out) {
        let beat = mem::take(&mut self.beat);
        self.join(beat, out);
        self.keep_session(beat, out);
        self.renew(beat, out);
        self.ask_whether_gone(beat, out);
        self.lead(beat, out);
        self.finish_closing(beat, out);
        self.compact(out);
    }

    fn compact(&mut self, out: &mut Out) {
        let store = self.raft.store();
        let long = store.len() > COMPACT_ENTRIES || store.size() > COMPACT_SIZE;
        if !long && !self.compact_due {
            return;
        }
        if self.raft.has_ready() || self.machine.applied <= store.start() {
            return;
        }
        self.compact_due = false;
        self.raft.mut_store().compact(&self.machine);
        out.durable.push(Action::Rewrite(self.raft.store().image(self.member.epoch)));
        self.say_lead();
    }
}
