//! The protocol over API objects against a fake API server, in virtual time.
//!
//! The fake server does what Kubernetes promises: one version for each write, compare-and-swap, and
//! a watch that shows each object late and in no order among objects. Around it everything goes
//! wrong: answers are lost, writes arrive late, processes freeze, restart and lose their watch.
//! After every event: at most one kernel speaks for a key. `HERALD_SEEDS` sets the number of runs,
//! `HERALD_SEED` the first.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod sim;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use herald_leader_election::lease::{
    Answer, LeaseAction, LeaseConfig, LeaseCore, LeaseInput, LeaseTiming, Object, ObjectKey,
    Version, Write,
};
use herald_leader_election::{BootTime, ClaimKey, NodeName, View, Wanted};
use sim::rng::Rng;
use sim::{MS, Wall, vip};

/// Like the API server as far as this protocol goes.
#[derive(Default)]
struct FakeApiServer {
    objects: BTreeMap<ObjectKey, (Object, Version)>,
    writes: u64,
    down: bool,
}

impl FakeApiServer {
    fn write(&mut self, write: &Write) -> Answer {
        if self.down {
            return Answer::Unknown;
        }
        let present = self.objects.get(&write.key).map(|(_, version)| version);
        if present != write.expected.as_ref() {
            return Answer::Conflict;
        }
        self.writes += 1;
        let version = Version(self.writes.to_string().into());
        self.objects.insert(write.key.clone(), (write.object.clone(), version.clone()));
        Answer::Written(version)
    }
}

struct Node {
    name: NodeName,
    core: Option<LeaseCore>,
    process: u64,
    busy_until: Wall,
    deadline: BootTime,
    keys: BTreeSet<ClaimKey>,
    /// How often it said that its name is in use elsewhere.
    doubled: u64,
    view: Option<Arc<View>>,
    offset: u64,
    rate_ppm: i64,
    /// It reaches the API server.
    connected: bool,
}

enum Event {
    Input(usize, u64, LeaseInput),
    /// A write reaches the server, whatever has become of its sender.
    Write(usize, u64, Write),
    Read(usize, u64, ObjectKey),
    Start(usize),
    /// The speaker does what its view asks for: silences the key, then hands it over.
    HandOver(usize, u64, ClaimKey),
}

struct World {
    seed: u64,
    rng: Rng,
    now: Wall,
    api: FakeApiServer,
    nodes: Vec<Node>,
    events: BTreeMap<u64, Event>,
    order: BinaryHeap<Reverse<(Wall, u64)>>,
    count: u64,
    loss: u64,
    wanted: Wanted,
    terms: BTreeMap<ClaimKey, u64>,
}

impl Node {
    fn clock(&self, now: Wall) -> BootTime {
        let drift = i128::from(now) * i128::from(self.rate_ppm) / 1_000_000;
        BootTime::from_nanos(self.offset + u64::try_from(i128::from(now) + drift).unwrap())
    }

    fn speaks(&self, key: &ClaimKey, now: Wall) -> bool {
        self.keys.contains(key) && self.deadline > self.clock(now)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let names: BTreeSet<NodeName> = (0..3).map(|n| NodeName(format!("n{n}"))).collect();
        let nodes = names.iter().map(|name| Node {
            name: name.clone(),
            core: None,
            process: 0,
            busy_until: 0,
            deadline: BootTime::SILENT,
            keys: BTreeSet::new(),
            doubled: 0,
            view: None,
            offset: rng.range(1000, 1_000_000) * MS,
            rate_ppm: i64::try_from(rng.range(0, 3001)).unwrap() - 1500,
            connected: true,
        });
        let nodes = nodes.collect();
        let keys = (0..6).map(vip).chain([ClaimKey::Allocator]);
        let wanted = Wanted { claims: keys.map(|key| (key, names.clone().into())).collect() };
        let mut world = Self {
            seed,
            rng,
            now: 0,
            api: FakeApiServer::default(),
            nodes,
            events: BTreeMap::new(),
            order: BinaryHeap::new(),
            count: 0,
            loss: 0,
            wanted,
            terms: BTreeMap::new(),
        };
        for node in 0..3 {
            world.after(u64::try_from(node).unwrap() * 20 * MS, Event::Start(node));
        }
        world
    }

    fn after(&mut self, delay: Wall, event: Event) {
        self.count += 1;
        self.order.push(Reverse((self.now + delay, self.count)));
        self.events.insert(self.count, event);
    }

