//! Which addresses there are, who holds them, and which is the next one for a Service.
//!
//! Work is proportional to the number of addresses that are held, never to the size of a pool: an
//! IPv6 /64 is searched as fast as a /28. While one plan is made, addresses are mostly taken, so a
//! cursor for each range remembers below what nothing is free; a release moves it back. `held` has
//! who shares one address, `shared` where to look for one to share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::held::Held;
use super::share::Group;
use super::shared::Shared;
use crate::observed::{AddressRange, IpFamily, Pool, PoolKind, Service, ServiceName};

pub(super) struct Space<'a> {
    /// Ranges of pools without conflict by their first address, with their pool. Disjoint.
    ranges: BTreeMap<IpAddr, (AddressRange, &'a Pool)>,
    pools: &'a BTreeMap<String, Pool>,
    holders: BTreeMap<IpAddr, Held<'a>>,
    /// Services that share: the place of each group's addresses in the list.
    groups: BTreeMap<Group<'a>, usize>,
    shared: Vec<Shared>,
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
            groups: BTreeMap::new(),
            shared: Vec::new(),
            cursors: BTreeMap::new(),
        }
    }

    /// The pool that a new address at this place would come from.
    pub fn pool_of(&self, address: IpAddr) -> Option<&'a Pool> {
        self.range_of(address).map(|(_, pool)| pool)
    }

    /// The pool that an address of the Service belongs to: the one it came from if that still holds
    /// it, whatever state that is in; else one of the same kind. (A pool of MetalLB's that is laid
    /// over one of Cilium's closes that, and takes nothing over.)
    pub fn home_of(&self, service: &Service, address: IpAddr, from: &str) -> Option<&'a Pool> {
        let same = self.pools.get(from).filter(|pool| pool.contains(address));
        let alike = || match PoolKind::of_name(from) {
            PoolKind::Cilium => self.of_cilium(service, address),
            PoolKind::MetalLb => None,
        };
        same.or_else(alike).or_else(|| self.any_of(address))
    }

    /// The pool that holds the address; where there are several, the one that is not in conflict.
    pub fn any_of(&self, address: IpAddr) -> Option<&'a Pool> {
        let any = || self.pools.values().find(|pool| pool.contains(address));
        self.pool_of(address).or_else(any)
    }

    /// Cilium's pool that holds the address. Of several the one that is for the Service, since
    /// nobody wrote down which one it was, and then the one without conflict.
    pub fn of_cilium(&self, service: &Service, address: IpAddr) -> Option<&'a Pool> {
        let of_cilium = self.pools.values().filter(|pool| pool.kind == PoolKind::Cilium);
        let mut holding: Vec<_> = of_cilium.filter(|pool| pool.contains(address)).collect();
        if holding.len() > 1 {
            // Labels of namespaces count for MetalLB's pools only.
            let admits = |pool: &Pool| pool.admits(service, &BTreeMap::new());
            holding.sort_by_key(|pool| (!admits(pool), pool.conflict.is_some()));
        }
        holding.first().copied()
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
        self.holders.get(&address)?.obstacle(service, kind)
    }

    /// Whether the Service and somebody else who has the address cannot both keep it, not even for
    /// a while: see `Held::clashes`.
    pub fn clashes(&self, service: &Service, kind: PoolKind, address: IpAddr) -> bool {
        self.holders.get(&address).is_some_and(|held| held.clashes(service, kind))
    }

    /// The known Services that have the address.
    pub fn holders_of(&self, address: IpAddr) -> impl Iterator<Item = &'a Service> {
        self.holders.get(&address).into_iter().flat_map(Held::known)
    }

    pub fn take(&mut self, address: IpAddr, holder: Holder<'a>) {
        self.holders.entry(address).or_default().add(holder);
        let Holder::Known(service) = holder else { return };
        let range = self.range_of(address).map(|(range, _)| range);
        for group in KINDS.into_iter().filter_map(|kind| Group::of(kind, service)) {
            let place = *self.groups.entry(group).or_insert(self.shared.len());
            if place == self.shared.len() {
                self.shared.push(Shared::default());
            }
            self.shared[place].add(address, range);
        }
    }

    pub fn release(&mut self, address: IpAddr, name: &ServiceName) {
        let range = self.range_of(address).map(|(range, _)| range);
        let Some(held) = self.holders.get_mut(&address) else { return };
        let last = held.remove(name);
        let is_free = held.is_empty();
        // All who share it are of one group by the rules of its pool's kind, and a group by the
        // other kind's rules leads nobody to an address of this one. (Where an edit has made one
        // unfit, its group leads others to an address that is looked at in vain.)
        if let Some(Holder::Known(service)) = last {
            for group in KINDS.into_iter().filter_map(|kind| Group::of(kind, service)) {
                let Some(place) = self.groups.get(&group) else { continue };
                let shared = &mut self.shared[*place];
                match (is_free, range) {
                    (true, _) => shared.remove(address),
                    (false, Some(range)) => shared.release(address, range, service.listeners()),
                    (false, None) => {}
                }
            }
        }
        if !is_free {
            return;
        }
        self.holders.remove(&address);
        if let Some(range) = range
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

    /// The address that the Service gets from pools of one kind, and the pool: as `next_for`, pool
    /// by pool; but by Cilium's rules one to share in any of them comes before a free one in the
    /// first.
    pub fn next_of<'p>(
        &mut self,
        service: &Service,
        pools: &[&'p Pool],
        family: IpFamily,
    ) -> Option<(&'p Pool, IpAddr)> {
        let mut of_cilium = pools.iter().copied().filter(|pool| pool.kind == PoolKind::Cilium);
        let shared =
            of_cilium.find_map(|pool| Some((pool, self.next_shared(service, pool, family)?)));
        shared.or_else(|| {
            let mut pools = pools.iter().copied();
            pools.find_map(|pool| Some((pool, self.next_for(service, pool, family)?)))
        })
    }

    fn next_shared(&mut self, service: &Service, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
        let place = *self.groups.get(&Group::of(pool.kind, service)?)?;
        let (shared, holders) = (&mut self.shared[place], &self.holders);
        let ranges = pool.ranges.iter().filter(|range| range.family() == family);
        ranges.into_iter().find_map(|range| {
            shared.next(service, *range, |address| {
                let held = holders.get(&address);
                let is_fit = !is_left_out(pool, address)
                    && held.is_none_or(|held| held.obstacle(service, pool.kind).is_none());
                let is_in_use = move |listener| {
                    held.is_some_and(|held| held.is_in_use(listener, &service.name))
                };
                (is_fit, is_in_use)
            })
        })
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

pub(super) const KINDS: [PoolKind; 2] = [PoolKind::MetalLb, PoolKind::Cilium];

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
    use proptest::prelude::*;

    use super::*;
    use crate::observed::{
        CiliumSharing, Grants, Protocol, ServicePort, TargetPort, TrafficPolicy,
    };

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

    /// The one that `next_for` is to find among those that are shared, found by asking everybody.
    fn naive(
        space: &Space<'_>,
        held: &[(IpAddr, &Service)],
        one: &Service,
        pool: &Pool,
    ) -> Option<IpAddr> {
        let mut sharers = BTreeMap::<IpAddr, Vec<&Service>>::new();
        for (address, other) in held {
            sharers.entry(*address).or_default().push(other);
        }
        let may = |others: &Vec<&Service>| {
            let obstacle = |other: &&Service| super::super::share::obstacle(pool.kind, one, other);
            !others.iter().any(|other| other.name != one.name && obstacle(other).is_some())
        };
        let fit = sharers.iter().filter(|(_, others)| may(others)).map(|(address, _)| *address);
        for (address, others) in &sharers {
            assert_eq!(space.obstacle(one, pool.kind, *address).is_none(), may(others));
        }
        fit.min_by_key(|address| place(pool, *address))
    }

    fn sharer() -> impl Strategy<Value = Service> {
        let ports = prop::collection::btree_set(0..4u16, 0..3);
        let local = prop::sample::select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
        let (key, namespace, pods) = ("[kl]", "[mn]", "[op]?");
        let grants = prop::collection::btree_set("[mn]", 0..3);
        (key, namespace, pods, any::<bool>(), local, grants, ports).prop_map(
            |(key, namespace, pods, permits_different_pods, policy, grants, ports)| Service {
                name: ServiceName::new(namespace, ""),
                sharing_key: Some(key.clone()),
                cilium_sharing: Some(CiliumSharing {
                    key,
                    grants: Grants::Named(grants),
                    permits_different_pods,
                }),
                external_traffic_policy: policy,
                selector: if pods.is_empty() {
                    BTreeMap::new()
                } else {
                    [(pods, "".into())].into()
                },
                ports: ports
                    .into_iter()
                    .map(|port| ServicePort {
                        name: String::new(),
                        protocol: Protocol::Tcp,
                        port,
                        target: TargetPort::Number(1),
                    })
                    .collect(),
                ..Service::default()
            },
        )
    }

    proptest! {
        /// Some come, some go; whoever comes shares the first address that nobody is against, else
        /// takes a free one.
        #[test]
        fn shares_the_first_address_that_no_holder_is_against(
            mut services in prop::collection::vec((sharer(), 0..4usize), 1..40),
            is_cilium in any::<bool>(),
        ) {
            for (number, (service, _)) in services.iter_mut().enumerate() {
                service.name = ServiceName::new("default", number.to_string());
            }
            let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
            let ranges = vec![
                AddressRange::new(ip(100), ip(102)).unwrap(),
                AddressRange::new(ip(1), ip(60)).unwrap(),
            ];
            let kind = if is_cilium { PoolKind::Cilium } else { PoolKind::MetalLb };
            let pool = Pool { kind, name: "p".into(), ranges, auto_assign: true, ..Pool::default() };
            let pools = BTreeMap::from([("p".to_owned(), pool.clone())]);
            let mut space = Space::new(&pools);
            let mut held: Vec<(IpAddr, &Service)> = Vec::new();
            for (service, leaves) in &services {
                let expected = naive(&space, &held, service, &pool);
                prop_assert_eq!(space.next_shared(service, &pool, IpFamily::V4), expected);
                let address = expected.or_else(|| space.next_free(&pool, IpFamily::V4)).unwrap();
                space.take(address, Holder::Known(service));
                held.push((address, service));
                for _ in 0..*leaves / 3 {
                    let (address, gone) = held.swap_remove(held.len() / 2);
                    space.release(address, &gone.name);
                }
            }
        }
    }
}
