//! A cluster in memory: many cores, one virtual time, a bad network, and processes that stop.
//!
//! Nothing here waits or reads a clock; a run is decided by its seed alone. Each node has a boot
//! clock of its own (offset and rate), a disk that holds exactly what was persisted, and a kernel
//! that goes on speaking when the process is gone. After every event the promises are checked
//! ([`invariants`]). Start at [`World::run_until`].

#![allow(dead_code, reason = "each test file uses its part")]

pub mod days;
mod describe;
mod faults;
pub mod invariants;
pub mod rng;
pub mod seeds;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use herald_leader_election::raft::core::{Action, Batch, Core, CoreConfig, Input};
use herald_leader_election::raft::frame::Frame;
use herald_leader_election::raft::sanity::Refusal;
use herald_leader_election::raft::store::Image;
use herald_leader_election::{
    BootTime, ClaimKey, NodeName, Patience, Timing, View, Voters, Wanted,
};

use self::invariants::Invariants;
use self::rng::Rng;

/// Virtual time in nanoseconds; what a perfect clock on the wall would show.
pub type Wall = u64;

pub const MS: Wall = 1_000_000;

/// How bad the network is, and how often a process stalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub straggler_percent: u64,
    pub stall_percent: u64,
}

pub const CALM: Weather =
    Weather { loss_percent: 0, duplicate_percent: 0, straggler_percent: 0, stall_percent: 0 };

/// What the kernel of a node does, process or not.
#[derive(Debug, Default)]
pub struct Kernel {
    pub deadline: BootTime,
    pub keys: BTreeSet<ClaimKey>,
}

pub struct Node {
    pub name: NodeName,
    pub core: Option<Core>,
    pub disk: Image,
    pub kernel: Kernel,
    pub view: Option<Arc<View>>,
    pub writes: usize,
    pub stopped: bool,
    /// Events for an earlier process find another number here.
    process: u64,
    busy_until: Wall,
    /// What a stalled process was about to do.
    pending: Vec<Action>,
    booted: Wall,
    boot_offset: u64,
    rate_ppm: i64,
}

enum Event {
    Input(usize, u64, Input),
    Deliver(usize, NodeName, Frame),
    /// A stalled process goes on with what it was about to do.
    Resume(usize, u64),
    Start(usize),
    /// The speaker does what its view asks for: silences the key, then hands it over.
    HandOver(usize, u64, ClaimKey),
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub now: Wall,
    pub nodes: Vec<Node>,
    pub weather: Weather,
    /// Speakers hand over what they are asked to.
    pub obliging: bool,
    pub timing: Timing,
    pub patience: Patience,
    pub voters: Voters,
    /// The nodes of the source.
    pub listed: BTreeSet<NodeName>,
    listed_throughout: bool,
    pub wanted: Wanted,
    /// Directed links that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    /// When the last frame of each link arrives.
    delivered: BTreeMap<(usize, usize), Wall>,
    events: BTreeMap<u64, Event>,
    order: BinaryHeap<Reverse<(Wall, u64)>>,
    count: u64,
    pub invariants: Invariants,
    /// Frames sent so far, and their bytes.
    pub sent: (u64, usize),
}

impl Node {
    pub fn clock(&self, now: Wall) -> BootTime {
        let passed = i128::from(now - self.booted);
        let drift = passed * i128::from(self.rate_ppm) / 1_000_000;
        BootTime::from_nanos(self.boot_offset + u64::try_from(passed + drift).unwrap())
    }

    fn wall_of(&self, at: BootTime) -> Wall {
        let passed = i128::from(at.as_nanos().saturating_sub(self.boot_offset));
        let real = passed * 1_000_000 / (1_000_000 + i128::from(self.rate_ppm));
        self.booted + u64::try_from(real).unwrap() + 1
    }

    /// Whether the kernel speaks for the key now.
    pub fn speaks(&self, key: &ClaimKey, now: Wall) -> bool {
        self.kernel.keys.contains(key) && self.kernel.deadline > self.clock(now)
    }

    pub fn leads(&self) -> bool {
        self.core.is_some()
            && self.view.as_ref().is_some_and(|view| view.leader.as_ref() == Some(&self.name))
    }
}

