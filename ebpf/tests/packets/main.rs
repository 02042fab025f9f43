//! Packet in, verdict and packet out: the programs in the kernel, a row per rule, IPv4 and IPv6.
//! Needs root and BPF; no interface is touched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod affinity;
mod answers;
mod asks_model;
mod build;
mod detach;
mod errors;
mod fence;
mod fence_model;
mod flood;
mod kernel;
mod memory;
mod model;
mod network;
mod parser;
mod policy;
mod random;
mod replies;
mod resize;
mod restore_model;
mod samples;
mod sctp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use herald_ebpf::{Backend, Datapath, Picture, Protocol, ServicePort};

use crate::build::{Frame, SCTP, TCP, UDP, arp, icmpv6};
use crate::kernel::{Action, IFINDEX, Kernel};

const OURS: [u8; 6] = [2, 0, 0, 0, 1, 11];
const PEER: [u8; 6] = [2, 0, 0, 0, 1, 12];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 100];
const BROADCAST: [u8; 6] = [0xff; 6];
const VIP4: [u8; 4] = [192, 168, 1, 240];
const CLIENT4: [u8; 4] = [192, 168, 1, 100];
const VIP6: &str = "fd00:1::f0";
const CLIENT6: &str = "fd00:1::100";

/// Which pods serve.
#[derive(Clone, Copy)]
enum Pods {
    Here,
    Elsewhere,
    Both,
    Nowhere,
}

fn picture(pods: Pods) -> Picture {
    let mut services = BTreeMap::new();
    for vip in [IpAddr::from(VIP4), ip(VIP6)] {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let here = Backend { address: pod(vip, true), node_mac: OURS, is_local: true };
            let there = Backend { address: pod(vip, false), node_mac: PEER, is_local: false };
            let backends = match pods {
                Pods::Here => BTreeSet::from([here]),
                Pods::Elsewhere => BTreeSet::from([there]),
                Pods::Both => BTreeSet::from([here, there]),
                Pods::Nowhere => BTreeSet::new(),
            };
            services.insert(ServicePort { vip, port: 80, protocol }, backends.into());
        }
    }
    Picture {
        vips: BTreeSet::from([(IpAddr::from(VIP4), IFINDEX), (ip(VIP6), IFINDEX)]),
        links: BTreeMap::from([(IFINDEX, OURS)]),
        peers: BTreeMap::from([(PEER, (Some([192, 168, 1, 12].into()), None))]),
        services,
        policies: BTreeMap::new(),
        direct: None,
        all_vips: BTreeSet::from([IpAddr::from(VIP4), ip(VIP6)]),
    }
}

fn pod(vip: IpAddr, here: bool) -> SocketAddr {
    let ip = match (vip.is_ipv4(), here) {
        (true, true) => ip("10.244.1.2"),
        (true, false) => ip("10.244.2.2"),
        (false, true) => ip("fd00:244:1::2"),
        (false, false) => ip("fd00:244:2::2"),
    };
    (ip, 8080).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A request of the client to a VIP, in each protocol (TCP, UDP, SCTP) and of it in each family.
fn requests() -> Vec<Frame> {
    let mut frames = Vec::new();
    for protocol in [TCP, UDP, SCTP] {
        for (from, to) in [(CLIENT4.into(), VIP4.into()), (ip(CLIENT6), ip(VIP6))] {
            frames.push(Frame {
                destination: OURS,
                source: CLIENT,
                from: (from, 40_001).into(),
                to: (to, 80).into(),
                protocol,
                hops: 64,
            });
        }
    }
    frames
}

#[test]
fn sends_a_request_to_the_pods_node_by_mac_alone() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    for request in requests() {
        let expected = Frame { destination: PEER, source: OURS, hops: 63, ..request.clone() };
        let (action, packet, reason) = kernel.xdp(&request.bytes());
        assert_eq!((action, reason), (Action::Transmit, "forwarded"), "{request:?}");
        assert_eq!(packet, expected.bytes(), "{request:?}");
    }
}

