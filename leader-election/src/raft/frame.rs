//! What nodes say to each other, as bounded bytes.
//!
//! One frame is at most [`MAX_FRAME`] bytes. Decoding must never panic and never accept a byte too
//! much or too few. Raft's own messages travel as [`RaftMessage`], with only the kinds and fields
//! that this use of raft needs (pre-vote, check-quorum, reads by quorum, snapshots, transfer);
//! `convert` builds the library's structs from them field by field. Whether a well-formed
//! message makes sense is judged later, by [`super::sanity`].

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{CodecError, Reader, Writer};
use super::command::Command;
use crate::model::NodeName;

/// Most bytes in one frame, its length prefix not counted.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Longest name of a cluster.
pub const MAX_CLUSTER_NAME: usize = 128;
/// Most entries in one message.
const MAX_ENTRIES: usize = 4096;
/// Longest context of a raft message: ours are 16 bytes, raft's own "CampaignTransfer" is 16 too.
const MAX_CONTEXT: usize = 32;
/// Most nodes that found a cluster.
pub(crate) const MAX_VOTERS: usize = 32;
/// Most members, voters or not.
pub(crate) const MAX_MEMBERS: usize = 64;

/// One thing said by one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of a connection: who is calling.
    Hello {
        /// The caller's cluster.
        cluster: String,
        /// The caller.
        node: NodeName,
    },
    /// A message of the raft library.
    Raft(RaftMessage),
    /// A command the leader should put into the log.
    Propose(Command),
    /// "I live": asks the leader to extend the session of the sender, which has this raft id.
    Renew(u64, Renewal),
    /// The leader's answer to the renewal with the same numbers.
    Grant(Renewal),
    /// "I am no member yet": see [`Knock`].
    Knock(Knock),
    /// The answer of one that is none either, to the knock of this raft id.
    Fresh(u64, Knock),
    /// The answer of a member: there is a cluster already.
    Member,
    /// The cluster was founded by these nodes, the receiver among them.
    Founded(Founders),
    /// The member with this raft id was removed: it can only join anew.
    Gone(u64),
}

/// The founders of a cluster, each with its raft id at that time.
pub type Founders = BTreeMap<NodeName, u64>;

/// What a node says of itself that takes no part yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Its raft id.
    pub id: u64,
    /// Who should found the cluster if there is none, by what this node knows.
    pub founders: BTreeSet<NodeName>,
}

/// The numbers of a renewal and of its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Raft's term, so that no grant outlives the leader that gave it.
    pub raft_term: u64,
    /// Epoch of the session.
    pub epoch: u64,
    /// Which renewal.
    pub seq: u64,
}

/// A message of the raft library: the kinds and fields in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftMessage {
    /// Raft id of the sender.
    pub from: u64,
    /// Raft id of the receiver: a node that lost its disk has another one under the same name.
    pub to: u64,
    /// What it is.
    pub kind: RaftKind,
    /// Raft's term.
    pub term: u64,
    /// Term of the entry at `index`.
    pub log_term: u64,
    /// A position in the log.
    pub index: u64,
    /// How far the sender knows the log to be decided.
    pub commit: u64,
    /// Term of the entry at `commit`.
    pub commit_term: u64,
    /// The answer is no.
    pub reject: bool,
    /// Where the log of the refusing node ends.
    pub reject_hint: u64,
    /// Ties an answer to its question.
    pub context: Vec<u8>,
    /// Entries that follow `index`.
    pub entries: Vec<LogEntry>,
    /// The state in place of entries.
    pub snapshot: Option<Snapshot>,
}

/// Which message of the raft library it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftKind {
    /// Entries for a follower.
    Append,
    /// Its answer.
    AppendResponse,
    /// "Vote for me."
    Vote,
    /// The answer.
    VoteResponse,
    /// "Would you vote for me?"
    PreVote,
    /// The answer.
    PreVoteResponse,
    /// The state, for a follower whose entries are gone.
    Snapshot,
    /// "I lead."
    Heartbeat,
    /// The answer.
    HeartbeatResponse,
    /// "Take over now": the leader hands leadership on.
    TimeoutNow,
}

impl RaftKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 10] = [
        Self::Append,
        Self::AppendResponse,
        Self::Vote,
        Self::VoteResponse,
        Self::PreVote,
        Self::PreVoteResponse,
        Self::Snapshot,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::TimeoutNow,
    ];
}

/// One position of the log. Empty data is raft's own mark of a new leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position, from 1.
    pub index: u64,
    /// Raft's term in which it was written.
    pub term: u64,
    /// A [`Command`], or nothing.
    pub data: Vec<u8>,
}

/// The state machine up to a position, in place of the entries before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last position contained.
    pub index: u64,
    /// Raft's term at that position.
    pub term: u64,
    /// Raft ids of the voters.
    pub voters: Vec<u64>,
    /// Raft ids of the members without a vote.
    pub learners: Vec<u64>,
    /// The state.
    pub data: Vec<u8>,
}

