//! Agreement: one holder in a term, one state after so many log entries, and when all has been well
//! for a while, one picture of it all in every node.

use std::sync::Arc;

use crate::sim::invariants::Invariants;
use crate::sim::seeds::each_seed;
use crate::sim::{self, MS, vip};
use crate::{days, world};

#[test]
fn by_raft() {
    each_seed(20_000..20_500, |seed| {
        let mut world = sim::days::bad_day(seed, 12, |_| {});
        world.run_for(3000 * MS);
        let views: Vec<_> = world.nodes.iter().filter_map(|node| node.view.as_deref()).collect();
        assert_eq!(views.len(), world.nodes.len(), "seed {seed}: {}", world.describe());
        world.invariants.all_know_the_same(&views);
    });
}

#[test]
fn by_leases() {
    each_seed(20_000..20_300, |seed| {
        let mut world = days::bad_day(world::World::new(seed), 12, |_| {});
        world.run_for(12_000 * MS);
        let views: Vec<_> = world.nodes.iter().filter_map(|node| node.view.as_deref()).collect();
        assert_eq!(views.len(), world.nodes.len(), "seed {seed}");
        world.invariants.all_know_the_same(&views);
    });
}

/// A calm cluster, and what one of its nodes knows.
fn known() -> (sim::World, herald_leader_election::View) {
    let mut world = sim::World::new(1, 3, 1, sim::Weather::default());
    world.run_for(2000 * MS);
    let view = world.nodes[0].view.as_ref().map(Arc::as_ref).unwrap().clone();
    (world, view)
}

#[test]
#[should_panic(expected = "agreement: seed 1: who holds 192.168.1.0")]
fn a_second_holder_in_one_term_is_seen() {
    let (mut world, mut view) = known();
    view.claims.get_mut(&vip(0)).unwrap().holder = Some(("stranger".into(), 1));
    world.invariants.agreed_on_holders(view.claims.values());
}

#[test]
#[should_panic(expected = "agreement: seed 1: sessions at ")]
fn another_state_after_as_many_entries_is_seen() {
    let (mut world, mut view) = known();
    view.sessions.clear();
    world.invariants.agreed_on_sessions(&view);
}

#[test]
#[should_panic(expected = "agreement: seed 7: ")]
fn pictures_that_differ_in_the_end_are_seen() {
    let (_, view) = known();
    let mut other = view.clone();
    other.claims.clear();
    Invariants::new(7).all_know_the_same(&[&view, &other]);
}