#[test]
fn gives_a_request_to_a_pod_here_with_right_checksums() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let expected = Frame { to: pod(request.to.ip(), true), ..request.clone() };
        let (action, packet, reason) = kernel.xdp(&request.bytes());
        assert_eq!((action, reason), (Action::Pass, "delivered"), "{request:?}");
        assert_eq!(packet, expected.bytes(), "{request:?}");
    }
}

#[test]
fn gives_the_reply_its_vip_and_port() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let pod = pod(request.to.ip(), true);
        let reply = Frame {
            destination: CLIENT,
            source: OURS,
            from: pod,
            to: request.from,
            protocol: request.protocol,
            hops: 64,
        };
        kernel.leaves_alone(&reply.bytes(), "no request yet");
        let _ = kernel.xdp(&request.bytes());
        let expected = Frame { from: request.to, ..reply.clone() }.bytes();
        assert_eq!(kernel.egress(&reply.bytes()), (expected, Some("restored")), "{reply:?}");
    }
}

#[test]
fn a_frame_from_a_peer_is_final() {
    let cases = [
        (Pods::Here, Action::Pass, "delivered_from_peer"),
        (Pods::Elsewhere, Action::Pass, "pass_no_local_backend"),
    ];
    for (pods, action, reason) in cases {
        let mut kernel = Kernel::with(&picture(pods));
        for request in requests() {
            let frame = Frame { source: PEER, ..request };
            let (got, _, why) = kernel.xdp(&frame.bytes());
            assert_eq!((got, why), (action, reason), "{frame:?}");
        }
    }
}

#[test]
fn a_flow_of_a_peers_other_choice_gets_a_pod_here() {
    let mut kernel = Kernel::with(&picture(Pods::Both));
    for of_client in requests() {
        let mut elsewhere = 0;
        for port in 40_000..40_064 {
            let from = SocketAddr::new(of_client.from.ip(), port);
            let request = Frame { source: PEER, from, ..of_client.clone() };
            let expected = Frame { to: pod(request.to.ip(), true), ..request.clone() };
            let (action, packet, reason) = kernel.xdp(&request.bytes());
            assert_eq!((action, packet), (Action::Pass, expected.bytes()), "{request:?}");
            elsewhere += usize::from(reason == "delivered_elsewhere");
        }
        // About half of 64 flows belong to the other pod.
        assert!((16..48).contains(&elsewhere), "{elsewhere} of {of_client:?}");
    }
}

#[test]
fn a_peer_may_be_the_client_itself() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    let from = ([192, 168, 1, 12], 40_001).into();
    let request = Frame { source: PEER, from, ..requests()[0].clone() };
    let (action, _, reason) = kernel.xdp(&request.bytes());
    assert_eq!((action, reason), (Action::Transmit, "forwarded"));
}

#[test]
fn passes_untouched_what_it_does_not_carry() {
    let request = requests()[0].clone();
    let with = |offset: usize, bytes: &[u8]| {
        let mut packet = request.bytes();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let other_port = Frame { to: (VIP4, 81).into(), ..request.clone() }.bytes();
    let other_mac = Frame { destination: [2, 0, 0, 0, 9, 9], ..request.clone() }.bytes();
    let cases = [
        ("another port", other_port, Pods::Here, "pass_not_for_vip"),
        ("another machine's MAC", other_mac, Pods::Here, "pass_other_mac"),
        ("a fragment without its first", with(20, &[0, 9]), Pods::Here, "pass_fragment"),
        ("a length of 27", with(16, &[0, 27]), Pods::Here, "pass_truncated"),
        ("a header of 16 bytes", with(14, &[0x44]), Pods::Here, "pass_truncated"),
        ("a bad version", with(14, &[0x65]), Pods::Here, "pass_truncated"),
        ("an EtherType of LLDP", with(12, &[0x88, 0xcc]), Pods::Here, "pass_other_protocol"),
        ("cut in the IP header", request.bytes()[..30].to_vec(), Pods::Here, "pass_truncated"),
        ("cut in the ports", request.bytes()[..36].to_vec(), Pods::Here, "pass_truncated"),
        ("no backend", request.bytes(), Pods::Nowhere, "pass_no_backend"),
    ];
    for (name, packet, pods, reason) in cases {
        let (action, out, why) = Kernel::with(&picture(pods)).xdp(&packet);
        assert_eq!((action, out, why), (Action::Pass, packet, reason), "{name}");
    }
}

#[test]
fn keeps_an_absent_udp_checksum_absent() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let mut packet = requests()[2].bytes();
    packet[40..42].fill(0);
    let (action, out, _) = kernel.xdp(&packet);
    assert_eq!((action, &out[40..42]), (Action::Pass, &[0, 0][..]));
}

