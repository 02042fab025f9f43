//! Objects of an API server: what is read of each, and what a pool that is renamed does to
//! addresses.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::allocator::{self, Assignment, Config};
use crate::observed::{PoolKind, SessionAffinity};

fn served(object: &Value) -> FileState {
    let kind = object["kind"].as_str().unwrap();
    let kind = *Kind::ALL.iter().find(|known| known.name() == kind).unwrap();
    FileState::Served(Box::new(Served { kind, tree: Tree::from_json(object) }))
}

/// A cluster that a test edits.
#[derive(Default)]
pub(super) struct Cluster(Assembler);

impl Cluster {
    pub(super) fn apply(&mut self, objects: &[Value]) -> Snapshot {
        let name = |it: &Value| format!("{} {}", it["kind"], it["metadata"]["name"]);
        self.0.change(objects.iter().map(|it| (name(it), Some(served(it)))).collect())
    }

    fn delete(&mut self, object: &Value) -> Snapshot {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        self.0.change([(name, None)].into())
    }
}

fn config_map(namespace: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "metallb-excludel2", "namespace": namespace},
        "data": {"excludel2.yaml": text},
    })
}

#[test]
fn reads_the_interfaces_that_nothing_is_announced_on() {
    let mut cluster = Cluster::default();
    // As MetalLB's manifests have it.
    let text = "announcedInterfacesToExclude:\n- ^docker.*\n- ^veth.*\n- ^lo$\n";
    let snapshot = cluster.apply(&[config_map("metallb-system", text)]);
    assert_eq!(snapshot.problems, []);
    let exclusions = snapshot.observed.exclusions;
    let excluded = ["docker0", "veth1", "lo", "eth0"].map(|name| exclusions.exclude(name));
    assert_eq!(excluded, [true, true, true, false]);
    // A bad edit changes nothing, and is told.
    let bad = "announcedInterfacesToExclude: ['^eth[']\n";
    let snapshot = cluster.apply(&[config_map("metallb-system", bad)]);
    assert_eq!(snapshot.observed.exclusions, exclusions);
    assert_eq!(reasons(&snapshot), ["bad_value", "last_good_kept"]);
    for bad in
        ["announcedInterfacesToExclude: eth0\n", "- [\n", "announcedInterfacesToExclude: [[]]"]
    {
        let snapshot = Cluster::default().apply(&[config_map("metallb-system", bad)]);
        assert_eq!(snapshot.problems.len(), 1, "{bad}");
    }
    let snapshot = Cluster::default().apply(&[config_map("metallb-system", "other: 1\n")]);
    assert_eq!((snapshot.problems, snapshot.observed.exclusions.0.len()), (vec![], 0));
}

#[test]
fn reads_no_other_config_map() {
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}";
    let snapshot = Directory::default().with("a.yaml", text).look();
    assert_eq!((reasons(&snapshot), snapshot.objects), (vec!["kind_not_supported"], 0));
}

#[test]
fn nodes_that_are_labelled_out_take_part_only_if_the_operator_says_so() {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {label: ""}},
    });
    for ignores_exclude_label in [false, true] {
        let mut cluster = Cluster(Assembler::new(Options { ignores_exclude_label }));
        let observed = cluster.apply(std::slice::from_ref(&node)).observed;
        assert_eq!(observed.nodes["n"].excluded, !ignores_exclude_label);
    }
}

#[test]
fn knows_the_conditions_of_a_policy_that_cannot_be_read() {
    let operator = json!({"matchExpressions": [{"key": "a", "operator": "Inn", "values": ["b"]}]});
    let table = [
        (json!({"interfaces": ["eth0", "["]}), "spec.interfaces"),
        (json!({"nodeSelector": operator}), "spec.nodeSelector"),
        (json!({"serviceSelector": operator}), "spec.serviceSelector"),
    ];
    let condition = json!({"type": "io.cilium/bad-interface-regex", "status": "True"});
    for (spec, field) in table {
        let policy = json!({
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumL2AnnouncementPolicy",
            "metadata": {"name": "p"}, "spec": spec, "status": {"conditions": [condition]},
        });
        let snapshot = Cluster::default().apply(&[policy]);
        assert_eq!(snapshot.observed.policies["p"], std::slice::from_ref(&condition));
        assert!(snapshot.observed.advertisements.is_empty());
        let problem = &snapshot.problems[0];
        assert_eq!(problem.object.as_deref(), Some("CiliumL2AnnouncementPolicy p"));
        assert!(problem.message.starts_with(field), "{problem}");
    }
}

