//! Claims that are moved on purpose.

use herald_leader_election::NodeName;
use herald_leader_election::lease::LeaseInput;

use crate::sim::{MS, vip};
use crate::world::settled;

#[test]
fn a_claim_moves_and_a_drained_node_is_emptied() {
    let mut world = settled(4);
    let from = world.speaker(&vip(0)).unwrap();
    let to = (from + 1) % 3;
    let name = world.nodes[to].name.clone();
    world.input((from + 2) % 3, LeaseInput::Move(vip(0), name.clone()));
    let moved = world.run_while(2000 * MS, |world| world.speaker(&vip(0)) == Some(to));
    assert!(moved.is_some());
    world.input(from, LeaseInput::SetDrained(name, true));
    let emptied = world
        .run_while(3000 * MS, |world| world.all_spoken_for() && world.nodes[to].keys.is_empty());
    assert!(emptied.is_some());
}

/// Wherever in a move the API server goes away, also between a write and its answer.
#[test]
fn a_move_that_the_api_server_interrupts_is_finished_once_it_is_back() {
    for moment in 0..60 {
        let mut world = settled(100 + moment);
        let from = world.speaker(&vip(0)).unwrap();
        let to = (from + 1) % 3;
        let name = world.nodes[to].name.clone();
        world.input((from + 2) % 3, LeaseInput::Move(vip(0), name));
        world.run_for(moment * 2 * MS);
        world.api.down = true;
        world.run_for(2000 * MS);
        world.api.down = false;
        let moved = world.run_while(3000 * MS, |world| world.speaker(&vip(0)) == Some(to));
        assert!(moved.is_some(), "after {} ms: {:?}", moment * 2, world.speakers());
        world.run_for(3000 * MS);
        assert!(world.all_spoken_for(), "after {} ms: {:?}", moment * 2, world.speakers());
        assert_eq!(world.speaker(&vip(0)), Some(to));
    }
}

#[test]
fn a_drained_node_is_emptied_to_the_node_that_is_preferred() {
    let mut world = settled(6);
    let from = world.speaker(&vip(0)).unwrap();
    let (rather, other) = ((from + 1) % 3, (from + 2) % 3);
    let names: Vec<NodeName> = world.nodes.iter().map(|node| node.name.clone()).collect();
    let eligible = || names.iter().map(|name| (name.clone(), u32::from(*name == names[rather])));
    world.wanted.claims.values_mut().for_each(|it| *it = eligible().collect());
    world.tell_wanted();
    let others = world.nodes[other].keys.clone();
    world.input(other, LeaseInput::SetDrained(names[from].clone(), true));
    let emptied = world
        .run_while(3000 * MS, |world| world.all_spoken_for() && world.nodes[from].keys.is_empty());
    assert!(emptied.is_some());
    assert_eq!(world.nodes[other].keys, others, "nothing fell to the one that is not preferred");
}
