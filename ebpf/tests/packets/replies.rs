//! Replies on their way out: in pieces, and after their flow's entry was evicted.

use std::collections::BTreeSet;

use herald_ebpf::{Network, Picture, ServicePort};

use crate::build::{Frame, UDP, tagged};
use crate::kernel::Kernel;
use crate::network::{fragments, pieces_with_options};
use crate::{CLIENT, OURS, Pods, ip, picture, pod, requests};

fn reply(request: &Frame) -> Frame {
    let from = pod(request.to.ip(), true);
    Frame { destination: CLIENT, source: OURS, from, to: request.from, ..request.clone() }
}

#[test]
fn all_fragments_of_a_reply_get_the_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in &requests()[2..4] {
        let reply = reply(request);
        let expected = Frame { from: request.to, ..reply.clone() };
        let later = fragments(&reply)[1].clone();
        kernel.leaves_alone(&later, "no first one yet");
        let _ = kernel.xdp(&request.bytes());
        for (piece, expected) in fragments(&reply).into_iter().zip(fragments(&expected)) {
            assert_eq!(kernel.egress(&piece), (expected, Some("restored")), "{reply:?}");
        }
    }
}

/// Clients of the pods' own network speak to pods directly.
fn with_fallback(picture: Picture) -> Picture {
    let network = |address, prefix| Network { address: ip(address), prefix };
    let direct = BTreeSet::from([network("10.244.0.0", 16), network("fd00:244::", 32)]);
    Picture { direct: Some(direct), ..picture }
}

/// The frame with other TCP flags. They are outside what these tests verify, hence no new
/// checksum.
fn with_flags(frame: &Frame, flags: u8) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[if frame.to.is_ipv4() { 47 } else { 67 }] = flags;
    bytes
}

const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;

#[test]
fn an_evicted_flow_gets_the_only_vip_there_is() {
    for request in &requests()[..2] {
        let reply = reply(request);
        let expected = Frame { from: request.to, ..reply.clone() }.bytes();
        let mut kernel = Kernel::with(&with_fallback(picture(Pods::Here)));
        assert_eq!(kernel.egress(&reply.bytes()), (expected, Some("restored_by_port")));
        let mut without = Kernel::with(&picture(Pods::Here));
        without.leaves_alone(&reply.bytes(), "networks unknown");
    }
}

#[test]
fn a_pods_own_flows_are_left_alone() {
    let mut kernel = Kernel::with(&with_fallback(picture(Pods::Here)));
    for request in &requests()[..2] {
        let inside = if request.to.is_ipv4() { ip("10.244.7.7") } else { ip("fd00:244:7::7") };
        let to_pod = Frame { to: (inside, 5_000).into(), ..reply(request) };
        kernel.leaves_alone(&to_pod.bytes(), "to another pod");
        // From a client of the LAN that opens a connection to the pod's own address.
        let own = Frame { to: (request.from.ip(), 5_001).into(), ..reply(request) };
        for flags in [SYN_ACK, ACK] {
            kernel.leaves_alone(&with_flags(&own, flags), "of its own");
        }
        let other = Frame { from: (own.from.ip(), 9_999).into(), ..own };
        kernel.leaves_alone(&other.bytes(), "another port");
    }
    let udp = reply(&requests()[2]);
    kernel.leaves_alone(&udp.bytes(), "of UDP");
}

#[test]
fn services_that_share_a_pod_and_port_are_told_apart_by_flow() {
    let mut wanted = with_fallback(picture(Pods::Here));
    for (port, shared) in wanted.services.clone() {
        wanted.services.insert(ServicePort { port: 81, ..port }, shared);
    }
    let mut kernel = Kernel::with(&wanted);
    for first in requests() {
        let to = (first.to.ip(), 81).into();
        let second = Frame { to, from: (first.from.ip(), 40_002).into(), ..first.clone() };
        for request in [&first, &second] {
            kernel.leaves_alone(&reply(request).bytes(), "ambiguous");
            let _ = kernel.xdp(&request.bytes());
        }
        for request in [first, second] {
            let expected = Frame { from: request.to, ..reply(&request) }.bytes();
            assert_eq!(kernel.egress(&reply(&request).bytes()), (expected, Some("restored")));
        }
    }
}

