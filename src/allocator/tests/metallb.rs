//! MetalLB's rules: who may use a pool, in which order, and who shares.

use super::*;
use crate::observed::{
    Allocation, PoolKind, Protocol, Requirement, Selector, ServicePort, TargetPort,
};

fn selector(key: &str, value: &str) -> Selector {
    Selector { requirements: vec![Requirement::In(key.into(), [value.to_owned()].into())] }
}

fn pinned(name: &str, range: &str, priority: u32) -> Pool {
    let allocation = Some(Allocation { priority, ..Allocation::default() });
    Pool { allocation, ..pool(name, &[range]) }
}

fn for_namespace(name: &str, range: &str, namespace: &str) -> Pool {
    let mut pool = pinned(name, range, 0);
    let allocation = pool.allocation.as_mut().unwrap();
    allocation.is_namespaced = true;
    allocation.namespaces.insert(namespace.to_owned());
    pool
}

fn sharing(name: &str, key: &str, port: u16) -> Service {
    let target = TargetPort::Number(port);
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port, target };
    Service { sharing_key: Some(key.into()), ports: vec![port], ..service(name) }
}

#[test]
fn tries_pinned_pools_by_priority_and_those_without_last() {
    let pools = [
        pool("a-for-all", &["192.0.2.1-192.0.2.1"]),
        pinned("b-last", "192.0.2.2-192.0.2.2", 0),
        pinned("c-second", "192.0.2.3-192.0.2.3", 20),
        pinned("d-first", "192.0.2.4-192.0.2.4", 10),
    ];
    let services = ["a", "b", "c", "d", "e"].map(service);
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..5],
        [
            "a 192.0.2.4 from pool d-first",
            "b 192.0.2.3 from pool c-second",
            "c 192.0.2.2 from pool b-last",
            "d 192.0.2.1 from pool a-for-all",
            "e: pools_exhausted",
        ]
    );
}

#[test]
fn namespaces_and_services_must_both_match() {
    let mut pool = for_namespace("p", "192.0.2.1-192.0.2.9", "default");
    let allocation = pool.allocation.as_mut().unwrap();
    allocation.service_selectors = vec![selector("app", "web"), selector("app", "api")];
    let labelled = |name: &str, app: &str| Service {
        labels: [("app".to_owned(), app.to_owned())].into(),
        ..service(name)
    };
    let mut elsewhere = labelled("elsewhere", "web");
    elsewhere.name = ServiceName::new("other", "elsewhere");
    let services = [labelled("api", "api"), labelled("db", "db"), elsewhere];
    assert_eq!(
        show(&plan(&[pool], &services, &NOBODY))[..3],
        [
            "api 192.0.2.1 from pool p",
            "db: pool_not_for_service",
            "elsewhere: pool_not_for_service"
        ]
    );
}

#[test]
fn namespace_selectors_add_to_names_and_match_nobody_rather_than_everybody() {
    let mut restricted = for_namespace("p", "192.0.2.1-192.0.2.9", "nobody");
    let allocation = restricted.allocation.as_mut().unwrap();
    allocation.namespace_selectors = vec![selector("team", "blue")];
    let asking = asking("asking", &["192.0.2.5"]);
    let mut picture = observed(&[restricted], &[service("a"), asking]);
    let refused = allocate(&picture, &NOBODY, &Config::default());
    assert_eq!(show(&refused), ["a: pool_not_for_service", "asking: pool_not_for_service"]);
    let labels = [("team".to_owned(), "blue".to_owned())].into();
    picture.namespaces.insert("default".into(), labels);
    let served = allocate(&picture, &NOBODY, &Config::default());
    assert_eq!(show(&served)[..2], ["a 192.0.2.1 from pool p", "asking 192.0.2.5 from pool p"]);
}

#[test]
fn a_live_address_stays_when_its_pool_is_no_longer_for_its_service_and_that_is_told() {
    let before = current(&[("a", held("p", &["192.0.2.3"]))]);
    let elsewhere = for_namespace("p", "192.0.2.1-192.0.2.9", "other");
    let selecting = Pool {
        kind: PoolKind::Cilium,
        service_selector: Some(selector("app", "web")),
        ..pool("p", &["192.0.2.1-192.0.2.9"])
    };
    for pool in [elsewhere, selecting] {
        let asks = Service { requested: vec![ip("192.0.2.3")], ..service("a") };
        for service in [service("a"), asks] {
            let plan = plan(std::slice::from_ref(&pool), &[service], &before);
            assert_eq!(show(&plan), ["a 192.0.2.3 from pool p", "a: pool_not_for_service"]);
        }
        let plan = plan(&[pool], &[service("a")], &before);
        let refusal = plan.refusals.values().next().unwrap();
        assert_eq!(refusal.message, "keeps 192.0.2.3, but pool p is not for it any more");
    }
}

