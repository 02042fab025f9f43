//! Cilium's rules: who may use a pool, how many addresses, and what closes a pool.

use std::sync::Arc;

use super::*;
use crate::observed::{
    CiliumSharing, L2_ANNOUNCER, PoolKind, Protocol, Requirement, Selector, ServicePort, TargetPort,
};

fn cilium(name: &str, ranges: &[&str]) -> Pool {
    Pool { kind: PoolKind::Cilium, ..pool(&format!("cilium.io/{name}"), ranges) }
}

fn sharing(name: &str, port: u16) -> Service {
    let target = TargetPort::Number(port);
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port, target };
    let sharing = CiliumSharing { key: "k".into(), ..CiliumSharing::default() };
    Service { cilium_sharing: Some(sharing), ports: vec![port], ..service(name) }
}

#[test]
fn pseudo_labels_select_and_overwrite() {
    let mut mine = cilium("mine", &["192.0.2.1-192.0.2.9"]);
    let key = "io.kubernetes.service.name".to_owned();
    let is_a = Requirement::In(key.clone(), ["a".to_owned()].into());
    mine.service_selector = Some(Selector { requirements: vec![is_a] });
    let pretender = Service { labels: [(key, "a".to_owned())].into(), ..service("b") };
    assert_eq!(
        show(&plan(&[mine], &[service("a"), pretender], &NOBODY))[..2],
        ["a 192.0.2.1 from pool cilium.io/mine", "b: pool_not_for_service"]
    );
}

#[test]
fn any_number_of_addresses_from_any_pools_all_or_nothing() {
    let pools =
        [cilium("p", &["192.0.2.1-192.0.2.9"]), cilium("q", &["198.51.100.1-198.51.100.9"])];
    let many = asking("many", &["192.0.2.1", "192.0.2.2", "198.51.100.5"]);
    let one_too_far = asking("too-far", &["192.0.2.3", "203.0.113.1"]);
    assert_eq!(
        show(&plan(&pools, &[many.clone(), one_too_far], &NOBODY))[..2],
        [
            "many 192.0.2.1, 192.0.2.2, 198.51.100.5 from pool cilium.io/p",
            "too-far: address_outside_pools",
        ]
    );
    let before =
        current(&[("many", held("cilium.io/p", &["192.0.2.1", "192.0.2.2", "198.51.100.5"]))]);
    assert_eq!(plan(&pools, &[many], &before).changes, []);
}

#[test]
fn an_annotation_and_the_field_are_united_where_metallb_sees_a_contradiction() {
    let both = Service {
        metallb_contradiction: Some("asks twice".into()),
        ..asking("a", &["192.0.2.1", "192.0.2.2"])
    };
    let both = [both];
    assert_eq!(
        show(&plan(&[cilium("p", &["192.0.2.1-192.0.2.9"])], &both, &NOBODY))[0],
        "a 192.0.2.1, 192.0.2.2 from pool cilium.io/p"
    );
    assert_eq!(
        show(&plan(&[pool("p", &["192.0.2.1-192.0.2.9"])], &both, &NOBODY)),
        ["a: request_contradictory"]
    );
}

#[test]
fn a_disabled_or_conflicting_pool_gives_nothing_new_and_takes_nothing_away() {
    let disabled = Pool { disabled: true, ..cilium("p", &["192.0.2.1-192.0.2.9"]) };
    let conflict = Some("cilium.io/older".to_owned());
    let conflicting = Pool { conflict, ..cilium("p", &["192.0.2.1-192.0.2.9"]) };
    let before = current(&[("live", held("cilium.io/p", &["192.0.2.3"]))]);
    let services = [asking("asks", &["192.0.2.4"]), service("live"), service("new")];
    for pool in [disabled, conflicting] {
        // The same after a restart, when all there is are the addresses in the status.
        let mut picture = observed(&[pool], &services);
        let live =
            Arc::make_mut(picture.services.get_mut(&ServiceName::new("default", "live")).unwrap());
        live.reported.addresses = vec![ip("192.0.2.3")];
        assert_eq!(reported(&picture, &Config::default()), before);
        assert_eq!(
            show(&allocate(&picture, &before, &Config::default())),
            ["live 192.0.2.3 from pool cilium.io/p", "asks: pool_closed", "new: pool_closed"]
        );
    }
}

#[test]
fn leaves_out_the_ends_of_a_network() {
    let mut pool = cilium("p", &["192.0.2.0-192.0.2.3"]);
    pool.left_out = [ip("192.0.2.0"), ip("192.0.2.3")].into();
    let services = [service("a"), service("b"), service("c"), asking("d", &["192.0.2.0"])];
    assert_eq!(
        show(&plan(&[pool], &services, &NOBODY))[..4],
        [
            "a 192.0.2.1 from pool cilium.io/p",
            "b 192.0.2.2 from pool cilium.io/p",
            "c: pools_exhausted",
            "d: address_avoided",
        ]
    );
}