impl World {
    pub fn new(seed: u64, count: usize, vips: u8, weather: Weather) -> Self {
        let mut rng = Rng::new(seed);
        let names: BTreeSet<NodeName> =
            (0..count).map(|n| NodeName::from(format!("n{n}"))).collect();
        let nodes = names
            .iter()
            .map(|name| Node {
                name: name.clone(),
                core: None,
                disk: Image::default(),
                kernel: Kernel::default(),
                view: None,
                writes: 0,
                stopped: false,
                process: 0,
                busy_until: 0,
                pending: Vec::new(),
                booted: 0,
                boot_offset: rng.range(1, 1_000_000) * MS,
                // Three times what NTP may slew a clock by, either way.
                rate_ppm: i64::try_from(rng.range(0, 3001)).unwrap() - 1500,
            })
            .collect();
        let mut wanted = Wanted::default();
        wanted.claims.insert(ClaimKey::Allocator, names.clone().into());
        for n in 0..vips {
            wanted.claims.insert(vip(n), names.clone().into());
        }
        let mut world = Self {
            seed,
            rng,
            now: 0,
            nodes,
            weather,
            obliging: true,
            timing: Timing::default(),
            patience: Patience::default(),
            voters: Voters::Exactly(names.clone()),
            listed: names,
            listed_throughout: true,
            wanted,
            cut: BTreeSet::new(),
            delivered: BTreeMap::new(),
            events: BTreeMap::new(),
            order: BinaryHeap::new(),
            count: 0,
            invariants: Invariants::new(seed),
            sent: (0, 0),
        };
        for node in 0..count {
            let delay = world.rng.range(0, 50 * MS);
            world.after(delay, Event::Start(node));
        }
        world
    }