const OLD: &str = "2024-01-01T00:00:00Z";
const NEW: &str = "2025-01-01T00:00:00Z";

fn metallb(name: &str, created: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": created},
        "spec": {"addresses": ["192.0.2.1-192.0.2.9"]},
    })
}

pub(super) fn balancer(annotations: Value, spec: Value, address: &str) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    });
    for (name, value) in spec.as_object().unwrap() {
        object["spec"][name] = value.clone();
    }
    object
}

/// What the Service has by the plan for this picture.
fn assigned(snapshot: &Snapshot) -> Option<Assignment> {
    let config = Config::default();
    let current = allocator::reported(&snapshot.observed, &config);
    allocator::allocate(&snapshot.observed, &current, &config).assignments.into_values().next()
}

#[test]
fn a_pool_that_is_renamed_new_one_first_takes_no_address_away_at_any_moment() {
    let mut cluster = Cluster::default();
    let (old, new) = (metallb("old", OLD), metallb("new", NEW));
    let web = balancer(json!({}), json!({}), "192.0.2.7");
    let show = |snapshot: &Snapshot| assigned(snapshot).unwrap().to_string();
    assert_eq!(show(&cluster.apply(&[old.clone(), web])), "192.0.2.7 from pool old");
    let both = cluster.apply(std::slice::from_ref(&new));
    assert_eq!(reasons(&both), ["pool_overlap"], "the configuration is briefly invalid");
    assert_eq!(show(&both), "192.0.2.7 from pool old");
    assert_eq!(show(&cluster.delete(&old)), "192.0.2.7 from pool new");
}

#[test]
fn a_pool_that_is_renamed_old_one_first_ends_with_the_address_kept() {
    let mut cluster = Cluster::default();
    let (old, new) = (metallb("old", OLD), metallb("new", NEW));
    cluster.apply(&[old.clone(), balancer(json!({}), json!({}), "192.0.2.7")]);
    let none = cluster.delete(&old);
    assert!(
        !none.observed.pools_incomplete,
        "the last pool was deleted, and not merely not read yet"
    );
    assert_eq!(assigned(&none), None);
    // What the allocator writes then: no address, and what it was.
    let note = json!({"herald.io/previous-addresses": "192.0.2.7"});
    let mut cleared = balancer(note, json!({}), "");
    cleared["status"] = json!({});
    let back = cluster.apply(&[cleared, new]);
    assert_eq!(assigned(&back).unwrap().to_string(), "192.0.2.7 from pool new");
}

#[test]
fn after_a_restart_with_an_invalid_pool_holders_keep_their_addresses() {
    let mut bad = metallb("p", OLD);
    bad["spec"]["addresses"] = json!(["192.0.2.9-192.0.2.1"]);
    let web = balancer(json!({"metallb.io/ip-allocated-from-pool": "p"}), json!({}), "192.0.2.7");
    let snapshot = Cluster::default().apply(&[bad, web]);
    assert_eq!(assigned(&snapshot).unwrap().to_string(), "192.0.2.7 from pool p");
}

#[test]
fn a_pool_that_overlaps_itself_is_an_error_by_metallbs_rules_and_a_conflict_by_ciliums() {
    let mut twice = metallb("p", OLD);
    twice["spec"]["addresses"] = json!(["192.0.2.1-192.0.2.9", "192.0.2.8/31"]);
    let snapshot = Cluster::default().apply(&[twice]);
    assert_eq!((reasons(&snapshot), snapshot.observed.pools.len()), (vec!["pool_overlap"], 0));
    let cilium = json!({
        "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumLoadBalancerIPPool",
        "metadata": {"name": "p"},
        "spec": {"blocks": [{"start": "192.0.2.1", "stop": "192.0.2.9"}, {"cidr": "192.0.2.8/31"}]},
    });
    let snapshot = Cluster::default().apply(&[cilium]);
    let pool = &snapshot.observed.pools["cilium.io/p"];
    assert_eq!((pool.kind, pool.conflict.as_deref()), (PoolKind::Cilium, Some("cilium.io/p")));
}

