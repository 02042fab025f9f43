use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::desired;
use crate::desired::Seen;
use crate::fixture::{
    VIP, assignments, endpoint, links, mac, node, not_ready, observed, service_name, terminating,
    view,
};
use crate::observed::{Endpoint, EndpointPort, Observed, ServiceName, TargetPort};
use crate::speaker::decide::Database;

const WEB: ServicePort =
    ServicePort { vip: IpAddr::V4(Ipv4Addr::from_octets(VIP)), port: 80, protocol: Carried::Tcp };

/// What node n1 makes of it.
fn pictured(observed: &Observed) -> Picture {
    let (me, view) = (node(1), view(1));
    let facts = desired::facts(&view);
    let seen = Seen {
        me: &me,
        observed,
        assignments: &assignments(),
        view: &view,
        facts: &facts,
        gone: &BTreeSet::new(),
        announced: &BTreeSet::new(),
    };
    let mut memory = desired::Memory::default();
    let vips = desired::desired(&seen, &mut memory);
    let known = Knowledge {
        me: &me,
        observed,
        view: &view,
        links: &links(1),
        interfaces: &BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)]),
        standings: &BTreeMap::new(),
        presences: &BTreeMap::new(),
        allocator: &crate::allocator::Config::default(),
        database: Database::Records,
        is_reported: true,
        leaving: false,
    };
    let ports = &mut Memory::default();
    picture(&known, &facts, &vips, &ByVip::new(), memory.places(), ports)
}

fn with(endpoints: Vec<Endpoint>) -> Observed {
    let mut observed = observed();
    observed.endpoints.insert(service_name(), endpoints.into());
    observed
}

fn edited(change: impl Fn(&mut Service)) -> Observed {
    let mut observed = observed();
    observed.services.values_mut().map(Arc::make_mut).for_each(change);
    observed
}

/// Where TCP port 80 leads: address, the node's last octet, and whether it is here.
fn web(observed: &Observed) -> Vec<(String, u8, bool)> {
    let set = &pictured(observed).services[&WEB];
    set.iter().map(|b| (b.address.to_string(), b.node_mac[5], b.is_local)).collect()
}

/// The same, in short.
fn shown(backends: &[(&str, u8, bool)]) -> Vec<(String, u8, bool)> {
    backends.iter().map(|(address, n, here)| ((*address).to_owned(), *n, *here)).collect()
}

fn at(n: u8, address: [u8; 4]) -> Endpoint {
    Endpoint { address: address.into(), ..endpoint(n) }
}

#[test]
fn several_pods_of_a_node_are_several_backends() {
    let pods = vec![at(1, [10, 244, 1, 2]), at(1, [10, 244, 1, 3]), at(2, [10, 244, 2, 2])];
    let expected =
        [("10.244.1.2:8080", 1, true), ("10.244.1.3:8080", 1, true), ("10.244.2.2:8080", 2, false)];
    assert_eq!(web(&with(pods)), shown(&expected));
}

#[test]
fn a_pod_on_the_hosts_network_is_reached_at_its_nodes_own_address() {
    let pods = vec![at(1, [192, 168, 1, 11]), at(2, [192, 168, 1, 12])];
    let expected = [("192.168.1.11:8080", 1, true), ("192.168.1.12:8080", 2, false)];
    assert_eq!(web(&with(pods)), shown(&expected));
    let nameless = Endpoint { node: None, ..at(3, [192, 168, 1, 12]) };
    assert_eq!(web(&with(vec![nameless])), shown(&[("192.168.1.12:8080", 2, false)]));
}

#[test]
fn target_ports_are_what_the_endpoints_say_by_number_and_by_name() {
    let mut observed = observed();
    let service = Arc::make_mut(observed.services.get_mut(&service_name()).unwrap());
    let named = TargetPort::Name("http".into());
    service.ports[0].target = named;
    service.ports.push(crate::observed::ServicePort {
        name: "admin".into(),
        port: 8443,
        target: TargetPort::Number(9443),
        ..service.ports[0].clone()
    });
    // Two versions of the pod call different ports http; Kubernetes makes a slice for each.
    let ports = |http| {
        let port =
            |name: &str, port| EndpointPort { name: name.into(), protocol: Protocol::Tcp, port };
        [port("admin", 9443), port("web", http)].into()
    };
    let old = Endpoint { ports: ports(8080), ..endpoint(1) };
    let new = Endpoint { ports: ports(8081), ..endpoint(2) };
    observed.endpoints.insert(service_name(), vec![old, new].into());
    let expected = [("10.244.1.2:8080", 1, true), ("10.244.2.2:8081", 2, false)];
    assert_eq!(web(&observed), shown(&expected));
    let admin: Vec<_> = pictured(&observed).services[&ServicePort { port: 8443, ..WEB }]
        .iter()
        .map(|backend| backend.address.to_string())
        .collect();
    assert_eq!(admin, ["10.244.1.2:9443", "10.244.2.2:9443"]);
}

