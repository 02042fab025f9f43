//! Between our plain values and the raft library's structs, field by field.
//!
//! This stands where a protobuf parser would stand otherwise. Nothing is judged here; fields and
//! kinds that this use of raft does not need have no counterpart and are left at their defaults.

use ::raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    Message, MessageType, Snapshot as RaftSnapshot, SnapshotMetadata,
};

use super::command::{Change, changes_members};
use super::frame::{LogEntry, RaftKind, RaftMessage, Snapshot};
use super::store::Hard;

pub(crate) fn hard_to_raft(hard: Hard) -> HardState {
    let Hard { term, vote, commit } = hard;
    HardState { term, vote, commit, ..HardState::default() }
}

pub(crate) fn hard_from_raft(hard: &HardState) -> Hard {
    Hard { term: hard.term, vote: hard.vote, commit: hard.commit }
}

pub(crate) fn entry_to_raft(entry: &LogEntry) -> Entry {
    let LogEntry { index, term, data } = entry;
    let made = Entry { index: *index, term: *term, ..Entry::default() };
    with_data(made, data.clone())
}

pub(crate) fn entry_from_raft(entry: &Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, data: data_of(entry).to_vec() }
}

/// The library must know which entries change the members, and parses what it takes for their data
/// as protobuf: ours travels as their context instead.
pub(crate) fn with_data(mut entry: Entry, data: Vec<u8>) -> Entry {
    if changes_members(&data) {
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.context = data.into();
    } else {
        entry.data = data.into();
    }
    entry
}

/// Our bytes in an entry.
pub(crate) fn data_of(entry: &Entry) -> &[u8] {
    match entry.get_entry_type() {
        EntryType::EntryNormal => &entry.data,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => &entry.context,
    }
}

pub(crate) fn change_to_raft(id: u64, change: Change) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    single.set_change_type(match change {
        Change::Learn | Change::Demote => ConfChangeType::AddLearnerNode,
        Change::Vote => ConfChangeType::AddNode,
        Change::Remove => ConfChangeType::RemoveNode,
    });
    let mut made = ConfChangeV2::default();
    made.set_changes(vec![single].into());
    made
}

pub(crate) fn snapshot_to_raft(snapshot: &Snapshot) -> RaftSnapshot {
    let mut meta = SnapshotMetadata {
        index: snapshot.index,
        term: snapshot.term,
        ..SnapshotMetadata::default()
    };
    let (voters, learners) = (snapshot.voters.clone(), snapshot.learners.clone());
    meta.set_conf_state(ConfState { voters, learners, ..ConfState::default() });
    let mut made = RaftSnapshot { data: snapshot.data.clone().into(), ..RaftSnapshot::default() };
    made.set_metadata(meta);
    made
}

pub(crate) fn snapshot_from_raft(snapshot: &RaftSnapshot) -> Snapshot {
    let meta = snapshot.get_metadata();
    Snapshot {
        index: meta.index,
        term: meta.term,
        voters: meta.get_conf_state().voters.clone(),
        learners: meta.get_conf_state().learners.clone(),
        data: snapshot.data.to_vec(),
    }
}

pub(crate) fn message_to_raft(message: &RaftMessage) -> Message {
    let mut made = Message {
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.clone().into(),
        ..Message::default()
    };
    made.set_msg_type(match message.kind {
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::AppendResponse => MessageType::MsgAppendResponse,
        RaftKind::Vote => MessageType::MsgRequestVote,
        RaftKind::VoteResponse => MessageType::MsgRequestVoteResponse,
        RaftKind::PreVote => MessageType::MsgRequestPreVote,
        RaftKind::PreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        RaftKind::Snapshot => MessageType::MsgSnapshot,
        RaftKind::Heartbeat => MessageType::MsgHeartbeat,
        RaftKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
    });
    made.set_entries(message.entries.iter().map(entry_to_raft).collect());
    if let Some(snapshot) = &message.snapshot {
        made.set_snapshot(snapshot_to_raft(snapshot));
    }
    made
}

/// `None` for kinds that never leave a node here (local ones, and proposals and reads forwarded by
/// the library, which have frames of their own or are asked by the leader only).
pub(crate) fn message_from_raft(message: &Message) -> Option<RaftMessage> {
    let kind = match message.get_msg_type() {
        MessageType::MsgAppend => RaftKind::Append,
        MessageType::MsgAppendResponse => RaftKind::AppendResponse,
        MessageType::MsgRequestVote => RaftKind::Vote,
        MessageType::MsgRequestVoteResponse => RaftKind::VoteResponse,
        MessageType::MsgRequestPreVote => RaftKind::PreVote,
        MessageType::MsgRequestPreVoteResponse => RaftKind::PreVoteResponse,
        MessageType::MsgSnapshot => RaftKind::Snapshot,
        MessageType::MsgHeartbeat => RaftKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => RaftKind::HeartbeatResponse,
        MessageType::MsgTimeoutNow => RaftKind::TimeoutNow,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return None,
    };
    Some(RaftMessage {
        from: message.from,
        to: message.to,
        kind,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.to_vec(),
        entries: message.entries.iter().map(entry_from_raft).collect(),
        snapshot: message.has_snapshot().then(|| snapshot_from_raft(message.get_snapshot())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_field_survives_the_library() {
        for kind in RaftKind::ALL {
            let message = RaftMessage {
                from: 10,
                to: 11,
                kind,
                term: 1,
                log_term: 2,
                index: 3,
                commit: 4,
                commit_term: 5,
                reject: true,
                reject_hint: 6,
                context: vec![7],
                entries: vec![LogEntry { index: 4, term: 1, data: vec![8] }],
                snapshot: Some(Snapshot {
                    index: 9,
                    term: 1,
                    voters: vec![1],
                    learners: vec![3],
                    data: vec![2],
                }),
            };
            let made = message_to_raft(&message);
            assert_eq!((made.from, made.to), (10, 11));
            assert_eq!(message_from_raft(&made), Some(message));
        }
    }
}
