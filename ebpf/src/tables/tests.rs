//! What is written for which change of the picture.

use super::*;
use crate::picture::{Locality, ServicePort};

const DRAIN: Duration = Duration::from_secs(900);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn port(n: u8) -> ServicePort {
    ServicePort { vip: [192, 168, 1, n].into(), port: 80, protocol: Protocol::Tcp }
}

fn backend(n: u16) -> Backend {
    Backend {
        address: SocketAddr::from(([10, 244, (n >> 8) as u8, n as u8], 8080)),
        node_mac: [2, 0, 0, 0, 1, 1],
        is_local: n.is_multiple_of(2),
    }
}

fn picture(entries: &[(u8, &[u16])]) -> Picture {
    let services = entries
        .iter()
        .map(|(n, backends)| (port(*n), Arc::new(backends.iter().copied().map(backend).collect())))
        .collect();
    Picture { services, ..Picture::default() }
}

fn with(mut picture: Picture, n: u8, policy: Policy) -> Picture {
    picture.policies.insert(port(n), policy.into());
    picture
}

fn draining(backends: &[u16]) -> Policy {
    Policy { draining: backends.iter().copied().map(backend).collect(), ..Policy::default() }
}

/// The maps, as the writes fill them.
#[derive(Default)]
struct Maps {
    tables: Option<Tables>,
    services: BTreeMap<ServiceKey, ServiceTable>,
    backends: BTreeMap<u16, Entry>,
}

impl Maps {
    fn update(&mut self, picture: &Picture, now: Duration) -> Vec<Write> {
        let tables = self.tables.get_or_insert_with(|| Tables::new(DRAIN));
        let update = tables.update(picture, now);
        assert_eq!(update.refused, 0);
        update.writes.iter().cloned().for_each(|write| self.write(write));
        update.writes
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Backend(number, entry) => drop(self.backends.insert(number, entry)),
            Write::Service(key, table) => {
                for slot in table.slots.iter().filter(|_| table.backends > 0) {
                    assert!(self.backends.contains_key(&slot.current), "backends first");
                }
                let _ = self.services.insert(key, *table);
            }
            Write::NoService(key) => drop(self.services.remove(&key)),
        }
    }

    /// Where the programs send a new flow of a hash, and one that was there before.
    fn ways(&self, n: u8, hash: u32) -> (u16, u16) {
        let key = port(n).key();
        let chunk = common::chunk_of(hash, self.services[&key].chunks) as u8;
        let slot = self.services[&ServiceKey { chunk, ..key }].slots[hash as usize % SLOTS];
        let is_current = slot.previous == common::PREVIOUS_IS_CURRENT;
        (slot.current, if is_current { slot.current } else { slot.previous })
    }

    /// The slots of a service: addresses of the current and of the previous backend.
    fn slots(&self, n: u8) -> Vec<(SocketAddr, Option<SocketAddr>)> {
        let address = |number: u16| Backend::of_entry(&self.backends[&number]).address;
        let key = port(n).key();
        read_slots(key, &self.services[&key], |key| self.services.get(&key))
            .into_iter()
            .map(|slot| {
                let is_dirty = slot.current != slot.previous;
                let is_other = is_dirty && slot.previous != common::PREVIOUS_IS_CURRENT;
                let now = address(slot.current);
                let same = is_dirty.then_some(now);
                (now, if is_other { Some(address(slot.previous)) } else { same })
            })
            .collect()
    }

    fn restart(&mut self, now: Duration) {
        self.tables = Some(Tables::adopt(DRAIN, now, self.services.clone(), |number| {
            self.backends.get(&number).copied()
        }));
    }
}

fn living(writes: &[Write]) -> Vec<u16> {
    let number = |write: &Write| match write {
        Write::Backend(number, entry) if entry.flags & IS_GONE == 0 => Some(*number),
        _ => None,
    };
    writes.iter().filter_map(number).collect()
}

fn gone(writes: &[Write]) -> Vec<u16> {
    let number = |write: &Write| match write {
        Write::Backend(number, entry) if entry.flags & IS_GONE != 0 => Some(*number),
        _ => None,
    };
    writes.iter().filter_map(number).collect()
}

#[test]
fn writes_backends_before_the_tables_that_name_them() {
    let writes = Maps::default().update(&picture(&[(1, &[1, 2])]), at(0));
    assert_eq!(living(&writes), [0, 1]);
    assert!(matches!(writes[2], Write::Service(key, _) if key == port(1).key()));
    assert_eq!(writes.len(), 3);
}

