//! How a node becomes a member, or stops being one: input in, exact actions out.
//!
//! Node `a` (or `b`) is under test; the others are played by hand.

use super::tests::{at, config, follower, from, grant, id, kinds, names, newcomer, vote};
use super::*;
use crate::raft::frame::{Founders, Knock};

fn knock(node: &str, founders: &[&str]) -> Knock {
    Knock { id: id(node), founders: names(founders) }
}

/// What `a` asks the others in one heartbeat.
fn asked(actions: &[Action]) -> Vec<(&str, &Knock)> {
    let knocks = actions.iter().filter_map(|action| match action {
        Action::Send(to, Frame::Knock(knock)) => Some((to.as_str(), knock)),
        _ => None,
    });
    knocks.collect()
}

#[test]
fn the_first_founder_promises_then_asks_one_after_the_other_and_decides_once_all_did() {
    let all = &["a", "b", "c"];
    let mut core = newcomer();
    let promised = core.handle(Input::Tick, at(0));
    let [Action::Rewrite(image)] = &promised[..] else { panic!("{promised:?}") };
    assert_eq!((image.promised.as_ref(), image.founders.len()), (Some(&names(all)), 0));
    let (to_all, looks) = (knock("a", all), knock("a", &[]));
    let actions = core.handle(Input::Tick, at(100));
    assert_eq!(asked(&actions), [("b", &to_all), ("c", &looks)]);
    // An answer to somebody else's question is none.
    core.handle(from("b", Frame::Fresh(id("a") + 1, knock("b", all))), at(101));
    core.handle(from("b", Frame::Fresh(id("a"), knock("b", all))), at(110));
    let actions = core.handle(Input::Tick, at(200));
    assert_eq!(asked(&actions), [("b", &to_all), ("c", &to_all)]);
    let actions = core.handle(from("c", Frame::Fresh(id("a"), knock("c", all))), at(201));
    let founders: Founders = all.iter().map(|name| (NodeName::from(*name), id(name))).collect();
    let [Action::Rewrite(image), said @ ..] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(image.founders, founders);
    assert!(said.contains(&Action::Send("b".into(), Frame::Founded(founders.clone()))));
    assert!(said.contains(&Action::Send("c".into(), Frame::Founded(founders))));
}

#[test]
fn whoever_hears_of_a_cluster_founds_none() {
    let all = &["a", "b", "c"];
    let mut core = newcomer();
    core.handle(Input::Tick, at(0));
    core.handle(from("b", Frame::Member), at(10));
    core.handle(from("b", Frame::Fresh(id("a"), knock("b", all))), at(11));
    let actions = core.handle(from("c", Frame::Fresh(id("a"), knock("c", all))), at(12));
    assert_eq!(actions, []);
    assert!(core.members().is_empty());
}

#[test]
fn a_node_founds_only_with_those_it_promised_to() {
    let all = &["b", "a", "c"];
    let config = CoreConfig { node: "b".into(), ..config(all) };
    let disk = Image { id: id("b"), epoch: 1, ..Image::default() };
    let mut core = Core::new(config.clone(), &disk, at(0)).unwrap();
    let asked = |node: &str| from(node, Frame::Knock(knock(node, all)));
    // It does not found with others than it would itself...
    let others = from("a", Frame::Knock(knock("a", &["a", "b"])));
    let refused = Action::Refused("a".into(), Refusal::OtherFounders);
    assert_eq!(core.handle(others.clone(), at(1)), [refused]);
    // ...promises before it answers...
    let actions = core.handle(asked("a"), at(2));
    let [Action::Rewrite(image), answer] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(image.promised, Some(names(all)));
    assert_eq!(*answer, Action::Send("a".into(), Frame::Fresh(id("a"), knock("b", all))));
    // ...keeps it across restarts, and enters only with its own id.
    let mut core = Core::new(config, image, at(3)).unwrap();
    let founded = |mine: u64| {
        let founders = [("a".into(), id("a")), ("b".into(), mine), ("c".into(), id("c"))];
        from("a", Frame::Founded(founders.into()))
    };
    assert_eq!(core.handle(founded(7), at(4)), []);
    assert!(core.members().is_empty());
    core.handle(founded(id("b")), at(5));
    assert_eq!(core.members().len(), 3);
}

#[test]
fn a_node_that_is_no_member_votes_for_nobody() {
    let mut core = newcomer();
    core.handle(Input::Tick, at(0));
    for ms in [400, 800, 1200] {
        assert!(!kinds(&core.handle(vote(RaftKind::Vote), at(ms))).contains(&"raft"));
    }
    assert_eq!(core.raft.raft.term, 0);
}

#[test]
fn a_removed_member_forgets_what_it_knew_but_its_epoch_and_is_silent_first() {
    let (mut core, seq) = follower();
    core.handle(from("b", grant(1, 1, seq)), at(12));
    assert_eq!(core.handle(from("b", Frame::Gone(id("a") + 1)), at(13)), []);
    let actions = core.handle(from("b", Frame::Gone(id("a"))), at(13));
    assert_eq!(actions[0], Action::SetDeadline(None));
    let Action::Rewrite(image) = &actions[1] else { panic!("{actions:?}") };
    assert_ne!(image.id, id("a"));
    assert_eq!(*image, Image { id: image.id, epoch: 1, ..Image::default() });
    assert!(core.members().is_empty());
}
