//! Scenarios of the allocator. The rules of the two products have their own files, and so have the
//! properties that hold in all scenarios.

mod cilium;
mod metallb;
mod overlap;
mod properties;
mod scale;
mod sharers;
mod takeover;

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::observed::{AddressRange, Pool, SessionAffinity, TrafficPolicy};
use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
use IpFamily::{V4, V6};

type Assignments = BTreeMap<ServiceName, Assignment>;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(name: &str, ranges: &[&str]) -> Pool {
    let range = |text: &&str| {
        let (first, last) = text.split_once('-').unwrap();
        AddressRange::new(ip(first), ip(last)).unwrap()
    };
    Pool {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        ranges: ranges.iter().map(range).collect(),
        auto_assign: true,
        ..Pool::default()
    }
}

fn service(name: &str) -> Service {
    Service {
        name: ServiceName::new("default", name),
        load_balancer: true,
        class: None,
        ports: Vec::new(),
        ip_families: vec![V4],
        family_policy: SingleStack,
        requested: Vec::new(),
        external_traffic_policy: TrafficPolicy::Cluster,
        session_affinity: SessionAffinity::None,
        ..Service::default()
    }
}

fn dual(name: &str, family_policy: FamilyPolicy) -> Service {
    Service { ip_families: vec![V4, V6], family_policy, ..service(name) }
}

fn asking(name: &str, addresses: &[&str]) -> Service {
    let requested = addresses.iter().map(|text| ip(text)).collect();
    Service { requested, ..service(name) }
}

fn observed(pools: &[Pool], services: &[Service]) -> Observed {
    Observed {
        pools: pools.iter().map(|pool| (pool.name.clone(), pool.clone())).collect(),
        services: services.iter().map(|it| (it.name.clone(), Arc::new(it.clone()))).collect(),
        ..Observed::default()
    }
}

fn held(pool: &str, addresses: &[&str]) -> Assignment {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    Assignment { pool: pool.to_owned(), addresses }
}

fn current(list: &[(&str, Assignment)]) -> Assignments {
    list.iter().map(|(name, held)| (ServiceName::new("default", *name), held.clone())).collect()
}

fn plan(pools: &[Pool], services: &[Service], current: &Assignments) -> Plan {
    allocate(&observed(pools, services), current, &Config::default())
}

/// `a 192.0.2.1` for assignments, `a: reason` for refusals, `a! reason` for changes.
fn show(plan: &Plan) -> Vec<String> {
    let assigned = plan.assignments.iter().map(|(name, it)| format!("{} {it}", name.name));
    let refused =
        plan.refusals.iter().map(|(name, it)| format!("{}: {}", name.name, it.reason.label()));
    let changed =
        plan.changes.iter().map(|it| format!("{}! {}", it.service.name, it.reason.label()));
    assigned.chain(refused).chain(changed).collect()
}

const NOBODY: Assignments = Assignments::new();

#[test]
fn gives_the_lowest_free_address_in_listed_order() {
    let pools = [pool("p", &["192.0.2.8-192.0.2.9", "192.0.2.1-192.0.2.2"])];
    let plan = plan(&pools, &["a", "b", "c"].map(service), &NOBODY);
    assert_eq!(
        show(&plan),
        [
            "a 192.0.2.8 from pool p",
            "b 192.0.2.9 from pool p",
            "c 192.0.2.1 from pool p",
            "a! pending",
            "b! pending",
            "c! pending",
        ]
    );
}

#[test]
fn keeps_vip_when_pool_grows_downwards() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.20"])];
    let before = current(&[("a", held("p", &["192.0.2.10"]))]);
    assert_eq!(show(&plan(&pools, &[service("a")], &before)), ["a 192.0.2.10 from pool p"]);
}

#[test]
fn serves_holders_before_those_who_ask_and_those_before_the_rest() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3"])];
    let services = [service("a"), asking("b", &["192.0.2.1"]), service("z")];
    let before = current(&[("z", held("p", &["192.0.2.2"]))]);
    assert_eq!(
        show(&plan(&pools, &services, &before)),
        [
            "a 192.0.2.3 from pool p",
            "b 192.0.2.1 from pool p",
            "z 192.0.2.2 from pool p",
            "a! pending",
            "b! pending",
        ]
    );
}

#[test]
fn says_who_has_the_requested_address() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3"])];
    let services = [service("a"), asking("b", &["192.0.2.1"])];
    let before = current(&[("a", held("p", &["192.0.2.1"]))]);
    let plan = plan(&pools, &services, &before);
    let refusal = &plan.refusals[&ServiceName::new("default", "b")];
    assert_eq!(refusal.reason, RefusalReason::AddressTaken);
    assert_eq!(refusal.message, "asks for 192.0.2.1, which default/a has");
}

