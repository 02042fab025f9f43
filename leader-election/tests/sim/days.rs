//! Days on which everything goes wrong, one after another, and the evening after.

use herald_leader_election::raft::core::Input;

use super::{CALM, MS, Weather, World, patience};

/// A day with so many misfortunes, and what this test adds to each; healed in the end.
pub fn bad_day(seed: u64, misfortunes: usize, add: impl Fn(&mut World)) -> World {
    let size = if seed.is_multiple_of(4) { 5 } else { 3 };
    let mut world = World::new(seed, size, 6, CALM);
    world.run_for(600 * MS);
    world.weather = Weather {
        loss_percent: world.rng.range(0, 12),
        duplicate_percent: world.rng.range(0, 10),
        straggler_percent: world.rng.range(0, 4),
        stall_percent: world.rng.range(0, 3),
    };
    for _ in 0..misfortunes {
        add(&mut world);
        misfortune(&mut world);
        let time = world.rng.range(50 * MS, 900 * MS);
        world.run_for(time);
    }
    heal(&mut world);
    world
}

/// Any of its VIPs is asked to go to any node.
pub fn ask_for_a_move(world: &mut World) {
    let keys = world.keys();
    let key = keys[world.rng.index(keys.len())];
    let (asked, to) = (world.rng.index(world.nodes.len()), world.rng.index(world.nodes.len()));
    let to = world.nodes[to].name.clone();
    world.input(asked, Input::Move(key, to));
}

/// All is well again: every key must find a holder, and keep it.
pub fn heal(world: &mut World) {
    world.weather = CALM;
    world.cut.clear();
    for node in 0..world.nodes.len() {
        world.start(node, 2000 * MS);
    }
    world.run_for(2100 * MS);
    for node in 0..world.nodes.len() {
        let name = world.nodes[node].name.clone();
        world.input(0, Input::SetDrained(name, false));
    }
    let took = world.run_while(patience(), World::all_spoken_for);
    world.invariants.healed(took, || world.describe());
}

/// One random misfortune.
fn misfortune(world: &mut World) {
    let node = world.rng.index(world.nodes.len());
    let other = world.rng.index(world.nodes.len());
    let time = world.rng.range(20 * MS, 1800 * MS);
    match world.rng.range(0, 20) {
        0 => world.isolate(node),
        1 => {
            world.cut.insert((node, other));
        }
        2 => world.cut.extend([(node, other), (other, node)]),
        3 | 4 => world.cut.clear(),
        5 => {
            world.kill(node);
            world.start(node, time);
        }
        6 => {
            // Back at once, while its kernel still speaks.
            world.kill(node);
            world.start(node, time / 20);
        }
        7 => world.reboot(node, time),
        8 | 9 => world.freeze(node, time),
        10 => {
            let keys = world.keys();
            let key = keys[world.rng.index(keys.len())];
            world.release(node, key);
        }
        11 => {
            world.leave(node, Input::Close);
            world.start(node, time + 1300 * MS);
        }
        17 | 18 => ask_for_a_move(world),
        19 => {
            let (emptied, drained) = (world.nodes[other].name.clone(), world.rng.chance(50));
            world.input(node, Input::SetDrained(emptied, drained));
        }
        12 | 13 => new_leader_by_handover_lost(world),
        14 | 15 => voter_restarts_as_its_leader_is_lost(world),
        _ => {
            // The raft leader meets with it more often than chance would have it.
            let leader = world.leader().unwrap_or(node);
            match world.rng.range(0, 3) {
                0 => world.freeze(leader, time),
                1 => world.isolate(leader),
                _ => {
                    world.leave(leader, Input::Close);
                    world.start(leader, time);
                }
            }
        }
    }
}

/// A leader hands on, and the next one, whose grant as a follower is fresh, is lost at once.
fn new_leader_by_handover_lost(world: &mut World) {
    let Some(leader) = world.leader() else { return };
    world.leave(leader, Input::Close);
    world.start(leader, 20 * MS);
    let handed_on = world.run_while(60 * MS, |w| w.leader().is_some_and(|next| next != leader));
    let Some(next) = handed_on.and_then(|_| world.leader()) else { return };
    let time = world.rng.range(0, 5 * MS);
    world.run_for(time);
    if world.rng.chance(50) {
        world.isolate(next);
    } else {
        world.freeze(next, 1500 * MS);
    }
    world.run_for(800 * MS);
}

/// A node cut off from its leader stands for election all the time; the voter that kept it from
/// winning restarts, and forgets what it promised a leader that is lost in the same moment.
fn voter_restarts_as_its_leader_is_lost(world: &mut World) {
    let Some(leader) = world.leader() else { return };
    let count = world.nodes.len();
    let candidate = (leader + 1) % count;
    world.cut.extend([(leader, candidate), (candidate, leader)]);
    let time = world.rng.range(450 * MS, 1000 * MS);
    world.run_for(time);
    world.isolate(leader);
    for voter in (0..count).filter(|node| ![leader, candidate].contains(node)) {
        world.kill(voter);
        world.start(voter, 5 * MS);
    }
    world.run_for(500 * MS);
}
