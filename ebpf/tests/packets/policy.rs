//! What a Service asks for: sources, affinity, an answer when it is empty; and its flows while
//! its backends change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_ebpf::{Affinity, Backend, Locality, Network, Picture, Policy, ServicePort, WhenEmpty};
use herald_ebpf_common::budget::{REJECTIONS, Rate};

use crate::build::{Frame, icmp};
use crate::kernel::{Action, Kernel};
use crate::{CLIENT, OURS, PEER, Pods, ip, picture, pod, requests};

fn with(mut picture: Picture, policy: &Policy) -> Picture {
    let ports: Vec<ServicePort> = picture.services.keys().copied().collect();
    let policy = Arc::new(policy.clone());
    picture.policies.extend(ports.into_iter().map(|port| (port, Arc::clone(&policy))));
    picture
}

#[test]
fn only_clients_of_the_source_ranges_may_ask() {
    let sources = |networks: &[(&str, u8)]| Policy {
        sources: networks
            .iter()
            .map(|(address, prefix)| Network { address: ip(address), prefix: *prefix })
            .collect(),
        ..Policy::default()
    };
    let rows = [
        (sources(&[]), true),
        (sources(&[("192.168.1.0", 24), ("fd00:1::", 64)]), true),
        (sources(&[("192.168.1.100", 32), ("fd00:1::100", 128)]), true),
        (sources(&[("0.0.0.0", 0), ("::", 0)]), true),
        (sources(&[("192.168.2.0", 24), ("fd00:2::", 64)]), false),
        (sources(&[("192.168.1.101", 32), ("fd00:1::101", 128)]), false),
    ];
    // One kernel: each row replaces the list of the one before.
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for (policy, may) in rows {
        kernel.datapath.apply(&with(picture(Pods::Here), &policy)).unwrap();
        for request in requests() {
            let (action, _, reason) = kernel.xdp(&request.bytes());
            let expected = match may {
                true => (Action::Pass, "delivered"),
                false => (Action::Drop, "drop_source_not_allowed"),
            };
            assert_eq!((action, reason), expected, "{policy:?} {request:?}");
        }
    }
}

#[test]
fn refuses_as_kube_proxy_does_when_there_is_no_backend() {
    let reject = Policy { empty: WhenEmpty::Reject, ..Policy::default() };
    let mut kernel = Kernel::with(&with(picture(Pods::Nowhere), &reject));
    for request in requests() {
        let (vip, client) = (request.to.ip(), request.from.ip());
        let quote = match vip.is_ipv4() {
            true => request.bytes()[14..14 + 20 + 8].to_vec(),
            false => request.bytes()[14..14 + 40 + 8].to_vec(),
        };
        let kind = if vip.is_ipv4() { [3, 3] } else { [1, 4] };
        let body = [&kind[..], &[0; 6], &quote].concat();
        let mut expected = icmp((CLIENT, OURS), vip, client, 64, body);
        if vip.is_ipv4() {
            // The same packet without an identification, which nobody fragments.
            expected[18..20].fill(0);
            crate::build::seal_ipv4(&mut expected);
        }
        let (action, out, reason) = kernel.xdp(&request.bytes());
        assert_eq!((action, reason), (Action::Transmit, "rejected_no_backend"), "{request:?}");
        assert_eq!(out, expected, "{request:?}");
        let from_peer = Frame { source: PEER, ..request };
        assert_eq!(kernel.xdp(&from_peer.bytes()).2, "pass_no_backend");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "edge: the budget grows by the kernel's clock")]