#[test]
fn answers_arp_for_a_held_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let unknown = [0; 6];
    let answer = arp(CLIENT, 2, (OURS, VIP4), (CLIENT, CLIENT4));
    let probe_answer = arp(CLIENT, 2, (OURS, VIP4), (CLIENT, [0; 4]));
    let asked = |to, sender_ip| arp(to, 1, (CLIENT, sender_ip), (unknown, VIP4));
    let rows = [
        ("broadcast", asked(BROADCAST, CLIENT4), answer.clone()),
        ("to our own MAC", asked(OURS, CLIENT4), answer),
        ("a probe (RFC 5227 2.1)", asked(BROADCAST, [0; 4]), probe_answer),
    ];
    for (name, request, mut expected) in rows {
        // Replies keep the sender's addresses but their Ethernet source is ours.
        expected[6..12].copy_from_slice(&OURS);
        let (action, out, reason) = kernel.xdp(&request);
        assert_eq!((action, reason), (Action::Transmit, "arp_answered"), "{name}");
        assert_eq!(out, expected, "{name}");
    }
}

#[test]
fn leaves_other_arp_to_the_stack() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let request = arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4));
    let with = |offset: usize, byte: u8| {
        let mut packet = request.clone();
        packet[offset] = byte;
        packet
    };
    let rows = [
        ("another address", with(41, 241)),
        ("a reply", with(21, 2)),
        ("hardware length 8", with(18, 8)),
        ("an announcement", arp(BROADCAST, 1, (CLIENT, VIP4), ([0; 6], VIP4))),
        ("to another MAC", arp([2, 0, 0, 0, 9, 9], 1, (CLIENT, CLIENT4), ([0; 6], VIP4))),
        ("from a group's MAC", arp(BROADCAST, 1, ([3; 6], CLIENT4), ([0; 6], VIP4))),
    ];
    for (name, packet) in rows {
        let (action, out, reason) = kernel.xdp(&packet);
        assert_eq!((action, out, reason), (Action::Pass, packet, "arp_passed"), "{name}");
    }
}

#[test]
fn is_silent_past_the_deadline_but_still_forwards() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    kernel.fence.set(Duration::from_nanos(1)).unwrap();
    let question = arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4));
    assert_eq!(kernel.xdp(&question).2, "arp_expired");
    let (action, _, reason) = kernel.xdp(&solicitation(Some(CLIENT), CLIENT6, None));
    assert_eq!((action, reason), (Action::Drop, "ns_expired"));
    assert_eq!(kernel.xdp(&requests()[0].bytes()).2, "forwarded");
}

#[test]
fn a_vip_that_is_given_up_is_silent_at_once() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let mut given_up = picture(Pods::Here);
    given_up.vips.retain(|(vip, _)| *vip != IpAddr::from(VIP4));
    kernel.datapath.apply(&given_up).unwrap();
    let question = arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4));
    assert_eq!(kernel.xdp(&question).2, "arp_passed");
    assert_eq!(kernel.xdp(&solicitation(Some(CLIENT), CLIENT6, None)).2, "ns_answered");
}

