//! This node's own session: opened, renewed, drained, closed.
//!
//! All of it is level-triggered: what is wanted is compared with what is applied, and asked for
//! once per heartbeat until it is so. A grant counts only for the term of the leader that gave it,
//! for the session this process has open in its own applied state, and from the moment this node
//! sent the renewal. Nothing here may extend a deadline on any other ground.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Action, Batch, Core, Out};
use crate::model::{BootTime, Claim, ClaimKey, MAX_FACTS, NodeName, SessionState};
use crate::raft::command::Command;
use crate::raft::frame::{Frame, Renewal};
use crate::raft::machine::Machine;

/// Renewals that may still be answered. More than any answer is worth waiting for.
const MOST_OUTSTANDING: usize = 64;
/// A wish of somebody here about other nodes is repeated for this many ttl; then who asked has seen
/// that nothing happens.
const ASKING_TTLS: u32 = 5;

/// What this node wants of its session, and what it was granted.
pub(super) struct Member {
    pub(super) epoch: u64,
    facts: Arc<[u8]>,
    /// Claims being given up, in which term.
    releasing: BTreeMap<ClaimKey, u64>,
    draining: bool,
    /// Moves asked for here, not seen in the applied state yet: to whom, in which term of the
    /// claim, and until when it is worth repeating.
    moving: BTreeMap<ClaimKey, (NodeName, u64, BootTime)>,
    /// The same for nodes to be emptied or used again.
    emptying: BTreeMap<NodeName, (bool, BootTime)>,
    /// When to stop at the latest, once asked to.
    pub(super) closing: Option<BootTime>,
    /// What was last asked of which leader in which term of raft.
    asked: Option<(Vec<Command>, (u64, u64))>,
    seq: u64,
    outstanding: VecDeque<(u64, BootTime)>,
    pub(super) renew_due: bool,
    pub(super) granted: Option<BootTime>,
}

impl Member {
    pub(super) fn new(epoch: u64, facts: Vec<u8>, now: BootTime) -> Self {
        Self {
            epoch,
            facts: Arc::from(facts),
            releasing: BTreeMap::new(),
            draining: false,
            moving: BTreeMap::new(),
            emptying: BTreeMap::new(),
            closing: None,
            asked: None,
            // Never a number that a process before this one has used: its answers may be under way.
            seq: now.as_nanos(),
            outstanding: VecDeque::new(),
            renew_due: true,
            granted: None,
        }
    }

    pub(super) fn set_facts(&mut self, facts: Vec<u8>) {
        if facts.len() <= MAX_FACTS {
            self.facts = Arc::from(facts);
        }
    }

    /// Whether this node takes nothing more.
    pub(super) fn leaves(&self) -> bool {
        self.draining || self.closing.is_some()
    }

    /// Whether this node, if it holds the claim, is giving it up.
    pub(super) fn gives_up(&self, claim: &Claim) -> bool {
        self.leaves() || self.releasing.get(&claim.key) == Some(&claim.term)
    }

    /// Forgets what others asked for here and is done, cannot be, or was asked too long ago.
    fn forget_asked(&mut self, machine: &Machine, now: BootTime) {
        self.moving.retain(|key, (to, term, until)| {
            let asked = machine.moves.get(key).is_some_and(|(t, of)| t == to && of == term);
            let same = machine.claims.get(key).is_some_and(|claim| claim.term == *term);
            same && !asked && now < *until
        });
        self.emptying.retain(|node, (drained, until)| {
            machine.drained.contains(node) != *drained && now < *until
        });
    }

    /// Forgets releases that are done.
    pub(super) fn forget_given_up(&mut self, machine: &Machine, me: &NodeName) {
        self.releasing.retain(|key, term| {
            machine.claims.get(key).is_some_and(|claim| {
                claim.term == *term && claim.holder.as_ref().is_some_and(|(node, _)| node == me)
            })
        });
    }
}

impl Core {
    pub(super) fn release(&mut self, key: ClaimKey, out: &mut Out) {
        let Some(claim) = self.machine.claims.get(&key) else { return };
        if claim.holder.as_ref().is_some_and(|(node, _)| *node == self.me) {
            self.member.releasing.insert(key, claim.term);
            out.view_changed = true;
        }
    }

    pub(super) fn ask_to_move(&mut self, key: ClaimKey, to: NodeName) {
        let until = self.now + self.timing.ttl * ASKING_TTLS;
        if let Some(claim) = self.machine.claims.get(&key) {
            self.member.moving.insert(key, (to, claim.term, until));
        }
    }

    pub(super) fn ask_to_drain(&mut self, node: NodeName, drained: bool) {
        let until = self.now + self.timing.ttl * ASKING_TTLS;
        self.member.emptying.insert(node, (drained, until));
    }

    pub(super) fn drain(&mut self, out: &mut Out) {
        out.view_changed |= !self.member.draining;
        self.member.draining = true;
    }

