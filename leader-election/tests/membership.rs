//! Members that come and go, in virtual time: joining, leaving, lost disks, replaced voters.
//!
//! Every run checks after every event what is promised (`sim::invariants`). A failing run names its
//! seed.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use std::collections::BTreeSet;
use std::time::Duration;

use herald_leader_election::raft::core::Input;
use herald_leader_election::{ClaimKey, NodeName, Patience, SessionState, Voters};
use sim::seeds::each_seed;
use sim::{CALM, MS, Weather, World, patience, vip};

/// Short, so that a test sees the end of it.
const IMPATIENT: Patience =
    Patience { replace_after: Duration::from_secs(3), forget_after: Duration::from_secs(3) };

fn names(nodes: impl IntoIterator<Item = usize>) -> BTreeSet<NodeName> {
    nodes.into_iter().map(|n| NodeName::from(format!("n{n}"))).collect()
}

fn automatic(seed: u64, size: usize) -> World {
    let mut world = World::new(seed, size, 6, CALM);
    world.voters = Voters::Automatic;
    world.patience = IMPATIENT;
    world
}

fn until(world: &mut World, what: &str, so: impl Fn(&World) -> bool) {
    let took = world.run_while(patience(), so);
    let who = world.leader().map(|leader| world.members(leader));
    assert!(took.is_some(), "seed {}: {what}: {who:?}\n{}", world.seed, world.describe());
}

/// Everybody is a member, as many vote as are good, and every key is spoken for.
fn settled(world: &mut World) {
    let size = world.listed.len();
    let voters = if size >= 5 { 5 } else { 3 };
    until(world, "all are members", |world| {
        let everybody = |node: usize| {
            world.members(node).keys().cloned().collect::<BTreeSet<_>>() == world.listed
        };
        world.voters().len() == voters
            && (0..world.nodes.len())
                .filter(|node| world.listed.contains(&world.nodes[*node].name))
                .all(everybody)
            && world.all_spoken_for()
    });
    world.run_for(1000 * MS);
}

fn epoch(world: &World, node: usize) -> Option<u64> {
    let leader = world.leader()?;
    let view = world.nodes[leader].view.as_ref()?;
    let session = view.sessions.get(&world.nodes[node].name)?;
    (session.state == SessionState::Open).then_some(session.epoch)
}

#[test]
fn three_found_two_join_and_five_vote() {
    let mut world = automatic(1, 5);
    settled(&mut world);
    assert_eq!(world.voters(), names(0..5));
    // Two of five may die.
    let leader = world.leader().unwrap();
    for node in [leader, (leader + 1) % 5] {
        world.cut_power(node);
    }
    until(&mut world, "two of five", World::all_spoken_for);
}

#[test]
fn a_fourth_node_takes_part_without_a_vote() {
    let mut world = automatic(2, 4);
    settled(&mut world);
    assert_eq!(world.voters(), names(0..3));
    // It holds what only it may hold, and more when others die.
    world.wanted.claims.insert(vip(99), names([3]).into_iter().collect());
    world.tell_wanted();
    until(&mut world, "held by a learner", |world| world.speaker(&vip(99)) == Some(3));
    // Its grant spans the death of the leader, like any follower's.
    let leader = world.leader().unwrap();
    world.cut_power(leader);
    for _ in 0..1500 {
        world.run_for(MS);
        assert_eq!(world.speaker(&vip(99)), Some(3), "{}", world.describe());
    }
}

#[test]
fn members_write_nothing_in_the_steady_state() {
    let mut world = automatic(3, 4);
    settled(&mut world);
    let writes = |world: &World| world.nodes.iter().map(|node| node.writes).collect::<Vec<_>>();
    let before = writes(&world);
    world.run_for(20_000 * MS);
    assert_eq!(before, writes(&world));
}

#[test]
fn a_lost_disk_comes_back_under_another_id_and_votes_again() {
    for explicit in [false, true] {
        for victim in 0..3 {
            let mut world = automatic(4, 3);
            if explicit {
                world.voters = Voters::Exactly(names(0..3));
            }
            settled(&mut world);
            let before = world.nodes[victim].disk.id;
            world.lose_disk(victim);
            // Back at once: its kernel still speaks, its session is still open.
            world.start(victim, 20 * MS);
            until(&mut world, "joined anew", |world| {
                epoch(world, victim).is_some() && world.voters() == names(0..3)
            });
            until(&mut world, "the old id is gone", |world| {
                let disk = &world.nodes[victim].disk;
                let snapshot = disk.snapshot.as_ref();
                snapshot.is_some_and(|snapshot| snapshot.voters.contains(&disk.id))
            });
            assert_ne!(world.nodes[victim].disk.id, before);
            settled(&mut world);
            // And it carries its weight: another voter may die.
            world.cut_power((victim + 1) % 3);
            until(&mut world, "with the returned voter", World::all_spoken_for);
        }
    }
}

