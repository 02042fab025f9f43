//! Which addresses there are, who holds them, and which is the next one for a Service.
//!
//! Work is proportional to the number of addresses that are held, never to the size of a pool: an
//! IPv6 /64 is searched as fast as a /28. While one plan is made, addresses are mostly taken, so a
//! cursor for each range remembers below what nothing is free; a release moves it back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::share;
use crate::observed::{AddressRange, IpFamily, Pool, PoolKind, Service, ServiceName};

pub(super) struct Space<'a> {
    /// Ranges of pools without conflict by their first address, with their pool. Disjoint.
    ranges: BTreeMap<IpAddr, (AddressRange, &'a Pool)>,
    pools: &'a BTreeMap<String, Pool>,
    holders: BTreeMap<IpAddr, Vec<Holder<'a>>>,
    /// Addresses of Services that share, by the kind of rule and the key.
    shared: BTreeMap<(PoolKind, &'a str), BTreeSet<IpAddr>>,
    /// For a range, by its first address: nothing lower is free. None means nothing at all is.
    cursors: BTreeMap<IpAddr, Option<IpAddr>>,
}

/// Who has an address.
#[derive(Clone, Copy)]
pub(super) enum Holder<'a> {
    Known(&'a Service),
    /// A Service of which only the name is known; it shares with nobody.
    Hidden(&'a ServiceName),
}

impl<'a> Holder<'a> {
    pub fn name(self) -> &'a ServiceName {
        match self {
            Self::Known(service) => &service.name,
            Self::Hidden(name) => name,
        }
    }
}

/// Who keeps a Service from having an address, and why.
pub(super) struct Obstacle<'a> {
    pub holder: &'a ServiceName,
    /// Why they do not share, if both mean to.
    pub why: Option<&'static str>,
}

impl<'a> Space<'a> {
    pub fn new(pools: &'a BTreeMap<String, Pool>) -> Self {
        let ranges = pools
            .values()
            .filter(|pool| pool.conflict.is_none())
            .flat_map(|pool| pool.ranges.iter().map(move |range| (range.first(), (*range, pool))));
        Self {
            ranges: ranges.collect(),
            pools,
            holders: BTreeMap::new(),
            shared: BTreeMap::new(),
            cursors: BTreeMap::new(),
        }
    }

