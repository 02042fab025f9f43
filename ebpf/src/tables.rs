//! From pictures to map entries (pure): which indices backends get, which tables a change
//! touches, and in which order to write them so that no packet meets half of it.
//!
//! Order: new backends first, then the tables that name them, then removals. A table in several
//! chunks is written from its last to its first, which says how many there are. An index is freed
//! when no table names it and is reused as late as possible, because a packet on another CPU may
//! still be walking the old table. Read [`crate::slots`] first.

mod chunks;
mod roles;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_ebpf_common::{
    self as common, BACKENDS, Backend as Entry, Guess, IS_GONE, LOCAL_SLOTS, SLOTS, ServiceKey,
    ServiceTable, Slot, SourceKey,
};

use self::chunks::{keys, read_slots};
use self::roles::Roles;
use crate::picture::{Affinity, Backend, Network, Picture, Policy, Protocol, WhenEmpty};
use crate::rendezvous::{self, Candidate};
use crate::slots::{Fate, Slots};

/// One write to the kernel's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// An entry of `BACKENDS`.
    Backend(u16, Entry),
    /// A value of `SERVICES`, new or replaced: a chunk of a table.
    Service(ServiceKey, Box<ServiceTable>),
    /// A key of `SERVICES` to remove.
    NoService(ServiceKey),
}

/// What to write, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// In this order.
    pub writes: Vec<Write>,
    /// Services that keep their old table, because their backends outnumber the indices.
    pub refused: usize,
}

/// What `SERVICES` and `BACKENDS` hold now.
#[derive(Debug)]
pub struct Tables {
    /// How long a changed slot is dirty.
    drain: Duration,
    services: BTreeMap<ServiceKey, Installed>,
    indices: HashMap<Backend, Index>,
    /// Occupied indices, to find free ones.
    used: BTreeSet<u16>,
    cursor: u16,
    /// The lists of networks in `SOURCES`.
    lists: BTreeMap<BTreeSet<Network>, u32>,
    next_list: u32,
}

#[derive(Debug)]
struct Installed {
    /// What it was made for; none for a table adopted from an earlier process.
    spec: Option<Spec>,
    /// The living backends: those of the set, and those that drain.
    members: BTreeMap<SocketAddr, Backend>,
    slots: Slots,
    /// When a slot becomes clean.
    deadline: Option<Duration>,
    chunks: u32,
}

/// What a service's table depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    set: Arc<BTreeSet<Backend>>,
    policy: Arc<Policy>,
}

#[derive(Debug)]
struct Index {
    number: u16,
    users: usize,
}

impl Tables {
    /// Nothing installed.
    pub fn new(drain: Duration) -> Self {
        Self {
            drain,
            services: BTreeMap::new(),
            indices: HashMap::new(),
            used: BTreeSet::new(),
            cursor: 0,
            lists: BTreeMap::new(),
            next_list: 1,
        }
    }

    /// What an earlier process left in the maps. Its dirty slots stay so for one more drain time.
    pub fn adopt(
        drain: Duration,
        now: Duration,
        tables: impl IntoIterator<Item = (ServiceKey, ServiceTable)>,
        backend: impl Fn(u16) -> Option<Entry>,
    ) -> Self {
        let mut adopted = Self::new(drain);
        let tables: BTreeMap<ServiceKey, ServiceTable> = tables.into_iter().collect();
        for (key, first) in tables.iter().filter(|(key, _)| key.chunk == 0) {
            adopted.next_list = adopted.next_list.max(first.sources.saturating_add(1));
            let part = |key: ServiceKey| tables.get(&key);
            let mut installed = Installed {
                spec: None,
                members: BTreeMap::new(),
                slots: Slots::adopt(&read_slots(*key, first, part), now + drain),
                deadline: None,
                chunks: first.chunks,
            };
            let named: BTreeSet<u16> = installed.slots.named().collect();
            for number in named {
                let Some(entry) = backend(number) else { continue };
                let backend = Backend::of_entry(&entry);
                adopted.used.insert(number);
                let index = adopted.indices.entry(backend).or_insert(Index { number, users: 0 });
                // Two indices of one backend cannot be told apart later: the second is let go.
                if index.number == number
                    && installed.members.insert(backend.address, backend).is_none()
                {
                    index.users += 1;
                }
            }
            adopted.services.insert(*key, installed);
        }
        adopted
    }