    fn run_for(&mut self, time: Wall) {
        let end = self.now + time;
        while let Some(&Reverse((at, id))) = self.order.peek() {
            if at > end {
                break;
            }
            self.order.pop();
            self.now = self.now.max(at);
            let event = self.events.remove(&id).unwrap();
            self.happen(event);
            self.check();
        }
        self.now = end;
        self.check();
    }

    fn run_while(&mut self, most: Wall, so: impl Fn(&Self) -> bool) -> Option<Wall> {
        let start = self.now;
        while !so(self) {
            if self.now - start > most {
                return None;
            }
            self.run_for(5 * MS);
        }
        Some(self.now - start)
    }

    fn happen(&mut self, event: Event) {
        if let Event::Input(node, process, _) | Event::HandOver(node, process, _) = &event {
            if *process != self.nodes[*node].process {
                return;
            }
            let busy_until = self.nodes[*node].busy_until;
            if busy_until > self.now {
                self.after(busy_until - self.now, event);
                return;
            }
        }
        match event {
            Event::Input(node, _, input) => self.handle(node, input),
            Event::HandOver(node, _, key) => {
                self.nodes[node].keys.remove(&key);
                self.handle(node, LeaseInput::Release(key));
            }
            Event::Write(node, process, write) => self.write(node, process, &write),
            Event::Read(node, process, key) => self.show(node, process, key, 20 * MS),
            Event::Start(node) => self.begin(node),
        }
    }

    fn write(&mut self, node: usize, process: u64, write: &Write) {
        let connected = self.nodes[node].connected;
        let answer = if connected { self.api.write(write) } else { Answer::Unknown };
        if matches!(answer, Answer::Written(_)) {
            if let (ObjectKey::Claim(key), Object::Claim(claim)) = (&write.key, &write.object) {
                let before = self.terms.insert(*key, claim.term).unwrap_or(0);
                assert!(claim.term >= before, "seed {}: term of {key} fell", self.seed);
            }
            for watcher in 0..self.nodes.len() {
                let most = if self.rng.chance(self.loss) { 2000 * MS } else { 30 * MS };
                let process = self.nodes[watcher].process;
                self.show(watcher, process, write.key.clone(), most);
            }
        }
        let lost = self.rng.chance(self.loss);
        let (answer, most) = if lost { (Answer::Unknown, 3000 * MS) } else { (answer, 20 * MS) };
        let delay = self.rng.range(MS, most);
        let answered = LeaseInput::Answered(write.id, answer);
        self.after(delay, Event::Input(node, process, answered));
    }

    /// What an object is now reaches a node some time later.
    fn show(&mut self, node: usize, process: u64, key: ObjectKey, most: Wall) {
        let Some((object, version)) = self.api.objects.get(&key).cloned() else { return };
        if self.nodes[node].connected {
            let delay = self.rng.range(MS, most);
            let seen = LeaseInput::Seen(key, object, version);
            self.after(delay, Event::Input(node, process, seen));
        }
    }

    fn list(&mut self, node: usize) {
        let process = self.nodes[node].process;
        for (key, (object, version)) in self.api.objects.clone() {
            self.after(0, Event::Input(node, process, LeaseInput::Seen(key, object, version)));
        }
        self.after(0, Event::Input(node, process, LeaseInput::Listed));
    }

    fn begin(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.core.is_some() {
            return;
        }
        node.process += 1;
        let config = LeaseConfig {
            node: node.name.clone(),
            place: format!("machine {index}"),
            timing: LeaseTiming::default(),
            facts: vec![u8::try_from(index).unwrap()],
        };
        node.core = Some(LeaseCore::new(config, node.clock(now)).unwrap());
        let wanted = self.wanted.clone();
        self.input(index, LeaseInput::Wanted(wanted));
        self.list(index);
        self.input(index, LeaseInput::Tick);
    }

