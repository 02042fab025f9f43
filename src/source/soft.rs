//! Overlaps that are tolerated: between Cilium's pools, within one, and across the two kinds.
//!
//! Cilium's rule: the pool that was created later is in conflict, and no new address comes from it
//! until the overlap is gone; what is assigned stays. Across the kinds it is always Cilium's pool
//! that yields, because MetalLB's cannot be in conflict. MetalLB's own pools never overlap when
//! they come here (`conflicts`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observed::{AddressRange, Pool, PoolKind};
use crate::problem::{Level, Location, Problem, Reason};

/// Marks the pools that are in conflict, and says so.
pub fn mark(pools: &mut BTreeMap<String, Pool>) -> Vec<Problem> {
    let mut order: Vec<_> =
        pools.values().map(|it| (it.kind, it.created.clone(), it.name.clone())).collect();
    order.sort();
    let mut active = Active::default();
    let mut problems = Vec::new();
    for (kind, _, name) in order {
        let Some(pool) = pools.get_mut(&name) else { continue };
        pool.conflict = match kind {
            PoolKind::MetalLb => None,
            PoolKind::Cilium => active.first_overlap(pool),
        };
        match &pool.conflict {
            None => active.add(pool),
            Some(other) => problems.push(problem(pool, other)),
        }
    }
    problems
}

/// The ranges of pools without conflict, by their first address; disjoint.
#[derive(Default)]
struct Active(BTreeMap<IpAddr, (AddressRange, String)>);

impl Active {
    fn add(&mut self, pool: &Pool) {
        let ranges = pool.ranges.iter();
        self.0.extend(ranges.map(|range| (range.first(), (*range, pool.name.clone()))));
    }

    /// The name of a pool that shares addresses with this one; it may be this one itself.
    fn first_overlap(&self, pool: &Pool) -> Option<String> {
        pool.ranges.iter().enumerate().find_map(|(index, range)| {
            if pool.ranges[..index].iter().any(|known| known.overlaps(*range)) {
                return Some(pool.name.clone());
            }
            let (_, (known, name)) = self.0.range(..=range.last()).next_back()?;
            known.overlaps(*range).then(|| name.clone())
        })
    }
}

fn problem(pool: &Pool, other: &str) -> Problem {
    let object = format!("CiliumLoadBalancerIPPool {}", pool.object_name());
    let with = if other == pool.name { "itself".to_owned() } else { format!("pool {other}") };
    Problem {
        level: Level::Warning,
        location: Some(Location { file: object.clone(), line: 0, column: 0 }),
        object: Some(object),
        reason: Reason::PoolOverlap,
        message: format!(
            "pool {} shares addresses with {with}; no new address comes from it until that is \
             resolved",
            pool.name
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(kind: PoolKind, name: &str, created: &str, ranges: &[[u8; 2]]) -> Pool {
        let ip = |low| IpAddr::from([192, 0, 2, low]);
        let ranges = ranges.iter().map(|[a, b]| AddressRange::new(ip(*a), ip(*b)).unwrap());
        Pool {
            kind,
            name: name.into(),
            created: created.into(),
            ranges: ranges.collect(),
            ..Pool::default()
        }
    }

    fn conflicts(pools: &[Pool]) -> Vec<(String, String)> {
        let mut pools = pools.iter().map(|it| (it.name.clone(), it.clone())).collect();
        let problems = mark(&mut pools).len();
        let found: Vec<_> =
            pools.into_values().filter_map(|pool| Some((pool.name, pool.conflict?))).collect();
        assert_eq!(problems, found.len(), "each conflict is told");
        found
    }

    #[test]
    fn the_later_pool_is_in_conflict_and_heals() {
        let old = pool(PoolKind::Cilium, "z", "2024-01-01T00:00:00Z", &[[1, 10]]);
        let new = pool(PoolKind::Cilium, "a", "2025-01-01T00:00:00Z", &[[20, 30], [10, 12]]);
        // The third shares addresses only with the one that is in conflict itself.
        let third = pool(PoolKind::Cilium, "b", "2026-01-01T00:00:00Z", &[[30, 40]]);
        assert_eq!(
            conflicts(&[old, new.clone(), third.clone()]),
            [("a".to_owned(), "z".to_owned())]
        );
        assert_eq!(conflicts(&[new, third]), [("b".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn a_pool_may_be_in_conflict_with_itself() {
        let pool = pool(PoolKind::Cilium, "a", "", &[[1, 10], [5, 6]]);
        assert_eq!(conflicts(&[pool]), [("a".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn across_the_kinds_it_is_always_ciliums_pool() {
        let cilium = pool(PoolKind::Cilium, "c", "2024-01-01T00:00:00Z", &[[1, 10]]);
        let metallb = pool(PoolKind::MetalLb, "m", "2025-01-01T00:00:00Z", &[[5, 6]]);
        assert_eq!(conflicts(&[cilium, metallb]), [("c".to_owned(), "m".to_owned())]);
    }
}
