//! A leader's process that is started again leads on at once.
//!
//! Its kernel speaks by the quorum lease of the process before it, and that ends before any
//! follower may stand: by the rules for everybody else, the VIPs would be silent until an election
//! is over, and a speaker that was only started again would lose them. But the promises that the
//! lease rests on were made to this very node, so they do not forbid a vote for it ((12) in
//! [`crate::raft`]). It must never stand this way unless its own disk proves that it led in the
//! last term it knew of, and only once: whoever was elected meanwhile has the votes of the next
//! term.
//!
//! There is as much time for it as the lease has left when the process ends: the lease less the age
//! of the last question that a quorum answered, which is a heartbeat at most. That is 72 to 122 ms
//! with the fast profile and 245 to 345 ms by default; a follower has the ttl less the age of its
//! last renewal, 147 to 197 ms and 493 to 593 ms. A process that is back later finds its VIPs
//! silent.

use ::raft::eraftpb::{Message, MessageType};

use super::{Core, Image};
use crate::model::NodeName;
use crate::raft::command::Command;

/// The term in which the process before this one led, if it knew of no later one.
///
/// Its `Lead` of that term has to stand in the log itself: one in the state that replaced the log's
/// begin may be of an earlier term.
pub(super) fn led_last(image: &Image, me: &NodeName) -> Option<u64> {
    let term = image.hard.term;
    let led = image.hard.vote == image.id
        && image.entries.iter().filter(|entry| entry.term == term).any(|entry| {
            matches!(Command::decode(&entry.data), Ok(Command::Lead { node }) if node == *me)
        });
    led.then_some(term)
}

impl Core {
    /// Stands at once if the process before this one led.
    pub(super) fn resume_leading(&mut self) {
        let Some(term) = self.resumes.take() else { return };
        if !self.is_member() || !self.is_latest() || self.raft.raft.term != term {
            return;
        }
        self.resumed = Some(term + 1);
        // As if the leader, which this node was, had asked it to take over: without a round of
        // questions before, and not refused on account of promises (raft thesis, section 3.10).
        let mut message = Message { to: self.raft.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgTimeoutNow);
        // Declined where this node may not stand.
        let _ = self.raft.step(message);
    }

    /// Whether what the kernel speaks by is this node's own voice as leader, of the process before.
    pub(super) fn speaks_on(&self, elected_in: Option<u64>) -> bool {
        elected_in.is_some() && elected_in == self.resumed && self.deadline.is_none()
    }

    /// The log of a leader always tells that it leads.
    pub(super) fn say_lead(&mut self) {
        let lead = self.leading.as_ref().is_some_and(|leading| leading.term == self.raft.raft.term);
        if lead {
            let node = self.me.clone();
            // One that is not taken would only cost the next process its short cut.
            self.propose(&Command::Lead { node });
        }
    }
}
