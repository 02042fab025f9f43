//! How long a speaker takes from an endpoint's change to the maps: taking the object in, deciding
//! anew on the whole cluster, writing what is different. What begins with the wanted state is in
//! [`control`](super::control).
//!
//! These are the speaker's own functions on a cluster as an API server shows it, called in the
//! order in which its tasks call them. Not counted: the API server and the way from it, the JSON,
//! and the rest that a speaker takes after a round before it begins the next one, so that a burst
//! of changes is one round. A speaker that is the allocator plans all addresses anew as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use herald::allocator;
use herald::facts::Carrier;
use herald::observed::{ALLOCATED_FROM, ASSIGNED};
use herald::source::{Assembler, FileState, Kind, Served, Snapshot, Tree};
use herald::speaker::decide::{Database, Decision, Knowledge, Memory, decide};
use herald::speaker::records;
use herald_announcer::{Link, Links, MacAddr, Presence, Standing};
use herald_ebpf::Picture;
use herald_leader_election::{Claim, ClaimKey, NodeName, Session, SessionState, View};
use serde_json::{Value, json};

use super::control::{ENDPOINTS, IFINDEX, nearly_worst};
use super::hot::Loaded;
use super::pictures::{POD_PORT, PORT, pod4, port, stranger4, vip4};
use super::rows::{MS, Program, Row};
use super::{Scope, keep};
use crate::clock;

const NODES: u8 = 3;
const INTERFACE: &str = "eth0";
const POOL: &str = "lan";

/// Measures the cases that are wanted.
///
/// # Errors
///
/// If a map refuses, or a change is not decided on.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for (services, label) in [(1_000, "1k"), (10_000, "10k")] {
        for (what, is_allocator) in [("decided", false), ("allocator", true)] {
            let case = format!("endpoint_change_{what}_p99_{label}");
            if scope.wants(&case) {
                let times = changes(scope, services, is_allocator).with_context(|| case.clone())?;
                keep(rows, Row::of(&case, Program::Herald, MS, times));
            }
        }
    }
    Ok(())
}

fn changes(scope: &Scope, services: u32, is_allocator: bool) -> anyhow::Result<Vec<f64>> {
    let mut loaded = Loaded::new("decided")?;
    let (mut speaker, snapshot) = Speaker::start(services, is_allocator)?;
    let mut last = speaker.decide(&snapshot);
    let plan = last.plan.as_ref().map(|plan| plan.changes.len());
    let nothing_to_do = is_allocator.then_some(0);
    ensure!(plan == nothing_to_do, "changes planned of what is as it should be: {plan:?}");
    loaded.datapath.apply(&last.picture)?;
    nearly_worst(scope, |number| {
        let service = number * 7 % services;
        let changed = slice(service, Some(number));
        let begin = clock::now();
        let snapshot = speaker.assembler.change(BTreeMap::from([served(&changed)?]));
        let decision = speaker.decide(&snapshot);
        // A speaker touches only what is not as it was.
        let (is_wanted_new, is_picture_new) =
            (decision.wanted != last.wanted, decision.picture != last.picture);
        if is_picture_new {
            loaded.datapath.apply(&decision.picture)?;
        }
        let took = begin.elapsed();
        ensure!(!is_wanted_new && is_picture_new, "a change of another kind");
        ensure!(has(&decision.picture, service, number), "change {number} was not decided on");
        last = decision;
        Ok(took.as_secs_f64() * 1e3)
    })
}

/// Whether a picture has the endpoint that a change brings.
fn has(picture: &Picture, service: u32, change: u32) -> bool {
    let new = (IpAddr::from(stranger4(change)), POD_PORT).into();
    let set = picture.services.get(&port(vip4(service).into()));
    set.is_some_and(|set| set.iter().any(|backend| backend.address == new))
}

/// What a speaker knows, beside the objects of the cluster.
struct Speaker {
    assembler: Assembler,
    me: NodeName,
    view: View,
    links: Links,
    interfaces: BTreeMap<String, Carrier>,
    standings: BTreeMap<IpAddr, Standing>,
    presences: BTreeMap<IpAddr, Presence>,
    allocator: allocator::Config,
    memory: Memory,
}

impl Speaker {
    /// The first of three nodes, each of which holds a third of the VIPs.
    fn start(services: u32, is_allocator: bool) -> anyhow::Result<(Self, Snapshot)> {
        let mut assembler = Assembler::default();
        let objects = objects(services);
        let files: anyhow::Result<BTreeMap<_, _>> = objects.iter().map(served).collect();
        let snapshot = assembler.change(files?);
        ensure!(snapshot.problems.is_empty(), "{:?}", snapshot.problems.first());
        let vips: Vec<IpAddr> = (0..services).map(|service| vip4(service).into()).collect();
        let speaker = Self {
            assembler,
            me: node(1),
            view: view(&vips, is_allocator),
            links: links()?,
            interfaces: BTreeMap::from([(INTERFACE.to_owned(), Carrier::Xdp)]),
            standings: vips.into_iter().map(|vip| (vip, Standing::Clear)).collect(),
            presences: BTreeMap::new(),
            allocator: allocator::Config::default(),
            memory: Memory::default(),
        };
        Ok((speaker, snapshot))
    }

