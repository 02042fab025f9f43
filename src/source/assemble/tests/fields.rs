//! Field by field: what an object of an API server comes to, and what that does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::served::{Cluster, balancer};
use super::*;
use crate::allocator;
use crate::observed::{
    Allocation, CiliumSharing, Grants, Pool, Requirement, Selector, Service, TrafficPolicy,
};

fn read(object: Value) -> Snapshot {
    let snapshot = Cluster::default().apply(&[object]);
    assert_eq!(snapshot.problems.iter().filter(|it| it.level == Level::Error).count(), 0);
    snapshot
}

fn service(annotations: Value, spec: Value) -> Service {
    let services = read(balancer(annotations, spec, "")).observed.services;
    Service::clone(services.values().next().unwrap())
}

fn names(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn is_in(key: &str, values: &[&str]) -> Selector {
    Selector { requirements: vec![Requirement::In(key.to_owned(), names(values))] }
}

#[test]
fn every_annotation_about_sharing_and_pools_is_read_and_an_empty_one_says_nothing() {
    const KEY: [&str; 2] = ["lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"];
    const NAMESPACES: [&str; 2] =
        ["lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"];
    let of = |annotations: Value| service(annotations, json!({}));
    for prefix in ["metallb.io", "metallb.universe.tf"] {
        let [shared, pool] = ["allow-shared-ip", "address-pool"].map(|it| format!("{prefix}/{it}"));
        let found = of(json!({&shared: " k ", &pool: "p"}));
        let said = (found.sharing_key.as_deref(), found.requested_pool.as_deref());
        assert_eq!(said, (Some("k"), Some("p")), "{prefix}");
        let none = of(json!({&shared: " ", &pool: ""}));
        assert_eq!((none.sharing_key, none.requested_pool), (None, None), "{prefix}");
        assert_eq!(none.cilium_sharing, None);
    }
    let sharing = |grants| Some(CiliumSharing { key: "k".into(), grants, ..Default::default() });
    for key in KEY {
        assert_eq!(of(json!({key: "k"})).cilium_sharing, sharing(Grants::default()), "{key}");
        assert_eq!(of(json!({key: " "})).cilium_sharing, None, "{key}");
        for namespaces in NAMESPACES {
            for (value, grants) in [
                ("*", Grants::Every),
                ("a, *", Grants::Every),
                ("a", Grants::Named(names(&["a"]))),
                (" a ,, b ", Grants::Named(names(&["a", "b"]))),
                (" ", Grants::default()),
            ] {
                let found = of(json!({key: "k", namespaces: value})).cilium_sharing;
                assert_eq!(found, sharing(grants), "{key}, {namespaces}: {value:?}");
            }
        }
        for (value, permits) in [("true", true), ("false", false), ("", false)] {
            let pods = "lbipam.cilium.io/sharing-permit-different-pods";
            let found = of(json!({key: "k", pods: value})).cilium_sharing.unwrap();
            assert_eq!(found.permits_different_pods, permits, "{value:?}");
        }
    }
    assert_eq!(of(json!({NAMESPACES[0]: "*"})).cilium_sharing, None, "nothing without a key");
    // The current spelling counts where both are there.
    let both = of(json!({KEY[0]: "new", KEY[1]: "old"})).cilium_sharing.unwrap();
    assert_eq!(both.key, "new");
}

#[test]
fn the_fields_of_a_service_that_say_whose_it_is_and_who_carries_its_traffic() {
    let usual = service(json!({}), json!({}));
    assert_eq!(
        (usual.class, usual.external_traffic_policy, usual.external_ips),
        (None, TrafficPolicy::Cluster, vec![])
    );
    for (text, policy) in [("Local", TrafficPolicy::Local), ("Cluster", TrafficPolicy::Cluster)] {
        let found = service(json!({}), json!({"externalTrafficPolicy": text}));
        assert_eq!(found.external_traffic_policy, policy);
    }
    for (text, class) in [("io.cilium/l2-announcer", Some("io.cilium/l2-announcer")), ("", None)] {
        let found = service(json!({}), json!({"loadBalancerClass": text}));
        assert_eq!(found.class.as_deref(), class);
    }
    // What no host has is left out; the API server admits none of it.
    let own = json!({"externalIPs": ["192.0.2.7", "127.0.0.1", "2001:db8::7"]});
    let own: Vec<_> =
        service(json!({}), own).external_ips.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["192.0.2.7", "2001:db8::7"]);
}

#[test]
fn a_node_without_a_network_says_so() {
    for (conditions, unavailable) in [
        (json!([{"type": "NetworkUnavailable", "status": "True"}]), true),
        (json!([{"type": "NetworkUnavailable", "status": "False"}]), false),
        (json!([{"type": "Ready", "status": "True"}]), false),
        (json!([]), false),
    ] {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"conditions": conditions},
        });
        let found = read(node).observed.nodes["n"].network_unavailable;
        assert_eq!(found, unavailable, "{conditions}");
    }
}