#[test]
fn reads_every_way_to_write_a_pool_of_ciliums() {
    let ranges = |version: &str, spec: Value| {
        let pool = json!({
            "apiVersion": format!("cilium.io/{version}"), "kind": "CiliumLoadBalancerIPPool",
            "metadata": {"name": "p"}, "spec": spec,
        });
        let snapshot = Cluster::default().apply(&[pool]);
        let pool = snapshot.observed.pools.get("cilium.io/p");
        let ranges = pool.map(|pool| pool.ranges.clone()).unwrap_or_default();
        ranges.iter().map(|it| format!("{}-{}", it.first(), it.last())).collect::<Vec<_>>()
    };
    for version in ["v2", "v2alpha1"] {
        let blocks = json!({"blocks": [
            {"cidr": "192.0.2.0/30"}, {"start": "192.0.2.9", "stop": "192.0.2.12"},
            {"start": "2001:db8::7"},
        ]});
        assert_eq!(
            ranges(version, blocks),
            ["192.0.2.0-192.0.2.3", "192.0.2.9-192.0.2.12", "2001:db8::7-2001:db8::7"]
        );
    }
    let old = json!({"cidrs": [{"cidr": "192.0.2.0/31"}]});
    assert_eq!(ranges("v2alpha1", old), ["192.0.2.0-192.0.2.1"], "before 1.16");
    assert_eq!(ranges("v2", json!({"blocks": [{"stop": "192.0.2.9"}]})), [""; 0]);
}

#[test]
fn every_way_to_ask_for_an_address_is_read_and_an_empty_one_is_no_request() {
    let names = [
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/loadBalancerIPs",
        "lbipam.cilium.io/ips",
        "io.cilium/lb-ipam-ips",
        "kube-vip.io/loadbalancerIPs",
        "serviceloadbalancer.kubernetes.io/ipaddress",
    ];
    let requested = |object: Value| {
        let observed = Cluster::default().apply(&[object]).observed;
        let service = observed.services.into_values().next().unwrap();
        assert_eq!(service.contradiction, None);
        service.requested.clone()
    };
    let both: [IpAddr; 2] = ["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    for name in names {
        let asking = |value: &str| balancer(json!({name: value}), json!({}), "");
        assert_eq!(requested(asking("192.0.2.5, 2001:db8::5")), both, "{name}");
        assert_eq!(requested(asking(" ")), [] as [IpAddr; 0], "{name}");
    }
    let field = |value: &str| balancer(json!({}), json!({"loadBalancerIP": value}), "");
    assert_eq!(requested(field("192.0.2.5")), both[..1]);
    assert_eq!(requested(field("")), [] as [IpAddr; 0]);
}

#[test]
fn reads_what_herald_and_others_have_reported() {
    let note = json!({
        "herald.io/assigned-addresses": "192.0.2.7,2001:db8::7",
        "metallb.io/ip-allocated-from-pool": "p",
    });
    let spec = json!({
        "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack", "allocateLoadBalancerNodePorts": false,
    });
    let snapshot = Cluster::default().apply(&[balancer(note, spec, "192.0.2.7")]);
    assert_eq!(snapshot.problems, []);
    let service = snapshot.observed.services.into_values().next().unwrap();
    let assigned: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    assert_eq!(service.reported.assigned.as_deref(), Some(&assigned[..]));
    assert_eq!(service.reported.pool.as_deref(), Some("p"));
    assert_eq!((service.cluster_ips.len(), service.has_default_families), (2, false));
    let bare = Cluster::default().apply(&[balancer(json!({}), json!({}), "")]).observed;
    let bare = bare.services.into_values().next().unwrap();
    assert_eq!((bare.reported.assigned.as_ref(), bare.has_default_families), (None, true));
}

#[test]
fn reads_the_nodes_that_should_rather_announce() {
    let ad = |weight: i32| {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": "a", "namespace": "metallb-system"},
            "spec": {"preferredNodeSelectors": [
                {"weight": weight, "preference": {"matchLabels": {"zone": "a"}}},
                {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}},
            ]},
        })
    };
    let snapshot = Cluster::default().apply(&[ad(100)]);
    let found = &snapshot.observed.advertisements["metallb-system/a"];
    let score = |zone: &str| found.preference(&[("zone".to_owned(), zone.to_owned())].into());
    assert_eq!((score("a"), score("b"), snapshot.problems), (101, 1, vec![]));
    for weight in [0, 101] {
        assert_eq!(reasons(&Cluster::default().apply(&[ad(weight)])), ["bad_value"]);
    }
}