    fn decide(&mut self, snapshot: &Snapshot) -> Decision {
        let known = Knowledge {
            me: &self.me,
            observed: &snapshot.observed,
            view: &self.view,
            links: &self.links,
            interfaces: &self.interfaces,
            standings: &self.standings,
            presences: &self.presences,
            allocator: &self.allocator,
            database: Database::ServiceStatus,
            is_reported: true,
            leaving: false,
        };
        decide(&known, &mut self.memory)
    }
}

/// The election's view: everybody lives, every VIP is held and was announced.
fn view(vips: &[IpAddr], is_allocator: bool) -> View {
    let session = |n: u8| {
        let (mac, network) = (mac(n).to_string(), network(n));
        let interface = json!({"name": INTERFACE, "mac": mac, "addresses": [network]});
        let facts = json!({"interfaces": [interface]}).to_string().into_bytes();
        let (node, facts, state) = (node(n), Arc::from(facts), SessionState::Open);
        (node.clone(), Session { node, epoch: 1, facts, draining: false, state })
    };
    let claim = |key, n| (key, Claim { key, holder: Some((node(n), 1)), term: 1 });
    let holders = (1..=NODES).cycle();
    let mut claims: BTreeMap<_, _> =
        vips.iter().zip(holders).map(|(vip, n)| claim(ClaimKey::Vip(*vip), n)).collect();
    claims.extend([claim(ClaimKey::Allocator, if is_allocator { 1 } else { 2 })]);
    let announced = |vip: &IpAddr| (records::announced_key(*vip), node(1).as_str().into());
    View {
        me: node(1),
        epoch: 1,
        sessions: (1..=NODES).map(session).collect(),
        claims,
        records: vips.iter().map(announced).collect(),
        handovers: BTreeMap::new(),
        drained: [].into(),
        leader: Some(node(1)),
        raft_term: 1,
        applied: 1,
    }
}

fn node(n: u8) -> NodeName {
    NodeName::from(format!("n{n}"))
}

const fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, 10 + n])
}

/// A node's address in the VIPs' network.
fn network(n: u8) -> String {
    format!("192.168.0.{n}/16")
}

/// The first node's interface.
fn links() -> anyhow::Result<Links> {
    let addresses = vec![network(1).parse()?];
    let link = Link { addresses, ..Link::ethernet(INTERFACE, IFINDEX, mac(1)) };
    Ok(Links { by_name: BTreeMap::from([(INTERFACE.to_owned(), link)]) })
}

/// The object as a watch brings it.
fn served(object: &Value) -> anyhow::Result<(String, Option<FileState>)> {
    let kind = Kind::ALL.iter().find(|known| known.name() == object["kind"]);
    let kind = *kind.with_context(|| format!("no kind {}", object["kind"]))?;
    let tree = Tree::from_json(object);
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    Ok((name, Some(FileState::Served(Box::new(Served { kind, tree })))))
}

fn objects(services: u32) -> Vec<Value> {
    let meta = |name| json!({"name": name, "namespace": "metallb-system"});
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": meta(POOL),
        "spec": {"addresses": [format!("{}-{}", vip4(0), vip4(services - 1))]},
    });
    let advertisement = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": meta("all"),
        "spec": {},
    });
    let machine = |n| {
        let address = format!("192.168.0.{n}");
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node(n).as_str()},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        })
    };
    let mut objects = vec![pool, advertisement];
    objects.extend((1..=NODES).map(machine));
    objects
        .extend((0..services).flat_map(|service| [self::service(service), slice(service, None)]));
    objects
}

/// A Service that has its address.
fn service(number: u32) -> Value {
    let address = vip4(number).to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{number}"), "namespace": "default",
            "annotations": {ALLOCATED_FROM: POOL, ASSIGNED: &address}},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": PORT, "targetPort": POD_PORT}]},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    })
}

/// Its endpoints, one on each node; the first of them is the one that a change brings.
fn slice(service: u32, change: Option<u32>) -> Value {
    let endpoint = |i: u32| {
        let known = pod4(service * ENDPOINTS + i);
        let address = change.filter(|_| i == 0).map_or(known, stranger4);
        json!({
            "addresses": [address.to_string()], "nodeName": format!("n{}", i + 1),
            "conditions": {"ready": true},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("s{service}")}},
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "", "port": POD_PORT, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_alone_is_decided_on() {
        for is_allocator in [false, true] {
            let (mut speaker, snapshot) = Speaker::start(4, is_allocator).unwrap();
            let before = speaker.decide(&snapshot);
            let planned = before.plan.as_ref().map(|plan| plan.changes.len());
            assert_eq!(planned, is_allocator.then_some(0), "everybody has an address");
            assert_eq!((before.picture.services.len(), before.picture.vips.len()), (4, 2));
            let changed = BTreeMap::from([served(&slice(3, Some(7))).unwrap()]);
            let snapshot = speaker.assembler.change(changed);
            let mut after = speaker.decide(&snapshot);
            assert!(has(&after.picture, 3, 7), "{:?}", after.picture.services);
            assert_eq!(after.wanted, before.wanted);
            let same = before.picture.services[&port(vip4(3).into())].clone();
            after.picture.services.insert(port(vip4(3).into()), same);
            assert_eq!(after.picture, before.picture);
        }
    }
}