#[test]
fn a_port_without_a_ready_endpoint_is_rejected_and_one_we_cannot_carry_is_passed() {
    let nameless = |n| Endpoint { node: None, ..at(n, [172, 16, 0, n]) };
    let unknown = |n: u8| Endpoint { node: Some("unknown".into()), ..endpoint(n) };
    let table = [
        (vec![], 0, WhenEmpty::Reject),
        (vec![not_ready(1), not_ready(2)], 0, WhenEmpty::Reject),
        (vec![terminating(1), not_ready(2)], 1, WhenEmpty::Pass),
        (vec![terminating(1), endpoint(2)], 1, WhenEmpty::Pass),
        (vec![Endpoint { serving: false, ..terminating(1) }], 0, WhenEmpty::Reject),
        (vec![not_ready(1), endpoint(2)], 1, WhenEmpty::Pass),
        (vec![nameless(1)], 0, WhenEmpty::Pass),
        (vec![nameless(1), endpoint(2)], 0, WhenEmpty::Pass),
        (vec![Endpoint { ready: false, ..nameless(1) }, endpoint(2)], 1, WhenEmpty::Pass),
        (vec![unknown(1)], 0, WhenEmpty::Pass),
        (vec![unknown(1), not_ready(2)], 0, WhenEmpty::Pass),
        (vec![unknown(1), endpoint(2)], 1, WhenEmpty::Pass),
    ];
    for (endpoints, backends, empty) in table {
        let picture = pictured(&with(endpoints.clone()));
        let found = (picture.services[&WEB].len(), picture.policies[&WEB].empty);
        assert_eq!(found, (backends, empty), "{endpoints:?}");
    }
    let mut without_slices = observed();
    without_slices.endpoints.clear();
    assert_eq!(pictured(&without_slices).policies[&WEB].empty, WhenEmpty::Reject);
}

#[test]
fn sctp_goes_to_whatever_port_its_endpoints_have() {
    let mut observed = edited(|service| {
        service.ports.truncate(1);
        service.ports[0].protocol = Protocol::Sctp;
    });
    let port = |port| EndpointPort { name: "web".into(), protocol: Protocol::Sctp, port };
    let of = |n, number| Endpoint { ports: [port(number)].into(), ..endpoint(n) };
    let key = ServicePort { protocol: Carried::Sctp, ..WEB };
    observed.endpoints.insert(service_name(), vec![of(1, 80), of(2, 81)].into());
    let picture = pictured(&observed);
    let ports: Vec<_> = picture.services[&key].iter().map(|b| b.address.port()).collect();
    assert_eq!(ports, [80, 81]);
}

#[test]
fn backends_that_get_no_new_flows_keep_theirs() {
    let picture = pictured(&with(vec![endpoint(1), terminating(2), not_ready(3)]));
    let draining: Vec<_> = picture.policies[&WEB].draining.iter().map(|b| b.node_mac).collect();
    assert_eq!(draining, [mac(2), mac(3)]);
}

#[test]
fn a_pod_that_serves_its_last_gets_new_flows_while_nobody_else_is_ready() {
    let ends = |n: u8| format!("10.244.{n}.2:8080");
    let addresses = |observed: &Observed| -> Vec<String> {
        web(observed).into_iter().map(|(address, ..)| address).collect()
    };
    let mut observed = with(vec![terminating(1), terminating(2), not_ready(3)]);
    assert_eq!(addresses(&observed), [ends(1), ends(2)]);
    observed.endpoints.insert(service_name(), vec![terminating(1), endpoint(2)].into());
    assert_eq!(addresses(&observed), [ends(2)]);
    // With a local policy it is this node that matters: there is none ready here.
    for service in observed.services.values_mut().map(Arc::make_mut) {
        service.external_traffic_policy = TrafficPolicy::Local;
    }
    assert_eq!(addresses(&observed), [ends(1), ends(2)]);
    observed.endpoints.insert(service_name(), vec![endpoint(1), terminating(2)].into());
    assert_eq!(addresses(&observed), [ends(1)]);
}

