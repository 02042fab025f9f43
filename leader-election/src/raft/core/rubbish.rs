//! Whatever peers say, a node must not fall over it: the raft library panics on what it believes
//! nobody would say. Messages here are well formed and mostly untrue, with numbers small enough to
//! meet the log they are about.

use proptest::prelude::*;

use super::tests::{at, core, entry, follower, from, id, kinds, leader, newcomer, raft};
use super::*;
use crate::raft::command::tests::any_command;
use crate::raft::frame::{Knock, Renewal, Snapshot};

fn any_message() -> impl Strategy<Value = RaftMessage> {
    let kind = prop::sample::select(RaftKind::ALL.to_vec());
    let number = || prop_oneof![20 => 0..8u64, 1 => Just(u64::MAX), 1 => Just(1 << 62)];
    let command = prop::option::of(any_command());
    let follows = prop::collection::vec((0..3u64, command, any::<bool>()), 0..4);
    let voters = prop::sample::select(vec![vec!["a", "b", "c"], vec!["a", "b"]]);
    let context = prop::sample::select(vec![Vec::new(), TRANSFER.to_vec(), vec![0; 16], vec![7]]);
    (
        (kind, [(); 6].map(|()| number()), any::<bool>(), context),
        (follows, prop::option::of((number(), number(), voters, any::<bool>()))),
    )
        .prop_map(|((kind, numbers, reject, context), (follows, snapshot))| {
            let [term, log_term, index, commit, commit_term, reject_hint] = numbers;
            let (mut next, mut entry_term) = (index, log_term.min(8));
            let entries = follows.into_iter().map(|(step, command, gap)| {
                next = next.wrapping_add(if gap { step } else { 1 });
                entry_term = entry_term.saturating_add(step / 2);
                entry(next, entry_term, command.as_ref())
            });
            let entries = if kind == RaftKind::Append { entries.collect() } else { Vec::new() };
            let snapshot = snapshot.filter(|_| kind == RaftKind::Snapshot);
            let snapshot = snapshot.map(|(index, term, voters, good)| Snapshot {
                index,
                term,
                voters: voters.into_iter().map(id).collect(),
                learners: vec![],
                data: if good { Machine::default().encode() } else { vec![3] },
            });
            RaftMessage {
                from: 0,
                to: id("a"),
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

fn any_id() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(vec![id("a"), id("b"), id("c"), 7]), 1 => any::<u64>()]
}

fn any_names() -> impl Strategy<Value = BTreeSet<NodeName>> {
    prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]), 0..4)
        .prop_map(|names| names.into_iter().map(NodeName::from).collect())
}

fn any_input() -> impl Strategy<Value = Input> {
    let renewal = || {
        (0..4u64, 0..4u64, any::<u64>()).prop_map(|(raft_term, epoch, seq)| Renewal {
            raft_term,
            epoch,
            seq,
        })
    };
    let frame = prop_oneof![
        8 => any_message().prop_map(Frame::Raft),
        1 => any_command().prop_map(Frame::Propose),
        1 => (any_id(), renewal()).prop_map(|(id, renewal)| Frame::Renew(id, renewal)),
        1 => (any_id(), any_names()).prop_map(|(id, founders)| Frame::Knock(Knock { id, founders })),
        1 => (any_id(), any_id(), any_names())
            .prop_map(|(asked, id, founders)| Frame::Fresh(asked, Knock { id, founders })),
        1 => prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), any_id(), 0..4)
            .prop_map(|founders| {
                Frame::Founded(founders.into_iter().map(|(n, id)| (n.into(), id)).collect())
            }),
        1 => Just(Frame::Member),
        1 => any_id().prop_map(Frame::Gone),
        1 => renewal().prop_map(Frame::Grant),
    ];
    let node = prop::sample::select(vec!["b", "c"]);
    prop_oneof![
        12 => (node, frame).prop_map(|(node, frame)| match frame {
            Frame::Raft(message) => raft(node, message),
            other => from(node, other),
        }),
        1 => Just(Input::Tick),
        1 => Just(Input::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever anybody says, in whatever order: refused or taken, never a panic (the raft library
    /// has many), and never a word before silence where silence is due.
    #[test]
    fn nothing_a_peer_says_brings_a_node_down(
        inputs in prop::collection::vec((any_input(), 0..300u64), 1..40),
        role in 0..4,
    ) {
        let mut core = match role {
            0 => core(&["a", "b", "c"]),
            1 => follower().0,
            2 => newcomer(),
            _ => leader(),
        };
        let mut now = 20;
        for (input, passed) in inputs {
            now += passed;
            let actions = core.handle(input, at(now));
            let first = |kind| kinds(&actions).iter().position(|found| *found == kind);
            if let Some(silence) = first("silence") {
                prop_assert_eq!(silence, 0);
            }
        }
    }
}
