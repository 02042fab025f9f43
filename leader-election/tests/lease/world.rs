//! Three nodes and an API server in virtual time: events happen in their order, and after each what
//! is promised is checked.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use herald_leader_election::lease::{
    Answer, LeaseAction, LeaseConfig, LeaseCore, LeaseInput, LeaseTiming, Object, ObjectKey, Write,
};
use herald_leader_election::{BootTime, ClaimKey, NodeName, View, Wanted};

use crate::api::FakeApiServer;
use crate::sim::invariants::Invariants;
use crate::sim::rng::Rng;
use crate::sim::{MS, Wall, vip};

pub struct Node {
    pub name: NodeName,
    core: Option<LeaseCore>,
    process: u64,
    pub busy_until: Wall,
    /// Inputs that wait for others, as they do in a burst.
    held: Vec<LeaseInput>,
    pub deadline: BootTime,
    pub keys: BTreeSet<ClaimKey>,
    /// How often it said that its name is in use elsewhere.
    pub doubled: u64,
    pub view: Option<Arc<View>>,
    offset: u64,
    rate_ppm: i64,
    /// It reaches the API server.
    pub connected: bool,
}

pub enum Event {
    Input(usize, u64, LeaseInput),
    /// A write reaches the server, whatever has become of its sender.
    Write(usize, u64, Write),
    Read(usize, u64, ObjectKey),
    Start(usize),
    /// The speaker does what its view asks for: silences the key, then hands it over.
    HandOver(usize, u64, ClaimKey),
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub now: Wall,
    pub api: FakeApiServer,
    pub nodes: Vec<Node>,
    events: BTreeMap<u64, Event>,
    order: BinaryHeap<Reverse<(Wall, u64)>>,
    count: u64,
    pub loss: u64,
    /// How many of a hundred inputs that may wait do.
    pub holds: u64,
    pub wanted: Wanted,
    pub terms: BTreeMap<ClaimKey, u64>,
    pub invariants: Invariants,
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
    pub fn new(seed: u64) -> Self {
        Self::with_vips(seed, 6)
    }

    pub fn with_vips(seed: u64, vips: u8) -> Self {
        let mut rng = Rng::new(seed);
        let names: BTreeSet<NodeName> = (0..3).map(|n| NodeName::from(format!("n{n}"))).collect();
        let nodes = names.iter().map(|name| Node {
            name: name.clone(),
            core: None,
            process: 0,
            busy_until: 0,
            held: Vec::new(),
            deadline: BootTime::SILENT,
            keys: BTreeSet::new(),
            doubled: 0,
            view: None,
            offset: rng.range(1000, 1_000_000) * MS,
            rate_ppm: i64::try_from(rng.range(0, 3001)).unwrap() - 1500,
            connected: true,
        });
        let nodes = nodes.collect();
        let keys = (0..vips).map(vip).chain([ClaimKey::Allocator]);
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
            holds: 0,
            wanted,
            terms: BTreeMap::new(),
            invariants: Invariants::new(seed),
        };
        for node in 0..3 {
            world.after(u64::try_from(node).unwrap() * 20 * MS, Event::Start(node));
        }
        world
    }

    pub fn after(&mut self, delay: Wall, event: Event) {
        self.count += 1;
        self.order.push(Reverse((self.now + delay, self.count)));
        self.events.insert(self.count, event);
    }

    pub fn run_for(&mut self, time: Wall) {
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

    pub fn run_while(&mut self, most: Wall, so: impl Fn(&Self) -> bool) -> Option<Wall> {
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
                self.invariants.terms_grow(key, before, claim.term);
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
    pub fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.core, node.view) = (None, None);
        node.held.clear();
        node.process += 1;
    }

    pub fn handle(&mut self, index: usize, input: LeaseInput) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let (clock, process) = (node.clock(now), node.process);
        let Some(core) = &mut node.core else { return };
        let timed = matches!(input, LeaseInput::Tick);
        let is_held = core.may_wait(&input) && self.rng.chance(self.holds);
        node.held.push(input);
        if is_held {
            return;
        }
        let actions = core.handle_all(std::mem::take(&mut node.held), clock);
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
        self.invariants.agreed_on_holders(view.claims.values());
        let process = self.nodes[index].process;
        for key in view.handovers.keys() {
            self.after(MS, Event::HandOver(index, process, *key));
        }
        let node = &mut self.nodes[index];
        for (key, claim) in node.view.iter().flat_map(|before| &before.claims) {
            if let Some(now) = view.claims.get(key) {
                self.invariants.terms_grow(key, claim.term, now.term);
            }
        }
        if view.is_settled() {
            node.keys = view.claims_of(&node.name).map(|claim| claim.key).collect();
        }
        node.view = Some(view);
    }

    pub fn input(&mut self, node: usize, input: LeaseInput) {
        let process = self.nodes[node].process;
        self.after(0, Event::Input(node, process, input));
    }

    /// Has every node want what is wanted now.
    pub fn tell_wanted(&mut self) {
        for node in 0..self.nodes.len() {
            self.input(node, LeaseInput::Wanted(self.wanted.clone()));
        }
    }

    fn check(&mut self) {
        for key in self.wanted.claims.keys() {
            let speak = self.nodes.iter().filter(|node| node.speaks(key, self.now));
            let speakers: Vec<_> = speak.map(|node| (&node.name, node.view.as_deref())).collect();
            self.invariants.one_voice(key, self.now, &speakers, String::new);
        }
    }

    pub fn speaker(&self, key: &ClaimKey) -> Option<usize> {
        self.nodes.iter().position(|node| node.speaks(key, self.now))
    }

    pub fn speakers(&self) -> Vec<Option<usize>> {
        self.wanted.claims.keys().map(|key| self.speaker(key)).collect()
    }

    pub fn all_spoken_for(&self) -> bool {
        self.speakers().iter().all(Option::is_some)
    }

    /// Connections are back, and each watch begins with a list.
    pub fn reconnect(&mut self) {
        for node in 0..3 {
            if !self.nodes[node].connected {
                self.nodes[node].connected = true;
                self.list(node);
            }
        }
    }
}

/// The third machine believes that it is the first node.
pub fn with_a_double(seed: u64) -> World {
    let mut world = World::new(seed);
    world.nodes[2].name = world.nodes[0].name.clone();
    world
}

/// A world in which every key has been spoken for, for some seconds.
pub fn settled(seed: u64) -> World {
    settled_with(World::new(seed))
}

pub fn settled_with(mut world: World) -> World {
    assert!(world.run_while(10_000 * MS, World::all_spoken_for).is_some());
    world.run_for(4000 * MS);
    world
}