#[test]
fn a_dead_voter_is_replaced_and_comes_back_without_a_vote() {
    let mut world = automatic(5, 4);
    settled(&mut world);
    let leader = world.leader().unwrap();
    let dead = (0..3).find(|node| *node != leader).unwrap();
    world.cut_power(dead);
    world.run_for(2000 * MS);
    assert_eq!(world.voters(), names(0..3), "too early");
    until(&mut world, "replaced", |world| {
        world.voters() == names((0..4).filter(|node| *node != dead))
    });
    world.reboot(dead, 0);
    until(&mut world, "returned", |world| epoch(world, dead).is_some());
    world.run_for(3000 * MS);
    assert_eq!(world.voters(), names((0..4).filter(|node| *node != dead)));
    assert!(world.all_spoken_for());
}

#[test]
fn a_named_voter_is_never_replaced() {
    let mut world = automatic(6, 4);
    world.voters = Voters::Exactly(names(0..3));
    settled(&mut world);
    let dead = (world.leader().unwrap() + 1) % 3;
    world.cut_power(dead);
    world.run_for(6000 * MS);
    assert_eq!(world.voters(), names(0..3));
}

#[test]
fn a_deleted_node_is_forgotten_and_may_come_again() {
    let mut world = automatic(7, 5);
    settled(&mut world);
    let gone = (world.leader().unwrap() + 1) % 5;
    world.cut_power(gone);
    world.list(names((0..5).filter(|node| *node != gone)));
    let name = world.nodes[gone].name.clone();
    until(&mut world, "forgotten", |world| {
        (0..5).filter(|node| *node != gone).all(|node| !world.members(node).contains_key(&name))
    });
    // Four nodes have three voters.
    until(&mut world, "three vote", |world| world.voters().len() == 3);
    let view = world.nodes[world.leader().unwrap()].view.clone().unwrap();
    assert!(!view.sessions.contains_key(&name));
    // It returns with the disk it had, under an id that is nobody's any more.
    let before = world.nodes[gone].disk.id;
    world.list(names(0..5));
    world.reboot(gone, 10 * MS);
    settled(&mut world);
    assert_ne!(world.nodes[gone].disk.id, before);
}

#[test]
fn a_living_node_is_not_forgotten_however_the_source_reads() {
    let mut world = automatic(8, 3);
    settled(&mut world);
    world.list(BTreeSet::new());
    world.run_for(8000 * MS);
    assert_eq!(world.voters(), names(0..3));
    assert!(world.all_spoken_for());
}

#[test]
fn founders_that_do_not_agree_found_nothing() {
    let mut world = automatic(9, 3);
    world.voters = Voters::Exactly(names(0..3));
    // One of the three is not there: two could elect, and must not.
    world.run_until(0);
    world.isolate(2);
    world.run_for(5000 * MS);
    assert!(world.nodes.iter().all(|node| node.disk.founders.is_empty()), "{}", world.describe());
    world.cut.clear();
    settled(&mut world);
}

#[test]
fn a_source_that_grows_before_the_founders_are_up_wedges_nothing() {
    for seed in 0..20 {
        let mut world = automatic(seed, 5);
        // The first two founders by the list so far are there, the third is not; then nodes come
        // whose names are in front of theirs.
        world.listed = names([2, 3, 4]);
        for late in [0, 1, 4] {
            world.isolate(late);
        }
        world.run_for(1000 * MS);
        world.list(names(0..5));
        let time = world.rng.range(0, 400 * MS);
        world.run_for(time);
        world.cut.retain(|(from, to)| ![0, 1].contains(from) && ![0, 1].contains(to));
        world.cut.extend([(0, 4), (1, 4), (4, 0), (4, 1)]);
        let time = world.rng.range(0, 2000 * MS);
        world.run_for(time);
        world.cut.clear();
        settled(&mut world);
    }
}