/// Where a VLAN's interface leaves the tag to the frame. Hardware that adds it itself, and the
/// kernel for it, has it beside the frame, which is then as any other.
#[test]
fn replies_behind_vlan_tags_get_the_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let _ = kernel.xdp(&request.bytes());
        let reply = reply(&request);
        let expected = Frame { from: request.to, ..reply.clone() };
        for tags in [&[(0x8100, 10)][..], &[(0x88a8, 10), (0x8100, 20)]] {
            let behind = |frame: &Frame| tagged(&frame.bytes(), tags);
            let left = kernel.egress(&behind(&reply));
            assert_eq!(left, (behind(&expected), Some("restored")), "{tags:?} {reply:?}");
        }
    }
}

/// Extension headers of eight octets each, the last of which names what follows.
fn extensions(kinds: &[u8], last: u8) -> Vec<u8> {
    let following = kinds[1..].iter().copied().chain([last]);
    following.flat_map(|next| [next, 0, 1, 4, 0, 0, 0, 0]).collect()
}

#[test]
fn replies_behind_extension_headers_get_the_vip() {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests().iter().filter(|request| !request.to.is_ipv4()) {
        let _ = kernel.xdp(&request.bytes());
        let reply = reply(request);
        let expected = Frame { from: request.to, ..reply.clone() };
        let chains: [&[u8]; 3] = [
            &[DESTINATION],
            &[HOP_BY_HOP, ROUTING],
            &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION],
        ];
        for chain in chains {
            let behind = |frame: &Frame| {
                let before = extensions(chain, frame.protocol);
                frame.ipv6(chain[0], &[&before, &frame.bytes()[54..]].concat())
            };
            let left = kernel.egress(&behind(&reply));
            assert_eq!(left, (behind(&expected), Some("restored")), "{chain:?} {reply:?}");
            let tag = &[(0x8100, 10)];
            let left = kernel.egress(&tagged(&behind(&reply), tag));
            assert_eq!(left, (tagged(&behind(&expected), tag), Some("restored")), "{reply:?}");
        }
    }
}

#[test]
fn fragments_of_a_reply_behind_another_extension_header_get_the_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let request = requests().into_iter().find(|it| it.protocol == UDP && !it.to.is_ipv4()).unwrap();
    let _ = kernel.xdp(&request.bytes());
    let reply = reply(&request);
    let expected = Frame { from: request.to, ..reply.clone() };
    let behind = |frame: &Frame, piece: &[u8]| {
        frame.ipv6(60, &[&extensions(&[60], 44), &piece[54..]].concat())
    };
    for (piece, restored) in fragments(&reply).iter().zip(fragments(&expected)) {
        let left = kernel.egress(&behind(&reply, piece));
        assert_eq!(left, (behind(&expected, &restored), Some("restored")));
    }
}

/// Only the first piece has the options and the ports; the others name the options all the same.
#[test]
fn fragments_of_a_reply_with_options_of_its_own_get_the_vip() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let request = requests().into_iter().find(|it| it.protocol == UDP && !it.to.is_ipv4()).unwrap();
    let reply = reply(&request);
    let expected = Frame { from: request.to, ..reply.clone() };
    kernel.leaves_alone(&pieces_with_options(&reply)[1], "no first one yet");
    let _ = kernel.xdp(&request.bytes());
    let pieces = pieces_with_options(&reply).into_iter().zip(pieces_with_options(&expected));
    for (piece, restored) in pieces {
        let tag = &[(0x8100, 10)];
        let behind_a_tag = kernel.egress(&tagged(&piece, tag));
        assert_eq!(behind_a_tag, (tagged(&restored, tag), Some("restored")));
        assert_eq!(kernel.egress(&piece), (restored, Some("restored")));
    }
}

/// The pod itself takes the second for the first: both come from one port of one address to its
/// own. So TCP has one such connection at a time; of UDP, replies carry the VIP that was asked
/// last.
#[test]
fn a_clients_port_that_asks_two_vips_of_one_pods_port_is_answered_by_the_last() {
    let mut wanted = picture(Pods::Here);
    for (port, shared) in wanted.services.clone() {
        let vip = if port.vip.is_ipv4() { ip("192.168.1.241") } else { ip("fd00:1::f1") };
        wanted.services.insert(ServicePort { vip, ..port }, shared);
    }
    let mut kernel = Kernel::with(&wanted);
    for first in requests() {
        let other = if first.to.is_ipv4() { ip("192.168.1.241") } else { ip("fd00:1::f1") };
        let second = Frame { to: (other, 80).into(), ..first.clone() };
        for request in [&first, &second, &first] {
            let _ = kernel.xdp(&request.bytes());
            let expected = Frame { from: request.to, ..reply(&first) }.bytes();
            assert_eq!(kernel.egress(&reply(&first).bytes()), (expected, Some("restored")));
        }
    }
}
