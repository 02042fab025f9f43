//! Days on which everything goes wrong, one after another, and the evening after.

use herald_leader_election::lease::LeaseInput;

use crate::sim::{MS, vip};
use crate::world::{Event, World};

/// A day with so many misfortunes, and what this test adds to each; healed in the end.
pub fn bad_day(mut world: World, misfortunes: usize, add: impl Fn(&mut World)) -> World {
    world.run_for(4000 * MS);
    world.loss = world.rng.range(0, 30);
    world.holds = world.rng.range(0, 90);
    for _ in 0..misfortunes {
        add(&mut world);
        misfortune(&mut world);
        let time = world.rng.range(100 * MS, 6000 * MS);
        world.run_for(time);
    }
    (world.loss, world.api.down) = (0, false);
    world.reconnect();
    for node in 0..3 {
        world.after(9000 * MS, Event::Start(node));
    }
    world.run_for(9100 * MS);
    for node in 0..3 {
        let name = world.nodes[node].name.clone();
        world.input(0, LeaseInput::SetDrained(name, false));
    }
    let healed = world.run_while(40_000 * MS, World::all_spoken_for);
    world.invariants.healed(healed, || format!("{:?}", world.speakers()));
    world
}

/// Any of its VIPs is asked to go to any node.
pub fn ask_for_a_move(world: &mut World) {
    let (asked, to) = (world.rng.index(3), world.rng.index(3));
    let key = vip(u8::try_from(world.rng.range(0, 6)).unwrap());
    let to = world.nodes[to].name.clone();
    world.input(asked, LeaseInput::Move(key, to));
}

fn misfortune(world: &mut World) {
    let (node, other) = (world.rng.index(3), world.rng.index(3));
    let time = world.rng.range(100 * MS, 9000 * MS);
    match world.rng.range(0, 10) {
        0 | 1 => world.nodes[node].busy_until = world.now + time,
        2 => {
            world.kill(node);
            world.after(time / 4, Event::Start(node));
        }
        3 | 4 => world.nodes[node].connected = false,
        5 => world.api.down = !world.api.down,
        6 => ask_for_a_move(world),
        7 => {
            let (name, drained) = (world.nodes[other].name.clone(), world.rng.chance(50));
            world.input(node, LeaseInput::SetDrained(name, drained));
        }
        8 if world.nodes[node].busy_until <= world.now => {
            world.nodes[node].keys.clear();
            world.handle(node, LeaseInput::Close);
            world.after(time, Event::Start(node));
        }
        _ => world.reconnect(),
    }
}
