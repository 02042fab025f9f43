//! From pictures to map entries (pure): which indices backends get, which tables a change
//! touches, and in which order to write them so that no packet meets half of it.
//!
//! Order: new backends first, then the tables that name them, then removals. An index is freed
//! when no table names it and is reused as late as possible, because a packet on another CPU may
//! still be walking the old table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use herald_ebpf_common::{
    BACKENDS, Backend as Entry, LOCAL_SLOTS, SLOTS, ServiceKey, ServiceTable,
};

use crate::picture::{Backend, ServicePort};
use crate::rendezvous;

/// One write to the kernel's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// An entry of `BACKENDS`.
    Backend(u16, Entry),
    /// A value of `SERVICES`, new or replaced.
    Service(ServiceKey, Box<ServiceTable>),
    /// A key of `SERVICES` to remove.
    NoService(ServiceKey),
}

/// What `SERVICES` and `BACKENDS` hold now.
#[derive(Debug, Default)]
pub struct Tables {
    services: BTreeMap<ServiceKey, Installed>,
    indices: HashMap<Backend, Index>,
    /// Occupied indices, to find free ones.
    used: BTreeSet<u16>,
    cursor: u16,
}

#[derive(Debug)]
struct Installed {
    /// None for a table adopted from an earlier process: it is rewritten once.
    backends: Option<BTreeSet<Backend>>,
    indices: BTreeSet<u16>,
}

#[derive(Debug)]
struct Index {
    number: u16,
    users: usize,
}

/// A picture that does not fit the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Tables {
    /// What an earlier process left in the maps.
    pub fn adopt(tables: impl IntoIterator<Item = (ServiceKey, ServiceTable)>) -> Self {
        let mut adopted = Self::default();
        for (key, table) in tables {
            let local = table.local.iter().take(table.local_count as usize);
            let slots = table.slots.iter().filter(|_| table.backends > 0);
            let indices: BTreeSet<u16> = local.chain(slots).copied().collect();
            adopted.used.extend(&indices);
            adopted.services.insert(key, Installed { backends: None, indices });
        }
        adopted
    }

    /// The writes that make the maps equal to `services`; empty if they are.
    ///
    /// # Errors
    ///
    /// [`Full`] if the distinct backends outnumber the indices; the writes that fit are lost, so
    /// the caller keeps the old picture in force.
    pub fn update(
        &mut self,
        services: &BTreeMap<ServicePort, BTreeSet<Backend>>,
    ) -> Result<Vec<Write>, Full> {
        let mut backends = Vec::new();
        let mut tables = Vec::new();
        let wanted: BTreeSet<ServiceKey> = services.keys().map(ServicePort::key).collect();
        for (port, set) in services {
            let key = port.key();
            if self.services.get(&key).is_some_and(|now| now.backends.as_ref() == Some(set)) {
                continue;
            }
            let indices = self.acquire(set, &mut backends)?;
            tables.push(Write::Service(key, Box::new(table(set, &indices))));
            let numbers = indices.values().copied().collect();
            let installed = Installed { backends: Some(set.clone()), indices: numbers };
            if let Some(old) = self.services.insert(key, installed) {
                self.release(old);
            }
        }
        let gone: Vec<_> = self.services.keys().filter(|k| !wanted.contains(k)).copied().collect();
        for key in gone {
            if let Some(old) = self.services.remove(&key) {
                self.release(old);
            }
            tables.push(Write::NoService(key));
        }
        backends.append(&mut tables);
        Ok(backends)
    }

    fn acquire(
        &mut self,
        set: &BTreeSet<Backend>,
        writes: &mut Vec<Write>,
    ) -> Result<HashMap<SocketAddr, u16>, Full> {
        let mut indices = HashMap::with_capacity(set.len());
        for backend in set {
            let number = match self.indices.get_mut(backend) {
                Some(index) => {
                    index.users += 1;
                    index.number
                }
                None => {
                    let number = self.free_index().ok_or(Full)?;
                    self.used.insert(number);
                    self.indices.insert(*backend, Index { number, users: 1 });
                    writes.push(Write::Backend(number, backend.entry()));
                    number
                }
            };
            indices.insert(backend.address, number);
        }
        Ok(indices)
    }

    /// The next free index after the one given out last.
    fn free_index(&mut self) -> Option<u16> {
        if self.used.len() >= BACKENDS as usize {
            return None;
        }
        while self.used.contains(&self.cursor) {
            self.cursor = self.cursor.wrapping_add(1);
        }
        let number = self.cursor;
        self.cursor = self.cursor.wrapping_add(1);
        Some(number)
    }

    fn release(&mut self, old: Installed) {
        let Some(backends) = old.backends else {
            // Adopted: nothing of ours shares these indices unless it was given them anew.
            let ours: BTreeSet<u16> = self.indices.values().map(|index| index.number).collect();
            let adopted: BTreeSet<u16> = self
                .services
                .values()
                .filter(|installed| installed.backends.is_none())
                .flat_map(|installed| installed.indices.iter().copied())
                .collect();
            self.used.retain(|number| {
                !old.indices.contains(number) || ours.contains(number) || adopted.contains(number)
            });
            return;
        };
        for backend in backends {
            let Some(index) = self.indices.get_mut(&backend) else { continue };
            index.users -= 1;
            if index.users == 0 {
                let number = index.number;
                self.indices.remove(&backend);
                self.used.remove(&number);
            }
        }
    }
}