#[test]
fn tells_which_object_of_the_configuration_is_at_fault_until_it_is_not() {
    let pool = |range: &str| {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "a", "namespace": "metallb-system", "uid": "u"},
            "spec": {"addresses": [range]},
        })
    };
    let (good, bad) = (pool("192.0.2.0/28"), pool("192.0.2.9-192.0.2.1"));
    let mut cluster = Cluster::default();
    let faulty = |kept| Faulty {
        api_version: "metallb.io/v1beta1",
        kind: "IPAddressPool",
        plural: "ipaddresspools",
        namespace: Some("metallb-system".into()),
        name: "a".into(),
        uid: "u".into(),
        kept,
    };
    for (object, wanted) in
        [(&bad, Some(faulty(false))), (&good, None), (&bad, Some(faulty(true))), (&good, None)]
    {
        let snapshot = cluster.apply(std::slice::from_ref(object));
        let found: Vec<_> = snapshot.observed.faulty.into_iter().collect();
        let wanted = wanted.map(|it| ("IPAddressPool metallb-system/a".to_owned(), it));
        assert_eq!(found, Vec::from_iter(wanted));
        let named = snapshot.problems.first().map(|it| it.object.clone().unwrap());
        assert_eq!(named.as_ref(), found.first().map(|(name, _)| name), "problems name it so");
    }
    assert_eq!(cluster.apply(&[bad]).observed.faulty.len(), 1);
    assert_eq!(cluster.delete(&good).observed.faulty.len(), 0);
}

#[test]
fn a_node_whose_weight_cannot_be_read_keeps_the_one_it_had_and_takes_part() {
    let node = |weight: Option<&str>| {
        let annotations = weight.map_or(json!({}), |it| json!({"herald.io/weight": it}));
        let metadata = json!({"name": "n", "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    };
    let mut cluster = Cluster::default();
    let story = [
        (Some("-1"), None, 1),
        (Some("3"), Some(3), 0),
        (Some("three"), Some(3), 1),
        (Some("+5"), Some(3), 1),
        (Some("101"), Some(3), 1),
        (Some(""), Some(3), 1),
        (Some(" 100 "), Some(100), 0),
        (Some("0"), Some(0), 0),
        (None, None, 0),
        (Some("x"), None, 1),
    ];
    for (text, weight, problems) in story {
        let snapshot = cluster.apply(&[node(text)]);
        assert_eq!(snapshot.observed.nodes["n"].weight, weight, "{text:?}");
        assert_eq!(reasons(&snapshot), vec!["bad_value"; problems], "{text:?}");
    }
}

#[test]
fn a_manifest_whose_weight_cannot_be_read_is_rejected_as_a_whole() {
    let node = |weight: &str, ip: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n, annotations: \
             {{herald.io/weight: {weight}}}}}, \
             status: {{addresses: [{{type: InternalIP, address: {ip}}}]}}}}\n"
        )
    };
    let mut directory = Directory::default().with("n.yaml", &node("'7'", "192.0.2.1"));
    let good = directory.look();
    assert_eq!(good.observed.nodes["n"].weight, Some(7));
    let snapshot = directory.with("n.yaml", &node("'seven'", "192.0.2.2")).look();
    assert_eq!(snapshot.observed, good.observed);
    assert_eq!(reasons(&snapshot), ["last_good_kept", "bad_value"]);
    assert_eq!(snapshot.problems[1].location.as_ref().map(|it| it.column), Some(82));
}

#[test]
fn reads_for_how_long_a_client_stays() {
    let affinity = |spec: Value| {
        let snapshot = Cluster::default().apply(&[balancer(json!({}), spec, "")]);
        let service = snapshot.observed.services.values().next().unwrap();
        (service.session_affinity, snapshot.problems.len())
    };
    let of = |seconds: Value| {
        let config = json!({"clientIP": {"timeoutSeconds": seconds}});
        affinity(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}))
    };
    let client = |seconds| SessionAffinity::ClientIp { timeout: Duration::from_secs(seconds) };
    let rows = [(json!(null), 10_800, 0), (json!(1), 1, 0), (json!(86_400), 86_400, 0)];
    for (seconds, timeout, problems) in rows {
        assert_eq!(of(seconds), (client(timeout), problems));
    }
    assert_eq!((of(json!(0)), of(json!(86_401))), ((client(1), 1), (client(86_400), 1)));
    assert_eq!(affinity(json!({"sessionAffinity": "ClientIP"})), (client(10_800), 0));
    assert_eq!(affinity(json!({"sessionAffinity": "None"})), (SessionAffinity::None, 0));
    let idle = json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(affinity(idle), (SessionAffinity::None, 1));
}
