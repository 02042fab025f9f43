//! The log in memory, as the raft library wants to read it.
//!
//! It holds what [`super::wal`] has on disk, never more: whatever is put here leaves the core as
//! something to persist in the same batch. It must never touch a file itself. Also the image of it
//! that the disk gives back at the start.

use std::collections::BTreeSet;

use ::raft::eraftpb::{ConfState, Entry, HardState, Snapshot as RaftSnapshot};
use ::raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::convert;
use super::frame::{Founders, LogEntry, Snapshot};
use super::machine::Machine;
use crate::model::NodeName;

/// Raft's own durable numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hard {
    /// Raft's term.
    pub term: u64,
    /// Raft id voted for in that term, zero for none.
    pub vote: u64,
    /// How far the log is known to be decided.
    pub commit: u64,
}

/// Everything durable: what the disk gives back at the start, and what it is rewritten with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// This node's raft id, that of its state directory; zero if it has none yet.
    pub id: u64,
    /// Who founded the cluster, if this node was one of them.
    pub founders: Founders,
    /// The founders, the first of whom decides, that this node promised to found a cluster with,
    /// and with nobody else.
    pub promised: Option<BTreeSet<NodeName>>,
    /// Epoch of this node's latest session.
    pub epoch: u64,
    /// Raft's numbers.
    pub hard: Hard,
    /// The state in place of the entries before it.
    pub snapshot: Option<Snapshot>,
    /// The entries after the snapshot, without gaps.
    pub entries: Vec<LogEntry>,
}

/// The log in memory.
pub(crate) struct Store {
    identity: Image,
    hard: HardState,
    snapshot: RaftSnapshot,
    entries: Vec<Entry>,
}

impl Store {
    /// The log as the disk gave it back.
    pub(crate) fn new(image: &Image) -> Self {
        let snapshot = image.snapshot.as_ref().map(convert::snapshot_to_raft).unwrap_or_default();
        let entries: Vec<Entry> = image.entries.iter().map(convert::entry_to_raft).collect();
        let start = snapshot.get_metadata().index;
        let last = entries.last().map_or(start, |entry| entry.index);
        let mut hard = convert::hard_to_raft(image.hard);
        // The commit position is written lazily and may lag or, after a cut tail, lead.
        hard.commit = hard.commit.clamp(start, last);
        // What is durable but neither log nor epoch, for the next rewrite.
        let Image { id, founders, promised, .. } = image.clone();
        let identity = Image { id, founders, promised, ..Image::default() };
        Self { identity, hard, snapshot, entries }
    }

    pub(crate) fn image(&self, epoch: u64) -> Image {
        Image {
            epoch,
            hard: convert::hard_from_raft(&self.hard),
            snapshot: (self.start() > 0).then(|| convert::snapshot_from_raft(&self.snapshot)),
            entries: self.entries.iter().map(convert::entry_from_raft).collect(),
            ..self.identity.clone()
        }
    }

    /// This node founds a cluster with these or with none.
    pub(crate) fn promise(&mut self, founders: BTreeSet<NodeName>) {
        self.identity.promised = Some(founders);
    }

    pub(crate) fn promised(&self) -> Option<&BTreeSet<NodeName>> {
        self.identity.promised.as_ref()
    }

    pub(crate) fn founders(&self) -> &Founders {
        &self.identity.founders
    }

    pub(crate) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    /// Puts entries at the end, in place of any from the first one's position on.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = self.offset(first.index).min(self.entries.len());
        self.entries.truncate(keep);
        self.entries.extend(entries);
    }

    /// Replaces everything by a snapshot from the leader.
    pub(crate) fn restore(&mut self, snapshot: RaftSnapshot) {
        self.entries.clear();
        self.hard.commit = snapshot.get_metadata().index;
        self.snapshot = snapshot;
    }

    /// Replaces the entries up to the state's position by the state.
    pub(crate) fn compact(&mut self, machine: &Machine) {
        let index = machine.applied;
        let Ok(term) = self.term(index) else { return };
        let drop = self.offset(index + 1).min(self.entries.len());
        self.entries.drain(..drop);
        let snapshot = Snapshot {
            index,
            term,
            voters: machine.voters().collect(),
            learners: machine.learners().collect(),
            data: machine.encode(),
        };
        self.snapshot = convert::snapshot_to_raft(&snapshot);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn size(&self) -> usize {
        self.entries.iter().map(|entry| convert::data_of(entry).len()).sum()
    }

    /// Last position that is gone into the state.
    pub(crate) fn start(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.start(), |entry| entry.index)
    }

    /// Where the entry at `index` is, or would be.
    fn offset(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.start() + 1)).unwrap_or(usize::MAX)
    }
}

impl Storage for Store {
    fn initial_state(&self) -> ::raft::Result<RaftState> {
        let founders = || ConfState {
            voters: self.identity.founders.values().copied().collect(),
            ..ConfState::default()
        };
        let conf = match self.start() {
            0 => founders(),
            _ => self.snapshot.get_metadata().get_conf_state().clone(),
        };
        Ok(RaftState::new(self.hard.clone(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> ::raft::Result<Vec<Entry>> {
        if low <= self.start() {
            return Err(StorageError::Compacted.into());
        }
        let range = self.offset(low)..self.offset(high);
        let mut found = self.entries.get(range).ok_or(StorageError::Unavailable)?.to_vec();
        ::raft::util::limit_size(&mut found, max_size.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> ::raft::Result<u64> {
        if index == self.start() {
            return Ok(self.snapshot.get_metadata().term);
        }
        if index < self.start() {
            return Err(StorageError::Compacted.into());
        }
        let entry = self.entries.get(self.offset(index)).ok_or(StorageError::Unavailable)?;
        Ok(entry.term)
    }

    fn first_index(&self) -> ::raft::Result<u64> {
        Ok(self.start() + 1)
    }

    fn last_index(&self) -> ::raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> ::raft::Result<RaftSnapshot> {
        if self.start() == 0 || self.start() < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, data: vec![1] }
    }

    fn store() -> Store {
        let entries = (1..=5).map(|index| entry(index, 1)).collect();
        let hard = Hard { term: 1, vote: 0, commit: 9 };
        Store::new(&Image { epoch: 1, hard, entries, ..Image::default() })
    }

    #[test]
    fn a_commit_beyond_the_log_is_cut() {
        assert_eq!(store().initial_state().unwrap().hard_state.commit, 5);
    }

    #[test]
    fn entries_replace_those_behind_them() {
        let mut store = store();
        store.append(vec![convert::entry_to_raft(&entry(3, 2))]);
        assert_eq!(store.image(1).entries, [entry(1, 1), entry(2, 1), entry(3, 2)]);
    }

    #[test]
    fn compaction_keeps_the_tail_and_the_term_before_it() {
        let mut store = store();
        let machine = Machine { applied: 3, ..Machine::founded(&[("a".into(), 1)].into()) };
        store.compact(&machine);
        assert_eq!((store.first_index(), store.last_index()), (Ok(4), Ok(5)));
        assert_eq!(store.term(3), Ok(1));
        assert!(store.term(2).is_err());
        let image = store.image(7);
        assert_eq!(image.entries, [entry(4, 1), entry(5, 1)]);
        let expected = Snapshot {
            index: 3,
            term: 1,
            voters: vec![1],
            learners: vec![],
            data: machine.encode(),
        };
        assert_eq!(image.snapshot, Some(expected));
        assert_eq!(Store::new(&image).image(7), image);
    }
}