fn answers_no_flood_with_a_flood() {
    let reject = Policy { empty: WhenEmpty::Reject, ..Policy::default() };
    let mut kernel = Kernel::with(&with(picture(Pods::Nowhere), &reject));
    let packets: Vec<_> = requests().iter().map(Frame::bytes).collect();
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    let start = Instant::now();
    let mut answered = 0;
    let mut packet = packets.iter().cycle();
    // As fast as can be, until there is no answer.
    let (action, refused) = loop {
        match kernel.run(packet.next().unwrap()) {
            (Action::Transmit, _) => answered += 1,
            other => break other,
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{answered} answers in a minute");
    };
    assert_eq!(action, Action::Drop);
    assert!(packets.contains(&refused), "changed although dropped");
    let counters = kernel.datapath.counters().unwrap();
    let labels: Vec<_> = counters.iter().map(|it| (it.reason.label(), it.packets)).collect();
    assert_eq!(labels, [("rejected_no_backend", answered), ("drop_reject_limited", 1)]);
    let Rate { interval, burst } = REJECTIONS;
    let most = processors * (burst + start.elapsed().as_nanos() as u64 / interval + 1);
    assert!((burst..=most).contains(&answered), "{answered} answers, at most {most}");
    // There is an answer again in time.
    while kernel.run(packet.next().unwrap()).0 != Action::Transmit {
        assert!(start.elapsed() < Duration::from_secs(60), "none again");
    }
}

#[test]
fn only_pods_here_count_where_traffic_is_to_stay_local() {
    let local = Policy { locality: Locality::Local, ..Policy::default() };
    let reject = Policy { empty: WhenEmpty::Reject, ..local.clone() };
    let to_pod = |request: &Frame| Frame { to: pod(request.to.ip(), true), ..request.clone() };
    // Both pods are equal without the policy: some of the flows go elsewhere.
    let mut kernel = Kernel::with(&with(picture(Pods::Both), &local));
    for request in requests() {
        for port in 40_000..40_020 {
            let from = SocketAddr::new(request.from.ip(), port);
            let request = Frame { from, ..request.clone() };
            let (action, out, reason) = kernel.xdp(&request.bytes());
            assert_eq!((action, reason), (Action::Pass, "delivered"), "{request:?}");
            assert_eq!(out, to_pod(&request).bytes(), "{request:?}");
        }
    }
    for (policy, action, expected) in [
        (&local, Action::Pass, "pass_no_backend"),
        (&reject, Action::Transmit, "rejected_no_backend"),
    ] {
        kernel.datapath.apply(&with(picture(Pods::Elsewhere), policy)).unwrap();
        for request in requests() {
            let (got, _, reason) = kernel.xdp(&request.bytes());
            assert_eq!((got, reason), (action, expected), "{request:?}");
        }
    }
}

/// A picture with `backends` of every service, each on a node of its own.
fn spread(backends: &[u8], policy: &Policy) -> Picture {
    let mut wanted = picture(Pods::Nowhere);
    for (port, set) in &mut wanted.services {
        let of_family = |n: &u8| both(*n).into_iter().find(|it| is_v4(it) == port.vip.is_ipv4());
        Arc::make_mut(set).extend(backends.iter().filter_map(of_family));
    }
    with(wanted, policy)
}

/// A pod's address of each family.
fn both(n: u8) -> [Backend; 2] {
    let addresses = [ip(&format!("10.244.{n}.2")), ip(&format!("fd00:244:{n}::2"))];
    addresses.map(|ip| {
        let address = SocketAddr::new(ip, 8080);
        Backend { address, node_mac: node(n), is_local: false }
    })
}

fn is_v4(backend: &Backend) -> bool {
    backend.address.is_ipv4()
}

fn node(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 7, n]
}

/// A TCP segment of a flow of the client: a SYN, or one in the middle. Odd ports speak IPv6.
fn segment(port: u16, is_syn: bool) -> Vec<u8> {
    let (request, flags) = match port % 2 {
        0 => (&requests()[0], 47),
        _ => (&requests()[1], 67),
    };
    let from = SocketAddr::new(request.from.ip(), port);
    let mut packet = Frame { from, ..request.clone() }.bytes();
    // Flags are outside what the datapath verifies, hence no new checksum.
    packet[flags] = if is_syn { 0x02 } else { 0x10 };
    packet
}

