//! One voice: at one instant, one node's kernel at most speaks for a key, whatever goes wrong, by
//! raft and by API objects; also where two machines have one name.

use crate::sim::seeds::each_seed;
use crate::sim::{self, MS, vip};
use crate::{days, world};
use herald_leader_election::BootTime;

#[test]
fn by_raft() {
    each_seed(0..2000, |seed| drop(sim::days::bad_day(seed, 12, |_| {})));
}

#[test]
fn by_leases() {
    each_seed(0..1000, |seed| drop(days::bad_day(world::World::new(seed), 12, |_| {})));
}

#[test]
fn by_leases_with_a_double() {
    each_seed(0..200, |seed| drop(days::bad_day(world::with_a_double(seed), 12, |_| {})));
}

#[test]
#[should_panic(expected = "one voice: seed 1: ")]
fn a_second_voice_by_raft_is_seen() {
    let mut world = sim::World::new(1, 3, 1, sim::Weather::default());
    world.run_for(2000 * MS);
    let silent = (world.speaker(&vip(0)).unwrap() + 1) % 3;
    world.nodes[silent].kernel.keys.insert(vip(0));
    world.run_for(MS);
}

#[test]
#[should_panic(expected = "one voice: seed 1: ")]
fn a_second_voice_by_leases_is_seen() {
    let mut world = world::settled(1);
    let silent = (world.speaker(&vip(0)).unwrap() + 1) % 3;
    world.nodes[silent].keys.insert(vip(0));
    world.nodes[silent].deadline = BootTime::from_nanos(u64::MAX);
    world.run_for(MS);
}