    pub(super) fn close(&mut self, out: &mut Out) {
        if self.member.closing.is_none() {
            self.member.closing = Some(self.now + self.timing.ttl * 2);
            self.silence(out);
            out.view_changed = true;
        }
    }

    /// Asks for whatever the applied state lacks of what this node wants.
    pub(super) fn keep_session(&mut self, beat: bool, out: &mut Out) {
        if let Some(session) = self.machine.sessions.get(&self.me) {
            let ended = session.state != SessionState::Open && self.member.closing.is_none();
            // A higher epoch of ours means that the state directory was lost.
            if session.epoch > self.member.epoch || (session.epoch == self.member.epoch && ended) {
                self.member.epoch = session.epoch + 1;
                let epoch = Some(self.member.epoch);
                out.durable.push(Action::Persist(Batch { epoch, ..Batch::default() }));
                self.silence(out);
                out.view_changed = true;
            }
        }
        self.member.forget_asked(&self.machine, self.now);
        let wishes = self.wishes();
        if wishes.is_empty() {
            self.member.asked = None;
            return;
        }
        let asked = (wishes, self.led_by);
        if !beat && self.member.asked.as_ref() == Some(&asked) {
            return;
        }
        for wish in &asked.0 {
            self.submit(wish.clone(), out);
        }
        self.member.asked = Some(asked);
    }

    fn wishes(&self) -> Vec<Command> {
        let (node, epoch) = (self.me.clone(), self.member.epoch);
        let facts = Arc::clone(&self.member.facts);
        let session = self.machine.sessions.get(&node);
        if !self.is_latest() {
            return Vec::new();
        }
        let open = session.filter(|s| s.epoch == epoch && s.state == SessionState::Open);
        let Some(session) = open else {
            return match self.member.closing {
                Some(_) => Vec::new(),
                None => vec![Command::OpenSession { node, epoch, facts }],
            };
        };
        if self.member.closing.is_some() {
            return vec![Command::CloseSession { node, epoch }];
        }
        let mut wishes = Vec::new();
        if session.facts != facts {
            wishes.push(Command::SetFacts { node: node.clone(), epoch, facts });
        }
        if self.member.draining && !session.draining {
            wishes.push(Command::Drain { node: node.clone(), epoch });
        }
        for (key, (to, term, _)) in &self.member.moving {
            let (to, by) = (to.clone(), node.clone());
            wishes.push(Command::Move { key: *key, to, term: *term, by });
        }
        for (emptied, (drained, _)) in &self.member.emptying {
            let (drained, by) = (*drained, node.clone());
            wishes.push(Command::SetDrained { node: emptied.clone(), drained, by });
        }
        for (key, term) in &self.member.releasing {
            let (key, term, node) = (*key, *term, node.clone());
            wishes.push(Command::Release { key, node, epoch, term });
        }
        wishes
    }

    /// Tells the leader that this node lives: once per heartbeat, and at once to a new leader or
    /// with a new session.
    pub(super) fn renew(&mut self, beat: bool, out: &mut Out) {
        if !beat && !self.member.renew_due {
            return;
        }
        self.member.renew_due = false;
        let (leader, raft_term) = self.led_by;
        if self.leading.is_some() || self.member.closing.is_some() {
            return;
        }
        let Some(leader) = self.name_of(leader).filter(|_| self.is_member()) else { return };
        self.member.seq += 1;
        let (seq, epoch) = (self.member.seq, self.member.epoch);
        self.member.outstanding.push_back((seq, self.now));
        if self.member.outstanding.len() > MOST_OUTSTANDING {
            self.member.outstanding.pop_front();
        }
        let id = self.raft.raft.id;
        out.send(leader, Frame::Renew(id, Renewal { raft_term, epoch, seq }));
    }

    pub(super) fn take_grant(&mut self, from: u64, grant: Renewal) {
        let of_my_leader = self.leading.is_none()
            && from == self.raft.raft.leader_id
            && grant.raft_term == self.raft.raft.term;
        let of_my_session = self.member.closing.is_none()
            && grant.epoch == self.member.epoch
            && self.machine.is_open(&self.me, grant.epoch);
        if !of_my_leader || !of_my_session {
            return;
        }
        let outstanding = &mut self.member.outstanding;
        let Some(place) = outstanding.iter().position(|(seq, _)| *seq == grant.seq) else { return };
        let (_, sent) = outstanding[place];
        outstanding.drain(..=place);
        self.member.granted = self.member.granted.max(Some(sent + self.timing.grant()));
    }

    /// Stops once there is nothing left to hand over, or no more time for it.
    pub(super) fn finish_closing(&mut self, beat: bool, out: &mut Out) {
        let Some(latest) = self.member.closing else { return };
        let said_goodbye = !self.is_latest() || !self.machine.is_open(&self.me, self.member.epoch);
        let led_on = match &self.leading {
            None => true,
            Some(_) if !said_goodbye => false,
            Some(_) => self.hand_leadership_on(beat, out),
        };
        self.stopped |= (said_goodbye && led_on) || self.now >= latest;
    }
}