/// A solicitation for the VIP: multicast, or unicast if `to` is given.
fn solicitation(option: Option<[u8; 6]>, asker: &str, to: Option<Ipv6Addr>) -> Vec<u8> {
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(v6(VIP6).octets());
    if let Some(mac) = option {
        body.extend([1, 1]);
        body.extend(mac);
    }
    let (mac, group) = match to {
        Some(_) => (OURS, v6(VIP6)),
        None => ([0x33, 0x33, 0xff, 0, 0, 0xf0], v6("ff02::1:ff00:f0")),
    };
    icmpv6((mac, CLIENT), v6(asker), group, body)
}

fn advertisement(mac: [u8; 6], asker: &str, flags: u8) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, flags, 0, 0, 0];
    body.extend(v6(VIP6).octets());
    body.extend([2, 1]);
    body.extend(OURS);
    icmpv6((mac, OURS), v6(VIP6), v6(asker), body)
}

/// Solicited and override; override alone.
const SOLICITED: u8 = 0x60;
const UNSOLICITED: u8 = 0x20;

#[test]
fn answers_neighbour_solicitations_for_a_held_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let nonce = {
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend(v6(VIP6).octets());
        body.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        let group = v6("ff02::1:ff00:f0");
        icmpv6(([0x33, 0x33, 0xff, 0, 0, 0xf0], CLIENT), v6("::"), group, body)
    };
    let everybody = advertisement([0x33, 0x33, 0, 0, 0, 1], "ff02::1", UNSOLICITED);
    let to_client = advertisement(CLIENT, CLIENT6, SOLICITED);
    let unicast = Some(v6(VIP6));
    let mut to_us = solicitation(Some(CLIENT), CLIENT6, None);
    to_us[..6].copy_from_slice(&OURS);
    let rows = [
        ("multicast", solicitation(Some(CLIENT), CLIENT6, None), to_client.clone()),
        ("unicast", solicitation(Some(CLIENT), CLIENT6, unicast), to_client.clone()),
        ("the group in a frame to us (RFC 6085)", to_us, to_client.clone()),
        ("unicast, no option (NUD)", solicitation(None, CLIENT6, unicast), to_client),
        ("address test (RFC 4862 5.4)", solicitation(None, "::", None), everybody.clone()),
        ("address test with a nonce (RFC 7527)", nonce, everybody),
    ];
    for (name, packet, expected) in rows {
        let (action, out, reason) = kernel.xdp(&packet);
        assert_eq!((action, reason), (Action::Transmit, "ns_answered"), "{name}");
        assert_eq!(out, expected, "{name}");
    }
}

#[test]
fn leaves_invalid_solicitations_to_the_stack() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let valid = solicitation(Some(CLIENT), CLIENT6, None);
    let with = |offset: usize, byte: u8| {
        let mut packet = valid.clone();
        packet[offset] = byte;
        packet
    };
    let zero_length_option = {
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend(v6(VIP6).octets());
        body.extend([1, 0, 2, 0, 0, 0, 1, 100]);
        icmpv6(([0x33, 0x33, 0xff, 0, 0, 0xf0], CLIENT), v6(CLIENT6), v6("ff02::1:ff00:f0"), body)
    };
    let rows = [
        ("hop limit 64", with(21, 64)),
        ("a wrong checksum", with(56, valid[56] ^ 1)),
        ("an option of no length", zero_length_option),
        ("an option beyond the end", with(79, 4)),
        ("an address test with an option", solicitation(Some(CLIENT), "::", None)),
        ("a length of 25", with(19, 25)),
    ];
    for (name, packet) in rows {
        let (action, out, reason) = kernel.xdp(&packet);
        assert_eq!((action, out, reason), (Action::Pass, packet, "ns_passed"), "{name}");
    }
}

#[test]
fn a_new_process_adopts_what_is_pinned() {
    let mut first = Kernel::with(&picture(Pods::Elsewhere));
    let (mut second, _fence) = herald_ebpf::Datapath::open(first.directory.path()).unwrap();
    second.apply(&picture(Pods::Here)).unwrap();
    let (_, _, reason) = first.xdp(&requests()[0].bytes());
    assert_eq!(reason, "delivered");
}