    /// Ends the process; the kernel speaks on.
    fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.core, node.view) = (None, None);
        node.process += 1;
    }

    fn handle(&mut self, index: usize, input: LeaseInput) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let (clock, process) = (node.clock(now), node.process);
        let Some(core) = &mut node.core else { return };
        let timed = matches!(input, LeaseInput::Tick);
        let actions = core.handle(input, clock);
        let next = core.next_deadline();
        for action in actions {
            match action {
                LeaseAction::SetDeadline(until) => {
                    self.nodes[index].deadline = until.unwrap_or(BootTime::SILENT);
                }
                LeaseAction::Write(write) => {
                    let most = if self.rng.chance(self.loss) { 4000 * MS } else { 20 * MS };
                    let delay = self.rng.range(MS, most);
                    self.after(delay, Event::Write(index, process, write));
                }
                LeaseAction::Read(key) => self.after(5 * MS, Event::Read(index, process, key)),
                LeaseAction::Publish(view) => self.publish(index, view),
                LeaseAction::Stopped => self.kill(index),
                LeaseAction::Doubled => self.nodes[index].doubled += 1,
            }
        }
        if let Some(next) = next.filter(|_| timed) {
            let ahead = next.since(self.nodes[index].clock(now));
            let delay = u64::try_from(ahead.as_nanos()).unwrap().clamp(MS, 100 * MS);
            self.after(delay, Event::Input(index, process, LeaseInput::Tick));
        }
    }

    fn publish(&mut self, index: usize, view: Arc<View>) {
        let process = self.nodes[index].process;
        for key in view.handovers.keys() {
            self.after(MS, Event::HandOver(index, process, *key));
        }
        let node = &mut self.nodes[index];
        if view.is_settled() {
            node.keys = view.claims_of(&node.name).map(|claim| claim.key).collect();
        }
        node.view = Some(view);
    }

    fn input(&mut self, node: usize, input: LeaseInput) {
        let process = self.nodes[node].process;
        self.after(0, Event::Input(node, process, input));
    }

    fn check(&self) {
        for key in self.wanted.claims.keys() {
            let speaking = self.nodes.iter().filter(|node| node.speaks(key, self.now));
            let speakers: Vec<&NodeName> = speaking.map(|node| &node.name).collect();
            let (seed, at) = (self.seed, self.now / MS);
            assert!(speakers.len() <= 1, "seed {seed}: {speakers:?} speak for {key} at {at} ms");
        }
    }

    fn speaker(&self, key: &ClaimKey) -> Option<usize> {
        self.nodes.iter().position(|node| node.speaks(key, self.now))
    }

    fn speakers(&self) -> Vec<Option<usize>> {
        self.wanted.claims.keys().map(|key| self.speaker(key)).collect()
    }

    fn all_spoken_for(&self) -> bool {
        self.speakers().iter().all(Option::is_some)
    }

    /// Connections are back, and each watch begins with a list.
    fn reconnect(&mut self) {
        for node in 0..3 {
            if !self.nodes[node].connected {
                self.nodes[node].connected = true;
                self.list(node);
            }
        }
    }
}

fn settled(seed: u64) -> World {
    let mut world = World::new(seed);
    assert!(world.run_while(10_000 * MS, World::all_spoken_for).is_some());
    world.run_for(4000 * MS);
    world
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

/// The third machine believes that it is the first node.
fn with_a_double(seed: u64) -> World {
    let mut world = World::new(seed);
    world.nodes[2].name = world.nodes[0].name.clone();
    world
}

fn bad_day(mut world: World) {
    let seed = world.seed;
    world.run_for(4000 * MS);
    world.loss = world.rng.range(0, 30);
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

#[test]
fn one_voice_through_many_bad_days() {
    let seeds: u64 = std::env::var("HERALD_SEEDS").map_or(150, |count| count.parse().unwrap());
    let from: u64 = std::env::var("HERALD_SEED").map_or(0, |seed| seed.parse().unwrap());
    (from..from + seeds).for_each(|seed| bad_day(World::new(seed)));
}

#[test]
fn one_voice_through_many_bad_days_of_a_node_that_has_a_double() {
    let seeds: u64 = std::env::var("HERALD_SEEDS").map_or(30, |count| count.parse().unwrap());
    let from: u64 = std::env::var("HERALD_SEED").map_or(0, |seed| seed.parse().unwrap());
    (from..from + seeds).for_each(|seed| bad_day(with_a_double(seed)));
}

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

        // Cut off, the first falls silent and the second is the node; back, it is the one that waits.
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
    for node in 0..3 {
        let wanted = world.wanted.clone();
        world.input(node, LeaseInput::Wanted(wanted));
    }
    let others = world.nodes[other].keys.clone();
    world.input(other, LeaseInput::SetDrained(names[from].clone(), true));
    let emptied = world
        .run_while(3000 * MS, |world| world.all_spoken_for() && world.nodes[from].keys.is_empty());
    assert!(emptied.is_some());
    assert_eq!(world.nodes[other].keys, others, "nothing fell to the one that is not preferred");
}

#[test]
fn the_steady_state_writes_one_object_per_node_and_renewal() {
    let mut world = settled(5);
    let before = world.api.writes;
    world.run_for(15_000 * MS);
    let writes = world.api.writes - before;
    assert!((27..=31).contains(&writes), "{writes}");
}
