//! The replicated state: sessions, claims, records, and who led last.
//!
//! Every node applies the same commands in the same order and so has the same state at the same
//! position. Applying must never depend on anything else: no time, no identity, no configuration.
//! A command whose presumption no longer holds changes nothing. Read [`super::command`] first.

mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::members::Member;

use super::codec::{CodecError, Reader, Writer};
use super::command::Command;
use crate::model::{
    Claim, ClaimKey, Guard, MAX_FACTS, MAX_RECORD_KEY, MAX_RECORD_VALUE, NodeName, Session,
    SessionState,
};

/// Most nodes with a session. With the bounds below a snapshot always fits one frame: sessions
/// 64 x (4 KiB facts + name) + claims 8192 x 36 B + records 384 KiB + moves 1024 x 29 B +
/// members 64 x 274 B < 1 MiB.
const MAX_SESSIONS: usize = 64;
/// Most keys that may ever be claimed.
const MAX_CLAIMS: usize = 8192;
/// Most bytes in all records together, names included.
const MAX_RECORDS_SIZE: usize = 384 * 1024;
/// Most claims asked to move at once; more are asked for once these have moved.
const MAX_MOVES: usize = 1024;
/// What one record costs beyond its name and value.
const RECORD_OVERHEAD: usize = 8;

/// The replicated state at one position of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Latest session of every node.
    pub sessions: BTreeMap<NodeName, Session>,
    /// Every key that was ever held.
    pub claims: BTreeMap<ClaimKey, Claim>,
    /// Small values written under a guard.
    pub records: BTreeMap<String, Vec<u8>>,
    /// Claims whose holder is asked to hand them over: to whom, and the claim's term.
    pub moves: BTreeMap<ClaimKey, (NodeName, u64)>,
    /// Nodes that should hold nothing.
    pub drained: BTreeSet<NodeName>,
    /// Node of the last [`Command::Lead`].
    pub last_lead: Option<NodeName>,
    /// Who takes part in raft, by raft id.
    pub members: BTreeMap<u64, Member>,
    /// The position.
    pub applied: u64,
}

/// Whether a command took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The state changed.
    Applied,
    /// It did not: what the command presumed no longer holds, or it was done before.
    Stale,
    /// It did not: the state would grow beyond its bounds.
    Full,
}

