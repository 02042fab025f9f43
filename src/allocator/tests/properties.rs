//! What holds whatever the pools and Services are.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn any_service() -> impl Strategy<Value = Service> {
    let families = prop::sample::select(vec![vec![V4], vec![V6], vec![V4, V6], vec![V6, V4]]);
    let requested = prop::collection::btree_set(any_address(), 0..=2);
    let policy = prop::sample::select(vec![SingleStack, PreferDualStack, RequireDualStack]);
    (0..12u8, families, policy, prop::bool::weighted(0.4), requested).prop_map(
        |(number, ip_families, family_policy, asks, requested)| Service {
            ip_families,
            family_policy,
            requested: if asks { requested.into_iter().collect() } else { Vec::new() },
            ..service(&format!("s{number}"))
        },
    )
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..24u8).prop_map(|(v4, low)| {
        if v4 { ip(&format!("192.0.2.{low}")) } else { ip(&format!("2001:db8::{low:x}")) }
    })
}

/// Pools over disjoint thirds of 24 addresses of each family, so that edits change what is inside.
fn any_pools() -> impl Strategy<Value = Vec<Pool>> {
    let one = |third: u8| {
        (0..8u8, 0..8u8, any::<(bool, bool, bool)>()).prop_map(move |(first, length, flags)| {
            let (low, high) = (third * 8 + first, third * 8 + (first + length).min(7));
            let mut ranges = vec![format!("192.0.2.{low}-192.0.2.{high}")];
            if flags.0 {
                ranges.push(format!("2001:db8::{low:x}-2001:db8::{high:x}"));
            }
            let ranges: Vec<_> = ranges.iter().map(String::as_str).collect();
            let mut pool = pool(&format!("p{third}"), &ranges);
            (pool.auto_assign, pool.avoid_buggy) = (flags.1, flags.2);
            pool
        })
    };
    (one(0), one(1), one(2), 0..=3usize).prop_map(|(a, b, c, count)| {
        let mut pools = vec![a, b, c];
        pools.truncate(count);
        pools
    })
}

fn any_picture() -> impl Strategy<Value = Observed> {
    (any_pools(), prop::collection::vec(any_service(), 0..12))
        .prop_map(|(pools, services)| observed(&pools, &services))
}

fn any_current() -> impl Strategy<Value = Assignments> {
    let name = (0..12u8).prop_map(|number| ServiceName::new("default", format!("s{number}")));
    let addresses = prop::collection::vec(any_address(), 1..=2);
    let assignment = addresses
        .prop_map(|addresses| Assignment { pool: "p0".into(), addresses })
        .prop_filter("one of each family", |it| {
            it.addresses.len() < 2 || it.addresses[0].is_ipv4() != it.addresses[1].is_ipv4()
        });
    prop::collection::btree_map(name, assignment, 0..8)
}

proptest! {
    #[test]
    fn never_gives_an_address_twice_nor_one_outside_its_pool(
        picture in any_picture(), before in any_current()
    ) {
        let plan = allocate(&picture, &before, &Config::default());
        let mut seen = BTreeSet::new();
        for assignment in plan.assignments.values() {
            prop_assert!(!assignment.addresses.is_empty());
            for address in &assignment.addresses {
                prop_assert!(seen.insert(*address), "{} twice", address);
                prop_assert!(picture.pools[&assignment.pool].contains(*address));
            }
        }
        for name in picture.services.keys() {
            let known = plan.assignments.contains_key(name) || plan.refusals.contains_key(name);
            prop_assert!(known, "{} is forgotten", name);
        }
    }

    #[test]
    fn changes_nothing_the_second_time(picture in any_picture(), before in any_current()) {
        let first = allocate(&picture, &before, &Config::default());
        let second = allocate(&picture, &first.assignments, &Config::default());
        prop_assert_eq!(second.changes, vec![]);
    }

    #[test]
    fn never_moves_a_holder_for_the_sake_of_others(
        picture in any_picture(),
        others in prop::collection::vec(any_service(), 0..6),
    ) {
        let before = allocate(&picture, &NOBODY, &Config::default()).assignments;
        let mut grown = picture.clone();
        for other in others {
            grown.services.entry(other.name.clone()).or_insert(Arc::new(other));
        }
        let far = pool("a-new-pool", &["198.51.100.0-198.51.100.99", "2001:db8:f::-2001:db8:f::f"]);
        grown.pools.insert(far.name.clone(), far);
        let after = allocate(&grown, &before, &Config::default()).assignments;
        for (name, held) in &before {
            let service = &picture.services[name];
            let now = &after[name];
            // An address may be joined by one of the other family, if one is preferred.
            let kept = held.addresses.iter().all(|address| now.addresses.contains(address));
            prop_assert!(kept, "{:?}: {} became {}", service, held, now);
        }
    }
}
