//! The whole protocol as a function of input and time: no clock, socket, task or file.
//!
//! [`Core::handle`] takes one input and the present time and returns what is to be done, in order.
//! Raft's ticks up to the present time always come before the input: a tick that is caught up after
//! a heartbeat would shorten the promise the heartbeat stands for. The caller must do the actions
//! in order and give up on the first that fails; the core counts what it asked to persist as
//! persisted. Read the argument in [`super`] first. `member` is this node's session, `leading` what
//! only a raft leader does, `tending` how it looks after the members, `joining` how a node becomes
//! one, `ready` the handling of the raft library.

mod action;
mod config;
mod following;
mod handing;
mod joining;
#[cfg(test)]
mod joining_tests;
mod leading;
mod member;
#[cfg(test)]
mod placing_tests;
#[cfg(test)]
mod quorum_tests;
mod ready;
mod resuming;
#[cfg(test)]
mod resuming_tests;
#[cfg(test)]
mod rubbish;
mod standing;
mod tending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::raft::RawNode;

pub use self::action::{Action, Batch, Input};
pub use self::config::{CoreConfig, Patience};
pub use self::joining::Founding;

use self::config::NEVER;
use self::joining::{Joining, fresh_id, raft_node};
use self::leading::Leading;
use self::member::Member;
use self::standing::Standing;
use super::command::Command;
use super::convert;
use super::frame::{Frame, RaftKind, RaftMessage};
use super::machine::Machine;
use super::membership::Voters;
use super::sanity::{self, Refusal};
use super::store::{Image, Store};
use crate::error::Error;
use crate::model::{BootTime, ClaimKey, NodeName, View, Wanted};
use crate::timing::{HEARTBEAT_TICKS, Timing};

/// After a stall, at most this many ticks are caught up: enough for a leader to notice that it lost
/// its quorum (two checks, of seven ticks at most), few enough to cost nothing.
const MOST_TICKS_AT_ONCE: u32 = 24;
/// What raft puts into a vote request that its leader asked for (raft thesis, section 3.10).
const TRANSFER: &[u8] = b"CampaignTransfer";

/// The protocol state of one node.
pub struct Core {
    me: NodeName,
    /// The nodes of the source.
    nodes: BTreeSet<NodeName>,
    voters: Voters,
    /// Ids of nodes that are no members by what is applied here, as they have spoken under them.
    routes: BTreeMap<NodeName, u64>,
    timing: Timing,
    patience: Patience,
    seed: u64,
    /// Until this node is a member.
    joining: Option<Joining>,
    /// The state directory has no raft id yet.
    nameless: bool,
    started: bool,
    compact_due: bool,
    raft: RawNode<Store>,
    machine: Machine,
    member: Member,
    leading: Option<Leading>,
    wanted: Option<Wanted>,
    /// When this process began.
    born: BootTime,
    now: BootTime,
    next_tick: BootTime,
    ticks: u32,
    beat: bool,
    /// Before this this node votes for nobody: it promised so to a leader, or may have done so in a
    /// process before this one.
    votes_from: BootTime,
    standing: Standing,
    /// Raft's leader and term as last seen.
    led_by: (u64, u64),
    /// What the fence was last set to.
    deadline: Option<BootTime>,
    /// The term this node led in when its process ended, until it stands for the next one at once.
    resumes: Option<u64>,
    /// That next term, once it stood for it.
    resumed: Option<u64>,
    stopped: bool,
}

/// What one call of [`Core::handle`] has gathered so far.
#[derive(Default)]
struct Out {
    silenced: bool,
    durable: Vec<Action>,
    sends: Vec<Action>,
    view_changed: bool,
}

