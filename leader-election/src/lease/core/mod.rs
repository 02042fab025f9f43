//! The protocol over API objects as a function of input and time: no clock, socket, task or file.
//!
//! [`LeaseCore::handle`] takes one input and the present time and returns what is to be done, in
//! order. It never has more than one write under way for an object, and believes nothing of a write
//! whose answer it does not know. Read the argument in [`super`] first.

mod claims;
mod input;
mod sessions;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use self::input::{LeaseAction, LeaseConfig, LeaseInput};

use super::object::{Answer, ClaimObject, Object, ObjectKey, SessionObject, Version, Write};
use super::timing::LeaseTiming;
use crate::error::Error;
use crate::model::{BootTime, ClaimKey, Guard, MAX_FACTS, NodeName, SessionState, View, Wanted};

/// After a write that came to nothing, the next one on that object waits this long.
const RETRY: Duration = Duration::from_millis(200);
/// Renewals that may still be recognised.
const MOST_SENT: usize = 16;

/// One object as last seen.
#[derive(Clone, Debug)]
struct Known<T> {
    object: T,
    version: Version,
    /// When this version was first seen.
    since: BootTime,
}

#[derive(Clone, Debug)]
struct Pending {
    write: Write,
    sent: BootTime,
}

/// A record's value, or none to remove it, and the condition.
type Put = (Option<Arc<[u8]>>, Guard);

/// The protocol state of one node.
pub struct LeaseCore {
    me: NodeName,
    place: Arc<str>,
    timing: LeaseTiming,
    facts: Arc<[u8]>,
    epoch: Option<u64>,
    sessions: BTreeMap<NodeName, Known<SessionObject>>,
    claims: BTreeMap<ClaimKey, Known<ClaimObject>>,
    /// Sessions that were deleted, and when that was noticed.
    gone: BTreeMap<NodeName, BootTime>,
    listed: bool,
    /// From then on keys that nobody ever held are taken: else the first node up gets everything.
    settled_at: BootTime,
    /// Since when this node's own session is alive without a gap.
    alive_since: Option<BootTime>,
    wanted: Option<Wanted>,
    releasing: BTreeMap<ClaimKey, u64>,
    moving: BTreeMap<ClaimKey, (NodeName, u64)>,
    emptying: BTreeMap<NodeName, bool>,
    /// Records to be written, by name.
    putting: BTreeMap<String, Put>,
    draining: bool,
    closing: Option<BootTime>,
    pending: BTreeMap<ObjectKey, Pending>,
    /// No write to the object before this.
    not_before: BTreeMap<ObjectKey, BootTime>,
    /// Renewals sent: number, epoch, when.
    sent: VecDeque<(u64, u64, BootTime)>,
    renewal: u64,
    renew_at: BootTime,
    next_id: u64,
    now: BootTime,
    valid: Option<BootTime>,
    deadline: Option<BootTime>,
    /// The life of the session in which the view was first whole.
    settled_life: Option<u64>,
    shown: Option<Arc<View>>,
    has_told_doubled: bool,
    changes: u64,
    stopped: bool,
}

impl LeaseCore {
    /// The core of a process that starts now; it learns its epoch from its own session object.
    ///
    /// # Errors
    /// If the durations do not go together or the facts are too large.
    pub fn new(config: LeaseConfig, now: BootTime) -> Result<Self, Error> {
        config.timing.check()?;
        if config.facts.len() > MAX_FACTS {
            return Err(Error::FactsTooLarge { size: config.facts.len() });
        }
        Ok(Self {
            me: config.node,
            place: Arc::from(config.place),
            timing: config.timing,
            facts: Arc::from(config.facts),
            epoch: None,
            sessions: BTreeMap::new(),
            claims: BTreeMap::new(),
            gone: BTreeMap::new(),
            listed: false,
            settled_at: now,
            alive_since: None,
            wanted: None,
            releasing: BTreeMap::new(),
            moving: BTreeMap::new(),
            emptying: BTreeMap::new(),
            putting: BTreeMap::new(),
            draining: false,
            closing: None,
            pending: BTreeMap::new(),
            not_before: BTreeMap::new(),
            sent: VecDeque::new(),
            // Never a number that a process before this one has used on this boot.
            renewal: now.as_nanos(),
            renew_at: now,
            next_id: 0,
            now,
            valid: None,
            deadline: None,
            settled_life: None,
            shown: None,
            has_told_doubled: false,
            changes: 0,
            stopped: false,
        })
    }

