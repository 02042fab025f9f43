//! Terms grow: what is decided, learned and spoken in, while VIPs are moved all the time.

use std::sync::Arc;

use crate::sim::seeds::each_seed;
use crate::sim::{self, MS, vip};
use crate::{days, world};

#[test]
fn by_raft() {
    each_seed(10_000..10_500, |seed| {
        drop(sim::days::bad_day(seed, 12, sim::days::ask_for_a_move));
    });
}

#[test]
fn by_leases() {
    each_seed(10_000..10_300, |seed| {
        drop(days::bad_day(world::World::new(seed), 12, days::ask_for_a_move));
    });
}

#[test]
#[should_panic(expected = "terms grow: seed 1: ")]
fn a_voice_in_an_older_term_is_seen() {
    let mut world = sim::World::new(1, 3, 1, sim::Weather::default());
    world.run_for(2000 * MS);
    let speaker = world.speaker(&vip(0)).unwrap();
    let mut view = (**world.nodes[speaker].view.as_ref().unwrap()).clone();
    view.claims.get_mut(&vip(0)).unwrap().term -= 1;
    world.nodes[speaker].view = Some(Arc::new(view));
    world.run_for(MS);
}

#[test]
#[should_panic(expected = "terms grow: seed 1: ")]
fn an_object_written_in_an_older_term_is_seen() {
    let mut world = world::settled(1);
    world.terms.insert(vip(0), 99);
    world.kill(world.speaker(&vip(0)).unwrap());
    world.run_for(20_000 * MS);
}
