//! What the raft library is asked to see to: a leader that no quorum answers leads no more, and a
//! node that nobody answered does not disturb the others when it is back.

use super::tests::{at, follower, id, leader, message, raft};
use super::*;

/// Raft's messages among these actions, by kind and term.
fn said(actions: &[Action]) -> Vec<(RaftKind, u64)> {
    let messages = actions.iter().filter_map(|action| match action {
        Action::Send(_, Frame::Raft(message)) => Some((message.kind, message.term)),
        _ => None,
    });
    messages.collect()
}

fn leads(core: &Core) -> bool {
    core.raft.raft.leader_id == id("a") && core.leading.is_some()
}

#[test]
fn a_leader_that_no_quorum_answers_steps_down() {
    let mut heard = leader();
    let mut alone = leader();
    let mut stepped_down = None;
    for ms in (20..=3000).step_by(10) {
        alone.handle(Input::Tick, at(ms));
        if !leads(&alone) {
            stepped_down = stepped_down.or(Some(ms));
        }
        // One of two others is a quorum, with the leader itself.
        heard.handle(Input::Tick, at(ms));
        heard.handle(raft("c", message(RaftKind::HeartbeatResponse, 2)), at(ms));
        assert!(leads(&heard), "at {ms} ms");
    }
    // It asks itself each 350 ms, and what was heard since the last time counts.
    let stepped_down = stepped_down.unwrap();
    assert!((350..=720).contains(&stepped_down), "at {stepped_down} ms");
    assert_eq!(alone.raft.raft.term, 2, "nor does it disturb whoever is elected meanwhile");
}

#[test]
fn a_node_that_returns_from_a_partition_does_not_raise_the_term() {
    let (mut core, _) = follower();
    let mut asked = 0;
    for ms in (20..=10_000).step_by(10) {
        let actions = core.handle(Input::Tick, at(ms));
        for (kind, term) in said(&actions) {
            // It asks whether it would be elected, in the term that it would then begin.
            assert_eq!((kind, term), (RaftKind::PreVote, 2), "at {ms} ms");
            asked += 1;
        }
        assert!(!actions.iter().any(|action| matches!(action, Action::Persist(_))), "at {ms} ms");
    }
    assert!(asked > 10, "it asked {asked} times only");
    let actions = core.handle(raft("b", message(RaftKind::Heartbeat, 1)), at(10_001));
    assert_eq!(said(&actions), [(RaftKind::HeartbeatResponse, 1)]);
    assert_eq!((core.raft.raft.term, core.raft.raft.leader_id), (1, id("b")));
}
