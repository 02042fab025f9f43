//! Pools that come to lie over live ones: nobody's address changes, nor whose it is.
//!
//! The source marks Cilium's pool as in conflict then (`source::soft`), and so do these tests.

use super::*;
use crate::observed::{PoolKind, REQUEST_SATISFIED, Requirement, Selector};

fn cilium(name: &str, ranges: &[&str]) -> Pool {
    Pool { kind: PoolKind::Cilium, ..pool(&format!("cilium.io/{name}"), ranges) }
}

fn closed(pool: Pool) -> Pool {
    Pool { conflict: Some("other".into()), ..pool }
}

/// As the cluster has it whose addresses are of Cilium's pools.
fn live(service: Service, addresses: &[&str]) -> Service {
    let mut service = service;
    service.reported.addresses = addresses.iter().map(|text| ip(text)).collect();
    service.reported.assigned = Some(service.reported.addresses.clone());
    service
}

/// What becomes of the Services after a restart, when all there is are their statuses.
fn replan(pools: &[Pool], services: &[Service]) -> Plan {
    let picture = observed(pools, services);
    allocate(&picture, &reported(&picture, &Config::default()), &Config::default())
}

const C: &str = "192.0.2.1-192.0.2.9";
const C6: &str = "2001:db8::1-2001:db8::9";

#[test]
fn a_pool_of_metallbs_over_a_live_one_of_ciliums_takes_nothing_over() {
    let c = closed(cilium("c", &[C, C6]));
    let d = cilium("d", &["198.51.100.1-198.51.100.9"]);
    let first = pool("m", &["192.0.2.1-192.0.2.1"]);
    let all = pool("m", &[C, C6]);
    let both = ["192.0.2.1", "2001:db8::1"];
    let two = ["192.0.2.1", "192.0.2.2"];
    let spread = ["192.0.2.1", "198.51.100.5"];
    let table = [
        ("one", service("a"), &["192.0.2.1"][..]),
        ("one, asked for", asking("a", &["192.0.2.1"]), &["192.0.2.1"]),
        ("two, asked for", asking("a", &two), &two),
        ("from two pools, asked for", asking("a", &spread), &spread),
        ("both families", dual("a", PreferDualStack), &both),
        ("both required", dual("a", RequireDualStack), &both),
        (
            "both asked for",
            Service { requested: both.map(ip).into(), ..dual("a", SingleStack) },
            &both,
        ),
    ];
    for (what, service, addresses) in table {
        for m in [&first, &all] {
            let pools = [c.clone(), d.clone(), m.clone()];
            let plan = replan(&pools, &[live(service.clone(), addresses)]);
            let expected = format!("a {}", held("cilium.io/c", addresses));
            assert_eq!(show(&plan), [expected], "{what}, {:?}", m.ranges);
            // The same where the election's records have the pool's name.
            let before = current(&[("a", held("cilium.io/c", addresses))]);
            let again = allocate(
                &observed(&pools, std::slice::from_ref(&service)),
                &before,
                &Config::default(),
            );
            assert_eq!(show(&again), show(&plan), "{what}");
        }
    }
}

#[test]
fn who_lies_in_the_second_of_two_pools_stays_there() {
    let (c, d) = (cilium("c", &[C]), closed(cilium("d", &["198.51.100.1-198.51.100.9"])));
    let m = pool("m", &["198.51.100.1-198.51.100.9"]);
    let addresses = ["192.0.2.1", "198.51.100.5"];
    let services = [live(asking("a", &addresses), &addresses)];
    let expected = format!("a {}", held("cilium.io/c", &addresses));
    assert_eq!(show(&replan(&[c, d.clone(), m.clone()], &services)), [expected]);
    // The first is in no pool of Cilium's any more, though one of MetalLB's holds it by now.
    let over = pool("n", &[C]);
    let services = [live(service("a"), &addresses)];
    assert_eq!(
        show(&replan(&[d, m, over], &services)),
        ["a 198.51.100.5 from pool cilium.io/d", "a! pool_gone"]
    );
}

#[test]
fn an_older_pool_of_ciliums_that_grows_over_a_live_one_takes_nothing_over() {
    let asks = live(asking("a", &["192.0.2.1"]), &["192.0.2.1"]);
    let mut older = cilium("older", &[C]);
    let younger = closed(cilium("younger", &["192.0.2.1-192.0.2.1"]));
    let is_b = Requirement::In("app".into(), ["b".to_owned()].into());
    older.service_selector = Some(Selector { requirements: vec![is_b] });
    let pools = [older, younger];
    assert_eq!(
        show(&replan(&pools, &[asks])),
        ["a 192.0.2.1 from pool cilium.io/younger"],
        "the older one is not for it"
    );
}

#[test]
fn what_cilium_gave_is_known_by_its_condition() {
    let pools = [closed(cilium("c", &[C])), pool("m", &[C])];
    let mut moved = live(service("a"), &["192.0.2.1"]);
    moved.reported.assigned = None;
    assert_eq!(show(&replan(&pools, &[moved.clone()])), ["a 192.0.2.1 from pool m"], "ServiceLB's");
    moved.reported.conditions = vec![serde_json::json!({"type": REQUEST_SATISFIED})];
    assert_eq!(show(&replan(&pools, &[moved])), ["a 192.0.2.1 from pool cilium.io/c"]);
}

#[test]
fn what_metallbs_pool_gave_stays_its_own() {
    let pools = [closed(cilium("c", &[C])), pool("m", &[C])];
    let mut service = live(service("a"), &["192.0.2.1"]);
    service.reported.pool = Some("m".into());
    assert_eq!(show(&replan(&pools, &[service.clone()])), ["a 192.0.2.1 from pool m"]);
    // Its pool may be in what cannot be read: another kind's does not take it over meanwhile.
    for (from, pool) in [(Some("m"), &pools[0]), (None, &pools[1])] {
        service.reported.pool = from.map(str::to_owned);
        let mut picture = observed(std::slice::from_ref(pool), &[service.clone()]);
        picture.pools_incomplete = true;
        let current = reported(&picture, &Config::default());
        let plan = allocate(&picture, &current, &Config::default());
        let expected = format!("a 192.0.2.1 from pool {}", from.unwrap_or_default());
        assert_eq!(show(&plan), [expected, "a: input_incomplete".to_owned()]);
    }
}
