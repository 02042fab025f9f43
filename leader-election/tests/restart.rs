//! A speaker's process that ends and is soon back loses nothing, whoever it was: no VIP is silent
//! for an instant, and none moves.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use herald_leader_election::Timing;
use herald_leader_election::raft::core::Input;
use sim::{MS, Weather, World, patience};

const CALM: Weather =
    Weather { loss_percent: 0, duplicate_percent: 0, straggler_percent: 0, stall_percent: 0 };

fn settled(seed: u64, size: usize, timing: Timing) -> World {
    let mut world = World::new(seed, size, 6, CALM);
    world.timing = timing;
    let took = world.run_while(patience(), World::all_spoken_for);
    assert!(took.is_some(), "{}", world.describe());
    world.run_for(3000 * MS);
    world
}

/// Ends the process of a node at any moment between two heartbeats, starts it again after so long,
/// and looks four times a millisecond.
fn keeps_its_voice(timing: Timing, away: u64) {
    for seed in 0..6 {
        let mut world = settled(seed, 3, timing);
        let heartbeat = u64::try_from(timing.heartbeat.as_nanos()).unwrap();
        for victim in 0..3 {
            let moment = world.rng.range(0, 2 * heartbeat);
            world.run_for(moment);
            let who = if world.nodes[victim].leads() { "leader" } else { "follower" };
            let speakers =
                |world: &World| world.keys().iter().map(|key| world.speaker(key)).collect();
            let before: Vec<Option<usize>> = speakers(&world);
            let end = world.now + 1000 * MS;
            world.kill(victim);
            world.start(victim, away * MS);
            while world.now < end {
                world.run_for(MS / 4);
                let ago = (world.now + 1000 * MS - end) / MS;
                assert_eq!(
                    speakers(&world),
                    before,
                    "seed {seed}, {timing:?}: {ago} ms after the {who} n{victim} ended\n{}",
                    world.describe()
                );
            }
        }
    }
}

#[test]
fn with_default_timing() {
    keeps_its_voice(Timing::default(), 200);
}

#[test]
fn with_fast_timing() {
    keeps_its_voice(Timing::fast(), 50);
}

/// What a leader can prove must not get lost with the log's begin.
#[test]
fn of_a_leader_whose_log_was_compacted() {
    let mut world = settled(1, 3, Timing::default());
    let leader = world.leader().unwrap();
    let facts = |n: u64| Input::Facts(n.to_be_bytes().to_vec());
    let begin = |world: &World| world.nodes[leader].disk.snapshot.as_ref().map(|s| s.index);
    for n in 0..1500 {
        world.input(leader, facts(n));
        world.run_for(10 * MS);
        if begin(&world).is_some() {
            break;
        }
    }
    assert!(begin(&world).is_some(), "nothing was compacted");
    world.run_for(50 * MS);
    assert_eq!(world.leader(), Some(leader));
    world.kill(leader);
    world.start(leader, 100 * MS);
    world.run_for(150 * MS);
    assert_eq!(world.leader(), Some(leader), "{}", world.describe());
}

/// Whoever holds the VIPs leads soon, and stays leader. It is silent only between its election and
/// its quorum's first answer.
#[test]
fn leadership_goes_to_the_only_holder() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 1, CALM);
        let took = world.run_while(patience(), World::all_spoken_for);
        assert!(took.is_some(), "{}", world.describe());
        let holder = world.speaker(&sim::vip(0));
        let mut leaders = vec![world.leader()];
        let mut silent = 0;
        for _ in 0..6000 {
            world.run_for(MS);
            match world.speaker(&sim::vip(0)) {
                None => silent += 1,
                speaker => assert_eq!(speaker, holder, "seed {seed}\n{}", world.describe()),
            }
            if world.leader().is_some() && Some(&world.leader()) != leaders.last() {
                leaders.push(world.leader());
            }
        }
        assert_eq!(world.leader(), holder, "seed {seed}\n{}", world.describe());
        assert!(leaders.len() <= 2, "seed {seed}: {leaders:?}");
        assert!(silent <= 15, "seed {seed}: {silent} ms");
    }
}
