//! Which addresses there are, who holds them, and which is the next free one.
//!
//! Work is proportional to the number of addresses that are held, never to the size of a pool: an
//! IPv6 /64 is searched as fast as a /28. While one plan is made, addresses are mostly taken, so a
//! cursor for each range remembers below what nothing is free; a release moves it back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observed::{AddressRange, IpFamily, Pool, ServiceName};

pub(super) struct Space<'a> {
    /// Ranges by their first address, with their pool. They are disjoint.
    ranges: BTreeMap<IpAddr, (AddressRange, &'a Pool)>,
    holders: BTreeMap<IpAddr, &'a ServiceName>,
    /// For a range, by its first address: nothing lower is free. None means nothing at all is.
    cursors: BTreeMap<IpAddr, Option<IpAddr>>,
}

impl<'a> Space<'a> {
    pub fn new(pools: &'a BTreeMap<String, Pool>) -> Self {
        let ranges = pools
            .values()
            .flat_map(|pool| pool.ranges.iter().map(move |range| (range.first(), (*range, pool))));
        Self { ranges: ranges.collect(), holders: BTreeMap::new(), cursors: BTreeMap::new() }
    }

    /// The pool that holds the address.
    pub fn pool_of(&self, address: IpAddr) -> Option<&'a Pool> {
        self.range_of(address).map(|(_, pool)| pool)
    }

    fn range_of(&self, address: IpAddr) -> Option<(AddressRange, &'a Pool)> {
        let (_, (range, pool)) = self.ranges.range(..=address).next_back()?;
        range.contains(address).then_some((*range, *pool))
    }

    /// Who has the address.
    pub fn holder(&self, address: IpAddr) -> Option<&'a ServiceName> {
        self.holders.get(&address).copied()
    }

    pub fn take(&mut self, address: IpAddr, service: &'a ServiceName) {
        self.holders.insert(address, service);
    }

    pub fn release(&mut self, address: IpAddr) {
        self.holders.remove(&address);
        if let Some((range, _)) = self.range_of(address)
            && let Some(cursor) = self.cursors.get_mut(&range.first())
        {
            *cursor = Some(cursor.map_or(address, |cursor| cursor.min(address)));
        }
    }

    /// The lowest free address of the family, range by range in the order the pool lists them.
    pub fn next_free(&mut self, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
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

/// Whether the pool leaves the address out, because some old devices take .0 and .255 for the
/// network's own addresses whatever the prefix length is.
pub(super) fn is_left_out(pool: &Pool, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => pool.avoid_buggy && matches!(v4.octets()[3], 0 | 255),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_address_is_the_next_free_one_again() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let range = AddressRange::new(ip("2001:db8::"), ip("2001:db8::ffff:ffff:ffff:ffff"));
        let pool = Pool {
            name: "p".into(),
            labels: BTreeMap::new(),
            ranges: range.into_iter().collect(),
            auto_assign: true,
            avoid_buggy: false,
        };
        let pools = BTreeMap::from([("p".to_owned(), pool.clone())]);
        let service = ServiceName::new("default", "a");
        let mut space = Space::new(&pools);
        for expected in ["2001:db8::", "2001:db8::1", "2001:db8::2"] {
            assert_eq!(space.next_free(&pool, IpFamily::V6), Some(ip(expected)));
            space.take(ip(expected), &service);
        }
        space.release(ip("2001:db8::1"));
        assert_eq!(space.next_free(&pool, IpFamily::V6), Some(ip("2001:db8::1")));
        assert_eq!(space.next_free(&pool, IpFamily::V4), None);
    }
}
