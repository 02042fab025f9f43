//! Scenes of a cluster in virtual time: who speaks, for how long nobody does, and what is written.
//!
//! Every run checks after every event what is promised (`sim::invariants`). Days on which
//! everything goes wrong are in the files of the promises, from `invariants::one_voice` on.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use std::collections::BTreeSet;

use herald_leader_election::raft::core::Input;
use herald_leader_election::{ClaimKey, Guard, NodeName, SessionState};
use sim::{CALM, MS, Weather, World, patience, vip};

fn settled(size: usize) -> World {
    let mut world = World::new(7, size, 6, CALM);
    let took = world.run_while(patience(), World::all_spoken_for);
    assert!(took.is_some(), "{}", world.describe());
    world.run_for(1000 * MS);
    world
}

/// Three nodes, and one VIP more that only this one may hold.
fn settled_with_one_for(node: usize) -> World {
    let mut world = settled(3);
    let only: BTreeSet<_> = [world.nodes[node].name.clone()].into();
    world.wanted.claims.insert(vip(99), only.into());
    world.tell_wanted();
    world.run_for(200 * MS);
    world
}

fn held_by(world: &World, node: usize) -> BTreeSet<ClaimKey> {
    world.nodes[node].kernel.keys.clone()
}

#[test]
fn a_run_is_decided_by_its_seed() {
    let run = || {
        let mut world = World::new(3, 3, 6, CALM);
        world.weather = Weather { loss_percent: 20, ..CALM };
        world.run_for(3000 * MS);
        world.describe()
    };
    assert_eq!(run(), run());
}

#[test]
fn vips_are_spread_over_the_nodes() {
    let world = settled(3);
    for node in 0..3 {
        let vips = held_by(&world, node).iter().filter(|key| **key != ClaimKey::Allocator).count();
        assert_eq!(vips, 2, "{}", world.describe());
    }
}

#[test]
fn the_steady_state_writes_nothing() {
    let mut world = settled(3);
    let writes: Vec<usize> = world.nodes.iter().map(|node| node.writes).collect();
    world.run_for(20_000 * MS);
    assert_eq!(writes, world.nodes.iter().map(|node| node.writes).collect::<Vec<_>>());
    assert!(world.all_spoken_for());
}

/// One stream of heartbeats, however many VIPs.
#[test]
fn what_is_sent_does_not_grow_with_vips() {
    let sent_in_ten_seconds = |vips: u8| {
        let mut world = World::new(7, 3, vips, CALM);
        assert!(world.run_while(patience(), World::all_spoken_for).is_some());
        world.run_for(2000 * MS);
        let before = world.sent;
        world.run_for(10_000 * MS);
        (world.sent.0 - before.0, world.sent.1 - before.1)
    };
    let (few, many) = (sent_in_ten_seconds(6), sent_in_ten_seconds(200));
    println!("frames and bytes: {few:?} for 6 VIPs, {many:?} for 200");
    // A heartbeat more or less falls into the ten seconds.
    assert!(few.0.abs_diff(many.0) <= 20, "{few:?} {many:?}");
    assert!(few.1.abs_diff(many.1) <= few.1 / 20, "{few:?} {many:?}");
}

#[test]
fn a_single_node_works_alone_and_at_once() {
    let mut world = World::new(1, 1, 6, CALM);
    let took = world.run_while(patience(), World::all_spoken_for).unwrap();
    assert!(took < 100 * MS, "{} ms", took / MS);
    world.run_for(3000 * MS);
    assert!(world.all_spoken_for());
    world.leave(0, Input::Close);
    assert!(world.nodes[0].stopped);
}

#[test]
fn a_dead_followers_vips_are_back_within_a_second() {
    let mut world = settled(3);
    let leader = world.leader().unwrap();
    let victim = (0..3).find(|node| *node != leader).unwrap();
    let lost = held_by(&world, victim);
    world.kill(victim);
    world.run_for(650 * MS);
    let took = world.run_while(patience(), World::all_spoken_for).unwrap() + 650 * MS;
    assert!(took < 800 * MS, "{} ms for {lost:?}", took / MS);
}

#[test]
fn a_dead_leaders_vips_are_back_within_a_second_and_nobody_else_falls_silent() {
    let mut world = settled(3);
    let leader = world.leader().unwrap();
    world.kill(leader);
    let mut silent = [0; 3];
    for _ in 0..1000 {
        world.run_for(MS);
        for node in (0..3).filter(|node| *node != leader) {
            let clock = world.nodes[node].clock(world.now);
            silent[node] += u64::from(world.nodes[node].kernel.deadline <= clock);
        }
    }
    assert!(world.all_spoken_for(), "{}", world.describe());
    let winner = world.leader().unwrap();
    for node in (0..3).filter(|node| *node != leader && *node != winner) {
        assert_eq!(silent[node], 0, "{}", world.describe());
    }
    // The winner gives up its grant before it says so, and has its quorum two round trips later.
    assert!(silent[winner] < 30, "{} ms", silent[winner]);
}