    /// When to call [`LeaseCore::handle`] with [`LeaseInput::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<BootTime> {
        let stale = self
            .sessions
            .iter()
            .filter(|(node, known)| **node != self.me && known.object.state == SessionState::Open)
            .map(|(_, known)| known.since + self.timing.patience());
        let waits = self.not_before.values().copied().chain(self.closing).chain(stale);
        let next = waits.filter(|at| *at > self.now).chain([self.renew_at]).min();
        // Whatever else is due may wait for a renewal's answer; never busily.
        let soonest = self.now + Duration::from_millis(1);
        (!self.stopped).then(|| next.unwrap_or(self.renew_at).max(soonest))
    }

    /// Takes one input at the time `now`, read after the input was received, and says what to do.
    pub fn handle(&mut self, input: LeaseInput, now: BootTime) -> Vec<LeaseAction> {
        self.handle_all([input], now)
    }

    /// Takes inputs in their order, the time being read after the last of them was received. One
    /// decision for all, since its cost grows with the number of claims.
    pub fn handle_all(
        &mut self,
        inputs: impl IntoIterator<Item = LeaseInput>,
        now: BootTime,
    ) -> Vec<LeaseAction> {
        let mut actions = Vec::new();
        if self.stopped {
            return actions;
        }
        self.now = now.max(self.now);
        let mut reads: Vec<ObjectKey> = inputs.into_iter().flat_map(|it| self.take(it)).collect();
        // It may still happen; then its version shows, or that of a later write forbids it.
        let given_up = self.now.earlier(self.timing.renew);
        let overdue = |(_, pending): &(&ObjectKey, &Pending)| pending.sent <= given_up;
        let lost: Vec<ObjectKey> =
            self.pending.iter().filter(overdue).map(|(key, _)| key.clone()).collect();
        for key in lost {
            self.pending.remove(&key);
            reads.push(key);
        }
        let now = self.now;
        self.not_before.retain(|_, at| *at > now);
        let mut writes = Vec::new();
        if self.listed {
            self.keep_session(&mut writes);
            self.revoke_silent(&mut writes);
            self.keep_claims(&mut writes);
            self.keep_records(&mut writes);
            self.tell_others(&mut writes);
        }
        self.notice_settled();
        let is_doubled = self.is_doubled();
        if is_doubled && !self.has_told_doubled {
            actions.push(LeaseAction::Doubled);
        }
        self.has_told_doubled = is_doubled;
        let deadline = self.deadline_now();
        if deadline < self.deadline {
            self.deadline = deadline;
            actions.push(LeaseAction::SetDeadline(deadline));
        }
        // What is spoken for changes before there is more time to speak.
        self.publish(&mut actions);
        if deadline != self.deadline {
            self.deadline = deadline;
            actions.push(LeaseAction::SetDeadline(deadline));
        }
        actions.extend(reads.into_iter().map(LeaseAction::Read));
        actions.extend(writes.into_iter().map(LeaseAction::Write));
        self.finish_closing(&mut actions);
        actions
    }

    /// Whether the input may wait for others to come, in a burst: it tells of claims alone. What
    /// must be silent meanwhile is so by its deadline.
    pub fn may_wait(&self, input: &LeaseInput) -> bool {
        match input {
            LeaseInput::Seen(key, ..) | LeaseInput::Gone(key) => matches!(key, ObjectKey::Claim(_)),
            LeaseInput::Answered(id, _) => {
                let of = |node| self.pending.get(&ObjectKey::Session(NodeName::clone(node)));
                !self.sessions.keys().chain([&self.me]).filter_map(of).any(|it| it.write.id == *id)
            }
            LeaseInput::Wanted(_) => true,
            _ => false,
        }
    }

    fn take(&mut self, input: LeaseInput) -> Vec<ObjectKey> {
        match input {
            LeaseInput::Tick => {}
            LeaseInput::Seen(key, object, version) => self.see(key, object, version),
            LeaseInput::Listed => {
                if !self.listed {
                    self.settled_at = self.now + self.timing.renew;
                }
                self.listed = true;
            }
            LeaseInput::Gone(key) => self.lose(key),
            LeaseInput::Answered(id, answer) => return self.take_answer(id, answer),
            LeaseInput::Wanted(wanted) => self.wanted = Some(wanted),
            LeaseInput::Facts(facts) if facts.len() <= MAX_FACTS => self.facts = Arc::from(facts),
            LeaseInput::Facts(_) => {}
            LeaseInput::Move(key, to) => {
                if let Some(known) = self.claims.get(&key) {
                    self.moving.insert(key, (to, known.object.term));
                }
            }
            LeaseInput::SetDrained(node, drained) => {
                self.emptying.insert(node, drained);
            }
            LeaseInput::Release(key) => {
                if let Some(known) = self.claims.get(&key).filter(|known| self.mine(known)) {
                    self.releasing.insert(key, known.object.term);
                }
            }
            LeaseInput::Put { name, value, guard } => {
                self.putting.insert(name, (value, guard));
            }
            LeaseInput::Drain => self.draining = true,
            LeaseInput::Close => {
                self.closing = self.closing.or(Some(self.now + self.timing.ttl));
                self.valid = None;
            }
        }
        Vec::new()
    }

    fn lose(&mut self, key: ObjectKey) {
        match key {
            ObjectKey::Session(node) => {
                if node == self.me {
                    self.valid = None;
                }
                self.sessions.remove(&node);
                self.gone.insert(node, self.now);
            }
            // Its term is forgotten with it; nobody deletes claims but people.
            ObjectKey::Claim(key) => {
                self.claims.remove(&key);
            }
        }
        self.changes += 1;
    }

    fn see(&mut self, key: ObjectKey, object: Object, version: Version) {
        let now = self.now;
        match (key, object) {
            (ObjectKey::Session(node), Object::Session(object)) => {
                let same = self.sessions.get(&node).is_some_and(|known| known.version == version);
                if same {
                    return;
                }
                if node == self.me {
                    self.see_own(&object);
                }
                self.gone.remove(&node);
                self.sessions.insert(node, Known { object, version, since: now });
            }
            (ObjectKey::Claim(key), Object::Claim(object)) => {
                // A watch that lags behind an answer must not bring back an older term.
                if self.claims.get(&key).is_some_and(|known| known.object.term > object.term) {
                    return;
                }
                self.claims.insert(key, Known { object, version, since: now });
            }
            _ => return,
        }
        self.changes += 1;
    }

    /// This node's own session, as it stands: which of its renewals are known to be written by
    /// that.
    fn see_own(&mut self, object: &SessionObject) {
        if Some(object.epoch) != self.epoch {
            return;
        }
        if self.is_elsewhere(object) {
            self.valid = None;
            return;
        }
        if object.state != SessionState::Open {
            self.valid = None;
            return;
        }
        let sent = self
            .sent
            .iter()
            .find(|(number, epoch, _)| *number == object.renewal && Some(*epoch) == self.epoch);
        if let Some((_, _, sent)) = sent
            && self.closing.is_none()
        {
            self.valid = self.valid.max(Some(*sent + self.timing.grant()));
        }
    }

    fn take_answer(&mut self, id: u64, answer: Answer) -> Vec<ObjectKey> {
        let found = self.pending.iter().find(|(_, pending)| pending.write.id == id);
        let Some(key) = found.map(|(key, _)| key.clone()) else { return Vec::new() };
        let Some(Pending { write, .. }) = self.pending.remove(&key) else { return Vec::new() };
        match answer {
            Answer::Written(version) => {
                self.see(key, write.object, version);
                Vec::new()
            }
            Answer::Conflict | Answer::Unknown => {
                self.not_before.insert(key.clone(), self.now + RETRY);
                vec![key]
            }
        }
    }

    /// Whether this node holds it. A claim of a later session of its name than this process's own
    /// is a double's, seen before that session itself: written over, it would be free under its
    /// holder.
    fn mine(&self, claim: &Known<ClaimObject>) -> bool {
        let is_not_later = |epoch: u64| self.epoch.is_none_or(|own| epoch <= own);
        let holder = claim.object.holder.as_ref();
        holder.is_some_and(|(node, epoch)| *node == self.me && is_not_later(*epoch))
            && !self.is_free(claim)
            && !self.is_doubled()
    }

    /// Whether nobody may speak by this claim any more: it is released, or the session that holds
    /// it is *known* to have ended. Objects are seen in any order, so a claim of a session that is
    /// newer than the one seen is somebody's.
    fn is_free(&self, claim: &Known<ClaimObject>) -> bool {
        let Some((node, epoch)) = &claim.object.holder else { return true };
        match self.sessions.get(node) {
            Some(Known { object, .. }) => {
                let ended = object.state != SessionState::Open && *epoch <= object.epoch;
                *epoch < object.since || ended
            }
            // Deleted: its last renewal was seen by nobody, so all of a ttl is waited from now.
            None => {
                let gone = self.gone.get(node).copied().unwrap_or(claim.since);
                self.now >= gone.max(claim.since) + self.timing.patience()
            }
        }
    }

    fn takes(&self, node: &NodeName) -> bool {
        self.sessions.get(node).is_some_and(|known| {
            let session = &known.object;
            // One that stands still is not revoked yet, but is given nothing.
            let fresh = self.now < known.since + self.timing.renew * 2;
            session.state == SessionState::Open && !session.draining && !session.drained && fresh
        })
    }

    /// Until when this node's session is alive for certain.
    fn alive_until(&self) -> Option<BootTime> {
        let known = self.sessions.get(&self.me)?;
        let open =
            known.object.state == SessionState::Open && Some(known.object.epoch) == self.epoch;
        let open = open && !self.is_doubled();
        self.valid.filter(|_| open && self.closing.is_none())
    }

    /// The first epoch of this node's session as it stands.
    fn life(&self) -> Option<u64> {
        self.sessions.get(&self.me).map(|known| known.object.since)
    }

    /// Notes that everything inherited in this life of the session is adopted. Until then what the
    /// kernel speaks for is what it was told in an earlier process or life, and gets no more time.
    fn notice_settled(&mut self) {
        if self.alive_until().is_some() && self.inherited().is_empty() {
            self.settled_life = self.life();
        }
    }

    fn is_settled(&self) -> bool {
        self.settled_life.is_some() && self.settled_life == self.life()
    }

    fn deadline_now(&self) -> Option<BootTime> {
        let until = self.alive_until()?;
        if self.is_settled() { Some(until) } else { self.deadline }
    }

    fn write(
        &mut self,
        key: ObjectKey,
        expected: Option<Version>,
        object: Object,
        writes: &mut Vec<Write>,
    ) -> bool {
        if self.pending.contains_key(&key) || self.not_before.contains_key(&key) {
            return false;
        }
        self.next_id += 1;
        let write = Write { id: self.next_id, key: key.clone(), expected, object };
        self.pending.insert(key, Pending { write: write.clone(), sent: self.now });
        writes.push(write);
        true
    }

    fn living(&self) -> BTreeMap<NodeName, u64> {
        let open = self.sessions.iter().filter(|(_, k)| k.object.state == SessionState::Open);
        open.map(|(node, known)| (node.clone(), known.object.epoch)).collect()
    }

    /// The claims for placement and view: a living one bears its session's present epoch.
    fn finish_closing(&mut self, actions: &mut Vec<LeaseAction>) {
        let Some(latest) = self.closing else { return };
        let open = self.sessions.get(&self.me).is_some_and(|known| {
            known.object.state == SessionState::Open && Some(known.object.epoch) == self.epoch
        });
        let open = open && !self.is_doubled();
        if !open || self.now >= latest {
            self.stopped = true;
            actions.push(LeaseAction::Stopped);
        }
    }
}
