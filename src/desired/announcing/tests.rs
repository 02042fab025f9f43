use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::allocator::{self, Assignment};
use crate::desired::{Memory, Seen, Vip, desired, facts};
use crate::fixture::{VIP, node, observed, service_name, view};
use crate::observed::{Observed, Requirement, Selector};
use crate::source::{Assembler, FileState, Kind, Served, Snapshot, Tree};

/// The address from a pool of that name, which is not in the picture; whether it was announced.
fn with(observed: &Observed, pool: &str, announced: bool) -> Vip {
    let vip = IpAddr::from(VIP);
    let assignment = Assignment { pool: pool.into(), addresses: vec![vip] };
    let assignments = [(service_name(), assignment)].into();
    let announced = announced.then_some(vip).into_iter().collect();
    let (view, nobody) = (view(1), Default::default());
    let facts = facts(&view);
    let seen = Seen {
        me: &node(1),
        observed,
        assignments: &assignments,
        view: &view,
        facts: &facts,
        gone: &nobody,
        announced: &announced,
    };
    let vips = desired(&seen, &mut Memory::default());
    Vip::clone(&vips[&vip])
}

/// What is unknown about it, or why no node may have it.
fn word(vip: &Vip) -> &'static str {
    match (vip.eligible.len(), vip.uncertain) {
        (3, uncertain) => uncertain.map_or("known", Uncertain::label),
        (0, _) => vip.ineligible[&node(1)].label(),
        other => panic!("{other:?}"),
    }
}

fn labelled(value: &str) -> Selector {
    Selector { requirements: vec![Requirement::In("site".into(), [value.to_owned()].into())] }
}

/// The fixture, of which the pool cannot be read and the advertisement is edited.
fn without_pool(edit: impl Fn(&mut Advertisement)) -> Observed {
    let mut observed = observed();
    observed.pools.clear();
    observed.pools_incomplete = true;
    observed.advertisements.values_mut().for_each(edit);
    observed
}

#[test]
fn an_address_of_an_unknown_pool_is_announced_by_what_announces_it_by_name() {
    let every = without_pool(|_| {});
    assert_eq!(word(&with(&every, "first", false)), "pool_unknown");
    assert_eq!(word(&with(&every, "cilium.io/p", false)), "no_advertisement");
    let named = without_pool(|ad| ad.pools = ["first".to_owned()].into());
    assert_eq!(word(&with(&named, "first", false)), "pool_unknown");
    assert_eq!(word(&with(&named, "second", true)), "no_advertisement");
    let cilium = without_pool(|ad| (ad.kind, ad.load_balancer_ips) = (PoolKind::Cilium, true));
    for pool in ["cilium.io/p", ""] {
        assert_eq!(word(&with(&cilium, pool, false)), "pool_unknown", "{pool:?}");
    }
    assert_eq!(word(&with(&cilium, "first", false)), "no_advertisement");
}

#[test]
fn one_that_selects_pools_by_labels_counts_only_where_none_does_by_name() {
    let mut observed = without_pool(|ad| ad.pool_selectors = vec![labelled("here")]);
    assert_eq!(word(&with(&observed, "first", false)), "pool_unknown", "it may have been this");
    let named = Advertisement {
        name: "named".into(),
        pools: ["first".to_owned()].into(),
        node_selectors: vec![labelled("nowhere")],
        ..Advertisement::default()
    };
    observed.advertisements.insert("named".into(), named);
    assert_eq!(word(&with(&observed, "first", false)), "node_not_selected");
}

#[test]
fn a_pool_that_is_certainly_gone_is_announced_by_nobody() {
    let mut observed = without_pool(|_| {});
    observed.pools_incomplete = false;
    assert_eq!(word(&with(&observed, "first", true)), "no_advertisement");
}

#[test]
fn what_another_load_balancer_gave_is_left_to_it() {
    let mut observed = without_pool(|_| {});
    let service = Arc::make_mut(observed.services.get_mut(&service_name()).unwrap());
    service.reported.addresses = vec![VIP.into()];
    assert_eq!(word(&with(&observed, "first", true)), "pool_unknown");
    assert!(with(&observed, "first", true).eligible.is_empty());
    Arc::make_mut(observed.services.get_mut(&service_name()).unwrap()).reported.assigned =
        Some(vec![VIP.into()]);
    assert_eq!(with(&observed, "first", true).eligible.len(), 3);
}

