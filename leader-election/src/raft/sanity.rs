//! Whether a well-formed raft message can be true.
//!
//! The raft library trusts its peers and panics on what they cannot have meant: a commit position
//! beyond the log, entries with gaps, a log that contradicts what is decided. Such a message can
//! come from a peer whose disk was lost, or, where there is no key, from anybody who can reach the
//! port. It is refused here, with its reason, before the library sees it. This file must never
//! change anything.

use std::collections::BTreeSet;

use ::raft::RaftLog;

use super::frame::{RaftKind, RaftMessage};
use super::machine::Machine;
use super::store::Store;

/// Positions and terms stay far from where adding one could wrap.
const HIGHEST: u64 = 1 << 62;

/// Why something a peer said was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The sender is neither a node of the source nor a member, or it is this node itself.
    UnknownSender,
    /// Greeting from another cluster.
    ForeignCluster,
    /// The bytes are no frame.
    Malformed,
    /// A term or position of zero where there is none, or beyond reason.
    NumberOutOfRange,
    /// Parts that do not belong to this kind of message, or are missing.
    PartsMismatch,
    /// Entries with gaps, or with terms that shrink or exceed the message's.
    BadEntries,
    /// Says more is decided than this node's log holds (a lost state directory does this).
    CommitBeyondLog,
    /// Contradicts what this node knows to be decided.
    ContradictsDecided,
    /// A snapshot with other members than its state, without this node, or one that cannot be read.
    BadSnapshot,
    /// A command only the leader may propose, or one in another node's name.
    ForeignCommand,
    /// The replicated state is at its bounds and took no more.
    StateFull,
    /// A greeting where there can be none.
    UnexpectedHello,
    /// The caller, or the node called, has another key, or none.
    WrongKey,
    /// A node answered that is not the one called.
    WrongPeer,
    /// Bytes that were not sealed in this place of this connection: replayed, changed or made up.
    Unauthentic,
    /// More bytes than are allowed there.
    Oversized,
    /// A caller that did not say who it is in time.
    HandshakeTimeout,
    /// More callers at once than are let in without having said who they are.
    TooManyCallers,
    /// A second process under the name of one that is talking.
    DuplicateName,
    /// A new node that would found the cluster with others than this one would.
    OtherFounders,
}

impl Refusal {
    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownSender => "unknown_sender",
            Self::ForeignCluster => "foreign_cluster",
            Self::Malformed => "malformed",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::PartsMismatch => "parts_mismatch",
            Self::BadEntries => "bad_entries",
            Self::CommitBeyondLog => "commit_beyond_log",
            Self::ContradictsDecided => "contradicts_decided",
            Self::BadSnapshot => "bad_snapshot",
            Self::ForeignCommand => "foreign_command",
            Self::StateFull => "state_full",
            Self::UnexpectedHello => "unexpected_hello",
            Self::WrongKey => "wrong_key",
            Self::WrongPeer => "wrong_peer",
            Self::Unauthentic => "unauthentic",
            Self::Oversized => "oversized",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::TooManyCallers => "too_many_callers",
            Self::DuplicateName => "duplicate_name",
            Self::OtherFounders => "other_founders",
        }
    }
}

/// Judges a message against this node's log. One of an earlier term may contradict it in good
/// faith; the library looks at nothing in it but the term.
///
/// # Errors
/// Why it cannot be true.
pub(crate) fn check(message: &RaftMessage, term: u64, log: &RaftLog<Store>) -> Result<(), Refusal> {
    let highest = [
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.term,
    ];
    // Term zero would pass for a message of this node to itself.
    if message.term == 0 || highest.into_iter().any(|number| number > HIGHEST) {
        return Err(Refusal::NumberOutOfRange);
    }
    let wants_entries = message.kind == RaftKind::Append;
    let wants_snapshot = message.kind == RaftKind::Snapshot;
    if (!message.entries.is_empty() && !wants_entries)
        || message.snapshot.is_some() != wants_snapshot
    {
        return Err(Refusal::PartsMismatch);
    }
    if message.term < term {
        return Ok(());
    }
    match message.kind {
        RaftKind::Append => check_entries(message, log),
        RaftKind::Heartbeat if message.commit > log.last_index() => Err(Refusal::CommitBeyondLog),
        RaftKind::Snapshot => check_snapshot(message),
        _ => Ok(()),
    }
}

fn check_entries(message: &RaftMessage, log: &RaftLog<Store>) -> Result<(), Refusal> {
    let (mut index, mut term) = (message.index, message.log_term);
    // Only the position before the first has no term. The library takes a term of zero for any
    // position outside its log, and would find that it matches.
    if (index == 0) != (term == 0) || term > message.term {
        return Err(Refusal::BadEntries);
    }
    for entry in &message.entries {
        let terms = term.max(1)..=message.term;
        if entry.index != index + 1 || !terms.contains(&entry.term) {
            return Err(Refusal::BadEntries);
        }
        (index, term) = (entry.index, entry.term);
        let decided = entry.index <= log.committed && entry.index >= log.first_index();
        if decided && !log.match_term(entry.index, entry.term) {
            return Err(Refusal::ContradictsDecided);
        }
    }
    Ok(())
}

