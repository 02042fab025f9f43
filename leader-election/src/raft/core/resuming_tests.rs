//! A leader's process that is started again: when it may stand at once, and that it is not
//! silenced.

use super::tests::{at, config, entry, id, kinds, names, raft};
use super::*;
use crate::raft::command::Command;
use crate::raft::store::Hard;

/// The disk of `a`, which led in term 2 and heard of no later one.
fn led() -> Image {
    let founders = ["a", "b", "c"].map(|node| (NodeName::from(node), id(node)));
    let lead = |node: &str| Command::Lead { node: node.into() };
    Image {
        id: id("a"),
        founders: founders.into(),
        epoch: 2,
        hard: Hard { term: 2, vote: id("a"), commit: 2 },
        entries: vec![
            entry(1, 1, None),
            entry(2, 1, Some(&lead("b"))),
            entry(3, 2, None),
            entry(4, 2, Some(&lead("a"))),
        ],
        ..Image::default()
    }
}

/// Whom `a` asks for a vote by the leader's leave as it starts with this disk.
fn asked_at_once(disk: &Image) -> Vec<NodeName> {
    let mut core = Core::new(config(&["a", "b", "c"]), disk, at(0)).unwrap();
    let asked = |action: Action| match action {
        Action::Send(to, Frame::Raft(m))
            if m.kind == RaftKind::Vote
                && m.term == disk.hard.term + 1
                && m.context == TRANSFER =>
        {
            Some(to)
        }
        _ => None,
    };
    core.handle(Input::Tick, at(1)).into_iter().filter_map(asked).collect()
}

#[test]
fn whoever_led_when_its_process_ended_stands_at_once() {
    assert_eq!(asked_at_once(&led()), ["b".into(), "c".into()]);
}

#[test]
fn whoever_cannot_prove_it_does_not() {
    // It heard of a later term, so it may have promised something to a leader of that one.
    let hard = Hard { term: 3, vote: 0, ..led().hard };
    assert_eq!(asked_at_once(&Image { hard, ..led() }), []);
    // It stood in a later term, and does not know who won.
    let hard = Hard { term: 3, vote: id("a"), ..led().hard };
    assert_eq!(asked_at_once(&Image { hard, ..led() }), []);
    // It followed another leader in that term.
    let hard = Hard { vote: id("b"), ..led().hard };
    assert_eq!(asked_at_once(&Image { hard, ..led() }), []);
    // It was elected, but its `Lead` is not in the log.
    let entries = led().entries[..3].to_vec();
    assert_eq!(asked_at_once(&Image { entries, ..led() }), []);
}

#[test]
fn it_stands_so_only_once() {
    let mut core = Core::new(config(&["a", "b", "c"]), &led(), at(0)).unwrap();
    core.handle(Input::Tick, at(1));
    for ms in 2..400 {
        let actions = core.handle(Input::Tick, at(ms));
        let asks = |action: &Action| matches!(action, Action::Send(_, Frame::Raft(m)) if m.context == TRANSFER);
        assert!(!actions.iter().any(asks), "at {ms} ms: {actions:?}");
    }
}

#[test]
fn it_does_not_silence_what_its_kernel_says_but_a_second_leadership_does() {
    let mut core = Core::new(config(&["a", "b", "c"]), &led(), at(0)).unwrap();
    core.handle(Input::Tick, at(1));
    let yes = |term| RaftMessage {
        kind: RaftKind::VoteResponse,
        ..super::tests::message(RaftKind::VoteResponse, term)
    };
    let won = core.handle(raft("c", yes(3)), at(2));
    assert!(core.leading.is_some(), "{won:?}");
    assert!(!kinds(&won).contains(&"silence"), "{won:?}");
    // Another leader, of a later term: whatever is in the kernel ends.
    let beat = super::tests::message(RaftKind::Heartbeat, 4);
    let lost = core.handle(raft("b", beat), at(3));
    assert_eq!(kinds(&lost)[0], "silence");
    assert_eq!(core.members().keys().cloned().collect::<BTreeSet<_>>(), names(&["a", "b", "c"]));
}