#[test]
fn a_founder_that_returns_empty_and_alone_founds_nothing() {
    let mut world = automatic(10, 3);
    settled(&mut world);
    for node in 0..3 {
        world.lose_disk(node);
        world.isolate(node);
        world.start(node, 10 * MS);
        world.run_for(4000 * MS);
        assert!(world.nodes[node].disk.founders.is_empty());
        world.cut.clear();
        settled(&mut world);
    }
}

#[test]
fn a_single_node_grows_to_three() {
    let mut world = automatic(11, 3);
    world.listed = names([0]);
    for node in [1, 2] {
        world.isolate(node);
    }
    world.run_for(1000 * MS);
    assert_eq!(world.voters(), names([0]));
    world.cut.clear();
    world.list(names(0..3));
    settled(&mut world);
    assert_eq!(world.voters(), names(0..3));
}

/// Whether every voter is who it was: then one of them may lose its disk.
fn one_may_be_lost(world: &World) -> bool {
    let Some(leader) = world.leader() else { return false };
    let image = &world.nodes[leader].disk;
    let voters: BTreeSet<u64> = match &image.snapshot {
        Some(snapshot) => snapshot.voters.iter().copied().collect(),
        None => image.founders.values().copied().collect(),
    };
    let present: BTreeSet<u64> = world.nodes.iter().map(|node| node.disk.id).collect();
    let end = |id: &u64| {
        let node = world.nodes.iter().find(|node| node.disk.id == *id).unwrap();
        node.view.as_ref().map_or(0, |view| view.applied)
    };
    let leads = world.nodes[leader].view.as_ref().unwrap().applied;
    // The position does not show a change of members: who has not applied the promotion of a new
    // voter needs the votes of the other two.
    let members = world.members(leader);
    let has_all = |node: usize| {
        !voters.contains(&world.nodes[node].disk.id) || world.members(node) == members
    };
    voters.len() >= 3
        && voters.is_subset(&present)
        && voters.iter().all(|id| end(id) == leads)
        && (0..world.nodes.len()).all(has_all)
}

fn misfortune(world: &mut World) {
    let count = world.nodes.len();
    let node = world.rng.index(count);
    let other = world.rng.index(count);
    let time = world.rng.range(20 * MS, 2500 * MS);
    match world.rng.range(0, 14) {
        0..=3 if one_may_be_lost(world) => {
            world.lose_disk(node);
            let after = if world.rng.chance(50) { time / 50 } else { time };
            world.start(node, after);
        }
        4 => {
            // Out of the source and in again, running or not.
            let mut listed = world.listed.clone();
            let name = world.nodes[node].name.clone();
            if listed.len() < count || !listed.remove(&name) {
                listed = names(0..count);
            }
            world.list(listed);
        }
        5 => world.isolate(node),
        6 => world.cut.extend([(node, other), (other, node)]),
        7 | 8 => world.cut.clear(),
        9 => world.freeze(node, time),
        10 => {
            world.leave(node, Input::Close);
            world.start(node, time);
        }
        11 => {
            let leader = world.leader().unwrap_or(node);
            world.leave(leader, Input::Close);
            world.start(leader, time);
        }
        12 => world.reboot(node, time),
        _ => {
            world.kill(node);
            world.start(node, time / 20);
        }
    }
}

fn bad_day(seed: u64) {
    let size = 3 + usize::try_from(seed % 4).unwrap();
    let mut world = automatic(seed, size);
    if seed.is_multiple_of(5) {
        world.voters = Voters::Exactly(names(0..3));
    }
    world.weather.loss_percent = world.rng.range(0, 4);
    world.run_for(2500 * MS);
    world.weather = Weather {
        loss_percent: world.rng.range(0, 10),
        duplicate_percent: world.rng.range(0, 10),
        straggler_percent: world.rng.range(0, 4),
        stall_percent: world.rng.range(0, 3),
    };
    for _ in 0..12 {
        misfortune(&mut world);
        let time = world.rng.range(50 * MS, 1500 * MS);
        world.run_for(time);
    }
    world.weather = CALM;
    world.cut.clear();
    world.list(names(0..size));
    for node in 0..size {
        world.start(node, 2600 * MS);
    }
    world.run_for(2700 * MS);
    until(&mut world, "healed", World::all_spoken_for);
    until(&mut world, "all are members again", |world| {
        world.leader().is_some_and(|leader| world.members(leader).len() == size)
            && (0..size).all(|node| epoch(world, node).is_some())
    });
    assert!(world.speaker(&ClaimKey::Allocator).is_some());
}

#[test]
fn one_voice_while_members_come_and_go() {
    each_seed(0..1000, bad_day);
}