#[test]
fn what_was_announced_goes_on_while_an_advertisement_cannot_be_read() {
    let mut observed = observed();
    observed.advertisements.clear();
    assert_eq!(word(&with(&observed, "first", true)), "no_advertisement");
    observed.advertisements_incomplete = true;
    assert_eq!(word(&with(&observed, "first", true)), "advertisement_unknown");
    assert_eq!(word(&with(&observed, "first", false)), "no_advertisement", "it never was");
    observed.pools.clear();
    observed.pools_incomplete = true;
    for pool in ["first", "cilium.io/p"] {
        assert_eq!(word(&with(&observed, pool, true)), "pool_unknown", "one file had both");
    }
    observed.endpoints.clear();
    assert_eq!(word(&with(&observed, "first", true)), "no_ready_endpoint", "by MetalLB's rules");
    assert_eq!(word(&with(&observed, "cilium.io/p", true)), "pool_unknown", "not by Cilium's");
}

fn served(object: &Value) -> (String, Option<FileState>) {
    let kind = *Kind::ALL.iter().find(|known| known.name() == object["kind"]).unwrap();
    let tree = Tree::from_json(object);
    let state = FileState::Served(Box::new(Served { kind, tree }));
    (format!("{} {}", object["kind"], object["metadata"]["name"]), Some(state))
}

/// What a speaker that starts now reads: three nodes, a pod, a Service that has its address, a pool
/// and what announces it.
fn started(pool: &Value, advertisement: &Value, annotations: &Value) -> Snapshot {
    let node = |n: u8| {
        let address = format!("192.168.1.{}", 10 + n);
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}")},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        })
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "echo-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "echo"}},
        "endpoints": [{"addresses": ["10.244.1.2"], "nodeName": "n1", "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "echo", "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.240"}]}},
    });
    let mut objects = vec![pool.clone(), advertisement.clone(), service, slice];
    objects.extend((1..=3).map(node));
    Assembler::default().change(objects.iter().map(served).collect())
}

/// The VIP after a start, and what the allocator does to its Service.
fn after(snapshot: &Snapshot, announced: bool) -> (&'static str, usize) {
    let config = allocator::Config::default();
    let current = allocator::reported(&snapshot.observed, &config);
    let plan = allocator::allocate(&snapshot.observed, &current, &config);
    let pool = &current[&service_name()].pool;
    (word(&with(&snapshot.observed, pool, announced)), plan.changes.len())
}

#[test]
fn after_a_start_with_an_invalid_pool_or_announcement_what_was_announced_still_is() {
    let meta = |name: &str| json!({"name": name, "namespace": "metallb-system"});
    let metallb = |kind: &str, spec: Value| json!({"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": meta("p"), "spec": spec});
    let cilium = |version: &str, kind: &str, spec: Value| {
        let api = format!("cilium.io/{version}");
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": "p"}, "spec": spec})
    };
    let range = |text: &str| metallb("IPAddressPool", json!({"addresses": [text]}));
    let (good, bad) = (range("192.168.1.240-192.168.1.250"), range("192.168.1.250-192.168.1.240"));
    let ad = metallb("L2Advertisement", json!({"ipAddressPools": ["p"]}));
    let bad_ad = metallb("L2Advertisement", json!({"nodeSelectors": "n1"}));
    let ours = json!({
        "metallb.io/ip-allocated-from-pool": "p", "herald.io/assigned-addresses": "192.168.1.240",
    });
    let theirs = json!({"metallb.io/ip-allocated-from-pool": "p"});
    assert_eq!(after(&started(&good, &ad, &ours), true), ("known", 0));
    assert_eq!(after(&started(&bad, &ad, &ours), true), ("pool_unknown", 0));
    assert_eq!(after(&started(&good, &bad_ad, &ours), true), ("advertisement_unknown", 0));
    assert_eq!(after(&started(&bad, &bad_ad, &ours), true), ("pool_unknown", 0));
    assert_eq!(after(&started(&good, &bad_ad, &ours), false), ("no_advertisement", 0));
    let of_others = started(&bad, &ad, &theirs);
    let vip = with(&of_others.observed, "p", true);
    assert_eq!((vip.eligible.len(), vip.uncertain), (0, None), "MetalLB's own speakers do it");
    let bad = cilium("v2", "CiliumLoadBalancerIPPool", json!({"blocks": [{"cidr": "nonsense"}]}));
    let policy = json!({"loadBalancerIPs": true, "interfaces": ["^eth"]});
    let policy = cilium("v2alpha1", "CiliumL2AnnouncementPolicy", policy);
    let ours = json!({"herald.io/assigned-addresses": "192.168.1.240"});
    assert_eq!(after(&started(&bad, &policy, &ours), true), ("pool_unknown", 0));
}