#[test]
fn an_incompatible_sharer_gets_another_address() {
    let pools = [cilium("p", &["192.0.2.1-192.0.2.2"])];
    let before = current(&[("z", held("cilium.io/p", &["192.0.2.2"]))]);
    let services = [sharing("z", 80), sharing("a", 443), sharing("b", 80)];
    assert_eq!(
        show(&plan(&pools, &services, &before))[..3],
        [
            "a 192.0.2.2 from pool cilium.io/p",
            "b 192.0.2.1 from pool cilium.io/p",
            "z 192.0.2.2 from pool cilium.io/p",
        ],
        "sharing comes before a lower free address"
    );
}

#[test]
fn an_address_to_share_in_any_pool_comes_before_a_free_one() {
    let (a, a6) = ("192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9");
    let (b, b6) = ("198.51.100.1-198.51.100.9", "2001:db8:b::1-2001:db8:b::9");
    let pools = [cilium("a", &[a, a6]), cilium("b", &[b, b6])];
    let both = |name: &str, port| Service {
        ip_families: vec![V4, V6],
        family_policy: PreferDualStack,
        ..sharing(name, port)
    };
    let before = current(&[("z", held("cilium.io/b", &["198.51.100.5", "2001:db8:b::5"]))]);
    let z = both("z", 80);
    let shared = ["198.51.100.5", "2001:db8:b::5"];
    let table = [
        (sharing("s", 443), held("cilium.io/b", &shared[..1])),
        (both("s", 443), held("cilium.io/b", &shared)),
        (both("s", 80), held("cilium.io/a", &["192.0.2.1", "2001:db8::1"])),
    ];
    for (service, expected) in table {
        let plan = plan(&pools, &[service.clone(), z.clone()], &before);
        assert_eq!(plan.assignments[&service.name], expected);
    }
    // A family that is added to what it has.
    let before =
        current(&[("s", held("cilium.io/b", &shared[..1])), ("z", held("cilium.io/b", &shared))]);
    let plan = plan(&pools, &[both("s", 443), z], &before);
    assert_eq!(plan.assignments[&ServiceName::new("default", "s")], held("cilium.io/b", &shared));
}

#[test]
fn takes_each_family_from_the_first_pool_that_has_it() {
    let pools = [cilium("4", &["192.0.2.1-192.0.2.9"]), cilium("6", &["2001:db8::1-2001:db8::9"])];
    let services = [dual("prefer", PreferDualStack), dual("require", RequireDualStack)];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..2],
        [
            "prefer 192.0.2.1, 2001:db8::1 from pool cilium.io/4",
            "require 192.0.2.2, 2001:db8::2 from pool cilium.io/4",
        ]
    );
    assert_eq!(
        show(&plan(&pools[1..], &services, &NOBODY))[..3],
        [
            "prefer 2001:db8::1 from pool cilium.io/6",
            "require 2001:db8::2 from pool cilium.io/6",
            "require: no_pool_of_family",
        ]
    );
}

