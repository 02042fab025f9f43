//! Two machines under one name.

use herald_leader_election::BootTime;

use crate::sim::MS;
use crate::world::{World, with_a_double};

#[test]
fn of_two_machines_under_one_name_the_second_waits_until_the_first_is_gone() {
    for seed in 0..10 {
        let mut world = with_a_double(seed);
        assert!(world.run_while(10_000 * MS, World::all_spoken_for).is_some(), "seed {seed}");
        world.run_for(20_000 * MS);
        let (first, second) = if world.nodes[2].keys.is_empty() { (0, 2) } else { (2, 0) };
        assert!(world.all_spoken_for() && !world.nodes[first].keys.is_empty(), "seed {seed}");
        let double = &world.nodes[second];
        let silent = double.keys.is_empty() && double.deadline == BootTime::SILENT;
        assert!(silent && double.doubled == 1, "seed {seed}: {}", double.doubled);

        // Cut off, the first falls silent and the second is the node; back, it is the one that
        // waits.
        world.nodes[first].connected = false;
        world.run_for(20_000 * MS);
        assert!(world.all_spoken_for(), "seed {seed}");
        assert!(world.nodes[second].view.as_ref().is_some_and(|view| view.is_settled()));
        let told = world.nodes[first].doubled;
        world.reconnect();
        world.run_for(20_000 * MS);
        assert!(world.all_spoken_for(), "seed {seed}");
        assert_eq!(world.nodes[first].doubled, told + 1, "seed {seed}");
        assert!(!world.nodes[first].view.as_ref().is_some_and(|view| view.is_settled()));
    }
}