fn datagram(port: u16) -> Vec<u8> {
    let request = &requests()[2 + usize::from(port % 2)];
    Frame { from: SocketAddr::new(request.from.ip(), port), ..request.clone() }.bytes()
}

/// The node a packet is sent to.
fn chosen(kernel: &mut Kernel, packet: &[u8]) -> u8 {
    let (action, out, reason) = kernel.xdp(packet);
    assert_eq!((action, reason, &out[..5]), (Action::Transmit, "forwarded", &node(0)[..5]));
    out[5]
}

const PORTS: std::ops::Range<u16> = 40_000..40_200;

#[test]
fn flows_stay_while_backends_come_and_drain() {
    let drain = Duration::from_secs(900);
    let now = Duration::from_secs(1_000);
    let policy = Policy::default();
    let mut kernel = Kernel::with(&spread(&[1, 2, 3], &policy));
    let before: BTreeMap<u16, u8> =
        PORTS.map(|port| (port, chosen(&mut kernel, &segment(port, true)))).collect();
    // The third drains, a fourth comes.
    let draining = Policy { draining: BTreeSet::from(both(3)), ..policy.clone() };
    let wanted = spread(&[1, 2, 4], &draining);
    kernel.datapath.apply_at(&wanted, now).unwrap();
    for (port, node) in &before {
        assert_eq!(chosen(&mut kernel, &segment(*port, false)), *node, "flow {port}");
    }
    // New flows do not arrive at the third, and stay where they began.
    let new: BTreeMap<u16, u8> = PORTS
        .map(|port| (port + 1_000, chosen(&mut kernel, &segment(port + 1_000, true))))
        .collect();
    assert!(new.values().all(|node| *node != 3) && new.values().any(|node| *node == 4));
    for (port, node) in &new {
        assert_eq!(chosen(&mut kernel, &segment(*port, false)), *node, "new flow {port}");
    }
    // The second dies: its flows move, all others stay, even those that were remembered.
    let wanted = spread(&[1, 4], &draining);
    kernel.datapath.apply_at(&wanted, now + Duration::from_secs(10)).unwrap();
    for (port, node) in before.iter().chain(&new) {
        let now_at = chosen(&mut kernel, &segment(*port, false));
        assert!(if *node == 2 { now_at != 2 } else { now_at == *node }, "flow {port}: {now_at}");
    }
    // The drain time is over: the slots alone decide.
    assert_eq!(kernel.datapath.next_deadline(), Some(now + drain));
    let late = now + drain + Duration::from_secs(10);
    kernel.datapath.apply_at(&wanted, late).unwrap();
    assert_eq!(kernel.datapath.next_deadline(), None);
    for port in PORTS {
        let syn = chosen(&mut kernel, &segment(port, true));
        assert_eq!(chosen(&mut kernel, &segment(port, false)), syn);
        assert!(syn == 1 || syn == 4);
    }
}

/// Of packets that are refused, fewer than are answered at once.
const FEW: u16 = 20;

#[test]
fn where_all_backends_drain_flows_stay_and_new_ones_are_turned_away() {
    let mut kernel = Kernel::with(&spread(&[1, 2], &Policy::default()));
    let before: BTreeMap<u16, u8> =
        PORTS.map(|port| (port, chosen(&mut kernel, &segment(port, true)))).collect();
    let draining = [1, 2].into_iter().flat_map(both).collect();
    let reject = Policy { draining, empty: WhenEmpty::Reject, ..Policy::default() };
    kernel.datapath.apply(&spread(&[], &reject)).unwrap();
    for (port, node) in &before {
        assert_eq!(chosen(&mut kernel, &segment(*port, false)), *node, "flow {port}");
        // More answers than a few would need time.
        if *port >= PORTS.start + FEW {
            continue;
        }
        let (action, _, reason) = kernel.xdp(&segment(*port + 1_000, true));
        assert_eq!((action, reason), (Action::Transmit, "rejected_no_backend"), "flow {port}");
        let (_, _, reason) = kernel.xdp(&datagram(*port));
        assert_eq!(reason, "rejected_no_backend", "of UDP nobody can tell");
    }
    let pass = Policy { empty: WhenEmpty::Pass, ..reject };
    kernel.datapath.apply(&spread(&[], &pass)).unwrap();
    let (action, _, reason) = kernel.xdp(&segment(41_000, true));
    assert_eq!((action, reason), (Action::Pass, "pass_no_backend"));
    // One is ready again.
    kernel.datapath.apply(&spread(&[2], &pass)).unwrap();
    assert!(PORTS.map(|port| chosen(&mut kernel, &segment(port, true))).all(|node| node == 2));
}