    /// The pool that a new address at this place would come from.
    pub fn pool_of(&self, address: IpAddr) -> Option<&'a Pool> {
        self.range_of(address).map(|(_, pool)| pool)
    }

    /// The pool that an address already assigned belongs to: the one it came from if that still
    /// holds it, whatever state that is in.
    pub fn home_of(&self, address: IpAddr, from: &str) -> Option<&'a Pool> {
        let holds = |pool: &&Pool| pool.contains(address);
        let same = self.pools.get(from).filter(holds);
        same.or_else(|| self.pool_of(address)).or_else(|| self.pools.values().find(holds))
    }

    fn range_of(&self, address: IpAddr) -> Option<(AddressRange, &'a Pool)> {
        let (_, (range, pool)) = self.ranges.range(..=address).next_back()?;
        range.contains(address).then_some((*range, *pool))
    }

    /// Whether anybody has the address.
    pub fn is_held(&self, address: IpAddr) -> bool {
        self.holders.contains_key(&address)
    }

    /// Who else keeps the Service from having the address.
    pub fn obstacle(
        &self,
        service: &Service,
        kind: PoolKind,
        address: IpAddr,
    ) -> Option<Obstacle<'a>> {
        self.holders.get(&address)?.iter().find_map(|holder| match holder {
            Holder::Known(other) if other.name == service.name => None,
            Holder::Known(other) => {
                let why = share::obstacle(kind, service, other)?;
                let both = share::key(kind, service).is_some() && share::key(kind, other).is_some();
                Some(Obstacle { holder: &other.name, why: both.then_some(why) })
            }
            Holder::Hidden(name) => Some(Obstacle { holder: name, why: None }),
        })
    }

    pub fn take(&mut self, address: IpAddr, holder: Holder<'a>) {
        self.holders.entry(address).or_default().push(holder);
        if let Holder::Known(service) = holder {
            for kind in KINDS {
                if let Some(key) = share::key(kind, service) {
                    self.shared.entry((kind, key)).or_default().insert(address);
                }
            }
        }
    }

    pub fn release(&mut self, address: IpAddr, name: &ServiceName) {
        let Some(holders) = self.holders.get_mut(&address) else { return };
        let last = holders.iter().find(|holder| holder.name() == name).copied();
        holders.retain(|holder| holder.name() != name);
        if !holders.is_empty() {
            return;
        }
        self.holders.remove(&address);
        // All who shared it had the same key by the rules of its pool's kind, and a key by the other
        // kind's rules leads nobody to an address of this one.
        if let Some(Holder::Known(service)) = last {
            for kind in KINDS {
                if let Some(key) = share::key(kind, service)
                    && let Some(addresses) = self.shared.get_mut(&(kind, key))
                {
                    addresses.remove(&address);
                }
            }
        }
        if let Some((range, _)) = self.range_of(address)
            && let Some(cursor) = self.cursors.get_mut(&range.first())
        {
            *cursor = Some(cursor.map_or(address, |cursor| cursor.min(address)));
        }
    }

    /// The address that the Service gets from the pool: by MetalLB's rules the first in the pool's
    /// order that is free or can be shared, by Cilium's one to share before a free one.
    pub fn next_for(&mut self, service: &Service, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
        let shared = self.next_shared(service, pool, family);
        if shared.is_some() && pool.kind == PoolKind::Cilium {
            return shared;
        }
        let free = self.next_free(pool, family);
        [shared, free].into_iter().flatten().min_by_key(|address| place(pool, *address))
    }

    fn next_shared(&self, service: &Service, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
        let key = share::key(pool.kind, service)?;
        let addresses = self.shared.get(&(pool.kind, key))?.iter().copied();
        addresses
            .filter(|address| IpFamily::of(*address) == family && pool.contains(*address))
            .filter(|address| !is_left_out(pool, *address))
            .filter(|address| self.obstacle(service, pool.kind, *address).is_none())
            .min_by_key(|address| place(pool, *address))
    }

    /// The lowest free address of the family, range by range in the order the pool lists them.
    fn next_free(&mut self, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
        let ranges = pool.ranges.iter().filter(|range| range.family() == family);
        ranges.into_iter().find_map(|range| self.next_free_in(*range, pool))
    }

    fn next_free_in(&mut self, range: AddressRange, pool: &Pool) -> Option<IpAddr> {
        let cursor = self.cursors.entry(range.first()).or_insert(Some(range.first()));
        while let Some(address) = *cursor {
            if !is_left_out(pool, address) && !self.holders.contains_key(&address) {
                return Some(address);
            }
            *cursor = range.after(address);
        }
        None
    }
}

const KINDS: [PoolKind; 2] = [PoolKind::MetalLb, PoolKind::Cilium];

/// Where in the pool's order the address comes.
fn place(pool: &Pool, address: IpAddr) -> (Option<usize>, IpAddr) {
    (pool.ranges.iter().position(|range| range.contains(address)), address)
}

/// Whether the pool leaves the address out: ends of a network by Cilium's option, or .0 and .255 by
/// MetalLB's, because some old devices take them for the network's own addresses.
pub(super) fn is_left_out(pool: &Pool, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) if pool.avoid_buggy && matches!(v4.octets()[3], 0 | 255) => true,
        address => pool.left_out.contains(&address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_address_is_the_next_free_one_again() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let range = AddressRange::new(ip("2001:db8::"), ip("2001:db8::ffff:ffff:ffff:ffff"));
        let ranges = range.into_iter().collect();
        let pool = Pool { name: "p".into(), ranges, auto_assign: true, ..Pool::default() };
        let pools = BTreeMap::from([("p".to_owned(), pool.clone())]);
        let service = Service::default();
        let mut space = Space::new(&pools);
        for expected in ["2001:db8::", "2001:db8::1", "2001:db8::2"] {
            assert_eq!(space.next_for(&service, &pool, IpFamily::V6), Some(ip(expected)));
            space.take(ip(expected), Holder::Known(&service));
        }
        space.release(ip("2001:db8::1"), &service.name);
        assert_eq!(space.next_for(&service, &pool, IpFamily::V6), Some(ip("2001:db8::1")));
        assert_eq!(space.next_for(&service, &pool, IpFamily::V4), None);
    }
}