    /// Lets time pass, event by event, checking the promises after each.
    pub fn run_until(&mut self, end: Wall) {
        while let Some(&Reverse((at, id))) = self.order.peek() {
            if at > end {
                break;
            }
            self.order.pop();
            self.now = self.now.max(at);
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
                self.check();
            }
        }
        self.now = end;
        self.check();
    }

    pub fn run_for(&mut self, time: Wall) {
        self.run_until(self.now + time);
    }

    /// Lets time pass until something is so; how long it took, or `None` after `most`.
    pub fn run_while(&mut self, most: Wall, so: impl Fn(&Self) -> bool) -> Option<Wall> {
        let start = self.now;
        while !so(self) {
            if self.now - start > most {
                return None;
            }
            self.run_for(MS);
        }
        Some(self.now - start)
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let process = self.nodes[node].process;
        self.after(0, Event::Input(node, process, input));
    }

    /// Has every node want what is wanted now.
    pub fn tell_wanted(&mut self) {
        for node in 0..self.nodes.len() {
            self.input(node, Input::Wanted(self.wanted.clone()));
        }
    }

    /// Gives a key up as a speaker does: the kernel first.
    pub fn release(&mut self, node: usize, key: ClaimKey) {
        if self.can_act(node) {
            self.nodes[node].kernel.keys.remove(&key);
            self.handle(node, Input::Release(key));
        }
    }

    /// Drains, or closes, as a speaker does: the kernel first.
    pub fn leave(&mut self, node: usize, how: Input) {
        if self.can_act(node) {
            self.nodes[node].kernel.keys.clear();
            self.handle(node, how);
        }
    }

    fn can_act(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.core.is_some() && node.busy_until <= self.now && node.pending.is_empty()
    }

    /// Who takes part by what a node knows, and whether each votes.
    pub fn members(&self, node: usize) -> BTreeMap<NodeName, bool> {
        self.nodes[node].core.as_ref().map(Core::members).unwrap_or_default()
    }

    /// Names of the voters by what the leader knows.
    pub fn voters(&self) -> BTreeSet<NodeName> {
        let members = self.leader().map(|leader| self.members(leader)).unwrap_or_default();
        members.into_iter().filter(|(_, votes)| *votes).map(|(node, _)| node).collect()
    }

    pub fn leader(&self) -> Option<usize> {
        let leading = |node: &&Node| node.leads();
        let leaders = self.nodes.iter().filter(leading);
        let latest = leaders.max_by_key(|node| node.view.as_ref().map(|view| view.raft_term))?;
        self.nodes.iter().position(|node| node.name == latest.name)
    }

    /// The node whose kernel speaks for the key.
    pub fn speaker(&self, key: &ClaimKey) -> Option<usize> {
        self.nodes.iter().position(|node| node.speaks(key, self.now))
    }

    pub fn keys(&self) -> Vec<ClaimKey> {
        self.wanted.claims.keys().copied().collect()
    }

    pub fn all_spoken_for(&self) -> bool {
        self.wanted.claims.keys().all(|key| self.speaker(key).is_some())
    }

    fn after(&mut self, delay: Wall, event: Event) {
        self.count += 1;
        self.order.push(Reverse((self.now + delay, self.count)));
        self.events.insert(self.count, event);
    }

    fn happen(&mut self, event: Event) {
        let (node, process) = match &event {
            Event::Input(node, process, _)
            | Event::Resume(node, process)
            | Event::HandOver(node, process, _) => (*node, *process),
            Event::Deliver(node, ..) | Event::Start(node) => (*node, self.nodes[*node].process),
        };
        if process != self.nodes[node].process {
            return;
        }
        let busy_until = self.nodes[node].busy_until;
        if busy_until > self.now {
            self.after(busy_until - self.now, event);
            return;
        }
        let pending = std::mem::take(&mut self.nodes[node].pending);
        self.perform(node, pending);
        match event {
            Event::Start(node) => self.begin(node),
            Event::Input(node, _, input) => self.handle(node, input),
            Event::Deliver(node, from, frame) => self.handle(node, Input::Frame(from, frame)),
            Event::HandOver(node, _, key) => self.release(node, key),
            Event::Resume(..) => {}
        }
    }

    fn begin(&mut self, index: usize) {
        let (voters, patience) = (self.voters.clone(), self.patience);
        let mut nodes = self.listed.clone();
        nodes.insert(self.nodes[index].name.clone());
        let seed = self.rng.next();
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.core.is_some() {
            return;
        }
        node.process += 1;
        node.stopped = false;
        node.disk.epoch += 1;
        let config = CoreConfig {
            node: node.name.clone(),
            nodes,
            voters,
            timing: self.timing,
            patience,
            facts: vec![u8::try_from(index).unwrap()],
            seed,
        };
        node.core = Some(Core::new(config, &node.disk, node.clock(now)).unwrap());
        let wanted = self.wanted.clone();
        self.input(index, Input::Wanted(wanted));
        self.handle(index, Input::Tick);
    }

    fn handle(&mut self, index: usize, input: Input) {
        let now = self.now;
        let stall = self.rng.chance(self.weather.stall_percent);
        let node = &mut self.nodes[index];
        let clock = node.clock(now);
        let Some(core) = &mut node.core else { return };
        let timed = matches!(input, Input::Tick);
        let mut actions = core.handle(input, clock);
        let next = core.next_deadline();
        if stall && actions.len() > 1 {
            // The process stops between two actions, or before the first.
            let done = self.rng.index(actions.len());
            let rest = actions.split_off(done);
            let time = self.rng.range(MS, 900 * MS);
            let process = self.nodes[index].process;
            self.perform(index, actions);
            self.after(time, Event::Resume(index, process));
            // Its own queue waits behind.
            self.nodes[index].pending = rest;
            self.nodes[index].busy_until = self.now + time;
        } else {
            self.perform(index, actions);
        }
        if let Some(next) = next.filter(|_| timed) {
            let node = &self.nodes[index];
            let (at, process) = (node.wall_of(next).max(now + 1), node.process);
            self.after(at - now, Event::Input(index, process, Input::Tick));
        }
    }

    fn perform(&mut self, index: usize, actions: Vec<Action>) {
        for action in actions {
            let node = &mut self.nodes[index];
            match action {
                Action::SetDeadline(until) => {
                    node.kernel.deadline = until.unwrap_or(BootTime::SILENT);
                }
                Action::Persist(batch) => {
                    node.writes += 1;
                    write(&mut node.disk, batch);
                }
                Action::Rewrite(image) => {
                    node.writes += 1;
                    node.disk = image;
                }
                Action::Send(to, frame) => self.send(index, &to, &frame),
                Action::Publish(view) => self.publish(index, view),
                // Nodes may be of different opinion about who is in the source.
                Action::Refused(from, Refusal::UnknownSender | Refusal::OtherFounders)
                    if !self.listed_throughout =>
                {
                    assert_ne!(from, self.nodes[index].name, "seed {}", self.seed);
                }
                Action::Refused(from, reason) => {
                    panic!("seed {}: {} refused {reason:?} of {from}", self.seed, node.name)
                }
                Action::Stopped => {
                    node.stopped = true;
                    self.kill(index);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: &NodeName, frame: &Frame) {
        let bytes = frame.encode();
        self.sent = (self.sent.0 + 1, self.sent.1 + bytes.len());
        let to = self.nodes.iter().position(|node| node.name == *to).unwrap();
        if self.cut.contains(&(from, to)) || self.rng.chance(self.weather.loss_percent) {
            return;
        }
        // Every frame goes through its bytes, as on the wire.
        let frame = Frame::decode(&bytes).unwrap();
        let copies = 1 + u64::from(self.rng.chance(self.weather.duplicate_percent));
        for _ in 0..copies {
            let straggles = self.rng.chance(self.weather.straggler_percent);
            let most = if straggles { 1500 * MS } else { 3 * MS };
            let mut delay = self.rng.range(MS / 10, most);
            if self.weather == Weather::default() {
                // As on a connection that nothing disturbs; in bad weather frames overtake each
                // other.
                let after = self.delivered.get(&(from, to)).map_or(0, |last| last + 1);
                delay = delay.max(after.saturating_sub(self.now));
                self.delivered.insert((from, to), self.now + delay);
            }
            let name = self.nodes[from].name.clone();
            self.after(delay, Event::Deliver(to, name, frame.clone()));
        }
    }

    fn publish(&mut self, index: usize, view: Arc<View>) {
        self.invariants.agreed_on_holders(view.claims.values());
        self.invariants.agreed_on_sessions(&view);
        let process = self.nodes[index].process;
        if self.obliging {
            for key in view.handovers.keys() {
                self.after(MS / 2, Event::HandOver(index, process, *key));
            }
        }
        let node = &mut self.nodes[index];
        // A node that is no member any more knows nothing, and then all of it again.
        if let Some(before) = node.view.as_ref().filter(|before| before.applied <= view.applied) {
            for (key, claim) in &before.claims {
                self.invariants.terms_grow(key, claim.term, view.claims[key].term);
            }
        }
        if view.is_settled() {
            node.kernel.keys = view.claims_of(&node.name).map(|claim| claim.key).collect();
        }
        node.view = Some(view);
    }

    fn check(&mut self) {
        for key in self.wanted.claims.keys() {
            let speak = self.nodes.iter().filter(|node| node.speaks(key, self.now));
            let speakers: Vec<_> = speak.map(|node| (&node.name, node.view.as_deref())).collect();
            self.invariants.one_voice(key, self.now, &speakers, || {
                describe::describe(&self.cut, &self.nodes, self.now)
            });
        }
    }
}

pub fn vip(last: u8) -> ClaimKey {
    ClaimKey::Vip(IpAddr::V4(Ipv4Addr::new(192, 168, 1, last)))
}

/// What the log on disk does with a batch.
fn write(disk: &mut Image, batch: Batch) {
    let start = disk.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    for entry in batch.entries {
        let place = usize::try_from(entry.index - start - 1).unwrap();
        assert!(place <= disk.entries.len(), "a gap in the log");
        disk.entries.truncate(place);
        disk.entries.push(entry);
    }
    disk.hard = batch.hard.unwrap_or(disk.hard);
    disk.epoch = batch.epoch.unwrap_or(disk.epoch);
}

/// How long it takes until all is well, given that nothing is wrong any more.
pub fn patience() -> Wall {
    u64::try_from(Duration::from_secs(8).as_nanos()).unwrap()
}