#[test]
fn writes_nothing_when_nothing_changed() {
    let mut maps = Maps::default();
    let wanted = picture(&[(1, &[1, 2]), (2, &[2])]);
    assert!(!maps.update(&wanted, at(0)).is_empty());
    assert_eq!(maps.update(&wanted, at(1)), []);
}

#[test]
fn lists_local_backends_only() {
    let writes = Maps::default().update(&picture(&[(1, &[1, 2, 3])]), at(0));
    let Some(Write::Service(_, table)) = writes.last() else { panic!("{writes:?}") };
    assert_eq!((table.backends, table.local_count, table.local[0]), (3, 1, 1));
}

#[test]
fn a_backend_shared_by_services_has_one_index() {
    let mut maps = Maps::default();
    assert_eq!(living(&maps.update(&picture(&[(1, &[7]), (2, &[7])]), at(0))), [0]);
    assert_eq!(gone(&maps.update(&picture(&[(1, &[7])]), at(1))), []);
    assert_eq!(gone(&maps.update(&picture(&[]), at(2))), [0]);
}

#[test]
fn reuses_a_freed_index_as_late_as_possible() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1])]), at(0));
    assert_eq!(living(&maps.update(&picture(&[(1, &[2])]), at(1))), [1]);
    assert_eq!(living(&maps.update(&picture(&[(1, &[3])]), at(2))), [2]);
}

#[test]
fn a_new_backend_leaves_its_slots_dirty_for_the_drain_time() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2])]), at(0));
    let before = maps.slots(1);
    let wanted = picture(&[(1, &[1, 2, 3])]);
    let _ = maps.update(&wanted, at(10));
    for ((old, _), (new, previous)) in before.into_iter().zip(maps.slots(1)) {
        let is_taken = new == backend(3).address;
        assert_eq!((new, previous), if is_taken { (new, Some(old)) } else { (old, None) });
    }
    assert_eq!(maps.tables.as_ref().and_then(Tables::next_deadline), Some(at(910)));
    assert_eq!(maps.update(&wanted, at(909)), []);
    let _ = maps.update(&wanted, at(910));
    assert!(maps.slots(1).iter().all(|(_, previous)| previous.is_none()));
    assert_eq!(maps.tables.as_ref().and_then(Tables::next_deadline), None);
}

#[test]
fn a_dead_backend_loses_its_flows_and_a_draining_one_keeps_them() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2, 3])]), at(0));
    let writes = maps.update(&with(picture(&[(1, &[1])]), 1, draining(&[2])), at(10));
    assert_eq!(gone(&writes), [2], "the third is dead");
    let (first, second) = (backend(1).address, backend(2).address);
    assert!(maps.slots(1).contains(&(first, Some(second))));
    assert!(maps.slots(1).iter().all(|(now, p)| *now == first && p.is_none_or(|p| p == second)));
    let writes = maps.update(&picture(&[(1, &[1])]), at(20));
    assert_eq!(gone(&writes), [1], "and now the second");
    assert!(maps.slots(1).iter().all(|slot| *slot == (first, None)));
}

#[test]
fn new_udp_flows_do_not_arrive_at_a_draining_backend() {
    let udp = ServicePort { protocol: Protocol::Udp, ..port(1) };
    let mut tables = Tables::new(DRAIN);
    let set = |backends: &[u16]| Arc::new(backends.iter().copied().map(backend).collect());
    let wanted = |backends: &[u16], policy: Policy| Picture {
        services: BTreeMap::from([(udp, set(backends))]),
        policies: BTreeMap::from([(udp, policy.into())]),
        ..Picture::default()
    };
    let _ = tables.update(&wanted(&[1, 2], Policy::default()), at(0));
    let update = tables.update(&wanted(&[1], draining(&[2])), at(1));
    let [Write::Service(_, table)] = &update.writes[..] else { panic!("{update:?}") };
    let dirty = Slot { current: 0, previous: common::PREVIOUS_IS_CURRENT };
    assert!(table.slots.contains(&dirty));
    assert!(table.slots.iter().all(|slot| *slot == dirty || slot.previous == 0));
}

