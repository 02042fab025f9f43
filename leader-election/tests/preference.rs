//! A preferred node gets what is placed, and takes nothing that somebody holds.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use sim::{CALM, MS, World, patience, vip};

#[test]
fn a_preferred_node_gets_what_is_placed_and_takes_nothing_back() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3, 2, CALM);
        let settled = world.run_while(patience(), World::all_spoken_for);
        assert!(settled.is_some(), "seed {seed}: {}", world.describe());
        let names: Vec<_> = world.nodes.iter().map(|node| node.name.clone()).collect();
        for last in 90..96 {
            let eligible = names.iter().cloned().zip([0, 60, 20]).collect();
            world.wanted.claims.insert(vip(last), eligible);
        }
        world.tell_wanted();
        let holders =
            |world: &World| -> Vec<_> { (90..96).map(|last| world.speaker(&vip(last))).collect() };
        let all_on = |node: usize| move |world: &World| holders(world) == vec![Some(node); 6];
        let placed = world.run_while(2000 * MS, all_on(1));
        assert!(placed.is_some(), "seed {seed}: {:?} although n1 is preferred", holders(&world));
        world.kill(1);
        let taken = world.run_while(4000 * MS, all_on(2));
        assert!(taken.is_some(), "seed {seed}: {:?} although n2 is next", holders(&world));
        world.start(1, 0);
        world.run_for(4000 * MS);
        assert_eq!(holders(&world), [Some(2); 6], "seed {seed}: a returning node takes nothing");
    }
}
