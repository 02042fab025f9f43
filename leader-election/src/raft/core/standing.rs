//! When this node stands for election.
//!
//! The raft library counts ticks and draws its timeout at random; after a leader's death two nodes
//! then often ask in the same moment, or one asks while the other still counts its promise, and the
//! next attempt is a whole timeout away (measured in the simulation: 1252 ms at worst with default
//! timing). So the core says when: to the nanosecond, right after the promises have run out, one
//! node after the other by a rank that all nodes compute alike, and again soon if it led nowhere.
//! It must never stand, which is a vote for itself, before its own promise has run out.

use ::raft::StateRole;
use ::raft::eraftpb::MessageType;

use super::Core;
use crate::model::BootTime;
use crate::placement::fnv1a;

/// When to stand next.
pub(super) struct Standing {
    at: BootTime,
    attempts: u32,
    random: u64,
}

impl Standing {
    pub(super) fn new(seed: u64) -> Self {
        Self { at: BootTime::SILENT, attempts: 0, random: seed }
    }

    pub(super) fn not_before(&mut self, at: BootTime) {
        self.at = self.at.max(at);
    }

    /// From this core's own random numbers: the library's come from the system, and no two runs of
    /// a test would be the same.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = fnv1a(self.random.to_be_bytes());
        (mixed ^ (mixed >> 31)) % below.max(1)
    }
}

impl Core {
    /// When this node stands if nothing happens before; never if it leads, leaves, or does not
    /// vote.
    pub(super) fn stands_at(&self) -> Option<BootTime> {
        let may = self.raft.raft.state != StateRole::Leader
            && self.raft.raft.promotable()
            && self.member.closing.is_none();
        may.then(|| self.standing.at.max(self.votes_from))
    }

    pub(super) fn stand_if_due(&mut self) {
        if self.stands_at().is_none_or(|at| self.now < at) {
            return;
        }
        // Fails only where there is nothing to stand for.
        let _ = self.raft.campaign();
        let wait = self.timing.stands_again_after(self.rank(), self.standing.attempts);
        let most = u64::try_from(self.timing.turn().as_nanos()).unwrap_or(u64::MAX);
        let jitter = self.standing.draw(most);
        self.standing.at = self.now + wait + BootTime::from_nanos(jitter).0;
        self.standing.attempts = self.standing.attempts.saturating_add(1);
    }

    /// A leader lives; whoever comes first after it waits least.
    pub(super) fn heard_leader(&mut self) {
        self.standing.at = self.now + self.timing.stands_after(self.rank());
        self.standing.attempts = 0;
    }

    /// If the answer to this candidate is yes, it gets the time to win.
    pub(super) fn may_have_voted(&mut self, candidate: u64) {
        let yes = self.raft.raft.msgs.last().is_some_and(|answer| {
            let kind = answer.get_msg_type();
            let votes =
                [MessageType::MsgRequestVoteResponse, MessageType::MsgRequestPreVoteResponse];
            votes.contains(&kind) && answer.to == candidate && !answer.reject
        });
        if yes {
            let wait = self.timing.stands_again_after(self.rank() + 1, 0);
            self.standing.not_before(self.now + wait);
        }
    }

    /// This node's place among those that may stand after the present leader; another order in each
    /// term, so that no node is in front of the others for ever.
    fn rank(&self) -> u32 {
        let raft = &self.raft.raft;
        let place = |id: u64| fnv1a(id.to_be_bytes().into_iter().chain(raft.term.to_be_bytes()));
        let mine = place(raft.id);
        let voters = self.machine.voters();
        let before = voters.filter(|id| *id != raft.leader_id && place(*id) < mine);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }
}
