//! Heals: however short the day was before nothing is wrong any more, every key is spoken for after
//! a bounded time, and stays so.

use crate::sim::seeds::each_seed;
use crate::sim::{self, MS, Weather, patience};
use crate::{days, world};

#[test]
fn by_raft() {
    each_seed(30_000..30_500, |seed| {
        let misfortunes = 1 + usize::try_from(seed % 4).unwrap();
        let mut world = sim::days::bad_day(seed, misfortunes, |_| {});
        // What is still on its way is given another second; from then on nothing moves.
        world.run_for(1000 * MS);
        for _ in 0..200 {
            world.run_for(10 * MS);
            let so = world.all_spoken_for();
            world.invariants.healed(so.then_some(0), || world.describe());
        }
    });
}

#[test]
fn by_leases() {
    each_seed(30_000..30_300, |seed| {
        let misfortunes = 1 + usize::try_from(seed % 4).unwrap();
        let mut world = days::bad_day(world::World::new(seed), misfortunes, |_| {});
        world.run_for(12_000 * MS);
        for _ in 0..200 {
            world.run_for(50 * MS);
            let so = world.all_spoken_for();
            world.invariants.healed(so.then_some(0), || format!("{:?}", world.speakers()));
        }
    });
}

#[test]
#[should_panic(expected = "heals: seed 1: ")]
fn a_silence_that_lasts_is_seen() {
    let mut world = sim::World::new(1, 3, 1, Weather::default());
    world.run_for(2000 * MS);
    world.isolate(0);
    world.isolate(1);
    world.run_for(3000 * MS);
    let took = world.run_while(patience(), sim::World::all_spoken_for);
    world.invariants.healed(took, || world.describe());
}