    /// What makes the maps equal to `picture`; nothing if they are. Slots that change are dirty
    /// for a drain time from `now`.
    pub fn update(&mut self, picture: &Picture, now: Duration) -> Update {
        let mut update = Update::default();
        let mut tables = Vec::new();
        let mut late = Vec::new();
        let mut present = 0;
        let default = Arc::default();
        for (port, set) in &picture.services {
            let policy = picture.policies.get(port).unwrap_or(&default);
            let key = port.key();
            let is_current = self.services.get(&key).is_some_and(|installed| {
                let is_due = installed.deadline.is_some_and(|deadline| deadline <= now);
                let is_same = |spec: &Spec| spec.set == *set && spec.policy == *policy;
                !is_due && installed.spec.as_ref().is_some_and(is_same)
            });
            if is_current {
                present += 1;
                continue;
            }
            let spec = Spec { set: Arc::clone(set), policy: Arc::clone(policy) };
            let install = Install { key, protocol: port.protocol, spec, now };
            match self.install(install, &mut update.writes, &mut tables, &mut late) {
                Some(()) => present += 1,
                None => {
                    update.refused += 1;
                    present += usize::from(self.services.contains_key(&key));
                }
            }
        }
        if self.services.len() > present {
            self.remove_others(picture, &mut tables, &mut late);
        }
        if !self.lists.is_empty() {
            self.forget_lists();
        }
        update.writes.append(&mut tables);
        update.writes.append(&mut late);
        update
    }

    /// Removes the services that a picture does not have.
    fn remove_others(&mut self, picture: &Picture, tables: &mut Vec<Write>, late: &mut Vec<Write>) {
        let wanted: BTreeSet<ServiceKey> = picture.services.keys().map(|port| port.key()).collect();
        let gone: Vec<_> = self.services.keys().filter(|k| !wanted.contains(k)).copied().collect();
        for key in gone {
            if let Some(old) = self.services.remove(&key) {
                tables.extend(keys(key, 0..old.chunks).map(Write::NoService));
                self.release(old.members.into_values(), late);
            }
        }
    }

    /// Removes the lists of networks that no service has.
    fn forget_lists(&mut self) {
        let in_use: BTreeSet<&BTreeSet<Network>> = self
            .services
            .values()
            .filter_map(|installed| Some(&installed.spec.as_ref()?.policy.sources))
            .collect();
        self.lists.retain(|networks, _| in_use.contains(networks));
    }

    /// What `SOURCES` must hold for the services as they are.
    pub fn sources(&self) -> BTreeSet<SourceKey> {
        let keys = |(networks, list): (&BTreeSet<Network>, &u32)| {
            networks.iter().map(|network| network.key(*list)).collect::<Vec<_>>()
        };
        self.lists.iter().flat_map(keys).collect()
    }