impl Machine {
    /// Applies the command at position `index`.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.applied = index;
        let outcome = self.take(command);
        if outcome == Outcome::Applied {
            self.forget_moves();
        }
        outcome
    }

    fn take(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Lead { node } => {
                self.last_lead = Some(node.clone());
                Outcome::Applied
            }
            Command::OpenSession { node, epoch, facts } => self.open(node, *epoch, facts),
            Command::Revoke { node, epoch } => self.end(node, *epoch, SessionState::Revoked),
            Command::CloseSession { node, epoch } => self.end(node, *epoch, SessionState::Closed),
            Command::Drain { node, epoch } => self.drain(node, *epoch),
            Command::SetFacts { node, epoch, facts } => match self.open_session(node, *epoch) {
                Some(session) if session.facts != *facts => {
                    session.facts = Arc::clone(facts);
                    Outcome::Applied
                }
                _ => Outcome::Stale,
            },
            Command::Claim { key, node, epoch, term } => self.claim(*key, node, *epoch, *term),
            Command::Release { key, node, epoch, term } => self.release(key, node, *epoch, *term),
            Command::Put { name, value, guard, node, epoch } => {
                self.put(name, value.as_deref(), guard, (node, *epoch))
            }
            Command::HandOver { key, node, epoch, term, to, to_epoch } => {
                self.hand_over(key, (node, *epoch), *term, (to, *to_epoch))
            }
            Command::Move { key, to, term, .. } => self.ask_to_move(*key, to, *term),
            Command::CancelMove { key, term } => match self.moves.get(key) {
                Some((_, asked)) if asked == term => {
                    self.moves.remove(key);
                    Outcome::Applied
                }
                _ => Outcome::Stale,
            },
            Command::Member { id, node, change } => self.change_member(*id, node, *change),
            Command::SetDrained { node, drained, .. } => {
                let changed = match drained {
                    true => self.sessions.contains_key(node) && self.drained.insert(node.clone()),
                    false => self.drained.remove(node),
                };
                if changed { Outcome::Applied } else { Outcome::Stale }
            }
        }
    }

    /// Whether a node may be given something: it lives, stays, and is not to be emptied.
    pub fn takes(&self, node: &NodeName) -> bool {
        !self.drained.contains(node)
            && self.sessions.get(node).is_some_and(|s| s.state == SessionState::Open && !s.draining)
    }

    /// Epochs of the nodes with an open session.
    pub fn living(&self) -> BTreeMap<NodeName, u64> {
        let open = self.sessions.values().filter(|s| s.state == SessionState::Open);
        open.map(|s| (s.node.clone(), s.epoch)).collect()
    }

    /// Whether this very session is open.
    pub fn is_open(&self, node: &NodeName, epoch: u64) -> bool {
        self.sessions.get(node).is_some_and(|s| s.epoch == epoch && s.state == SessionState::Open)
    }

    fn open_session(&mut self, node: &NodeName, epoch: u64) -> Option<&mut Session> {
        self.sessions.get_mut(node).filter(|s| s.epoch == epoch && s.state == SessionState::Open)
    }

    fn open(&mut self, node: &NodeName, epoch: u64, facts: &Arc<[u8]>) -> Outcome {
        let before = self.sessions.get(node).map(|s| (s.epoch, s.state));
        if before.is_none() && self.sessions.len() >= MAX_SESSIONS {
            return Outcome::Full;
        }
        if before.is_some_and(|(old, _)| old >= epoch) {
            return Outcome::Stale;
        }
        // The process restarted before anybody missed it: what it held, it holds.
        if let Some((old, SessionState::Open)) = before {
            for claim in self.claims.values_mut() {
                if let Some((holder, of)) = &mut claim.holder
                    && holder == node
                    && *of == old
                {
                    *of = epoch;
                }
            }
        }
        let facts = Arc::clone(facts);
        let state = SessionState::Open;
        let session = Session { node: node.clone(), epoch, facts, draining: false, state };
        self.sessions.insert(node.clone(), session);
        Outcome::Applied
    }

    fn end(&mut self, node: &NodeName, epoch: u64, how: SessionState) -> Outcome {
        match self.open_session(node, epoch) {
            Some(session) => {
                session.state = how;
                Outcome::Applied
            }
            None => Outcome::Stale,
        }
    }

    fn drain(&mut self, node: &NodeName, epoch: u64) -> Outcome {
        match self.open_session(node, epoch) {
            Some(session) if !session.draining => session.draining = true,
            _ => return Outcome::Stale,
        }
        for claim in self.claims.values_mut() {
            claim.holder.take_if(|(holder, _)| holder == node);
        }
        Outcome::Applied
    }

    fn claim(&mut self, key: ClaimKey, node: &NodeName, epoch: u64, term: u64) -> Outcome {
        if !self.is_open(node, epoch) {
            return Outcome::Stale;
        }
        let present = self.claims.get(&key);
        let held = present
            .and_then(|claim| claim.holder.as_ref())
            .is_some_and(|(holder, of)| self.is_open(holder, *of));
        if held || term != present.map_or(0, |claim| claim.term) + 1 {
            return Outcome::Stale;
        }
        if present.is_none() && self.claims.len() >= MAX_CLAIMS {
            return Outcome::Full;
        }
        self.claims.insert(key, Claim { key, holder: Some((node.clone(), epoch)), term });
        Outcome::Applied
    }

    fn release(&mut self, key: &ClaimKey, node: &NodeName, epoch: u64, term: u64) -> Outcome {
        let Some(claim) = self.claims.get_mut(key).filter(|claim| claim.term == term) else {
            return Outcome::Stale;
        };
        match claim.holder.take_if(|(holder, of)| holder == node && *of == epoch) {
            Some(_) => Outcome::Applied,
            None => Outcome::Stale,
        }
    }

    fn hand_over(
        &mut self,
        key: &ClaimKey,
        (node, epoch): (&NodeName, u64),
        term: u64,
        (to, to_epoch): (&NodeName, u64),
    ) -> Outcome {
        let stays = self.takes(to) && self.is_open(to, to_epoch);
        let holds = |claim: &&mut Claim| {
            let holder = claim.holder.as_ref();
            claim.term == term && holder.is_some_and(|(n, e)| n == node && *e == epoch)
        };
        let Some(claim) = self.claims.get_mut(key).filter(holds) else { return Outcome::Stale };
        if stays {
            (claim.holder, claim.term) = (Some((to.clone(), to_epoch)), term + 1);
        } else {
            claim.holder = None;
        }
        Outcome::Applied
    }

    fn ask_to_move(&mut self, key: ClaimKey, to: &NodeName, term: u64) -> Outcome {
        if self.moves.get(&key).is_some_and(|(asked, of)| asked == to && *of == term) {
            return Outcome::Stale;
        }
        if !self.moves.contains_key(&key) && self.moves.len() >= MAX_MOVES {
            return Outcome::Full;
        }
        let before = self.moves.insert(key, (to.clone(), term));
        if self.can_move(&key) {
            return Outcome::Applied;
        }
        match before {
            Some(before) => self.moves.insert(key, before),
            None => self.moves.remove(&key),
        };
        Outcome::Stale
    }

    /// Forgets moves that are done or cannot be any more.
    fn forget_moves(&mut self) {
        let over: Vec<ClaimKey> =
            self.moves.keys().filter(|key| !self.can_move(key)).copied().collect();
        for key in over {
            self.moves.remove(&key);
        }
    }

    fn can_move(&self, key: &ClaimKey) -> bool {
        let Some((to, term)) = self.moves.get(key) else { return false };
        let claim = self.claims.get(key).filter(|claim| claim.term == *term);
        let holder = claim.and_then(|claim| claim.holder.as_ref());
        holder.is_some_and(|(node, epoch)| node != to && self.is_open(node, *epoch))
            && self.takes(to)
    }

    fn put(
        &mut self,
        name: &str,
        value: Option<&[u8]>,
        guard: &Guard,
        (node, epoch): (&NodeName, u64),
    ) -> Outcome {
        let holds = self.is_open(node, epoch)
            && self.claims.get(&guard.key).is_some_and(|claim| {
                claim.term == guard.term
                    && claim.holder.as_ref().is_some_and(|(n, e)| n == node && *e == epoch)
            });
        if !holds || self.records.get(name).map(Vec::as_slice) == value {
            return Outcome::Stale;
        }
        let Some(value) = value else {
            self.records.remove(name);
            return Outcome::Applied;
        };
        let others: usize = self
            .records
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, value)| other.len() + value.len() + RECORD_OVERHEAD)
            .sum();
        if others + name.len() + value.len() + RECORD_OVERHEAD > MAX_RECORDS_SIZE {
            return Outcome::Full;
        }
        self.records.insert(name.to_owned(), value.to_vec());
        Outcome::Applied
    }

    /// The state as the data of a snapshot; its position travels beside it.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.count(self.sessions.len());
        for session in self.sessions.values() {
            to.node(&session.node).u64(session.epoch).bytes(&session.facts);
            to.flag(session.draining).u8(match session.state {
                SessionState::Open => 0,
                SessionState::Revoked => 1,
                SessionState::Closed => 2,
            });
        }
        to.count(self.claims.len());
        for claim in self.claims.values() {
            to.key(&claim.key).u64(claim.term).flag(claim.holder.is_some());
            if let Some((node, epoch)) = &claim.holder {
                // Nodes are named by their place among the sessions; names may be long.
                let place = self.sessions.keys().position(|name| name == node);
                to.count(place.unwrap_or(MAX_SESSIONS)).u64(*epoch);
            }
        }
        to.count(self.records.len());
        for (name, value) in &self.records {
            to.text(name).bytes(value);
        }
        let place = |node: &NodeName| {
            self.sessions.keys().position(|name| name == node).unwrap_or(MAX_SESSIONS)
        };
        to.count(self.moves.len());
        for (key, (node, term)) in &self.moves {
            to.key(key).count(place(node)).u64(*term);
        }
        to.count(self.drained.len());
        for node in &self.drained {
            to.count(place(node));
        }
        to.flag(self.last_lead.is_some());
        if let Some(node) = &self.last_lead {
            to.node(node);
        }
        self.write_members(&mut to);
        to.into_bytes()
    }

    /// The state at position `index`, from the data of a snapshot.
    ///
    /// # Errors
    /// If the bytes are not exactly one state within bounds.
    pub fn decode(index: u64, bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes);
        let mut machine = Self { applied: index, ..Self::default() };
        for _ in 0..from.count(MAX_SESSIONS)? {
            let session = read_session(&mut from)?;
            machine.sessions.insert(session.node.clone(), session);
        }
        let nodes: Vec<NodeName> = machine.sessions.keys().cloned().collect();
        for _ in 0..from.count(MAX_CLAIMS)? {
            let claim = read_claim(&mut from, &nodes)?;
            machine.claims.insert(claim.key, claim);
        }
        for _ in 0..from.count(MAX_RECORDS_SIZE)? {
            let name = from.text(MAX_RECORD_KEY)?.to_owned();
            machine.records.insert(name, from.bytes(MAX_RECORD_VALUE)?.to_vec());
        }
        let node = |from: &mut Reader<'_>| {
            nodes.get(from.count(MAX_SESSIONS)?).cloned().ok_or(CodecError::Impossible)
        };
        for _ in 0..from.count(MAX_MOVES)? {
            let key = from.key()?;
            machine.moves.insert(key, (node(&mut from)?, from.u64()?));
        }
        for _ in 0..from.count(MAX_SESSIONS)? {
            machine.drained.insert(node(&mut from)?);
        }
        if from.flag()? {
            machine.last_lead = Some(from.node()?);
        }
        machine.read_members(&mut from)?;
        from.finish()?;
        Ok(machine)
    }
}

fn read_session(from: &mut Reader<'_>) -> Result<Session, CodecError> {
    Ok(Session {
        node: from.node()?,
        epoch: from.u64()?,
        facts: Arc::from(from.bytes(MAX_FACTS)?),
        draining: from.flag()?,
        state: match from.u8()? {
            0 => SessionState::Open,
            1 => SessionState::Revoked,
            2 => SessionState::Closed,
            _ => return Err(CodecError::BadTag),
        },
    })
}

fn read_claim(from: &mut Reader<'_>, nodes: &[NodeName]) -> Result<Claim, CodecError> {
    let (key, term) = (from.key()?, from.u64()?);
    let holder = if from.flag()? {
        let node = nodes.get(from.count(MAX_SESSIONS)?).ok_or(CodecError::Impossible)?;
        Some((node.clone(), from.u64()?))
    } else {
        None
    };
    Ok(Claim { key, holder, term })
}

#[cfg(test)]
mod tests;