#[test]
fn who_requires_both_families_has_what_there_is_and_waits_for_the_rest() {
    let (v4, v6) = ("192.0.2.1-192.0.2.1", "2001:db8::1-2001:db8::9");
    let both = [cilium("4", &[v4]), cilium("6", &[v6])];
    let metallb = [pool("m", &[v4]), pool("n", &[v6])];
    let node = |addresses: &[&str]| crate::observed::Node {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ..Default::default()
    };
    let (only_v4, dual_nodes) = (node(&["10.0.0.1"]), node(&["10.0.0.1", "fd00::1"]));
    let (held_6, held_4) =
        (held("cilium.io/6", &["2001:db8::7"]), held("cilium.io/4", &["192.0.2.1"]));
    let all = "192.0.2.1, 2001:db8::1 from pool cilium.io/4";
    type Row<'a> =
        (&'a str, &'a [Pool], &'a crate::observed::Node, Option<&'a Assignment>, &'a [&'a str]);
    let closed = [both[0].clone(), Pool { disabled: true, ..both[1].clone() }];
    let table: [Row<'_>; 10] = [
        ("both are there", &both, &dual_nodes, None, &[all]),
        ("one is not enabled", &both, &only_v4, None, &["192.0.2.1 from pool cilium.io/4"]),
        (
            "no pool has one",
            &both[1..],
            &dual_nodes,
            None,
            &["2001:db8::1 from pool cilium.io/6", "no_pool_of_family"],
        ),
        (
            "the pool that has one is closed",
            &closed,
            &dual_nodes,
            None,
            &["192.0.2.1 from pool cilium.io/4", "no_pool_of_family"],
        ),
        ("no pool has any", &[], &dual_nodes, None, &["no_pool"]),
        (
            "what is there stays",
            &both[1..],
            &dual_nodes,
            Some(&held_6),
            &["2001:db8::7 from pool cilium.io/6", "no_pool_of_family"],
        ),
        (
            "and is added to",
            &both,
            &dual_nodes,
            Some(&held_6),
            &["2001:db8::7, 192.0.2.1 from pool cilium.io/6"],
        ),
        ("in both orders", &both, &dual_nodes, Some(&held_4), &[all]),
        (
            "what is not enabled any more goes",
            &both,
            &only_v4,
            Some(&held("cilium.io/4", &["192.0.2.1", "2001:db8::1"])),
            &["192.0.2.1 from pool cilium.io/4"],
        ),
        ("MetalLB gives all or nothing", &metallb, &dual_nodes, None, &["no_dual_stack_pool"]),
    ];
    for (what, pools, node, before, expected) in table {
        let before = before.map(|held| current(&[("a", held.clone())])).unwrap_or_default();
        let mut picture = observed(pools, &[dual("a", RequireDualStack)]);
        picture.nodes.insert("n".into(), node.clone());
        let plan = allocate(&picture, &before, &Config::default());
        let given = plan.assignments.values().map(ToString::to_string);
        let refused = plan.refusals.values().map(|it| it.reason.label().to_owned());
        assert_eq!(given.chain(refused).collect::<Vec<_>>(), expected, "{what}");
        let again = allocate(&picture, &plan.assignments, &Config::default());
        assert_eq!((again.changes, again.refusals), (vec![], plan.refusals), "{what}");
    }
}

#[test]
fn who_lacks_a_family_gets_it_once_it_is_free() {
    let pools = [cilium("4", &["192.0.2.1-192.0.2.1"]), cilium("6", &["2001:db8::1-2001:db8::9"])];
    let (first, second) = (dual("first", RequireDualStack), dual("second", RequireDualStack));
    let crowded = plan(&pools, &[first, second.clone()], &NOBODY);
    assert_eq!(
        show(&crowded)[1..3],
        ["second 2001:db8::2 from pool cilium.io/6", "second: pools_exhausted"]
    );
    let alone = plan(&pools, &[second], &crowded.assignments);
    assert_eq!(show(&alone)[0], "second 2001:db8::2, 192.0.2.1 from pool cilium.io/6");
}

#[test]
fn classes_of_cilium_get_addresses_of_its_pools_only() {
    let classy = Service { class: Some(L2_ANNOUNCER.into()), ..service("classy") };
    let metallb = pool("m", &["192.0.2.1-192.0.2.9"]);
    let both = [metallb.clone(), cilium("c", &["198.51.100.1-198.51.100.9"])];
    assert_eq!(
        show(&plan(&both, &[classy.clone(), service("plain")], &NOBODY))[..2],
        ["classy 198.51.100.1 from pool cilium.io/c", "plain 192.0.2.1 from pool m"]
    );
    assert_eq!(show(&plan(&[metallb], &[classy], &NOBODY)), ["classy: pool_not_for_service"]);
}

#[test]
fn keeps_away_from_what_another_load_balancer_has_given() {
    let mut foreign = Service { class: Some("example.com/lb".into()), ..service("foreign") };
    foreign.reported.addresses = vec![ip("192.0.2.1")];
    let pools = [cilium("p", &["192.0.2.1-192.0.2.9"])];
    let plan = plan(&pools, &[foreign, service("ours")], &NOBODY);
    assert_eq!(show(&plan), ["ours 192.0.2.2 from pool cilium.io/p", "ours! pending"]);
}

#[test]
fn a_service_moves_to_another_pool_when_its_own_is_deleted_or_loses_its_address() {
    let other = cilium("q", &["198.51.100.1-198.51.100.9"]);
    let before = current(&[("a", held("cilium.io/p", &["192.0.2.3"]))]);
    let moved = ["a 198.51.100.1 from pool cilium.io/q", "a! pool_gone"];
    assert_eq!(show(&plan(std::slice::from_ref(&other), &[service("a")], &before)), moved);
    assert_eq!(show(&plan(&[], &[service("a")], &before)), ["a: no_pool", "a! pool_gone"]);
    // While pools may merely not be read yet, nothing is taken away.
    let mut restarted = observed(&[other], &[service("a")]);
    restarted.pools_incomplete = true;
    assert_eq!(
        show(&allocate(&restarted, &before, &Config::default())),
        ["a 192.0.2.3 from pool cilium.io/p", "a: input_incomplete"]
    );
}
