//! What one fault costs, and what its absence does.

use crate::sim::MS;
use crate::world::{Event, World, settled, settled_with};

#[test]
fn a_dead_nodes_vips_are_back_within_a_ttl_and_a_second() {
    for seed in 0..20 {
        let mut world = settled(seed);
        world.kill(1);
        world.nodes[1].keys.clear();
        let took = world.run_while(20_000 * MS, World::all_spoken_for).unwrap();
        assert!(took < 6000 * MS, "seed {seed}: {} ms", took / MS);
    }
}

#[test]
fn a_process_that_is_back_soon_keeps_everything() {
    let mut world = settled(1);
    let before = world.speakers();
    assert!(!world.nodes[2].keys.is_empty());
    world.kill(2);
    world.after(500 * MS, Event::Start(2));
    world.run_for(12_000 * MS);
    assert_eq!(before, world.speakers());
}

#[test]
fn a_node_cut_off_falls_silent_and_takes_nothing_back() {
    let mut world = settled(2);
    world.nodes[0].connected = false;
    world.run_for(5000 * MS);
    assert!(!world.speakers().contains(&Some(0)));
    world.run_for(2000 * MS);
    assert!(world.all_spoken_for());
    world.reconnect();
    world.run_for(10_000 * MS);
    assert!(!world.speakers().contains(&Some(0)));
    assert!(world.nodes[0].view.as_ref().unwrap().is_settled());
}

#[test]
fn nothing_moves_when_the_api_server_was_away_for_a_minute() {
    let mut world = settled(3);
    let before = world.speakers();
    world.api.down = true;
    world.run_for(60_000 * MS);
    assert_eq!(world.speakers(), [None; 7]);
    world.api.down = false;
    let took = world.run_while(10_000 * MS, World::all_spoken_for).unwrap();
    assert!(took < 3000 * MS, "{} ms", took / MS);
    world.run_for(10_000 * MS);
    assert_eq!(before, world.speakers());
}

#[test]
fn the_steady_state_writes_one_object_per_node_and_renewal_however_many_vips() {
    for vips in [6, 200] {
        let mut world = settled_with(World::with_vips(5, vips));
        let before = world.api.writes;
        world.run_for(15_000 * MS);
        let writes = world.api.writes - before;
        assert!((27..=31).contains(&writes), "{writes} for {vips} VIPs");
    }
}