#[test]
fn backends_that_only_drain_have_the_slots_for_the_flows_they_keep() {
    let mut maps = Maps::default();
    let flags = |writes: &[Write]| {
        let table = |write: &Write| match write {
            Write::Service(_, table) => Some(table.flags),
            _ => None,
        };
        writes.iter().find_map(table)
    };
    let writes = maps.update(&with(picture(&[(1, &[])]), 1, draining(&[5])), at(0));
    assert_eq!(flags(&writes), Some(common::DRAINS_ONLY));
    assert!(maps.slots(1).iter().all(|slot| *slot == (backend(5).address, None)));
    let writes = maps.update(&with(picture(&[(1, &[6])]), 1, draining(&[5])), at(1));
    assert_eq!(flags(&writes), Some(0));
    let writes = maps.update(&picture(&[(1, &[])]), at(2));
    assert_eq!(flags(&writes), Some(0), "nothing there is simply empty");
}

#[test]
fn a_local_service_uses_local_backends_only() {
    let mut maps = Maps::default();
    let local = Policy { locality: Locality::Local, ..Policy::default() };
    let _ = maps.update(&with(picture(&[(1, &[1, 2, 3])]), 1, local), at(0));
    assert!(maps.slots(1).iter().all(|slot| *slot == (backend(2).address, None)));
}

#[test]
fn a_weight_moves_slots_to_or_from_its_backend_alone() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2, 3])]), at(0));
    let before = maps.slots(1);
    let weights = BTreeMap::from([(backend(2).address, 3)]);
    let heavy = Policy { weights, ..Policy::default() };
    let _ = maps.update(&with(picture(&[(1, &[1, 2, 3])]), 1, heavy.clone()), at(1));
    let heavier = maps.slots(1);
    for ((old, _), (new, previous)) in before.iter().zip(&heavier) {
        let expected = if new == old { (*old, None) } else { (backend(2).address, Some(*old)) };
        assert_eq!((*new, *previous), expected);
    }
    let mut fresh = Maps::default();
    let _ = fresh.update(&with(picture(&[(1, &[1, 2, 3])]), 1, heavy), at(0));
    let now = |slots: Vec<(SocketAddr, _)>| slots.into_iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(now(heavier), now(fresh.slots(1)), "history does not matter");
}

#[test]
fn a_large_service_lies_in_chunks() {
    let mut maps = Maps::default();
    let few: Vec<u16> = (0..10).collect();
    let many: Vec<u16> = (0..50).collect();
    let _ = maps.update(&picture(&[(1, &few)]), at(0));
    let before = maps.slots(1);
    let _ = maps.update(&picture(&[(1, &many)]), at(1));
    let after = maps.slots(1);
    assert_eq!((before.len(), after.len(), maps.services.len()), (1024, 16_384, 16));
    for (number, (now, previous)) in after.iter().enumerate() {
        let old = before[number % 1024].0;
        assert_eq!(*previous, (*now != old).then_some(old), "slot {number}");
    }
    // The other way: the size stays until the slots are clean.
    let _ = maps.update(&picture(&[(1, &few)]), at(2));
    assert_eq!(
        maps.slots(1).iter().map(|slot| slot.0).take(1024).collect::<Vec<_>>(),
        before.iter().map(|slot| slot.0).collect::<Vec<_>>()
    );
    let _ = maps.update(&picture(&[(1, &few)]), at(2000));
    assert_eq!((maps.slots(1), maps.services.len()), (before, 1));
}

#[test]
fn a_table_is_whole_at_every_moment_while_it_changes_its_size() {
    // In slots: 1,024 to 16,384; 4,096 to 16,384; and to 4,096 when all slots are clean.
    let steps = [(10, 50, 0), (30, 50, 0), (50, 30, 2_000)];
    for (from, to, clean_at) in steps {
        let (from, to): (Vec<u16>, Vec<u16>) = ((0..from).collect(), (0..to).collect());
        let mut maps = Maps::default();
        let _ = maps.update(&picture(&[(1, &from)]), at(0));
        if clean_at > 0 {
            // The change itself keeps the size: what is watched is the end of the drain time.
            let _ = maps.update(&picture(&[(1, &to)]), at(1));
        }
        let flows: Vec<u32> = (0..2_000).map(common::flow::fmix32).collect();
        let before: Vec<_> = flows.iter().map(|hash| maps.ways(1, *hash)).collect();
        let (services, backends) = (maps.services.clone(), maps.backends.clone());
        let writes = maps.update(&picture(&[(1, &to)]), at(clean_at + 1));
        (maps.services, maps.backends) = (services, backends);
        for (number, write) in writes.into_iter().enumerate() {
            maps.write(write);
            for (hash, before) in flows.iter().zip(&before) {
                let now = maps.ways(1, *hash);
                // With the drain time over, all flows without an entry are the slot's owner's.
                let is_same = if clean_at > 0 { now.0 == before.0 } else { now.1 == before.1 };
                assert!(is_same, "write {number}: {hash:#x}");
            }
        }
    }
}