    /// When a slot becomes clean, for which [`Tables::update`] should be called again.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.services.values().filter_map(|installed| installed.deadline).min()
    }

    /// All services, and what `VIP_FILTER` should say of their VIPs.
    pub fn guesses(&self) -> impl Iterator<Item = (&ServiceKey, Guess)> {
        self.services.iter().map(|(key, installed)| {
            let is_by_client =
                installed.spec.as_ref().is_some_and(|it| it.policy.affinity.timeout().is_some());
            (key, Guess::new(installed.chunks, is_by_client))
        })
    }

    /// The keys of `SERVICES` that are in use.
    pub fn keys(&self) -> BTreeSet<ServiceKey> {
        self.services.iter().flat_map(|(key, used)| keys(*key, 0..used.chunks)).collect()
    }

    fn install(
        &mut self,
        Install { key, protocol, spec, now }: Install,
        backends: &mut Vec<Write>,
        tables: &mut Vec<Write>,
        late: &mut Vec<Write>,
    ) -> Option<()> {
        let roles = Roles::of(&spec);
        let numbers = self.acquire(roles.members.values().copied(), backends)?;
        let old = self.services.remove(&key);
        let mut slots = Slots::default();
        let mut before = BTreeMap::new();
        let mut unchanged = BTreeSet::new();
        if let Some(old) = &old {
            slots = old.slots.clone();
            // Names of backends that live on, under which the old slots know them.
            let mut names = BTreeMap::new();
            for (address, backend) in &old.members {
                let Some(old_number) = self.number(backend) else { continue };
                let number = numbers.get(address).copied().unwrap_or(old_number);
                names.insert(old_number, number);
                before.insert(number, *address);
            }
            slots.rename(&names);
            if let Some(spec) = &old.spec {
                let then = Roles::of(spec).candidates;
                unchanged = roles.candidates.iter().filter(|c| then.contains(c)).copied().collect();
            }
        }
        let wanted = assignment(&roles.candidates, &unchanged, slots.wanted(), &numbers, &before);
        let living: BTreeSet<u16> = numbers.values().copied().collect();
        let open: BTreeSet<u16> = roles.open().filter_map(|it| numbers.get(&it).copied()).collect();
        let draining: BTreeSet<u16> =
            roles.draining.iter().filter_map(|a| numbers.get(a).copied()).collect();
        let fate = |index: u16| Fate {
            lives: living.contains(&index),
            // A connectionless protocol has no first packet by which the flows that were there
            // before could be told from new ones: those of a draining backend move, so that
            // nothing new arrives there.
            precedes: protocol == Protocol::Tcp || !draining.contains(&index),
            keeps: spec.policy.affinity.timeout().filter(|_| open.contains(&index)),
        };
        slots.assign(wanted, now, now + self.drain, fate);
        let deadline = slots.next_deadline();
        let chunks = slots.len().div_ceil(SLOTS).max(1) as u32;
        let sources = self.list(&spec.policy.sources);
        let mut table = empty_table();
        table.backends = roles.candidates.len() as u32;
        table.chunks = chunks;
        table.sources = sources;
        table.flags = flags(&spec.policy, roles.drains_only);
        if table.backends > 0 && sources == 0 && !roles.drains_only {
            table.usual = Guess::new(chunks, spec.policy.affinity.timeout().is_some()).number();
        }
        for backend in roles.local.iter().take(LOCAL_SLOTS) {
            table.local[table.local_count as usize] = numbers[backend];
            table.local_count += 1;
        }
        for (number, key) in keys(key, 0..chunks).enumerate().rev() {
            let mut part = Box::new(table);
            for (position, slot) in part.slots.iter_mut().enumerate() {
                let number = number * SLOTS + position;
                if number < slots.len() {
                    *slot = slots.slot(number);
                }
            }
            tables.push(Write::Service(key, part));
        }
        let members = roles.members;
        if let Some(old) = old {
            late.extend(keys(key, chunks..old.chunks).map(Write::NoService));
            self.release(old.members.into_values(), late);
        }
        let installed = Installed { spec: Some(spec), members, slots, deadline, chunks };
        self.services.insert(key, installed);
        Some(())
    }

    fn number(&self, backend: &Backend) -> Option<u16> {
        self.indices.get(backend).map(|index| index.number)
    }

    /// Gives each backend an index; none at all if they do not all fit.
    fn acquire(
        &mut self,
        members: impl Iterator<Item = Backend> + Clone,
        writes: &mut Vec<Write>,
    ) -> Option<BTreeMap<SocketAddr, u16>> {
        let new = members.clone().filter(|backend| !self.indices.contains_key(backend)).count();
        if self.used.len() + new > BACKENDS as usize {
            return None;
        }
        let mut numbers = BTreeMap::new();
        for backend in members {
            let number = match self.indices.get_mut(&backend) {
                Some(index) => {
                    index.users += 1;
                    index.number
                }
                None => {
                    let number = self.free_index();
                    self.used.insert(number);
                    self.indices.insert(backend, Index { number, users: 1 });
                    writes.push(Write::Backend(number, backend.entry()));
                    number
                }
            };
            numbers.insert(backend.address, number);
        }
        Some(numbers)
    }

    /// The next free index after the one given out last; there is one.
    fn free_index(&mut self) -> u16 {
        loop {
            let number = self.cursor;
            self.cursor = (self.cursor + 1) % BACKENDS as u16;
            if !self.used.contains(&number) {
                return number;
            }
        }
    }

    fn release(&mut self, members: impl Iterator<Item = Backend>, late: &mut Vec<Write>) {
        for backend in members {
            let Some(index) = self.indices.get_mut(&backend) else { continue };
            index.users -= 1;
            if index.users == 0 {
                let number = index.number;
                self.indices.remove(&backend);
                self.used.remove(&number);
                let mut entry = backend.entry();
                entry.flags |= IS_GONE;
                late.push(Write::Backend(number, entry));
            }
        }
    }

    /// The key in `SOURCES` of a list of networks.
    fn list(&mut self, networks: &BTreeSet<Network>) -> u32 {
        if networks.is_empty() {
            return 0;
        }
        if let Some(list) = self.lists.get(networks) {
            return *list;
        }
        let list = self.next_list;
        self.next_list = self.next_list.checked_add(1).unwrap_or(1);
        self.lists.insert(networks.clone(), list);
        list
    }
}