#[test]
fn keeps_the_address_of_a_live_service_that_asks_for_the_impossible() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.3"])];
    let before = current(&[("a", held("p", &["192.0.2.2"]))]);
    let services = [asking("a", &["198.51.100.1"])];
    assert_eq!(
        show(&plan(&pools, &services, &before)),
        ["a 192.0.2.2 from pool p", "a: address_outside_pools"]
    );
}

#[test]
fn moves_to_the_requested_address_and_frees_the_old_one_for_who_waits() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.2", "192.0.2.9-192.0.2.9"])];
    let before = current(&[("a", held("p", &["192.0.2.2"])), ("b", held("p", &["192.0.2.1"]))]);
    // a waits for what b gives up, although a comes first.
    let services = [asking("a", &["192.0.2.1"]), asking("b", &["192.0.2.9"]), service("c")];
    assert_eq!(
        show(&plan(&pools, &services, &before)),
        [
            "a 192.0.2.1 from pool p",
            "b 192.0.2.9 from pool p",
            "c 192.0.2.2 from pool p",
            "a! requested",
            "b! requested",
            "c! pending",
        ]
    );
}

#[test]
fn refuses_requests_by_name() {
    let mut avoiding = pool("avoiding", &["198.51.100.0-198.51.100.255"]);
    avoiding.avoid_buggy = true;
    let pools =
        [pool("v4", &["192.0.2.1-192.0.2.9"]), pool("v6", &["2001:db8::1-2001:db8::9"]), avoiding];
    let services = [
        Service { requested: vec![ip("2001:db8::1")], ..service("family") },
        Service {
            requested: vec![ip("192.0.2.1"), ip("2001:db8::1")],
            ..dual("two-pools", RequireDualStack)
        },
        Service { requested: vec![ip("192.0.2.1")], ..dual("too-few", RequireDualStack) },
        asking("avoided", &["198.51.100.255"]),
    ];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY)),
        [
            "avoided: address_avoided",
            "family: requested_wrong_family",
            "too-few: requested_wrong_family",
            "two-pools: addresses_in_different_pools",
        ]
    );
}

#[test]
fn leaves_out_buggy_addresses() {
    let mut pool = pool("p", &["192.0.2.254-192.0.3.1"]);
    pool.avoid_buggy = true;
    assert_eq!(
        show(&plan(&[pool], &["a", "b", "c"].map(service), &NOBODY))[..3],
        ["a 192.0.2.254 from pool p", "b 192.0.3.1 from pool p", "c: pools_exhausted"]
    );
}

#[test]
fn uses_the_first_and_last_address_of_a_network() {
    let pools = [pool("p", &["192.0.2.0-192.0.2.1"])];
    assert_eq!(
        show(&plan(&pools, &["a", "b"].map(service), &NOBODY))[..2],
        ["a 192.0.2.0 from pool p", "b 192.0.2.1 from pool p"]
    );
}

#[test]
fn chooses_automatic_pools_by_name() {
    let mut manual = pool("a", &["192.0.2.1-192.0.2.9"]);
    manual.auto_assign = false;
    let pools = [manual.clone(), pool("c", &["198.51.100.1-198.51.100.9"])];
    let services = [service("any"), asking("manual", &["192.0.2.5"])];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..2],
        ["any 198.51.100.1 from pool c", "manual 192.0.2.5 from pool a"]
    );
    assert_eq!(show(&plan(&[manual], &[service("x")], &NOBODY)), ["x: no_automatic_pool"]);
    assert_eq!(show(&plan(&[], &[service("x")], &NOBODY)), ["x: no_pool"]);
}

#[test]
fn gives_both_families_from_one_pool() {
    let pools = [
        pool("a4", &["192.0.2.1-192.0.2.9"]),
        pool("b6", &["2001:db8::1-2001:db8::9"]),
        pool("c", &["198.51.100.1-198.51.100.1", "2001:db8:1::1-2001:db8:1::9"]),
    ];
    let services = [dual("prefer", PreferDualStack), dual("require", RequireDualStack)];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..3],
        [
            "prefer 198.51.100.1, 2001:db8:1::1 from pool c",
            "require: pools_exhausted",
            "prefer! pending"
        ]
    );
    assert_eq!(
        show(&plan(&pools[..2], &services, &NOBODY))[..2],
        ["prefer 192.0.2.1 from pool a4", "require: no_dual_stack_pool"]
    );
}

#[test]
fn puts_the_preferred_family_first() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])];
    let mut v6_first = dual("a", RequireDualStack);
    v6_first.ip_families = vec![V6, V4];
    assert_eq!(
        show(&plan(&pools, &[v6_first], &NOBODY))[0],
        "a 2001:db8::1, 192.0.2.1 from pool p"
    );
}