#[test]
fn udp_flows_stay_with_a_backend_that_only_lost_the_slot() {
    let mut kernel = Kernel::with(&spread(&[1, 2], &Policy::default()));
    let before: BTreeMap<u16, u8> =
        PORTS.map(|port| (port, chosen(&mut kernel, &datagram(port)))).collect();
    kernel.datapath.apply(&spread(&[1, 2, 3], &Policy::default())).unwrap();
    for (port, node) in &before {
        assert_eq!(chosen(&mut kernel, &datagram(*port)), *node, "flow {port}");
    }
    // Of a draining one there is no telling old flows from new ones: all move.
    let draining = Policy { draining: BTreeSet::from(both(2)), ..Policy::default() };
    kernel.datapath.apply(&spread(&[1, 3], &draining)).unwrap();
    let remembered = PORTS.filter(|port| chosen(&mut kernel, &datagram(*port)) == 2).count();
    let new = PORTS.filter(|port| chosen(&mut kernel, &datagram(*port + 1_000)) == 2).count();
    assert!(remembered < before.values().filter(|node| **node == 2).count());
    assert_eq!(new, 0);
}

#[test]
fn a_client_with_affinity_has_one_backend() {
    let nodes = |affinity, family| {
        let policy = Policy { affinity, ..Policy::default() };
        let mut kernel = Kernel::with(&spread(&[1, 2, 3, 4, 5], &policy));
        let ports = PORTS.filter(|port| port % 2 == family);
        ports.map(|port| chosen(&mut kernel, &segment(port, true))).collect::<BTreeSet<u8>>()
    };
    let by_client = Affinity::Client { timeout: Duration::from_secs(60) };
    for family in [0, 1] {
        let used = [Affinity::None, by_client].map(|affinity| nodes(affinity, family).len());
        assert_eq!(used, [5, 1]);
    }
}

#[test]
fn a_service_of_many_backends_uses_them_all() {
    let many: Vec<u8> = (1..=60).collect();
    let mut kernel = Kernel::with(&spread(&many, &Policy::default()));
    let nodes: BTreeSet<u8> =
        (30_000..31_000).map(|port| chosen(&mut kernel, &segment(port, false))).collect();
    assert_eq!(nodes.len(), 60);
    // Back to a small table.
    kernel.datapath.apply(&spread(&[1], &Policy::default())).unwrap();
    assert!(PORTS.map(|port| chosen(&mut kernel, &segment(port, true))).all(|node| node == 1));
}

#[test]
fn a_new_process_keeps_the_flows_of_dirty_slots() {
    let mut kernel = Kernel::with(&spread(&[1, 2], &Policy::default()));
    let before: BTreeMap<u16, u8> =
        PORTS.map(|port| (port, chosen(&mut kernel, &segment(port, true)))).collect();
    let wanted = spread(&[1, 2, 3], &Policy::default());
    kernel.datapath.apply(&wanted).unwrap();
    let (mut second, _fence) = herald_ebpf::Datapath::open(kernel.directory.path()).unwrap();
    second.apply(&wanted).unwrap();
    assert!(second.next_deadline().is_some());
    for (port, node) in &before {
        assert_eq!(chosen(&mut kernel, &segment(*port, false)), *node, "flow {port}");
    }
}