/// The kernel's numbers for both programs.
fn ids(datapath: &mut Datapath) -> [u32; 2] {
    let xdp = datapath.xdp_program().unwrap().info().unwrap().id();
    [xdp, datapath.egress_program().unwrap().info().unwrap().id()]
}

/// The directory of the pins.
fn pins(kernel: &Kernel) -> PathBuf {
    let mut directories = std::fs::read_dir(kernel.directory.path()).unwrap();
    directories.next().unwrap().unwrap().path()
}

#[test]
fn the_next_process_takes_the_programs_over_and_verifies_nothing_again() {
    let mut first = Kernel::with(&picture(Pods::Elsewhere));
    let (mut second, _fence) = Datapath::open(first.directory.path()).unwrap();
    assert_eq!(ids(&mut second), ids(&mut first.datapath));
    // A map that the programs do not work on is in nobody's way.
    let directory = pins(&first);
    std::fs::hard_link(directory.join("VIPS"), directory.join("OTHER")).unwrap();
    let (mut third, _fence) = Datapath::open(first.directory.path()).unwrap();
    assert_eq!(ids(&mut third), ids(&mut first.datapath));
}

#[test]
fn programs_of_another_version_are_neither_taken_over_nor_left_behind() {
    let mut first = Kernel::with(&picture(Pods::Elsewhere));
    let directory = pins(&first);
    let programs = || {
        let entries = std::fs::read_dir(&directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("program-")).collect::<BTreeSet<_>>()
    };
    let ours = programs();
    assert_eq!(ours.len(), 2, "{ours:?}");
    for name in &ours {
        let (program, _version) = name.rsplit_once('-').unwrap();
        let theirs = format!("{program}-0123456789abcdef");
        std::fs::rename(directory.join(name), directory.join(theirs)).unwrap();
    }
    let (mut second, _fence) = Datapath::open(first.directory.path()).unwrap();
    let (theirs, new) = (ids(&mut first.datapath), ids(&mut second));
    assert!(new.iter().all(|id| !theirs.contains(id)), "{new:?} beside {theirs:?}");
    assert_eq!(programs(), ours);
}

/// The kernel gives up after a million steps, and versions of it differ in how they count.
#[test]
fn the_verifier_needs_three_quarters_of_its_steps_at_most() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let xdp = kernel.datapath.xdp_program().unwrap().info().unwrap();
    let egress = kernel.datapath.egress_program().unwrap().info().unwrap();
    let steps = [xdp.verified_instruction_count(), egress.verified_instruction_count()];
    eprintln!("steps: XDP, egress: {steps:?}");
    assert!(steps.iter().all(|steps| *steps < Some(750_000)), "{steps:?}");
}

#[test]
fn programs_that_work_on_other_maps_than_the_pinned_ones_are_not_taken_over() {
    let nothing_held = Picture { vips: BTreeSet::new(), ..picture(Pods::Elsewhere) };
    let mut kernel = Kernel::with(&nothing_held);
    std::fs::remove_file(pins(&kernel).join("VIPS")).unwrap();
    (kernel.datapath, kernel.fence) = Datapath::open(kernel.directory.path()).unwrap();
    kernel.datapath.apply(&picture(Pods::Here)).unwrap();
    kernel.fence.set(Duration::MAX).unwrap();
    let (action, ..) = kernel.xdp(&arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4)));
    assert_eq!(action, Action::Transmit, "it answers for a VIP of the new map");
}

#[test]
fn refuses_a_pin_directory_that_is_not_on_a_bpf_filesystem() {
    let directory = tempfile::tempdir().unwrap();
    let Err(error) = herald_ebpf::Datapath::open(&directory.path().join("pins")) else {
        panic!("opened");
    };
    assert!(error.to_string().contains("is not on a BPF filesystem"), "{error}");
}
