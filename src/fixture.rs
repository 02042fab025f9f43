//! A small cluster for tests: three nodes on one LAN, one pool, one dual-port Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_announcer::{Link, Links, MacAddr};
use herald_leader_election::{Claim, ClaimKey, NodeName, Session, SessionState, View};

use crate::allocator::Assignment;
use crate::facts::{Carrier, Facts};
use crate::observed::{
    AddressRange, Advertisement, Endpoint, EndpointPort, FamilyPolicy, IpFamily, Node, Observed,
    Pool, Protocol, Service, ServiceName, ServicePort, SessionAffinity, TargetPort, TrafficPolicy,
};
use crate::speaker::records;

pub const VIP: [u8; 4] = [192, 168, 1, 240];

pub fn node(n: u8) -> NodeName {
    NodeName::from(format!("n{n}"))
}

pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

pub fn service_name() -> ServiceName {
    ServiceName::new("default", "echo")
}

/// Nodes n1..n3, a pod on each, pool `first`, advertised everywhere.
pub fn observed() -> Observed {
    let range = AddressRange::new(VIP.into(), [192, 168, 1, 250].into()).unwrap();
    let pool = Pool {
        name: "first".into(),
        labels: BTreeMap::new(),
        ranges: vec![range],
        auto_assign: true,
        ..Pool::default()
    };
    let advertisement = Advertisement {
        name: "all".into(),
        pools: BTreeSet::new(),
        pool_selectors: vec![],
        node_selectors: vec![],
        interfaces: BTreeSet::new(),
        ..Advertisement::default()
    };
    let port = |name: &str, protocol, port| ServicePort {
        name: name.into(),
        protocol,
        port,
        target: TargetPort::Number(8080),
    };
    let service = Service {
        name: service_name(),
        load_balancer: true,
        class: None,
        ports: vec![port("web", Protocol::Tcp, 80), port("ask", Protocol::Udp, 53)],
        ip_families: vec![IpFamily::V4],
        family_policy: FamilyPolicy::SingleStack,
        requested: vec![],
        external_traffic_policy: TrafficPolicy::Cluster,
        session_affinity: SessionAffinity::None,
        ..Service::default()
    };
    let nodes = (1..=3u8).map(|n| {
        let node = Node {
            name: format!("n{n}"),
            addresses: vec![[192, 168, 1, 10 + n].into()],
            labels: BTreeMap::new(),
            ..Node::default()
        };
        (node.name.clone(), node)
    });
    Observed {
        pools: BTreeMap::from([("first".into(), pool)]),
        advertisements: BTreeMap::from([("all".into(), advertisement)]),
        services: BTreeMap::from([(service_name(), Arc::new(service))]),
        endpoints: BTreeMap::from([(service_name(), (1..=3).map(endpoint).collect())]),
        nodes: nodes.collect(),
        ..Observed::default()
    }
}

/// The pod on node n.
pub fn endpoint(n: u8) -> Endpoint {
    let port = |name: &str, protocol| EndpointPort { name: name.into(), protocol, port: 8080 };
    Endpoint {
        address: [10, 244, n, 2].into(),
        node: Some(format!("n{n}")),
        ready: true,
        serving: true,
        terminating: false,
        kept: false,
        ports: [port("ask", Protocol::Udp), port("web", Protocol::Tcp)].into(),
    }
}

/// The same, ill.
pub fn not_ready(n: u8) -> Endpoint {
    Endpoint { ready: false, serving: false, ..endpoint(n) }
}

/// The same, about to end, and answering those it has.
pub fn terminating(n: u8) -> Endpoint {
    Endpoint { ready: false, terminating: true, ..endpoint(n) }
}

/// Node n's only interface.
pub fn links(n: u8) -> Links {
    let addresses = vec![format!("192.168.1.{}/24", 10 + n).parse().unwrap()];
    let link = Link { addresses, ..Link::ethernet("eth0", 2, MacAddr(mac(n))) };
    Links { by_name: BTreeMap::from([("eth0".into(), link)]) }
}

/// The interface that every node serves.
pub fn served() -> BTreeMap<String, Carrier> {
    BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)])
}

/// All sessions open; nothing claimed, nothing assigned.
pub fn view(me: u8) -> View {
    let session = |n| Session {
        node: node(n),
        epoch: 1,
        facts: Arc::from(Facts::of(&links(n), &served()).encode()),
        draining: false,
        state: SessionState::Open,
    };
    View {
        me: node(me),
        epoch: 1,
        sessions: (1..=3).map(|n| (node(n), session(n))).collect(),
        claims: BTreeMap::new(),
        records: BTreeMap::new(),
        handovers: BTreeMap::new(),
        drained: BTreeSet::new(),
        leader: Some(node(1)),
        raft_term: 1,
        applied: 1,
    }
}

/// The Service's assignment.
pub fn assignments() -> BTreeMap<ServiceName, Assignment> {
    let assignment = Assignment { pool: "first".into(), addresses: vec![VIP.into()] };
    BTreeMap::from([(service_name(), assignment)])
}

/// The assignment, as it stands in the records.
pub fn assigned(mut view: View) -> View {
    let writes = records::difference(&view.records, &assignments());
    view.records = writes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    view
}

/// A claim of node n.
pub fn claimed(mut view: View, key: ClaimKey, n: u8) -> View {
    let claim = Claim { key, holder: Some((node(n), 1)), term: 1 };
    view.claims.insert(key, claim);
    view
}

/// The VIP's claim key.
pub fn vip_key() -> ClaimKey {
    ClaimKey::Vip(IpAddr::from(VIP))
}
