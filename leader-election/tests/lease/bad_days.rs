//! Days on which everything goes wrong, one after another.

use herald_leader_election::lease::LeaseInput;

use crate::doubles::with_a_double;
use crate::sim::seeds::each_seed;
use crate::sim::{MS, vip};
use crate::world::{Event, World};

#[test]
fn one_voice_through_many_bad_days() {
    each_seed(150, |seed| bad_day(World::new(seed)));
}

#[test]
fn one_voice_through_many_bad_days_of_a_node_that_has_a_double() {
    each_seed(30, |seed| bad_day(with_a_double(seed)));
}

fn bad_day(mut world: World) {
    let seed = world.seed;
    world.run_for(4000 * MS);
    world.loss = world.rng.range(0, 30);
    world.holds = world.rng.range(0, 90);
    for _ in 0..12 {
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
    assert!(healed.is_some(), "seed {seed}: not healed, {:?}", world.speakers());
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
        6 => {
            let key = vip(u8::try_from(world.rng.range(0, 6)).unwrap());
            let to = world.nodes[other].name.clone();
            world.input(node, LeaseInput::Move(key, to));
        }
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
