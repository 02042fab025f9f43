//! The replicated state: sessions, claims, records, and who led last.
//!
//! Every node applies the same commands in the same order and so has the same state at the same
//! position. Applying must never depend on anything else: no time, no identity, no configuration.
//! A command whose presumption no longer holds changes nothing. Read [`super::command`] first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::codec::{CodecError, Reader, Writer};
use super::command::Command;
use crate::model::{
    Claim, ClaimKey, Guard, MAX_FACTS, MAX_RECORD_KEY, MAX_RECORD_VALUE, NodeName, Session,
    SessionState,
};

/// Most nodes with a session. With the bounds below a snapshot always fits one frame: sessions
/// 64 x (4 KiB facts + name) + claims 8192 x 36 B + records 384 KiB < 1 MiB.
const MAX_SESSIONS: usize = 64;
/// Most keys that may ever be claimed.
const MAX_CLAIMS: usize = 8192;
/// Most bytes in all records together, names included.
const MAX_RECORDS_SIZE: usize = 384 * 1024;
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
    /// Node of the last [`Command::Lead`].
    pub last_lead: Option<NodeName>,
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
        }
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
        to.flag(self.last_lead.is_some());
        if let Some(node) = &self.last_lead {
            to.node(node);
        }
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
        if from.flag()? {
            machine.last_lead = Some(from.node()?);
        }
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::command::tests::any_command;

    const KEY: ClaimKey = ClaimKey::Allocator;

    fn open(node: &str, epoch: u64) -> Command {
        Command::OpenSession { node: node.into(), epoch, facts: Arc::from(&b"mac"[..]) }
    }

    fn claim(node: &str, epoch: u64, term: u64) -> Command {
        Command::Claim { key: KEY, node: node.into(), epoch, term }
    }

    fn put(value: Option<&str>, node: &str, epoch: u64, term: u64) -> Command {
        let value = value.map(|v| v.as_bytes().to_vec());
        let guard = Guard { key: KEY, term };
        Command::Put { name: "svc".into(), value, guard, node: node.into(), epoch }
    }

    fn run(commands: impl IntoIterator<Item = Command>) -> (Machine, Vec<Outcome>) {
        let mut machine = Machine::default();
        let outcomes =
            commands.into_iter().zip(1..).map(|(c, index)| machine.apply(index, &c)).collect();
        (machine, outcomes)
    }

    fn holder(machine: &Machine) -> Option<(&str, u64)> {
        machine.claims[&KEY].holder.as_ref().map(|(node, epoch)| (node.as_str(), *epoch))
    }

    use Outcome::{Applied, Full, Stale};

    #[test]
    fn a_held_claim_is_not_given_to_another() {
        let (machine, outcomes) =
            run([open("a", 1), open("b", 1), claim("a", 1, 1), claim("b", 1, 2)]);
        assert_eq!(outcomes, [Applied, Applied, Applied, Stale]);
        assert_eq!(holder(&machine), Some(("a", 1)));
    }

    #[test]
    fn a_claim_of_a_revoked_session_is_taken_with_the_next_term_only() {
        let revoke = Command::Revoke { node: "a".into(), epoch: 1 };
        let (machine, outcomes) = run([
            open("a", 1),
            open("b", 1),
            claim("a", 1, 1),
            revoke,
            claim("b", 1, 1),
            claim("b", 1, 3),
            claim("b", 1, 2),
        ]);
        assert_eq!(outcomes, [Applied, Applied, Applied, Applied, Stale, Stale, Applied]);
        assert_eq!(holder(&machine), Some(("b", 1)));
    }

    #[test]
    fn a_restarted_process_keeps_its_claims() {
        let (machine, outcomes) = run([open("a", 1), claim("a", 1, 1), open("a", 2)]);
        assert_eq!(outcomes, [Applied; 3]);
        assert_eq!(holder(&machine), Some(("a", 2)));
        assert_eq!(machine.claims[&KEY].term, 1);
    }

    #[test]
    fn a_revoked_node_that_returns_takes_nothing_back() {
        let revoke = Command::Revoke { node: "a".into(), epoch: 1 };
        let (machine, _) = run([open("a", 1), claim("a", 1, 1), revoke, open("a", 2)]);
        assert_eq!(holder(&machine), Some(("a", 1)));
        assert!(!machine.is_open(&"a".into(), 1));
    }

    #[test]
    fn an_epoch_is_used_once() {
        let close = Command::CloseSession { node: "a".into(), epoch: 1 };
        let (_, outcomes) = run([open("a", 1), close.clone(), open("a", 1), close]);
        assert_eq!(outcomes, [Applied, Applied, Stale, Stale]);
    }

    #[test]
    fn a_late_copy_of_a_release_does_not_hit_the_next_holder() {
        let release = Command::Release { key: KEY, node: "a".into(), epoch: 1, term: 1 };
        let (machine, outcomes) =
            run([open("a", 1), claim("a", 1, 1), release.clone(), claim("a", 1, 2), release]);
        assert_eq!(outcomes, [Applied, Applied, Applied, Applied, Stale]);
        assert_eq!(machine.claims[&KEY].term, 2);
        assert_eq!(holder(&machine), Some(("a", 1)));
    }

    #[test]
    fn draining_releases_everything_and_keeps_the_terms() {
        let drain = Command::Drain { node: "a".into(), epoch: 1 };
        let (machine, outcomes) = run([open("a", 1), claim("a", 1, 1), drain.clone(), drain]);
        assert_eq!(outcomes, [Applied, Applied, Applied, Stale]);
        assert_eq!(holder(&machine), None);
        assert_eq!(machine.claims[&KEY].term, 1);
        assert!(machine.sessions[&NodeName::from("a")].draining);
    }

    #[test]
    fn a_deposed_allocator_writes_nothing() {
        let revoke = Command::Revoke { node: "a".into(), epoch: 1 };
        let (machine, outcomes) = run([
            open("a", 1),
            open("b", 1),
            claim("a", 1, 1),
            put(Some("1"), "a", 1, 1),
            revoke,
            put(Some("2"), "a", 1, 1),
            claim("b", 1, 2),
            put(Some("3"), "b", 1, 1),
            put(Some("4"), "b", 1, 2),
            put(Some("5"), "a", 1, 2),
        ]);
        assert_eq!(outcomes[3..], [Applied, Applied, Stale, Applied, Stale, Applied, Stale]);
        assert_eq!(machine.records["svc"], b"4");
    }

    #[test]
    fn records_are_removed_and_bounded() {
        let big = "x".repeat(MAX_RECORD_VALUE);
        let mut other = put(Some(&big), "a", 1, 1);
        if let Command::Put { name, .. } = &mut other {
            *name = "other".into();
        }
        let (machine, outcomes) = run([
            open("a", 1),
            claim("a", 1, 1),
            put(Some(&big), "a", 1, 1),
            other,
            put(None, "a", 1, 1),
        ]);
        assert_eq!(outcomes[2..], [Applied, Full, Applied]);
        assert!(machine.records.is_empty());
    }

    #[test]
    fn a_full_snapshot_fits_a_frame() {
        let mut machine = Machine::default();
        for n in 0..MAX_SESSIONS {
            let node = NodeName(format!("{n:0>253}"));
            let facts = Arc::from(vec![7; MAX_FACTS]);
            assert_eq!(machine.apply(1, &Command::OpenSession { node, epoch: 1, facts }), Applied);
        }
        let node = NodeName(format!("{:0>253}", 1));
        for n in 0..MAX_CLAIMS {
            let key = ClaimKey::Vip(std::net::Ipv6Addr::from(n as u128).into());
            let claim = Command::Claim { key, node: node.clone(), epoch: 1, term: 1 };
            assert_eq!(machine.apply(2, &claim), Applied);
        }
        let one_more = Command::Claim { key: KEY, node, epoch: 1, term: 1 };
        assert_eq!(machine.apply(3, &one_more), Full);
        machine.records.insert("all".into(), vec![1; MAX_RECORDS_SIZE]);
        assert!(machine.encode().len() < crate::raft::frame::MAX_FRAME - 1024);
    }

    proptest! {
        #[test]
        fn a_snapshot_reads_back(commands in prop::collection::vec(any_command(), 0..40)) {
            let (machine, _) = run(commands);
            prop_assert_eq!(Machine::decode(machine.applied, &machine.encode()), Ok(machine));
        }

        #[test]
        fn any_bytes_are_a_state_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Machine::decode(1, &bytes);
        }
    }
}