#[test]
fn a_restart_moves_nothing_and_keeps_dirty_slots_dirty() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2])]), at(0));
    let _ = maps.update(&picture(&[(1, &[1, 2, 3])]), at(1));
    let before = maps.slots(1);
    maps.restart(at(100));
    let writes = maps.update(&picture(&[(1, &[1, 2, 3])]), at(100));
    assert_eq!(living(&writes), [], "the indices are adopted too");
    assert_eq!(maps.slots(1), before);
    assert_eq!(maps.tables.as_ref().and_then(Tables::next_deadline), Some(at(1000)));
}

#[test]
fn a_restart_while_a_table_grows_moves_nothing() {
    let (few, many): (Vec<u16>, Vec<u16>) = ((0..30).collect(), (0..50).collect());
    for done in [1, 12, 13, 15] {
        let mut maps = Maps::default();
        let _ = maps.update(&picture(&[(1, &few)]), at(0));
        let before = maps.slots(1);
        let (services, backends) = (maps.services.clone(), maps.backends.clone());
        let writes = maps.update(&picture(&[(1, &many)]), at(1));
        // Stopped when so many of its chunks were written.
        (maps.services, maps.backends) = (services, backends);
        let mut left = done;
        for write in writes {
            match &write {
                Write::Service(..) if left > 0 => left -= 1,
                Write::Backend(..) => {}
                _ => continue,
            }
            maps.write(write);
        }
        maps.restart(at(2));
        let _ = maps.update(&picture(&[(1, &many)]), at(3));
        for (number, (now, previous)) in maps.slots(1).into_iter().enumerate() {
            let old = before[number % before.len()].0;
            assert_eq!(previous, (now != old).then_some(old), "slot {number}, {done} written");
        }
    }
}

#[test]
fn a_restart_removes_services_nobody_wants() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2]), (2, &[3])]), at(0));
    maps.restart(at(1));
    let writes = maps.update(&picture(&[(1, &[1, 2])]), at(1));
    assert!(writes.contains(&Write::NoService(port(2).key())));
    assert_eq!(gone(&writes), [2]);
}

#[test]
fn a_backend_whose_node_has_a_new_mac_keeps_its_slots_clean() {
    let mut maps = Maps::default();
    let _ = maps.update(&picture(&[(1, &[1, 2])]), at(0));
    let before = maps.slots(1);
    let moved = Backend { node_mac: [2, 9, 9, 9, 9, 9], ..backend(2) };
    let mut wanted = picture(&[(1, &[1])]);
    Arc::make_mut(wanted.services.entry(port(1)).or_default()).insert(moved);
    let _ = maps.update(&wanted, at(1));
    assert_eq!(maps.slots(1), before);
    let macs: BTreeSet<_> = maps.services[&port(1).key()]
        .slots
        .iter()
        .map(|slot| Backend::of_entry(&maps.backends[&slot.current]).node_mac)
        .collect();
    assert_eq!(macs, BTreeSet::from([backend(1).node_mac, moved.node_mac]));
}

#[test]
fn lists_of_sources_are_shared_and_forgotten() {
    let network = Network { address: [192, 168, 1, 0].into(), prefix: 24 };
    let policy = || Policy { sources: BTreeSet::from([network]), ..Policy::default() };
    let mut maps = Maps::default();
    let wanted = with(with(picture(&[(1, &[1]), (2, &[1])]), 1, policy()), 2, policy());
    let _ = maps.update(&wanted, at(0));
    let sources = |maps: &Maps| maps.tables.as_ref().map(Tables::sources).unwrap_or_default();
    assert_eq!(sources(&maps), BTreeSet::from([network.key(1)]));
    let _ = maps.update(&picture(&[(1, &[1])]), at(1));
    assert_eq!(sources(&maps), BTreeSet::new());
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let mut tables = Tables::new(DRAIN);
    tables.used = (0..BACKENDS as u16 - 1).collect();
    let update = tables.update(&picture(&[(1, &[1, 2]), (2, &[3])]), at(0));
    assert_eq!((update.refused, living(&update.writes)), (1, vec![BACKENDS as u16 - 1]));
}