fn check_snapshot(message: &RaftMessage) -> Result<(), Refusal> {
    let Some(snapshot) = &message.snapshot else { return Err(Refusal::PartsMismatch) };
    let bounded =
        (1..=HIGHEST).contains(&snapshot.index) && (1..=message.term).contains(&snapshot.term);
    let Ok(state) = Machine::decode(snapshot.index, &snapshot.data) else {
        return Err(Refusal::BadSnapshot);
    };
    // The library goes by these lists, everything else by the state: they must be the same members.
    let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let same = sorted(&snapshot.voters) == state.voters().collect()
        && sorted(&snapshot.learners) == state.learners().collect()
        && state.members.len() == snapshot.voters.len() + snapshot.learners.len();
    let member = state.members.contains_key(&message.to) && state.voters().next().is_some();
    if bounded && same && member { Ok(()) } else { Err(Refusal::BadSnapshot) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::frame::{Founders, LogEntry, Snapshot};
    use crate::raft::store::{Hard, Image};

    fn log() -> RaftLog<Store> {
        let entries = (1..=4).map(|index| LogEntry { index, term: 1, data: Vec::new() }).collect();
        let hard = Hard { term: 1, vote: 0, commit: 3 };
        let image = Image { epoch: 1, hard, entries, ..Image::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut log = RaftLog::new(Store::new(&image), logger);
        log.committed = 3;
        log
    }

    fn message(kind: RaftKind) -> RaftMessage {
        RaftMessage {
            from: 2,
            to: 1,
            kind,
            term: 2,
            log_term: 0,
            index: 0,
            commit: 0,
            commit_term: 0,
            reject: false,
            reject_hint: 0,
            context: Vec::new(),
            entries: Vec::new(),
            snapshot: None,
        }
    }

    fn append(index: u64, log_term: u64, entries: &[(u64, u64)]) -> RaftMessage {
        let entry = |&(index, term): &(u64, u64)| LogEntry { index, term, data: Vec::new() };
        let entries = entries.iter().map(entry).collect();
        RaftMessage { index, log_term, entries, ..message(RaftKind::Append) }
    }

    fn verdict(message: &RaftMessage) -> Result<(), Refusal> {
        check(message, 2, &log())
    }

    #[test]
    fn takes_entries_that_follow_or_replace_what_is_open() {
        assert_eq!(verdict(&append(4, 1, &[(5, 2), (6, 2)])), Ok(()));
        assert_eq!(verdict(&append(3, 1, &[(4, 2)])), Ok(()));
        assert_eq!(verdict(&append(0, 0, &[(1, 1), (2, 1)])), Ok(()));
    }

    #[test]
    fn refuses_entries_with_gaps_or_impossible_terms() {
        for entries in [&[(6, 2)][..], &[(5, 2), (7, 2)], &[(5, 3)], &[(5, 2), (6, 1)]] {
            assert_eq!(verdict(&append(4, 1, entries)), Err(Refusal::BadEntries), "{entries:?}");
        }
        for odd in [append(0, 0, &[(1, 0)]), append(9, 0, &[]), append(0, 1, &[])] {
            assert_eq!(verdict(&odd), Err(Refusal::BadEntries), "{odd:?}");
        }
    }

    #[test]
    fn refuses_entries_against_what_is_decided() {
        let contradiction = append(2, 1, &[(3, 2)]);
        assert_eq!(verdict(&contradiction), Err(Refusal::ContradictsDecided));
    }

    #[test]
    fn lets_a_deposed_leader_contradict() {
        let late = RaftMessage { term: 1, ..append(2, 1, &[(3, 1)]) };
        assert_eq!(check(&late, 2, &log()), Ok(()));
        let later = RaftMessage { term: 2, ..append(2, 1, &[(3, 2)]) };
        assert_eq!(check(&later, 3, &log()), Ok(()));
    }

    #[test]
    fn refuses_a_heartbeat_beyond_the_log() {
        let beyond = RaftMessage { commit: 5, ..message(RaftKind::Heartbeat) };
        assert_eq!(verdict(&beyond), Err(Refusal::CommitBeyondLog));
    }

    #[test]
    fn refuses_term_zero_and_numbers_that_could_wrap() {
        let zero = RaftMessage { term: 0, ..message(RaftKind::Heartbeat) };
        let wrap = RaftMessage { index: u64::MAX, ..message(RaftKind::Append) };
        assert_eq!(verdict(&zero), Err(Refusal::NumberOutOfRange));
        assert_eq!(verdict(&wrap), Err(Refusal::NumberOutOfRange));
    }

    #[test]
    fn refuses_a_snapshot_of_other_members_or_of_rubbish() {
        let founders: Founders = [("a".into(), 1), ("b".into(), 2), ("c".into(), 3)].into();
        let data = Machine::founded(&founders).encode();
        let voters = vec![3, 2, 1];
        let good = Snapshot { index: 9, term: 2, voters, learners: vec![], data };
        let with = |snapshot: Snapshot| RaftMessage {
            snapshot: Some(snapshot),
            ..message(RaftKind::Snapshot)
        };
        assert_eq!(verdict(&with(good.clone())), Ok(()));
        let others = Snapshot { voters: vec![1, 2], ..good.clone() };
        let more = Snapshot { learners: vec![4], ..good.clone() };
        let not_ours = RaftMessage { to: 9, ..with(good.clone()) };
        let nobody = Snapshot { voters: vec![], data: Machine::default().encode(), ..good.clone() };
        let rubbish = Snapshot { data: vec![1], ..good };
        for bad in [with(others), with(more), not_ours, with(nobody)] {
            assert_eq!(verdict(&bad), Err(Refusal::BadSnapshot), "{bad:?}");
        }
        assert_eq!(verdict(&with(rubbish)), Err(Refusal::BadSnapshot));
    }

    #[test]
    fn refuses_entries_where_none_belong() {
        let odd = RaftMessage { kind: RaftKind::Vote, ..append(4, 1, &[(5, 2)]) };
        assert_eq!(verdict(&odd), Err(Refusal::PartsMismatch));
        assert_eq!(verdict(&message(RaftKind::Snapshot)), Err(Refusal::PartsMismatch));
    }
}
