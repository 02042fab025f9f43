//! How long VIPs are silent after a node's death, over many seeds, in virtual time.
//!
//! The simulated network takes up to 3 ms for a frame and the disk no time; what a lab adds is
//! measured there. `HERALD_SEEDS=1000 HERALD_SHOW=1` with `--nocapture` prints a distribution.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use std::ops::Range;

use herald_leader_election::Timing;
use sim::seeds::seeds;
use sim::{CALM, MS, Wall, World, patience};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
}

/// How long anything was silent after the victim's power was cut, one number for each seed.
fn outages(timing: Timing, size: usize, victim: Victim, seeds: Range<u64>) -> Vec<Wall> {
    let outage = |seed: u64| {
        let mut world = World::new(seed, size, 6, CALM);
        world.timing = timing;
        let settled = world.run_while(patience(), World::all_spoken_for);
        assert!(settled.is_some(), "seed {seed}: {}", world.describe());
        let heartbeat = u64::try_from(timing.heartbeat.as_nanos()).unwrap();
        world.run_for(8 * heartbeat);
        // At any moment between two heartbeats.
        let moment = world.rng.range(0, 2 * heartbeat);
        world.run_for(moment);
        let leader = world.leader().unwrap();
        let dead = if victim == Victim::Leader { leader } else { (leader + 1) % size };
        world.cut_power(dead);
        let took = world.run_while(patience() * 4, World::all_spoken_for);
        took.unwrap_or_else(|| panic!("seed {seed}: {}", world.describe()))
    };
    let mut outages: Vec<Wall> = seeds.map(outage).collect();
    outages.sort_unstable();
    outages
}

fn check(name: &str, timing: Timing, median: Wall, most: Wall) {
    for size in [3, 5] {
        for victim in [Victim::Leader, Victim::Follower] {
            let outages = outages(timing, size, victim, seeds(0..30));
            let at = |percent: usize| outages[(outages.len() - 1) * percent / 100] / MS;
            if std::env::var_os("HERALD_SHOW").is_some() {
                println!(
                    "{name} {size} nodes, {victim:?}: median {} p99 {} max {} ms",
                    at(50),
                    at(99),
                    at(100)
                );
            }
            assert!(at(50) <= median, "{name} {size} {victim:?}: median {} ms", at(50));
            assert!(at(100) <= most, "{name} {size} {victim:?}: max {} ms", at(100));
        }
    }
}

#[test]
fn default_timing_is_back_within_seven_tenths_of_a_second() {
    check("default", Timing::default(), 650, 750);
}

#[test]
fn fast_timing_is_back_within_a_quarter_of_a_second() {
    check("fast", Timing::fast(), 230, 300);
}

#[test]
fn calm_timing_is_back_within_four_seconds() {
    check("calm", Timing::calm(), 3200, 3800);
}

#[test]
fn a_dead_leader_costs_less_than_a_ttl() {
    for timing in [Timing::fast(), Timing::default()] {
        let outages = outages(timing, 3, Victim::Leader, seeds(0..30));
        let ttl = u64::try_from(timing.ttl.as_nanos()).unwrap();
        assert!(*outages.last().unwrap() < ttl, "{timing:?}: {:?}", outages.last());
    }
}