#[test]
fn the_pool_annotation_chooses_even_a_manual_pool_and_moves_a_live_service() {
    let mut manual = pool("manual", &["198.51.100.1-198.51.100.9"]);
    manual.auto_assign = false;
    let pools = [pool("auto", &["192.0.2.1-192.0.2.9"]), manual];
    let wanting =
        |name: &str, pool: &str| Service { requested_pool: Some(pool.into()), ..service(name) };
    let before = current(&[("b", held("auto", &["192.0.2.3"]))]);
    let services = [wanting("a", "manual"), wanting("b", "manual"), wanting("c", "no-such")];
    assert_eq!(
        show(&plan(&pools, &services, &before)),
        [
            "a 198.51.100.2 from pool manual",
            "b 198.51.100.1 from pool manual",
            "c: unknown_pool",
            "a! pending",
            "b! requested",
        ]
    );
}

#[test]
fn a_pool_and_an_address_of_another_contradict_each_other() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"]), pool("q", &["198.51.100.1-198.51.100.9"])];
    let both = Service { requested_pool: Some("q".into()), ..asking("a", &["192.0.2.1"]) };
    assert_eq!(show(&plan(&pools, &[both], &NOBODY)), ["a: request_contradictory"]);
}

#[test]
fn a_live_service_that_gains_contradictory_requests_keeps_its_address() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let before = current(&[("a", held("p", &["192.0.2.3"]))]);
    let contradicting =
        Service { metallb_contradiction: Some("asks twice".into()), ..asking("a", &["192.0.2.4"]) };
    let unreadable = Service { contradiction: Some("asks for x".into()), ..service("a") };
    for service in [contradicting, unreadable] {
        assert_eq!(
            show(&plan(&pools, &[service], &before)),
            ["a 192.0.2.3 from pool p", "a: request_contradictory"]
        );
    }
}

#[test]
fn shares_the_first_compatible_address_without_being_asked() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let before =
        current(&[("other", held("p", &["192.0.2.1"])), ("web", held("p", &["192.0.2.2"]))]);
    let services = [
        service("other"),
        sharing("web", "k", 80),
        sharing("dns", "k", 53),
        sharing("web2", "k", 80),
        sharing("x", "l", 99),
    ];
    assert_eq!(
        show(&plan(&pools, &services, &before))[..5],
        [
            "dns 192.0.2.2 from pool p",
            "other 192.0.2.1 from pool p",
            "web 192.0.2.2 from pool p",
            "web2 192.0.2.3 from pool p",
            "x 192.0.2.4 from pool p",
        ]
    );
}

#[test]
fn a_shared_address_is_free_only_when_the_last_sharer_is_gone() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.1"])];
    let both = current(&[("a", held("p", &["192.0.2.1"])), ("b", held("p", &["192.0.2.1"]))]);
    let one = [sharing("b", "k", 53), service("c")];
    assert_eq!(
        show(&plan(&pools, &one, &both)),
        ["b 192.0.2.1 from pool p", "c: pools_exhausted", "a! service_gone"]
    );
    let says = |asks: Service| {
        let services = [sharing("b", "k", 53), asks];
        plan(&pools, &services, &both).refusals.into_values().next().unwrap().message
    };
    let same_port = Service { requested: vec![ip("192.0.2.1")], ..sharing("z", "k", 53) };
    assert_eq!(
        says(same_port),
        "asks for 192.0.2.1, which default/b has; they cannot share it, because both listen on the \
         same port"
    );
    assert_eq!(says(asking("z", &["192.0.2.1"])), "asks for 192.0.2.1, which default/b has");
}

#[test]
fn a_service_gets_back_what_it_had_before_its_pool_disappeared() {
    let before = current(&[("a", held("p", &["192.0.2.7"])), ("b", held("p", &["192.0.2.1"]))]);
    let services = ["a", "b"].map(service);
    assert_eq!(
        show(&plan(&[], &services, &before)),
        ["a: no_pool", "b: no_pool", "a! pool_gone", "b! pool_gone"]
    );
    let had = |name: &str, address: &str| Service { previous: vec![ip(address)], ..service(name) };
    let services = [had("a", "192.0.2.7"), had("b", "192.0.2.1"), service("0-new")];
    let renamed = [pool("q", &["192.0.2.1-192.0.2.9"])];
    assert_eq!(
        show(&plan(&renamed, &services, &NOBODY))[..3],
        ["0-new 192.0.2.2 from pool q", "a 192.0.2.7 from pool q", "b 192.0.2.1 from pool q",]
    );
}

#[test]
fn serves_services_in_the_order_of_their_creation() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let at = |name: &str, created: &str| Service { created: created.into(), ..service(name) };
    let services = [at("a", "2025-01-01T00:00:02Z"), at("b", "2025-01-01T00:00:01Z")];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..2],
        ["a 192.0.2.2 from pool p", "b 192.0.2.1 from pool p"]
    );
}

#[test]
fn serves_a_service_that_admits_only_some_clients() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let source_ranges = ["198.51.100.0/24".parse().unwrap()].into();
    let limited = Service { source_ranges, ..service("limited") };
    assert_eq!(
        show(&plan(&pools, &[limited], &NOBODY)),
        ["limited 192.0.2.1 from pool p", "limited! pending"]
    );
}
