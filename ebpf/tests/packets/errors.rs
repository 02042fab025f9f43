//! ICMP errors about requests, on their way to the client: it reads of its own packet, not of the
//! one that the pod got.

use std::net::IpAddr;

use crate::build::{Frame, SCTP, TCP, UDP, icmp, tagged};
use crate::kernel::Kernel;
use crate::{CLIENT, OURS, Pods, ip, picture, pod, requests};

/// This node, a router on the way to the pod.
fn node(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { ip("192.168.1.11") } else { ip("fd00:1::11") }
}

/// The request as its pod gets it.
fn delivered(request: &Frame) -> Frame {
    Frame { to: pod(request.to.ip(), true), ..request.clone() }
}

/// Fragmentation needed or packet too big (MTU 1400), or port unreachable, with a quote.
fn error(from: IpAddr, to: IpAddr, is_too_big: bool, quote: &[u8]) -> Vec<u8> {
    let header: &[u8] = match (from.is_ipv4(), is_too_big) {
        (true, true) => &[3, 4, 0, 0, 0, 0, 5, 0x78],
        (true, false) => &[3, 3, 0, 0, 0, 0, 0, 0],
        (false, true) => &[2, 0, 0, 0, 0, 0, 5, 0x78],
        (false, false) => &[1, 4, 0, 0, 0, 0, 0, 0],
    };
    icmp((CLIENT, OURS), from, to, 64, [header, quote].concat())
}

/// What a request's error quotes: the packet, and for SCTP with the checksum that the pod's had.
fn own(request: &Frame) -> Vec<u8> {
    let mut bytes = request.bytes();
    if request.protocol == SCTP {
        let at = if request.to.is_ipv4() { 34 + 8 } else { 54 + 8 };
        bytes[at..at + 4].copy_from_slice(&delivered(request).bytes()[at..at + 4]);
    }
    bytes.split_off(14)
}

#[test]
fn an_error_tells_the_client_of_its_own_packet() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let client = request.from.ip();
        let (vip, pod) = (request.to.ip(), pod(request.to.ip(), true).ip());
        let quote = delivered(&request).bytes().split_off(14);
        let rows = [
            ("a hop on the way to the pod", node(vip), node(vip), true),
            ("the pod itself", pod, vip, false),
        ];
        for (_, from, _, is_too_big) in rows {
            let packet = error(from, client, is_too_big, &quote);
            kernel.leaves_alone(&packet, "of a flow that nobody knows");
        }
        let _ = kernel.xdp(&request.bytes());
        for (name, from, seen_from, is_too_big) in rows {
            let packet = error(from, client, is_too_big, &quote);
            let expected = error(seen_from, client, is_too_big, &own(&request));
            let left = kernel.egress(&packet);
            let reason = Some("icmp_error_restored");
            assert_eq!(left, (expected.clone(), reason), "{name}: {request:?}");
            let tag = &[(0x8100, 10)];
            let left = kernel.egress(&tagged(&packet, tag));
            assert_eq!(left, (tagged(&expected, tag), reason), "{name}: {request:?}");
        }
    }
}

/// Eight octets behind the IP header are enough (RFC 792): UDP's checksum is among them, TCP's is
/// not. What a frame has behind the message's end is no part of it.
#[test]
fn an_error_that_quotes_little_is_told_as_well() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let _ = kernel.xdp(&request.bytes());
        let vip = request.to.ip();
        let short = |mut quote: Vec<u8>| {
            quote.truncate(if vip.is_ipv4() { 20 + 8 } else { 40 + 8 });
            [error(node(vip), request.from.ip(), true, &quote), vec![0xee; 18]].concat()
        };
        let packet = short(delivered(&request).bytes().split_off(14));
        let expected = short(request.bytes().split_off(14));
        assert_eq!(kernel.egress(&packet), (expected, Some("icmp_error_restored")), "{request:?}");
    }
}

#[test]
fn a_checksum_that_was_not_computed_is_not_either_in_a_quote() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let request = &requests()[2];
    assert_eq!((request.protocol, request.to.is_ipv4()), (UDP, true));
    let _ = kernel.xdp(&request.bytes());
    let without = |frame: &Frame| {
        let mut quote = frame.bytes().split_off(14);
        quote[20 + 6..20 + 8].fill(0);
        error(node(request.to.ip()), request.from.ip(), true, &quote)
    };
    let (out, _) = kernel.egress(&without(&delivered(request)));
    assert_eq!(out, without(request));
}

#[test]
fn leaves_other_icmp_alone() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests().iter().filter(|request| request.protocol == TCP) {
        let _ = kernel.xdp(&request.bytes());
        let (vip, client) = (request.to.ip(), request.from.ip());
        let quote = |frame: &Frame| frame.bytes().split_off(14);
        let told = delivered(request);
        let other = Frame { to: (told.to.ip(), 9_999).into(), ..told.clone() };
        let stranger = if vip.is_ipv4() { ip("192.168.1.77") } else { ip("fd00:1::77") };
        let mut later = quote(&told);
        if vip.is_ipv4() {
            later[6..8].copy_from_slice(&[0, 9]);
        } else {
            later[6] = 44;
        }
        let mut cut = error(node(vip), client, true, &quote(&told));
        cut.truncate(14 + if vip.is_ipv4() { 20 + 8 + 20 } else { 40 + 8 + 40 } + 3);
        let mut echo = error(node(vip), client, true, &quote(&told));
        echo[if vip.is_ipv4() { 34 } else { 54 }] = if vip.is_ipv4() { 8 } else { 128 };
        let rows = [
            ("of another port", error(node(vip), client, true, &quote(&other))),
            ("to somebody else", error(node(vip), stranger, true, &quote(&told))),
            ("of a later fragment", error(node(vip), client, true, &later)),
            ("with a quote that is too short", cut),
            ("an echo request with the same octets", echo),
        ];
        for (name, packet) in rows {
            kernel.leaves_alone(&packet, name);
        }
    }
}