#[test]
fn who_may_use_a_pool_of_metallbs() {
    let allocation = |given: Value| {
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "p", "namespace": "metallb-system"},
            "spec": {"addresses": ["192.0.2.0/28"], "serviceAllocation": given},
        });
        read(pool).observed.pools["p"].allocation.clone().unwrap()
    };
    let selectors = json!([
        {"matchLabels": {"a": "b"}},
        {"matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]},
    ]);
    let read = || vec![is_in("a", &["b"]), is_in("c", &["d", "e"])];
    let none = Allocation::default();
    for (given, wanted) in [
        (json!({}), none.clone()),
        (json!({"priority": 7}), Allocation { priority: 7, ..none.clone() }),
        (
            json!({"namespaces": ["x"]}),
            Allocation { is_namespaced: true, namespaces: names(&["x"]), ..none.clone() },
        ),
        (
            json!({"namespaceSelectors": selectors}),
            Allocation { is_namespaced: true, namespace_selectors: read(), ..none.clone() },
        ),
        (
            json!({"serviceSelectors": selectors}),
            Allocation { service_selectors: read(), ..none.clone() },
        ),
    ] {
        assert_eq!(allocation(given.clone()), wanted, "{given}");
    }
}

#[test]
fn what_an_l2advertisement_selects() {
    let spec = json!({
        "ipAddressPoolSelectors": [{"matchLabels": {"pool": "a"}}],
        "nodeSelectors": [
            {"matchLabels": {"kubernetes.io/hostname": "n1"}},
            {"matchLabels": {"kubernetes.io/hostname": "n2"}},
        ],
        "interfaces": ["eth0", "eth1"],
        "serviceSelectors": [{"matchLabels": {"app": "web"}}],
    });
    let object = |spec: Value| {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": "a", "namespace": "metallb-system"}, "spec": spec,
        })
    };
    let found = read(object(spec)).observed.advertisements["metallb-system/a"].clone();
    assert_eq!(found.pool_selectors, [is_in("pool", &["a"])]);
    let hosts = ["n1", "n2"].map(|it| is_in("kubernetes.io/hostname", &[it]));
    assert_eq!(found.node_selectors, hosts);
    assert_eq!(found.interfaces, names(&["eth0", "eth1"]));
    assert_eq!(found.service_selectors, [is_in("app", &["web"])]);
    let pool = |label: &str| Pool {
        name: "p".into(),
        labels: BTreeMap::from([("pool".to_owned(), label.to_owned())]),
        ..Pool::default()
    };
    assert!(found.covers(&pool("a")) && !found.covers(&pool("b")));
    // Nothing selected is everything.
    let bare = read(object(json!({}))).observed.advertisements["metallb-system/a"].clone();
    assert!(bare.covers(&pool("b")));
    assert_eq!((bare.node_selectors.len(), bare.interfaces.len()), (0, 0));
}

#[test]
fn the_ends_of_a_network_of_ciliums_are_left_out_if_told() {
    let left_out = |spec: Value| {
        let pool = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool",
            "metadata": {"name": "p"}, "spec": spec,
        });
        let pool = read(pool).observed.pools["cilium.io/p"].clone();
        pool.left_out.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let ends = ["192.0.2.0", "192.0.2.15"];
    let range = json!({"start": "192.0.2.0", "stop": "192.0.2.15"});
    for (allow, block, wanted) in [
        (json!("No"), json!({"cidr": "192.0.2.0/28"}), &ends[..]),
        (json!("Yes"), json!({"cidr": "192.0.2.0/28"}), &[]),
        (json!(null), json!({"cidr": "192.0.2.0/28"}), &[]),
        (json!("No"), json!({"cidr": "192.0.2.0/31"}), &[]),
        (json!("No"), json!({"cidr": "192.0.2.0/32"}), &[]),
        (json!("No"), range, &[]),
        (json!("No"), json!({"cidr": "2001:db8::/126"}), &["2001:db8::", "2001:db8::3"]),
    ] {
        let found = left_out(json!({"allowFirstLastIPs": allow, "blocks": [block]}));
        assert_eq!(found, wanted, "{allow} {block}");
    }
}

/// A cluster of one family, or a Service that was made before it had two: MetalLB goes by what the
/// Service has within the cluster.
#[test]
fn cluster_ips_of_one_family_mean_one_address_even_from_a_pool_of_both() {
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": "both", "namespace": "metallb-system"},
        "spec": {"addresses": ["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"]},
    });
    let given = |policy: &str, cluster_ips: &[&str]| {
        let spec = json!({"ipFamilyPolicy": policy, "clusterIPs": cluster_ips});
        let observed =
            Cluster::default().apply(&[pool.clone(), balancer(json!({}), spec, "")]).observed;
        let plan = allocator::allocate(&observed, &BTreeMap::new(), &allocator::Config::default());
        let given = plan.assignments.values().flat_map(|it| &it.addresses);
        given.map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = ["10.0.0.1", "fd00::1"];
    assert_eq!(given("PreferDualStack", &both), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(given("PreferDualStack", &both[..1]), ["192.0.2.1"]);
    assert_eq!(given("PreferDualStack", &both[1..]), ["2001:db8::1"]);
    assert_eq!(given("SingleStack", &both[..1]), ["192.0.2.1"]);
    assert_eq!(given("RequireDualStack", &both), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(given("RequireDualStack", &both[..1]), [""; 0]);
}