/// The value of `SERVICES` for a backend set, given each backend's index.
fn table(set: &BTreeSet<Backend>, indices: &HashMap<SocketAddr, u16>) -> ServiceTable {
    let mut table = ServiceTable {
        backends: set.len() as u32,
        local_count: 0,
        local: [0; LOCAL_SLOTS],
        slots: [0; SLOTS],
    };
    let addresses: Vec<SocketAddr> = set.iter().map(|backend| backend.address).collect();
    for (slot, position) in rendezvous::slots(&addresses).into_iter().enumerate() {
        table.slots[slot] = indices[&addresses[position]];
    }
    for backend in set.iter().filter(|backend| backend.is_local).take(LOCAL_SLOTS) {
        table.local[table.local_count as usize] = indices[&backend.address];
        table.local_count += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Protocol;

    fn port(n: u8) -> ServicePort {
        ServicePort { vip: [192, 168, 1, n].into(), port: 80, protocol: Protocol::Tcp }
    }

    fn backend(n: u8) -> Backend {
        Backend {
            address: SocketAddr::from(([10, 244, 1, n], 8080)),
            node_mac: [2, 0, 0, 0, 1, 1],
            is_local: n.is_multiple_of(2),
        }
    }

    fn services(entries: &[(u8, &[u8])]) -> BTreeMap<ServicePort, BTreeSet<Backend>> {
        entries
            .iter()
            .map(|(n, backends)| (port(*n), backends.iter().copied().map(backend).collect()))
            .collect()
    }

    fn written_backends(writes: &[Write]) -> Vec<u16> {
        writes
            .iter()
            .filter_map(|write| match write {
                Write::Backend(number, _) => Some(*number),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn writes_backends_before_the_tables_that_name_them() {
        let writes = Tables::default().update(&services(&[(1, &[1, 2])])).unwrap();
        assert_eq!(written_backends(&writes), [0, 1]);
        assert!(matches!(writes[2], Write::Service(key, _) if key == port(1).key()));
        assert_eq!(writes.len(), 3);
    }

    #[test]
    fn writes_nothing_when_nothing_changed() {
        let mut tables = Tables::default();
        let wanted = services(&[(1, &[1, 2]), (2, &[2])]);
        assert!(!tables.update(&wanted).unwrap().is_empty());
        assert_eq!(tables.update(&wanted), Ok(vec![]));
    }

    #[test]
    fn lists_local_backends_only() {
        let writes = Tables::default().update(&services(&[(1, &[1, 2, 3])])).unwrap();
        let Some(Write::Service(_, table)) = writes.last() else { panic!("{writes:?}") };
        assert_eq!((table.backends, table.local_count, table.local[0]), (3, 1, 1));
    }

    #[test]
    fn a_backend_shared_by_services_has_one_index() {
        let writes = Tables::default().update(&services(&[(1, &[7]), (2, &[7])])).unwrap();
        assert_eq!(written_backends(&writes), [0]);
    }

    #[test]
    fn reuses_a_freed_index_as_late_as_possible() {
        let mut tables = Tables::default();
        assert!(tables.update(&services(&[(1, &[1])])).is_ok());
        assert_eq!(written_backends(&tables.update(&services(&[(1, &[2])])).unwrap()), [1]);
        assert_eq!(written_backends(&tables.update(&services(&[(1, &[3])])).unwrap()), [2]);
    }

    #[test]
    fn adopted_tables_keep_their_indices_until_rewritten() {
        let mut first = Tables::default();
        let writes = first.update(&services(&[(1, &[1, 2]), (2, &[3])])).unwrap();
        let left = writes.into_iter().filter_map(|write| match write {
            Write::Service(key, table) => Some((key, *table)),
            _ => None,
        });
        let mut second = Tables::adopt(left);
        let writes = second.update(&services(&[(1, &[1, 2])])).unwrap();
        assert_eq!(written_backends(&writes), [3, 4]);
        assert_eq!(writes.last(), Some(&Write::NoService(port(2).key())));
        assert_eq!(second.used, BTreeSet::from([3, 4]));
    }
}
