//! SCTP: its checksum covers the whole packet and no address.

use std::net::SocketAddr;
use std::sync::Arc;

use herald_ebpf::{Picture, Protocol};

use crate::build::{Frame, SCTP, seal_sctp};
use crate::kernel::{Action, Kernel};
use crate::network::{fragments, reply};
use crate::{Pods, picture, pod, requests};

fn both_families() -> impl Iterator<Item = Frame> {
    requests().into_iter().filter(|request| request.protocol == SCTP)
}

/// The SCTP packet of a frame, with a payload of so many octets.
fn packet(frame: &Frame, payload: usize) -> Vec<u8> {
    let mut packet = [frame.from.port().to_be_bytes(), frame.to.port().to_be_bytes()].concat();
    packet.extend([9, 8, 7, 6, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|n| (n * 7) as u8));
    seal_sctp(&mut packet);
    packet
}

/// A frame of that packet behind plain IP headers, or behind IPv4 options or IPv6 destination
/// options.
fn frame(frame: &Frame, packet: &[u8], has_options: bool) -> Vec<u8> {
    match (frame.from.is_ipv4(), has_options) {
        (true, false) => frame.ipv4(packet, 0x4000),
        (false, false) => frame.ipv6(SCTP, packet),
        (false, true) => frame.ipv6(60, &[&[SCTP, 0, 1, 4, 0, 0, 0, 0], packet].concat()),
        (true, true) => with_ipv4_options(frame.ipv4(packet, 0x4000)),
    }
}

/// With a word of options, and the header's checksum as the options and the lengths change it.
fn with_ipv4_options(mut frame: Vec<u8>) -> Vec<u8> {
    let length = (frame.len() - 14 + 4) as u16;
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[24..26].fill(0);
    let words = frame[14..38].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn packets_of_all_lengths_get_their_port_both_ways() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in both_families() {
        let pod = pod(request.to.ip(), true);
        let (answer, delivered) = (reply(&request, pod), Frame { to: pod, ..request.clone() });
        let restored = Frame { from: request.to, ..answer.clone() };
        let lengths = [0, 1, 4, 243, 244, 245, 255, 256, 500, 1_000, 1_448];
        for (length, has_options) in lengths.into_iter().flat_map(|n| [(n, false), (n, true)]) {
            // A frame may be longer than its packet, which the checksum must not notice.
            let padded = |of: &Frame| {
                let mut bytes = frame(of, &packet(of, length), has_options);
                bytes.extend([0xee; 5]);
                bytes
            };
            let (action, out, reason) = kernel.xdp(&padded(&request));
            assert_eq!((action, reason), (Action::Pass, "delivered"), "{length}");
            assert_eq!(out, padded(&delivered), "{length} octets to the pod");
            let left = kernel.egress(&padded(&answer));
            let expected = (padded(&restored), Some("restored"));
            assert_eq!(left, expected, "{length} octets to the client");
        }
    }
}

/// As left by a stack whose interface computes the checksum.
#[test]
fn a_checksum_that_is_still_to_be_computed_stays_so() {
    let unfinished = |frame: &Frame| {
        let mut bytes = frame.bytes();
        let at = if frame.to.is_ipv4() { 34 + 8 } else { 54 + 8 };
        bytes[at..at + 4].fill(0);
        bytes
    };
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in both_families() {
        let pod = pod(request.to.ip(), true);
        let delivered = Frame { to: pod, ..request.clone() };
        assert_eq!(kernel.xdp(&unfinished(&request)).1, unfinished(&delivered));
        let answer = reply(&request, pod);
        let restored = Frame { from: request.to, ..answer.clone() };
        assert_eq!(kernel.egress(&unfinished(&answer)).0, unfinished(&restored));
    }
}

#[test]
fn a_packet_that_says_it_is_shorter_than_its_header_is_left_alone() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in both_families() {
        let _ = kernel.xdp(&request.bytes());
        let answer = reply(&request, pod(request.to.ip(), true));
        let short = |frame: &Frame| {
            let mut bytes = frame.bytes();
            let (at, length) = if frame.to.is_ipv4() { (16, 20 + 11) } else { (18, 11_u16) };
            bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
            bytes
        };
        let packet = short(&request);
        assert_eq!(kernel.xdp(&packet), (Action::Pass, packet.clone(), "pass_truncated"));
        assert_eq!(kernel.held_back(&short(&answer)), Some("drop_restore_failed"));
    }
}

/// Only a whole packet says how long it is. The stack puts it together, and kube-proxy may know
/// what to do with it.
#[test]
fn fragments_whose_port_would_change_are_left_to_the_stack_with_all_of_their_packet() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in both_families() {
        let reasons = ["pass_sctp_pieces", "pass_fragment", "pass_fragment"];
        for (piece, reason) in fragments(&request).into_iter().zip(reasons) {
            assert_eq!(kernel.xdp(&piece), (Action::Pass, piece.clone(), reason));
        }
        let _ = kernel.xdp(&request.bytes());
        let first = fragments(&reply(&request, pod(request.to.ip(), true)))[0].clone();
        assert_eq!(kernel.held_back(&first), Some("drop_restore_failed"));
    }
}

/// Everything to pods that serve SCTP at the Service's own port.
fn same_port() -> Picture {
    let mut wanted = picture(Pods::Here);
    wanted.services.retain(|port, _| port.protocol == Protocol::Sctp);
    for (port, backends) in &mut wanted.services {
        let of_port = |mut backend: herald_ebpf::Backend| {
            backend.address.set_port(port.port);
            backend
        };
        *backends = Arc::new(backends.iter().copied().map(of_port).collect());
    }
    wanted
}

#[test]
fn fragments_that_keep_their_port_are_carried() {
    let mut kernel = Kernel::with(&same_port());
    for request in both_families() {
        let pod: SocketAddr = (pod(request.to.ip(), true).ip(), request.to.port()).into();
        let delivered = fragments(&Frame { to: pod, ..request.clone() });
        for (piece, expected) in fragments(&request).into_iter().zip(delivered) {
            assert_eq!(kernel.xdp(&piece), (Action::Pass, expected, "delivered"));
        }
        let answer = reply(&request, pod);
        let restored = fragments(&Frame { from: request.to, ..answer.clone() });
        for (piece, expected) in fragments(&answer).into_iter().zip(restored) {
            assert_eq!(kernel.egress(&piece), (expected, Some("restored")));
        }
    }
}
