//! What each command does to the state, command list in, outcomes out.

use proptest::prelude::*;

use super::*;
use crate::raft::command::Change;
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
    let (machine, outcomes) = run([open("a", 1), open("b", 1), claim("a", 1, 1), claim("b", 1, 2)]);
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

fn hand_over(to: &str, to_epoch: u64, term: u64) -> Command {
    let (node, to) = ("a".into(), to.into());
    Command::HandOver { key: KEY, node, epoch: 1, term, to, to_epoch }
}

fn ask(to: &str, term: u64) -> Command {
    Command::Move { key: KEY, to: to.into(), term, by: "c".into() }
}

#[test]
fn a_claim_is_handed_over_in_one_step_and_once() {
    let (machine, outcomes) = run([
        open("a", 1),
        open("b", 4),
        claim("a", 1, 1),
        hand_over("b", 4, 1),
        hand_over("b", 4, 1),
    ]);
    assert_eq!(outcomes, [Applied, Applied, Applied, Applied, Stale]);
    assert_eq!((holder(&machine), machine.claims[&KEY].term), (Some(("b", 4)), 2));
}

#[test]
fn a_claim_handed_to_a_session_that_is_gone_is_released() {
    let (machine, outcomes) = run([open("a", 1), claim("a", 1, 1), hand_over("b", 4, 1)]);
    assert_eq!(outcomes, [Applied; 3]);
    assert_eq!((holder(&machine), machine.claims[&KEY].term), (None, 1));
}

#[test]
fn a_move_is_asked_only_of_a_holder_and_towards_a_node_that_takes() {
    let drained = |drained| Command::SetDrained { node: "b".into(), drained, by: "c".into() };
    let (machine, outcomes) = run([
        open("a", 1),
        ask("b", 1),
        claim("a", 1, 1),
        ask("b", 1),
        open("b", 1),
        ask("a", 1),
        ask("b", 2),
        drained(true),
        ask("b", 1),
        drained(false),
        ask("b", 1),
        ask("b", 1),
    ]);
    let expected = [
        Applied, Stale, Applied, Stale, Applied, Stale, Stale, Applied, Stale, Applied, Applied,
        Stale,
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(machine.moves, [(KEY, ("b".into(), 1))].into());
}

#[test]
fn a_move_is_forgotten_once_it_is_done_or_cannot_be() {
    let asked = || [open("a", 1), open("b", 1), claim("a", 1, 1), ask("b", 1)];
    let revoke = |node: &str| Command::Revoke { node: node.into(), epoch: 1 };
    let drain = Command::SetDrained { node: "b".into(), drained: true, by: "a".into() };
    let cancel = Command::CancelMove { key: KEY, term: 1 };
    for end in [hand_over("b", 1, 1), revoke("a"), revoke("b"), drain, cancel] {
        let (machine, _) = run(asked().into_iter().chain([end.clone()]));
        assert_eq!(machine.moves, BTreeMap::new(), "{end:?}");
    }
    let (machine, _) = run(asked().into_iter().chain([open("a", 2)]));
    assert_eq!(machine.moves.len(), 1);
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
        let node = NodeName::from(format!("{n:0>253}"));
        let facts = Arc::from(vec![7; MAX_FACTS]);
        assert_eq!(machine.apply(1, &Command::OpenSession { node, epoch: 1, facts }), Applied);
    }
    let node = NodeName::from(format!("{:0>253}", 1));
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

fn member(id: u64, node: &str, change: Change) -> Command {
    Command::Member { id, node: node.into(), change }
}

#[test]
fn members_come_vote_and_go_one_at_a_time_and_the_last_voter_stays() {
    let mut machine = Machine::founded(&[("a".into(), 1)].into());
    let mut run = |id, node: &str, change| {
        let index = machine.applied + 1;
        machine.apply(index, &member(id, node, change))
    };
    assert_eq!(run(1, "a", Change::Remove), Stale);
    assert_eq!(run(1, "a", Change::Demote), Stale);
    assert_eq!(run(2, "b", Change::Vote), Stale);
    assert_eq!(run(2, "b", Change::Learn), Applied);
    assert_eq!(run(2, "c", Change::Learn), Stale);
    assert_eq!(run(2, "c", Change::Vote), Stale);
    assert_eq!(run(2, "b", Change::Vote), Applied);
    assert_eq!(run(1, "a", Change::Demote), Applied);
    assert_eq!(run(2, "b", Change::Remove), Stale);
    assert_eq!(run(1, "a", Change::Remove), Applied);
    assert_eq!(machine.voters().collect::<Vec<_>>(), [2]);
    assert_eq!(Machine::decode(machine.applied, &machine.encode()), Ok(machine));
}

#[test]
fn a_second_directory_of_a_node_waits_for_the_end_of_its_session() {
    let mut machine = Machine::founded(&[("a".into(), 1), ("b".into(), 2)].into());
    assert_eq!(machine.apply(1, &open("b", 1)), Applied);
    assert_eq!(machine.apply(2, &member(3, "b", Change::Learn)), Stale);
    assert_eq!(machine.apply(3, &Command::Revoke { node: "b".into(), epoch: 1 }), Applied);
    assert_eq!(machine.apply(4, &member(3, "b", Change::Learn)), Applied);
    assert_eq!(machine.id_of(&"b".into()), Some(3));
    // The vote of the directory that is lost is none of the node's.
    assert_eq!(machine.votes(), [("a".into(), true), ("b".into(), false)].into());
}

#[test]
fn a_removed_node_leaves_nothing_but_the_terms_of_its_claims() {
    let mut machine = Machine::founded(&[("a".into(), 1), ("b".into(), 2)].into());
    let drained = Command::SetDrained { node: "b".into(), drained: true, by: "a".into() };
    let revoke = Command::Revoke { node: "b".into(), epoch: 1 };
    for command in [open("b", 1), claim("b", 1, 1), drained, revoke] {
        let index = machine.applied + 1;
        assert_eq!(machine.apply(index, &command), Applied);
    }
    assert_eq!(machine.apply(5, &member(2, "b", Change::Remove)), Applied);
    assert!(machine.sessions.is_empty() && machine.drained.is_empty());
    assert_eq!(machine.claims[&KEY], Claim { key: KEY, holder: None, term: 1 });
    assert_eq!(Machine::decode(5, &machine.encode()), Ok(machine));
}
