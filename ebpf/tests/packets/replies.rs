//! Replies on their way out: in pieces, and after their flow's entry was evicted.

use std::collections::BTreeSet;

use herald_ebpf::{Network, Picture, ServicePort};

use crate::build::Frame;
use crate::kernel::Kernel;
use crate::network::fragments;
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
        assert_eq!(kernel.egress(&later), later, "no first one yet");
        let _ = kernel.xdp(&request.bytes());
        for (piece, expected) in fragments(&reply).into_iter().zip(fragments(&expected)) {
            assert_eq!(kernel.egress(&piece), expected, "{reply:?}");
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
        assert_eq!(kernel.egress(&reply.bytes()), expected);
        let mut without = Kernel::with(&picture(Pods::Here));
        assert_eq!(without.egress(&reply.bytes()), reply.bytes(), "networks unknown");
    }
}

#[test]
fn a_pods_own_flows_are_left_alone() {
    let mut kernel = Kernel::with(&with_fallback(picture(Pods::Here)));
    for request in &requests()[..2] {
        let inside = if request.to.is_ipv4() { ip("10.244.7.7") } else { ip("fd00:244:7::7") };
        let to_pod = Frame { to: (inside, 5_000).into(), ..reply(request) };
        assert_eq!(kernel.egress(&to_pod.bytes()), to_pod.bytes(), "to another pod");
        // From a client of the LAN that opens a connection to the pod's own address.
        let own = Frame { to: (request.from.ip(), 5_001).into(), ..reply(request) };
        for flags in [SYN_ACK, ACK] {
            assert_eq!(kernel.egress(&with_flags(&own, flags)), with_flags(&own, flags));
        }
        let other = Frame { from: (own.from.ip(), 9_999).into(), ..own };
        assert_eq!(kernel.egress(&other.bytes()), other.bytes(), "another port");
    }
    let udp = reply(&requests()[2]);
    assert_eq!(kernel.egress(&udp.bytes()), udp.bytes());
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
            assert_eq!(kernel.egress(&reply(request).bytes()), reply(request).bytes(), "ambiguous");
            let _ = kernel.xdp(&request.bytes());
        }
        for request in [first, second] {
            let expected = Frame { from: request.to, ..reply(&request) };
            assert_eq!(kernel.egress(&reply(&request).bytes()), expected.bytes());
        }
    }
}