#[test]
fn the_policy_says_who_may_ask_and_who_stays_together() {
    let plain = &pictured(&observed()).policies[&WEB];
    assert_eq!(**plain, Policy::default());
    let timeout = Duration::from_secs(60);
    let observed = edited(|service| {
        service.source_ranges =
            ["10.1.2.3/8", "2001:db8::/32"].map(|it| it.parse().unwrap()).into();
        service.session_affinity = SessionAffinity::ClientIp { timeout };
        service.external_traffic_policy = TrafficPolicy::Local;
    });
    let policy = &pictured(&observed).policies[&WEB];
    let sources: Vec<_> =
        policy.sources.iter().map(|n| (n.address.to_string(), n.prefix)).collect();
    assert_eq!(sources, [("10.0.0.0".to_owned(), 8), ("2001:db8::".to_owned(), 32)]);
    assert_eq!((policy.affinity, policy.locality), (Affinity::Client { timeout }, Locality::Local));
    assert_eq!(pictured(&observed).services[&WEB].len(), 3, "XDP knows the ranges");
}

#[test]
fn knows_the_networks_of_pods_and_nodes_once_all_nodes_tell_theirs() {
    let mut observed = observed();
    assert_eq!(pictured(&observed).direct, None);
    for (n, node) in (1..).zip(observed.nodes.values_mut()) {
        node.pod_networks = vec![format!("10.244.{n}.0/24").parse().unwrap()];
    }
    let direct = pictured(&observed).direct.unwrap();
    let pods = Network { address: [10, 244, 2, 0].into(), prefix: 24 };
    let host = Network { address: [192, 168, 1, 12].into(), prefix: 32 };
    assert!(direct.contains(&pods) && direct.contains(&host) && direct.len() == 6);
}

#[test]
fn a_nodes_own_address_is_neither_fenced_nor_carried() {
    let mut observed = observed();
    observed.nodes.get_mut("n2").unwrap().addresses.push(VIP.into());
    let picture = pictured(&observed);
    assert_eq!((picture.all_vips.len(), picture.services.len()), (0, 0));
}

#[test]
fn of_two_services_that_name_one_port_of_an_address_the_first_has_it() {
    let mut observed = observed();
    observed.advertisements.clear();
    let policy = crate::observed::Advertisement {
        kind: crate::observed::PoolKind::Cilium,
        external_ips: true,
        ..Default::default()
    };
    observed.advertisements.insert("cilium.io/p".into(), policy);
    for (n, name) in [(2, "b"), (1, "a")] {
        let name = ServiceName::new("default", name);
        let mut service = Service::clone(&observed.services[&service_name()]);
        service.external_ips = vec![[192, 168, 1, 77].into()];
        service.name.clone_from(&name);
        observed.endpoints.insert(name.clone(), vec![endpoint(n)].into());
        observed.services.insert(name, Arc::new(service));
    }
    let key = ServicePort { vip: [192, 168, 1, 77].into(), ..WEB };
    let macs: Vec<_> = pictured(&observed).services[&key].iter().map(|b| b.node_mac).collect();
    assert_eq!(macs, [mac(1)]);
}

#[test]
fn weights_other_than_one_reach_the_tables_and_none_drains() {
    let mut observed = observed();
    for (node, weight) in observed.nodes.values_mut().zip([1, 5, 0]) {
        node.weight = Some(weight);
    }
    let picture = pictured(&observed);
    assert_eq!(
        web(&observed),
        shown(&[("10.244.1.2:8080", 1, true), ("10.244.2.2:8080", 2, false)])
    );
    let policy = &picture.policies[&WEB];
    assert_eq!(policy.weights, BTreeMap::from([("10.244.2.2:8080".parse().unwrap(), 5)]));
    assert_eq!(policy.draining.iter().map(|it| it.node_mac).collect::<Vec<_>>(), [mac(3)]);
}
