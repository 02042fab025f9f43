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

/// One of a, b, c and d, which choose their voters by themselves, with an empty directory.
fn automatic(node: &str) -> Core {
    let all = config(&["a", "b", "c", "d"]);
    let config = CoreConfig { node: node.into(), voters: Voters::Automatic, ..all };
    Core::new(config, &Image { id: id(node), epoch: 1, ..Image::default() }, at(0)).unwrap()
}

fn listed(nodes: &[&str]) -> Input {
    let address = ([127, 0, 0, 1], 7946).into();
    Input::Nodes(nodes.iter().map(|node| (NodeName::from(*node), address)).collect())
}

fn promised(actions: &[Action]) -> Option<BTreeSet<NodeName>> {
    let mut rewrites = actions.iter().filter_map(|action| match action {
        Action::Rewrite(image) => image.promised.clone(),
        _ => None,
    });
    rewrites.next_back()
}

#[test]
fn a_founder_that_never_ran_and_is_deleted_is_replaced_after_a_while_by_who_decides() {
    let mut core = automatic("a");
    assert_eq!(promised(&core.handle(Input::Tick, at(0))), Some(names(&["a", "b", "c"])));
    let waits = |core: &Core| core.founding().map(|founding| founding.waiting_for);
    core.handle(from("b", Frame::Fresh(id("a"), knock("b", &["a", "b", "c"]))), at(10));
    assert_eq!(waits(&core), Some(names(&["c"])));
    core.handle(listed(&["a", "b", "d"]), at(1000));
    assert_eq!(promised(&core.handle(Input::Tick, at(6900))), None, "it may come back");
    let actions = core.handle(Input::Tick, at(7000));
    let others = names(&["a", "b", "d"]);
    assert_eq!(promised(&actions), Some(others.clone()));
    assert!(matches!(actions[0], Action::Rewrite(_)), "durable before it is said");
    assert_eq!(waits(&core), Some(names(&["b", "d"])), "answers to the last question are none");
    core.handle(from("b", Frame::Fresh(id("a"), knock("b", &["a", "b", "d"]))), at(7001));
    core.handle(from("d", Frame::Fresh(id("a"), knock("d", &["a", "b", "d"]))), at(7002));
    assert_eq!(core.members().into_keys().collect::<BTreeSet<_>>(), others);
    assert_eq!(core.founding(), None);
}

#[test]
fn a_promise_is_changed_on_the_word_of_who_decides_and_of_nobody_else() {
    let mut core = automatic("b");
    let (first, second) = (["a", "b", "c"], ["a", "b", "d"]);
    core.handle(from("a", Frame::Knock(knock("a", &first))), at(1));
    let refused = core.handle(from("c", Frame::Knock(knock("c", &["c", "b"]))), at(2));
    assert!(promised(&refused).is_none(), "b decides among b and c, who is not c: {refused:?}");
    let actions = core.handle(from("a", Frame::Knock(knock("a", &second))), at(3));
    assert_eq!(promised(&actions), Some(names(&second)));
}

#[test]
fn nobody_takes_a_promise_back_who_may_belong_to_a_cluster() {
    // The decider is there and may have founded, with c.
    let mut core = automatic("b");
    core.handle(from("a", Frame::Knock(knock("a", &["a", "b", "c"]))), at(1));
    core.handle(listed(&["a", "b", "d"]), at(2));
    for ms in [10_000, 20_000] {
        assert_eq!(promised(&core.handle(Input::Tick, at(ms))), None);
    }
    // Somebody says that there is a cluster.
    let mut core = automatic("a");
    core.handle(Input::Tick, at(0));
    core.handle(from("b", Frame::Member), at(1));
    core.handle(listed(&["a", "b", "d"]), at(2));
    assert_eq!(promised(&core.handle(Input::Tick, at(20_000))), None);
    // Only once the decider is gone, too, and nobody spoke up.
    let mut core = automatic("b");
    core.handle(from("a", Frame::Knock(knock("a", &["a", "b", "c"]))), at(1));
    core.handle(listed(&["b", "c", "d"]), at(2));
    assert_eq!(promised(&core.handle(Input::Tick, at(100))), None);
    assert_eq!(promised(&core.handle(Input::Tick, at(6200))), Some(names(&["b", "c", "d"])));
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