impl Core {
    /// The core of a node that starts with what the disk gave back. `image.epoch` must be one that
    /// no earlier process has used, and durable.
    ///
    /// # Errors
    /// If the configuration is impossible or the image cannot be one of this node.
    pub fn new(config: CoreConfig, image: &Image, now: BootTime) -> Result<Self, Error> {
        config.check()?;
        let CoreConfig { node: me, nodes, voters, timing, patience, facts, seed } = config;
        let machine = match &image.snapshot {
            Some(snapshot) => {
                Machine::decode(snapshot.index, &snapshot.data).map_err(Error::Snapshot)?
            }
            None => Machine::founded(&image.founders),
        };
        let nameless = image.id == 0;
        let mut image = image.clone();
        if nameless {
            image.id = fresh_id(seed);
        }
        let raft = raft_node(&image, machine.applied, &timing).map_err(Error::Raft)?;
        let resumes = resuming::led_last(&image, &me);
        let mut core = Self {
            member: Member::new(image.epoch, facts, now),
            me,
            nodes,
            voters,
            routes: BTreeMap::new(),
            timing,
            patience,
            seed,
            joining: machine.members.is_empty().then(Joining::default),
            nameless,
            started: false,
            compact_due: false,
            raft,
            machine,
            leading: None,
            wanted: None,
            born: now,
            now,
            next_tick: now + timing.tick(),
            ticks: 0,
            beat: false,
            votes_from: now + timing.promise(),
            standing: Standing::new(seed),
            led_by: (0, 0),
            deadline: None,
            resumes,
            resumed: None,
            stopped: false,
        };
        core.heard_leader();
        Ok(core)
    }

    /// Who takes part, as far as this node knows, and whether it votes: [`Machine::votes`].
    pub fn members(&self) -> BTreeMap<NodeName, bool> {
        self.machine.votes()
    }