/// One service to be installed.
struct Install {
    key: ServiceKey,
    protocol: Protocol,
    spec: Spec,
    now: Duration,
}

/// The winner of each slot. Where the old winner is among the `unchanged`, only the others
/// challenge it.
fn assignment(
    candidates: &[Candidate],
    unchanged: &BTreeSet<Candidate>,
    last: &[u16],
    numbers: &BTreeMap<SocketAddr, u16>,
    addresses: &BTreeMap<u16, SocketAddr>,
) -> Vec<u16> {
    let size = match candidates.len() {
        0 => 0,
        count => rendezvous::size(count),
    };
    let by_address: HashMap<SocketAddr, &Candidate> =
        unchanged.iter().map(|candidate| (candidate.address(), candidate)).collect();
    let challengers: Vec<Candidate> =
        candidates.iter().filter(|candidate| !unchanged.contains(candidate)).copied().collect();
    let incumbents: HashMap<u16, &Candidate> = addresses
        .iter()
        .filter_map(|(number, address)| Some((*number, *by_address.get(address)?)))
        .collect();
    let number = |candidate: &Candidate| numbers[&candidate.address()];
    (0..size)
        .filter_map(|slot| {
            let incumbent = (last.len() == size).then(|| incumbents.get(&last[slot])).flatten();
            match incumbent {
                Some(incumbent) => {
                    let challenger =
                        rendezvous::winner(slot, &challengers).map(|it| &challengers[it]);
                    let wins = |it: &&Candidate| rendezvous::beats(slot, it, incumbent);
                    Some(number(challenger.filter(wins).unwrap_or(incumbent)))
                }
                None => Some(number(&candidates[rendezvous::winner(slot, candidates)?])),
            }
        })
        .collect()
}

fn flags(policy: &Policy, drains_only: bool) -> u32 {
    let affinity = match policy.affinity {
        Affinity::None => 0,
        Affinity::Client { .. } => common::CLIENT_AFFINITY,
    };
    let empty = match policy.empty {
        WhenEmpty::Pass => 0,
        WhenEmpty::Reject => common::REJECT_WHEN_EMPTY,
    };
    affinity | empty | if drains_only { common::DRAINS_ONLY } else { 0 }
}

const fn empty_table() -> ServiceTable {
    ServiceTable {
        backends: 0,
        local_count: 0,
        chunks: 1,
        usual: 0,
        flags: 0,
        sources: 0,
        local: [0; LOCAL_SLOTS],
        slots: [Slot { current: 0, previous: 0 }; SLOTS],
    }
}

#[cfg(test)]
mod tests;