#[test]
fn adds_the_second_family_from_the_same_pool_only() {
    let v4 = pool("p", &["192.0.2.1-192.0.2.9"]);
    let both = pool("q", &["198.51.100.1-198.51.100.9", "2001:db8::1-2001:db8::9"]);
    let before = current(&[("a", held("p", &["192.0.2.1"]))]);
    let services = [dual("a", PreferDualStack)];
    assert_eq!(show(&plan(&[v4, both.clone()], &services, &before)), ["a 192.0.2.1 from pool p"]);
    let grown = pool("p", &["192.0.2.1-192.0.2.9", "2001:db8:1::1-2001:db8:1::9"]);
    assert_eq!(
        show(&plan(&[grown, both], &services, &before)),
        ["a 192.0.2.1, 2001:db8:1::1 from pool p", "a! families"]
    );
}

#[test]
fn keeps_one_address_when_a_service_becomes_single_stack() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])];
    let before = current(&[("a", held("p", &["192.0.2.3", "2001:db8::3"]))]);
    assert_eq!(
        show(&plan(&pools, &[service("a")], &before)),
        ["a 192.0.2.3 from pool p", "a! families"]
    );
}

#[test]
fn keeps_what_it_has_when_the_second_family_is_impossible() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let before = current(&[("a", held("p", &["192.0.2.3"]))]);
    assert_eq!(
        show(&plan(&pools, &[dual("a", RequireDualStack)], &before)),
        ["a 192.0.2.3 from pool p", "a: no_dual_stack_pool"]
    );
}

#[test]
fn moves_and_says_why_when_no_pool_holds_the_address_any_more() {
    let pools = [pool("p", &["192.0.2.5-192.0.2.9"])];
    let before = current(&[("a", held("p", &["192.0.2.3"]))]);
    let plan = plan(&pools, &[service("a")], &before);
    assert_eq!(show(&plan), ["a 192.0.2.5 from pool p", "a! pool_gone"]);
    assert_eq!(
        plan.changes[0].to_string(),
        "default/a: 192.0.2.3 from pool p became 192.0.2.5 from pool p, because no pool holds the \
         address any more"
    );
}

#[test]
fn releases_when_the_last_pool_is_gone_but_not_while_pools_may_be_missing() {
    let before = current(&[("a", held("p", &["192.0.2.3"]))]);
    let mut picture = observed(&[], &[service("a")]);
    let plan = allocate(&picture, &before, &Config::default());
    assert_eq!(show(&plan), ["a: no_pool", "a! pool_gone"]);
    picture.pools_incomplete = true;
    let plan = allocate(&picture, &before, &Config::default());
    assert_eq!(show(&plan), ["a 192.0.2.3 from pool p", "a: input_incomplete"]);
}

#[test]
fn keeps_addresses_of_services_that_may_only_seem_to_be_gone() {
    let before = current(&[("a", held("p", &["192.0.2.1"]))]);
    let mut picture = observed(&[pool("p", &["192.0.2.1-192.0.2.9"])], &[service("b")]);
    picture.services_incomplete = true;
    assert_eq!(
        show(&allocate(&picture, &before, &Config::default())),
        ["a 192.0.2.1 from pool p", "b 192.0.2.2 from pool p", "a: input_incomplete", "b! pending"]
    );
}

#[test]
fn keeps_the_address_when_its_pool_is_renamed() {
    let pools = [pool("new", &["192.0.2.1-192.0.2.9"])];
    let before = current(&[("a", held("old", &["192.0.2.3"]))]);
    assert_eq!(
        show(&plan(&pools, &[service("a")], &before)),
        ["a 192.0.2.3 from pool new", "a! pool_renamed"]
    );
}

#[test]
fn frees_addresses_of_services_that_are_gone_or_not_ours() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.1"])];
    let before = current(&[("a", held("p", &["192.0.2.1"]))]);
    assert_eq!(
        show(&plan(&pools, &[service("b")], &before)),
        ["b 192.0.2.1 from pool p", "a! service_gone", "b! pending"]
    );
    let plain = Service { load_balancer: false, ..service("a") };
    assert_eq!(show(&plan(&pools, &[plain], &before)), ["a! not_served"]);
}

#[test]
fn serves_only_its_class() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let classy = Service { class: Some("example.com/lb".into()), ..service("classy") };
    let picture = observed(&pools, &[classy, service("plain")]);
    let names = |class: Option<&str>| {
        let config = Config { class: class.map(str::to_owned), ..Config::default() };
        let plan = allocate(&picture, &NOBODY, &config);
        plan.assignments.into_keys().map(|name| name.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["plain"]);
    assert_eq!(names(Some("example.com/lb")), ["classy"]);
}

#[test]
fn heals_an_address_that_two_services_hold() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let same = held("p", &["192.0.2.3"]);
    let before = current(&[("a", same.clone()), ("b", same)]);
    assert_eq!(
        show(&plan(&pools, &["a", "b"].map(service), &before)),
        ["a 192.0.2.3 from pool p", "b 192.0.2.1 from pool p", "b! held_twice"]
    );
}