impl Frame {
    /// The frame as bytes, without length prefix.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Hello { cluster, node } => {
                to.u8(1).text(cluster).node(node);
            }
            Self::Raft(message) => {
                to.u8(2);
                message.write(&mut to);
            }
            Self::Propose(command) => {
                to.u8(3);
                command.write(&mut to);
            }
            Self::Renew(id, renewal) => {
                to.u8(4).u64(*id);
                renewal.write(&mut to);
            }
            Self::Grant(renewal) => {
                to.u8(5);
                renewal.write(&mut to);
            }
            Self::Knock(knock) => {
                to.u8(6);
                knock.write(&mut to);
            }
            Self::Fresh(id, knock) => {
                to.u8(7).u64(*id);
                knock.write(&mut to);
            }
            Self::Member => {
                to.u8(8);
            }
            Self::Founded(founders) => {
                to.u8(9);
                write_founders(founders, &mut to);
            }
            Self::Gone(id) => {
                to.u8(10).u64(*id);
            }
        }
        to.into_bytes()
    }

    /// The frame in these bytes.
    ///
    /// # Errors
    /// If the bytes are not exactly one frame within bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.len() > MAX_FRAME {
            return Err(CodecError::TooLong);
        }
        let mut from = Reader::new(bytes);
        let frame = match from.u8()? {
            1 => {
                Self::Hello { cluster: from.text(MAX_CLUSTER_NAME)?.to_owned(), node: from.node()? }
            }
            2 => Self::Raft(RaftMessage::read(&mut from)?),
            3 => Self::Propose(Command::read(&mut from)?),
            4 => Self::Renew(from.u64()?, Renewal::read(&mut from)?),
            5 => Self::Grant(Renewal::read(&mut from)?),
            6 => Self::Knock(Knock::read(&mut from)?),
            7 => Self::Fresh(from.u64()?, Knock::read(&mut from)?),
            8 => Self::Member,
            9 => Self::Founded(read_founders(&mut from)?),
            10 => Self::Gone(from.u64()?),
            _ => return Err(CodecError::BadTag),
        };
        from.finish()?;
        Ok(frame)
    }
}

impl Knock {
    fn write(&self, to: &mut Writer) {
        to.u64(self.id);
        write_names(&self.founders, to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { id: from.u64()?, founders: read_names(from)? })
    }
}

pub(crate) fn write_names(names: &BTreeSet<NodeName>, to: &mut Writer) {
    to.count(names.len());
    for name in names {
        to.node(name);
    }
}

pub(crate) fn read_names(from: &mut Reader<'_>) -> Result<BTreeSet<NodeName>, CodecError> {
    let mut names = BTreeSet::new();
    for _ in 0..from.count(MAX_VOTERS)? {
        let name = from.node()?;
        if names.last().is_some_and(|last| *last >= name) {
            return Err(CodecError::Impossible);
        }
        names.insert(name);
    }
    Ok(names)
}

pub(crate) fn write_founders(founders: &Founders, to: &mut Writer) {
    to.count(founders.len());
    for (node, id) in founders {
        to.node(node).u64(*id);
    }
}

pub(crate) fn read_founders(from: &mut Reader<'_>) -> Result<Founders, CodecError> {
    let mut founders = Founders::new();
    for _ in 0..from.count(MAX_VOTERS)? {
        let (node, id) = (from.node()?, from.u64()?);
        if founders.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(CodecError::Impossible);
        }
        founders.insert(node, id);
    }
    Ok(founders)
}

impl Renewal {
    fn write(&self, to: &mut Writer) {
        to.u64(self.raft_term).u64(self.epoch).u64(self.seq);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { raft_term: from.u64()?, epoch: from.u64()?, seq: from.u64()? })
    }
}

impl RaftMessage {
    fn write(&self, to: &mut Writer) {
        let kind =
            RaftKind::ALL.iter().position(|kind| *kind == self.kind).unwrap_or(RaftKind::ALL.len());
        to.u8(u8::try_from(kind).unwrap_or(u8::MAX));
        to.u64(self.from).u64(self.to);
        to.u64(self.term).u64(self.log_term).u64(self.index);
        to.u64(self.commit).u64(self.commit_term);
        to.flag(self.reject).u64(self.reject_hint).bytes(&self.context);
        to.count(self.entries.len());
        for entry in &self.entries {
            entry.write(to);
        }
        to.flag(self.snapshot.is_some());
        if let Some(snapshot) = &self.snapshot {
            snapshot.write(to);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let kind = *RaftKind::ALL.get(usize::from(from.u8()?)).ok_or(CodecError::BadTag)?;
        let (sender, to) = (from.u64()?, from.u64()?);
        let (term, log_term, index) = (from.u64()?, from.u64()?, from.u64()?);
        let (commit, commit_term) = (from.u64()?, from.u64()?);
        let (reject, reject_hint) = (from.flag()?, from.u64()?);
        let context = from.bytes(MAX_CONTEXT)?.to_vec();
        let mut entries = Vec::new();
        for _ in 0..from.count(MAX_ENTRIES)? {
            entries.push(LogEntry::read(from)?);
        }
        let snapshot = if from.flag()? { Some(Snapshot::read(from)?) } else { None };
        Ok(Self {
            from: sender,
            to,
            kind,
            term,
            log_term,
            index,
            commit,
            commit_term,
            reject,
            reject_hint,
            context,
            entries,
            snapshot,
        })
    }
}

impl LogEntry {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u64(self.index).u64(self.term).bytes(&self.data);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self { index: from.u64()?, term: from.u64()?, data: from.bytes(MAX_FRAME)?.to_vec() })
    }
}

impl Snapshot {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u64(self.index).u64(self.term);
        for ids in [&self.voters, &self.learners] {
            to.count(ids.len());
            for id in ids {
                to.u64(*id);
            }
        }
        to.bytes(&self.data);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (index, term) = (from.u64()?, from.u64()?);
        let mut ids =
            || (0..from.count(MAX_MEMBERS)?).map(|_| from.u64()).collect::<Result<Vec<u64>, _>>();
        let (voters, learners) = (ids()?, ids()?);
        Ok(Self { index, term, voters, learners, data: from.bytes(MAX_FRAME)?.to_vec() })
    }
}

#[cfg(test)]
mod tests;
