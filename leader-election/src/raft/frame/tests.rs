use proptest::prelude::*;

use super::*;
use crate::raft::command::tests::{any_command, any_node};

fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=most)
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let ids = || prop::collection::vec(any::<u64>(), 0..5);
    (any::<u64>(), any::<u64>(), ids(), ids(), any_bytes(60)).prop_map(
        |(index, term, voters, learners, data)| Snapshot { index, term, voters, learners, data },
    )
}

fn any_raft() -> impl Strategy<Value = RaftMessage> {
    let entry = (any::<u64>(), any::<u64>(), any_bytes(40))
        .prop_map(|(index, term, data)| LogEntry { index, term, data });
    let entries = prop::collection::vec(entry, 0..5);
    let kind = prop::sample::select(RaftKind::ALL.to_vec());
    (
        (kind, any::<[u64; 8]>(), any::<bool>(), any_bytes(MAX_CONTEXT)),
        (entries, prop::option::of(any_snapshot())),
    )
        .prop_map(|((kind, numbers, reject, context), (entries, snapshot))| {
            let [from, to, term, log_term, index, commit, commit_term, reject_hint] = numbers;
            RaftMessage {
                from,
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
            }
        })
}

fn any_renewal() -> impl Strategy<Value = Renewal> {
    any::<[u64; 3]>().prop_map(|[raft_term, epoch, seq]| Renewal { raft_term, epoch, seq })
}

fn any_knock() -> impl Strategy<Value = Knock> {
    (any::<u64>(), prop::collection::btree_set(any_node(), 0..5))
        .prop_map(|(id, founders)| Knock { id, founders })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        ("[a-z]{0,20}", any_node()).prop_map(|(cluster, node)| Frame::Hello { cluster, node }),
        any_raft().prop_map(Frame::Raft),
        any_command().prop_map(Frame::Propose),
        (any::<u64>(), any_renewal()).prop_map(|(id, renewal)| Frame::Renew(id, renewal)),
        any_renewal().prop_map(Frame::Grant),
        any_knock().prop_map(Frame::Knock),
        (any::<u64>(), any_knock()).prop_map(|(id, knock)| Frame::Fresh(id, knock)),
        Just(Frame::Member),
        prop::collection::btree_map(any_node(), any::<u64>(), 0..5).prop_map(Frame::Founded),
        any::<u64>().prop_map(Frame::Gone),
    ]
}

proptest! {
    #[test]
    fn reads_back_what_was_written(frame in any_frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in any_bytes(300)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn a_part_of_a_frame_is_refused(frame in any_frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.encode();
        prop_assert!(Frame::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_byte_too_many_is_refused(frame in any_frame(), more in any::<u8>()) {
        let mut bytes = frame.encode();
        bytes.push(more);
        prop_assert_eq!(Frame::decode(&bytes), Err(CodecError::Trailing));
    }

    #[test]
    fn a_changed_byte_never_panics(
        frame in any_frame(), at in any::<prop::sample::Index>(), to in any::<u8>()
    ) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Frame::decode(&bytes);
    }
}

#[test]
fn a_frame_beyond_the_bound_is_refused() {
    assert_eq!(Frame::decode(&vec![2; MAX_FRAME + 1]), Err(CodecError::TooLong));
}

#[test]
fn a_renewal_reads_as_four_numbers() {
    let frame = Frame::Renew(7, Renewal { raft_term: 1, epoch: 2, seq: 3 });
    let numbers = [7u64, 1, 2, 3].map(u64::to_be_bytes).concat();
    assert_eq!(frame.encode(), [&[4][..], &numbers].concat());
}