    /// When to call [`Core::handle`] with [`Input::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<BootTime> {
        let due = [self.stands_at(), self.revokes_at()].into_iter().flatten();
        let due = due.fold(self.next_tick, BootTime::min);
        (!self.stopped).then_some(due)
    }

    /// Takes one input at the time `now` and says what is to be done, in order.
    ///
    /// `now` must have been read after the input was received: what a peer did has then happened
    /// before `now`, and waiting counted from `now` is never too short.
    pub fn handle(&mut self, input: Input, now: BootTime) -> Vec<Action> {
        let mut out = Out::default();
        let mut refused = Vec::new();
        if self.stopped {
            return refused;
        }
        self.start(&mut out);
        self.advance(now, &mut out);
        self.take(input, &mut out, &mut refused);
        self.settle(&mut out);
        self.stand_if_due();
        loop {
            self.settle(&mut out);
            self.duties(&mut out);
            if !self.raft.has_ready() {
                break;
            }
        }
        let mut actions = self.in_order(out);
        actions.append(&mut refused);
        if self.stopped {
            actions.push(Action::Stopped);
        }
        actions
    }

    /// What comes before the first input: a raft id, and what is decided by the log on disk. Who
    /// the voters are is only known then.
    fn start(&mut self, out: &mut Out) {
        if self.started {
            return;
        }
        self.started = true;
        if self.nameless {
            out.durable.push(Action::Rewrite(self.raft.store().image(self.member.epoch)));
        }
        self.settle(out);
        self.stand_alone();
        self.resume_leading();
    }

    /// Catches up with raft's ticks, before anything else of this call is looked at.
    fn advance(&mut self, now: BootTime, out: &mut Out) {
        let now = now.max(self.now);
        let stall = now.since(self.now);
        self.now = now;
        if let Some(leading) = &mut self.leading
            && stall > self.timing.heartbeat * 2
        {
            // What peers said meanwhile may still wait to be read: this node was silent, not they.
            leading.forgive(stall, now);
        }
        if stall > self.timing.heartbeat {
            self.standing.not_before(now + self.timing.turn());
        }
        let oldest = now.earlier(self.timing.ticks(MOST_TICKS_AT_ONCE));
        self.next_tick = self.next_tick.max(oldest);
        while self.next_tick <= now {
            self.next_tick = self.next_tick + self.timing.tick();
            self.ticks = (self.ticks + 1) % HEARTBEAT_TICKS;
            self.beat |= self.ticks == 0;
            self.raft.raft.set_randomized_election_timeout(NEVER);
            self.raft.tick();
            self.settle(out);
        }
    }

    fn take(&mut self, input: Input, out: &mut Out, refused: &mut Vec<Action>) {
        match input {
            Input::Tick => {}
            Input::Frame(from, frame) => {
                if let Err(reason) = self.take_frame(&from, frame, out) {
                    refused.push(Action::Refused(from, reason));
                }
            }
            Input::Wanted(wanted) => {
                self.wanted = Some(wanted);
                if let Some(leading) = &mut self.leading {
                    leading.place_due = true;
                }
            }
            Input::Nodes(nodes) => {
                self.nodes = nodes.into_keys().collect();
                self.nodes.insert(self.me.clone());
            }
            Input::Facts(facts) => self.member.set_facts(facts),
            Input::Put { name, value, guard } => {
                let (node, epoch) = (self.me.clone(), self.member.epoch);
                self.submit(Command::Put { name, value, guard, node, epoch }, out);
            }
            Input::Move(key, node) => self.ask_to_move(key, node),
            Input::SetDrained(node, drained) => self.ask_to_drain(node, drained),
            Input::Release(key) => self.release(key, out),
            Input::Drain => self.drain(out),
            Input::Close => self.close(out),
        }
    }

    fn take_frame(&mut self, from: &NodeName, frame: Frame, out: &mut Out) -> Result<(), Refusal> {
        let member = self.machine.id_of(from);
        if *from == self.me || (member.is_none() && !self.nodes.contains(from)) {
            return Err(Refusal::UnknownSender);
        }
        match frame {
            Frame::Hello { .. } => return Err(Refusal::UnexpectedHello),
            Frame::Raft(message) => self.take_raft(from, &message, out)?,
            Frame::Propose(command) => {
                if command.proposer() != Some(from) {
                    return Err(Refusal::ForeignCommand);
                }
                if self.leading.is_some() && member.is_some() {
                    self.propose_for(command);
                }
            }
            Frame::Renew(id, renewal) => {
                // Of a name that comes from two state directories, only the later one lives.
                if !self.tell_gone(from, id, out) && member == Some(id) {
                    self.heard_member(id);
                    self.take_renewal(from, renewal);
                }
            }
            Frame::Grant(renewal) => {
                if let Some(id) = self.id_of(from) {
                    self.take_grant(id, renewal);
                }
            }
            Frame::Knock(knock) => self.take_knock(from, &knock, out)?,
            Frame::Fresh(asked, knock) => self.take_fresh(from, asked, knock),
            Frame::Member => self.take_cluster_exists(),
            Frame::Founded(founders) => self.take_founded(founders, out),
            Frame::Gone(id) => self.take_gone(id, out),
        }
        Ok(())
    }

    fn take_raft(
        &mut self,
        from: &NodeName,
        message: &RaftMessage,
        out: &mut Out,
    ) -> Result<(), Refusal> {
        let id = self.raft.raft.id;
        let member = self.machine.members.get(&message.from);
        if message.from == id || member.is_some_and(|member| member.node != *from) {
            return Err(Refusal::UnknownSender);
        }
        if message.to != id || self.tell_gone(from, message.from, out) {
            // For, or from, a state directory that is gone.
            return Ok(());
        }
        sanity::check(message, self.raft.raft.term, &self.raft.raft.raft_log)?;
        if !self.is_member() && !concerns_outsider(message) {
            return Ok(());
        }
        if member.is_none() {
            self.routes.insert(from.clone(), message.from);
        }
        let asks_for_vote = matches!(message.kind, RaftKind::Vote | RaftKind::PreVote);
        let on_behalf_of_leader = message.context == TRANSFER;
        if asks_for_vote && !on_behalf_of_leader && self.now < self.votes_from {
            return Ok(());
        }
        // What the library declines (a message of the past, a peer it does not know) needs no
        // answer.
        let _ = self.raft.step(convert::message_to_raft(message));
        if asks_for_vote {
            self.may_have_voted(message.from);
        }
        let led = self.raft.raft.leader_id == message.from && self.raft.raft.term == message.term;
        let leads =
            matches!(message.kind, RaftKind::Heartbeat | RaftKind::Append | RaftKind::Snapshot);
        if led && leads {
            self.votes_from = self.votes_from.max(self.now + self.timing.promise());
            self.heard_leader();
        }
        Ok(())
    }

    /// The node with this raft id, by what is applied here, or by how it spoke.
    fn name_of(&self, id: u64) -> Option<NodeName> {
        let member = self.machine.members.get(&id).map(|member| member.node.clone());
        member.or_else(|| {
            let mut routes = self.routes.iter();
            routes.find(|(_, known)| **known == id).map(|(node, _)| node.clone())
        })
    }

    /// The raft id a node speaks under.
    fn id_of(&self, node: &NodeName) -> Option<u64> {
        self.machine.id_of(node).or_else(|| self.routes.get(node).copied())
    }

    /// Whether this process has the latest state directory of its name.
    fn is_latest(&self) -> bool {
        self.machine.id_of(&self.me) == Some(self.raft.raft.id)
    }

    /// Puts a command into the log if this node leads, else asks the leader, else forgets it: every
    /// wish is repeated by whoever has it.
    fn submit(&mut self, command: Command, out: &mut Out) {
        if self.leading.is_some() {
            self.propose_for(command);
        } else if let Some(leader) = self.name_of(self.raft.raft.leader_id) {
            out.send(leader, Frame::Propose(command));
        }
    }

    /// Whether the command is in this leader's log now.
    fn propose(&mut self, command: &Command) -> bool {
        self.raft.propose(Vec::new(), command.encode()).is_ok()
    }

    fn silence(&mut self, out: &mut Out) {
        self.member.granted = None;
        out.silenced = true;
    }

    /// Until when this node may speak, by all that is known now.
    fn deadline_now(&self) -> Option<BootTime> {
        let open = self.machine.is_open(&self.me, self.member.epoch) && self.is_latest();
        if self.member.closing.is_some() || !open {
            return None;
        }
        match &self.leading {
            Some(leading) => leading.own_deadline(),
            None => self.member.granted,
        }
    }

    /// Silence first; what is durable before what is said or relied on.
    fn in_order(&mut self, out: Out) -> Vec<Action> {
        let mut actions = Vec::new();
        let deadline = self.deadline_now();
        if out.silenced || deadline < self.deadline {
            self.deadline = None;
            actions.push(Action::SetDeadline(None));
        }
        actions.extend(out.durable);
        // What is spoken for changes before there is more time to speak.
        if out.view_changed {
            actions.push(Action::Publish(Arc::new(self.view())));
        }
        if deadline != self.deadline {
            self.deadline = deadline;
            actions.push(Action::SetDeadline(deadline));
        }
        actions.extend(out.sends);
        actions
    }

    /// Everything this node knows now.
    pub fn view(&self) -> View {
        let mut claims = self.machine.claims.clone();
        for claim in claims.values_mut() {
            let given_up = self.member.gives_up(claim);
            claim.holder.take_if(|(node, _)| *node == self.me && given_up);
        }
        let mine = |key: &ClaimKey| {
            let holder = claims.get(key).and_then(|claim| claim.holder.as_ref());
            holder.is_some_and(|(node, epoch)| *node == self.me && *epoch == self.member.epoch)
        };
        let moves = self.machine.moves.iter().filter(|(key, _)| mine(key));
        let handovers = moves.map(|(key, (to, _))| (*key, to.clone())).collect();
        View {
            me: self.me.clone(),
            epoch: self.member.epoch,
            sessions: self.machine.sessions.clone(),
            claims,
            handovers,
            drained: self.machine.drained.clone(),
            records: self.machine.records.clone(),
            leader: self.name_of(self.raft.raft.leader_id),
            raft_term: self.raft.raft.term,
            applied: self.machine.applied,
        }
    }
}

/// What a node that is no member yet lets come to the library: a snapshot, which makes it one, and
/// what leads the leader to send it. Entries from the very first would lack who founded the
/// cluster.
fn concerns_outsider(message: &RaftMessage) -> bool {
    match message.kind {
        RaftKind::Snapshot | RaftKind::Heartbeat => true,
        RaftKind::Append => message.index > 0,
        _ => false,
    }
}

impl Out {
    fn send(&mut self, to: NodeName, frame: Frame) {
        self.sends.push(Action::Send(to, frame));
    }
}
