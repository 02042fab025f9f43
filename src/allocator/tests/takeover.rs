//! Services that come from and go to other load balancers, and families within the cluster.

use super::*;
use crate::observed::{Node, PoolKind};

fn given(name: &str, class: Option<&str>, address: &str) -> Service {
    let mut service = Service { class: class.map(str::to_owned), ..service(name) };
    service.reported.addresses = vec![ip(address)];
    service.reported.assigned = Some(vec![ip(address)]);
    service
}

#[test]
fn names_the_services_that_left_and_keeps_their_addresses_until_they_are_cleared() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9"])];
    let plain = Service { load_balancer: false, ..given("plain", None, "192.0.2.3") };
    let services = [
        given("ours", None, "192.0.2.1"),
        given("left", Some("example.com/lb"), "192.0.2.2"),
        plain,
        service("new"),
    ];
    let picture = observed(&pools, &services);
    let current = reported(&picture, &Config::default());
    let plan = allocate(&picture, &current, &Config::default());
    let names: Vec<_> = plan.released.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["left", "plain"]);
    assert_eq!(
        show(&plan),
        ["new 192.0.2.3 from pool p", "ours 192.0.2.1 from pool p", "new! pending"]
    );
}

#[test]
fn each_flag_serves_its_classes() {
    let none: [Option<&str>; 5] =
        [None, Some(HERALD), Some(L2_ANNOUNCER), Some(BGP), Some("example.com/lb")];
    let served = |flag: Option<&str>| {
        let config = Config { class: flag.map(str::to_owned), ..Config::default() };
        none.map(|class| {
            let class = class.map(str::to_owned);
            config.serves(&Service { class, ..service("a") })
        })
    };
    assert_eq!(served(None), [true, true, true, true, false]);
    let ignored = Config { classless: Classless::Ignored, ..Config::default() };
    let served_then = none.map(|class| {
        let class = class.map(str::to_owned);
        ignored.serves(&Service { class, ..service("a") })
    });
    assert_eq!(served_then, [false, true, true, true, false], "Cilium's default-lb-service-ipam");
    assert_eq!(served(Some("example.com/lb")), [false, false, false, false, true]);
    assert_eq!(served(Some(HERALD)), [false, true, false, false, false]);
}

#[test]
fn addresses_within_the_cluster_must_say_which_families_there_are() {
    let pools = [pool("p", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])];
    let within = |name: &str, policy, ips: &[&str]| Service {
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ..dual(name, policy)
    };
    let services = [
        within("both", RequireDualStack, &["10.0.0.1", "fd00::1"]),
        within("few", RequireDualStack, &["10.0.0.1"]),
        within("one-family", PreferDualStack, &["10.0.0.1", "10.0.0.2"]),
        within("prefer", PreferDualStack, &["10.0.0.1", "fd00::1"]),
    ];
    assert_eq!(
        show(&plan(&pools, &services, &NOBODY))[..4],
        [
            "both 192.0.2.1, 2001:db8::1 from pool p",
            "prefer 192.0.2.2, 2001:db8::2 from pool p",
            "few: not_enough_cluster_ips",
            "one-family: cluster_ips_of_one_family",
        ]
    );
    let before = current(&[("few", held("p", &["192.0.2.7"]))]);
    assert_eq!(
        show(&plan(&pools, &services[1..2], &before)),
        ["few 192.0.2.7 from pool p", "few: not_enough_cluster_ips"],
        "a live Service keeps what it has"
    );
}

#[test]
fn cilium_gives_the_families_that_the_cluster_has() {
    let pools = [Pool {
        kind: PoolKind::Cilium,
        ..pool("cilium.io/p", &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"])
    }];
    let by_default = Service { has_default_families: true, ..service("default") };
    let single = Service { ip_families: vec![V6], ..service("single") };
    let services =
        [by_default, single, dual("prefer", PreferDualStack), dual("require", RequireDualStack)];
    let on = |address: &str| {
        let mut picture = observed(&pools, &services);
        let addresses = vec![ip(address)];
        let node = Node { name: "n".into(), addresses, ..Node::default() };
        picture.nodes.insert("n".into(), node);
        show(&allocate(&picture, &NOBODY, &Config::default()))[..4].to_vec()
    };
    assert_eq!(
        on("10.0.0.1"),
        [
            "default 192.0.2.1 from pool cilium.io/p",
            "prefer 192.0.2.2 from pool cilium.io/p",
            "require 192.0.2.3 from pool cilium.io/p",
            "single 2001:db8::1 from pool cilium.io/p",
        ],
        "the family of a single-stack Service wins though it is not enabled"
    );
    assert_eq!(
        on("fd00::1"),
        [
            "default 2001:db8::1 from pool cilium.io/p",
            "prefer 2001:db8::2 from pool cilium.io/p",
            "require 2001:db8::3 from pool cilium.io/p",
            "single 2001:db8::4 from pool cilium.io/p",
        ]
    );
}