#[test]
fn a_returning_node_takes_nothing_back() {
    let mut world = settled(3);
    let victim = (0..3).find(|node| Some(*node) != world.leader()).unwrap();
    world.isolate(victim);
    world.run_for(2000 * MS);
    assert!(world.all_spoken_for());
    let before: Vec<_> = world.keys().iter().map(|key| world.speaker(key)).collect();
    world.cut.clear();
    world.run_for(3000 * MS);
    let after: Vec<_> = world.keys().iter().map(|key| world.speaker(key)).collect();
    assert_eq!(before, after);
    assert!(held_by(&world, victim).is_empty());
    let view = world.nodes[victim].view.clone().unwrap();
    assert!(view.is_settled());
}

#[test]
fn a_process_that_is_back_soon_keeps_everything() {
    let mut world = settled(3);
    for victim in 0..3 {
        let before: Vec<_> = world.keys().iter().map(|key| world.speaker(key)).collect();
        world.kill(victim);
        world.start(victim, 100 * MS);
        world.run_for(3000 * MS);
        let after: Vec<_> = world.keys().iter().map(|key| world.speaker(key)).collect();
        assert_eq!(before, after, "{}", world.describe());
    }
}

#[test]
fn draining_gives_everything_away_soon() {
    let mut world = settled(3);
    for victim in 0..2 {
        world.leave(victim, Input::Drain);
        let took = world.run_while(patience(), World::all_spoken_for).unwrap();
        assert!(took < 50 * MS, "{} ms", took / MS);
        world.run_for(1000 * MS);
        assert!(held_by(&world, victim).is_empty());
    }
}

/// How long the key is silent while `act` takes effect, until `to` speaks for it.
fn silence_until(world: &mut World, key: ClaimKey, to: usize) -> u64 {
    let mut silent = 0;
    for _ in 0..2000 {
        world.run_for(MS / 10);
        match world.speaker(&key) {
            Some(speaker) if speaker == to => return silent,
            Some(_) => {}
            None => silent += MS / 10,
        }
    }
    panic!("{key} does not reach n{to}\n{}", world.describe());
}

#[test]
fn a_move_asked_anywhere_names_the_next_holder_and_is_silent_for_one_commit() {
    let mut world = settled(3);
    for asked_at in 0..3 {
        for key in world.keys() {
            let from = world.speaker(&key).unwrap();
            let to = (from + 1) % 3;
            let term = world.nodes[0].view.as_ref().unwrap().claims[&key].term;
            let name = world.nodes[to].name.clone();
            world.input(asked_at, Input::Move(key, name));
            let silent = silence_until(&mut world, key, to);
            // To the leader, to a follower and back, and to the next holder: four times 3 ms; and
            // once there and back if frames overtake each other.
            assert!(silent < 19 * MS, "{} us for {key}", silent / 1000);
            world.run_for(20 * MS);
            assert_eq!(world.nodes[0].view.as_ref().unwrap().claims[&key].term, term + 1);
        }
    }
}

#[test]
fn a_released_key_is_with_the_next_holder_after_one_commit() {
    let mut world = settled(3);
    let leader = world.leader().unwrap();
    let holder = (leader + 1) % 3;
    let key = *held_by(&world, holder).first().unwrap();
    let term = world.nodes[0].view.as_ref().unwrap().claims[&key].term;
    world.release(holder, key);
    let took = world.run_while(patience(), World::all_spoken_for).unwrap();
    assert!(took < 19 * MS, "{} ms", took / MS);
    assert_ne!(world.speaker(&key), Some(holder));
    world.run_for(20 * MS);
    assert_eq!(world.nodes[0].view.as_ref().unwrap().claims[&key].term, term + 1);
}

#[test]
fn a_holder_that_does_not_hand_over_keeps_its_claim_and_nothing_wedges() {
    let mut world = settled(3);
    world.obliging = false;
    let key = vip(0);
    let from = world.speaker(&key).unwrap();
    let to = world.nodes[(from + 1) % 3].name.clone();
    world.input((from + 2) % 3, Input::Move(key, to));
    world.run_for(500 * MS);
    let asked = |world: &World| !world.nodes[from].view.as_ref().unwrap().handovers.is_empty();
    assert!(asked(&world));
    world.run_for(5700 * MS);
    assert!(!asked(&world));
    assert_eq!(world.speaker(&key), Some(from));
    // And it can be asked again.
    world.obliging = true;
    let to = (from + 1) % 3;
    let name = world.nodes[to].name.clone();
    world.input(from, Input::Move(key, name));
    silence_until(&mut world, key, to);
}

#[test]
fn a_drained_node_hands_everything_over_until_it_is_used_again() {
    let mut world = settled(3);
    let victim = 1;
    let emptied = |drained| Input::SetDrained(NodeName::from("n1"), drained);
    world.input(2, emptied(true));
    world.run_for(400 * MS);
    assert!(held_by(&world, victim).is_empty(), "{}", world.describe());
    assert!(world.all_spoken_for());
    // Neither its restart nor another node's end brings anything to it.
    world.kill(victim);
    world.start(victim, 100 * MS);
    world.run_for(1000 * MS);
    world.kill(2);
    world.run_for(2500 * MS);
    assert!(held_by(&world, victim).is_empty());
    assert!(world.all_spoken_for(), "{}", world.describe());
    world.input(0, emptied(false));
    world.start(2, 0);
    world.run_for(1000 * MS);
    assert!(held_by(&world, victim).is_empty());
    world.kill(0);
    world.run_for(2500 * MS);
    assert!(!held_by(&world, victim).is_empty());
    assert!(world.all_spoken_for());
}

#[test]
fn a_drained_node_keeps_what_nobody_else_can_hold() {
    let mut world = settled_with_one_for(1);
    world.input(0, Input::SetDrained(NodeName::from("n1"), true));
    world.run_for(1000 * MS);
    assert_eq!(held_by(&world, 1), [vip(99)].into());
}

#[test]
fn a_leader_that_closes_hands_everything_on() {
    let mut world = settled(3);
    let leader = world.leader().unwrap();
    world.leave(leader, Input::Close);
    let took = world.run_while(patience(), World::all_spoken_for).unwrap();
    assert!(took < 50 * MS, "{} ms", took / MS);
    let stopped = world.run_while(patience(), |world| world.nodes[leader].stopped).unwrap();
    assert!(stopped < 100 * MS, "{} ms", stopped / MS);
    world.run_for(100 * MS);
    let next = world.leader().unwrap();
    assert_ne!(next, leader);
    let view = world.nodes[next].view.clone().unwrap();
    assert_eq!(view.sessions[&world.nodes[leader].name].state, SessionState::Closed);
    assert!(world.all_spoken_for());
}

#[test]
fn a_cut_off_minority_falls_silent() {
    let mut world = settled(5);
    let leader = world.leader().unwrap();
    let with = (leader + 1) % 5;
    for node in [leader, with] {
        for other in (0..5).filter(|other| ![leader, with].contains(other)) {
            world.cut.extend([(node, other), (other, node)]);
        }
    }
    world.run_for(3000 * MS);
    assert!(world.all_spoken_for(), "{}", world.describe());
    for key in world.keys() {
        assert!(![leader, with].contains(&world.speaker(&key).unwrap()));
    }
}

#[test]
fn only_the_holder_of_the_guard_writes_records() {
    let mut world = settled(3);
    let allocator = world.speaker(&ClaimKey::Allocator).unwrap();
    let view = world.nodes[allocator].view.clone().unwrap();
    let guard = Guard { key: ClaimKey::Allocator, term: view.claims[&ClaimKey::Allocator].term };
    for node in 0..3 {
        let value = Some(vec![u8::try_from(node).unwrap()]);
        world.input(node, Input::Put { name: "svc".into(), value, guard });
    }
    world.run_for(100 * MS);
    for node in &world.nodes {
        let records = &node.view.as_ref().unwrap().records;
        assert_eq!(records["svc"], [u8::try_from(allocator).unwrap()]);
    }
}

#[test]
fn a_node_that_missed_a_compaction_catches_up() {
    let mut world = settled(3);
    let victim = (0..3).find(|node| Some(*node) != world.leader()).unwrap();
    world.isolate(victim);
    world.run_for(1500 * MS);
    for n in 0..1500u32 {
        let holder = world.speaker(&ClaimKey::Allocator).unwrap();
        let view = world.nodes[holder].view.clone().unwrap();
        let term = view.claims[&ClaimKey::Allocator].term;
        let guard = Guard { key: ClaimKey::Allocator, term };
        let value = Some(n.to_be_bytes().to_vec());
        world.input(holder, Input::Put { name: "svc".into(), value, guard });
        world.run_for(8 * MS);
    }
    let leader = world.leader().unwrap();
    assert!(world.nodes[leader].disk.snapshot.is_some());
    assert!(world.nodes[leader].disk.entries.len() <= 1024);
    world.cut.clear();
    world.run_for(2000 * MS);
    assert!(world.nodes[victim].disk.snapshot.is_some());
    assert_eq!(world.nodes[victim].view.as_ref().unwrap().records["svc"], 1499u32.to_be_bytes());
    // And a process that starts from the snapshot knows what was in it.
    world.kill(victim);
    world.start(victim, 0);
    world.run_for(1000 * MS);
    let view = world.nodes[victim].view.clone().unwrap();
    assert_eq!(view.records["svc"], 1499u32.to_be_bytes());
    assert!(view.is_settled());
}

#[test]
fn a_key_is_only_given_to_an_eligible_node() {
    let mut world = settled_with_one_for(1);
    assert_eq!(world.speaker(&vip(99)), Some(1));
    world.kill(1);
    world.run_for(3000 * MS);
    assert_eq!(world.speaker(&vip(99)), None);
}
