//! The rest of IP: errors, echo, fragments, extension headers, VLAN tags and hop limits.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use herald_ebpf::{Backend, Picture};

use crate::build::{Frame, SCTP, TCP, UDP, icmp, tagged, with_options};
use crate::kernel::{Action, Kernel};
use crate::{CLIENT, CLIENT4, CLIENT6, OURS, PEER, Pods, VIP4, VIP6, ip, picture, pod, requests};

/// A router on the way, which reports errors.
fn router(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { ip("10.9.9.9") } else { ip("fd00:9::9") }
}

/// The reply that a router cannot carry, as it leaves `from`.
pub fn reply(request: &Frame, from: std::net::SocketAddr) -> Frame {
    Frame { destination: CLIENT, source: OURS, from, to: request.from, ..request.clone() }
}

/// An error about `quoted`, to `to`: fragmentation needed (RFC 1191 4) or packet too big, MTU 1400.
pub fn too_big(to: IpAddr, quoted: &Frame) -> Vec<u8> {
    let header: &[u8] = match to.is_ipv4() {
        true => &[3, 4, 0, 0, 0, 0, 5, 0x78],
        false => &[2, 0, 0, 0, 0, 0, 5, 0x78],
    };
    let body = [header, &quoted.bytes()[14..]].concat();
    icmp((OURS, CLIENT), router(to), to, 64, body)
}

/// The same that nobody answers to: host (RFC 792) or address (RFC 4443 3.1) unreachable. It quotes
/// the eight octets that it must, and no more.
fn unreachable(to: IpAddr, quoted: &Frame) -> Vec<u8> {
    let (kind, code, header) = if to.is_ipv4() { (3, 1, 20) } else { (1, 3, 40) };
    let quote = &quoted.bytes()[14..14 + header + 8];
    let body = [&[kind, code, 0, 0, 0, 0, 0, 0], quote].concat();
    icmp((OURS, CLIENT), router(to), to, 64, body)
}

#[test]
fn sends_an_error_to_the_node_of_the_pod_it_quotes() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    for request in requests() {
        let (vip, seen) = (request.to.ip(), reply(&request, request.to));
        for packet in [too_big(vip, &seen), unreachable(vip, &seen)] {
            let (action, out, reason) = kernel.xdp(&packet);
            assert_eq!((action, reason), (Action::Transmit, "icmp_error_forwarded"), "{seen:?}");
            assert_eq!((&out[..6], &out[6..12]), (&PEER[..], &OURS[..]));
            // Behind the IP header nothing changes.
            let message = if vip.is_ipv4() { 34 } else { 54 };
            assert_eq!(out[message..], packet[message..], "{seen:?}");
        }
    }
}

#[test]
fn gives_an_error_to_the_pod_here_in_the_pods_own_terms() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        let vip = request.to.ip();
        let pod = pod(vip, true);
        let seen = reply(&request, request.to);
        let (action, out, reason) = kernel.xdp(&too_big(vip, &seen));
        assert_eq!((action, reason), (Action::Pass, "icmp_error_delivered"), "{request:?}");
        // As if the pod had spoken under its own name, to the last checksum.
        let mut own = reply(&request, pod).bytes();
        if request.protocol == SCTP {
            // All but this one: it says nothing about a quote.
            let at = 14 + if vip.is_ipv4() { 20 } else { 40 } + 8;
            own[at..at + 4].copy_from_slice(&seen.bytes()[at..at + 4]);
        }
        let header: &[u8] = match vip.is_ipv4() {
            true => &[3, 4, 0, 0, 0, 0, 5, 0x78],
            false => &[2, 0, 0, 0, 0, 0, 5, 0x78],
        };
        let body = [header, &own[14..]].concat();
        assert_eq!(out, icmp((OURS, CLIENT), router(vip), pod.ip(), 64, body), "{request:?}");
    }
}

/// A router need not quote more than eight octets (RFC 792), which has UDP's checksum and no other;
/// what a frame has behind the message's end is no part of it.
#[test]
fn a_checksum_that_is_not_quoted_is_not_changed() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests().iter().filter(|request| request.protocol != UDP) {
        let (vip, pod) = (request.to.ip(), pod(request.to.ip(), true));
        let short = |seen: &Frame, to: IpAddr| {
            let kind: u8 = if to.is_ipv4() { 3 } else { 1 };
            let header = if to.is_ipv4() { 20 } else { 40 };
            let quote = &seen.bytes()[14..14 + header + 8];
            let body = [&[kind, 1, 0, 0, 0, 0, 0, 0], quote].concat();
            [icmp((OURS, CLIENT), router(to), to, 64, body), vec![0xee; 18]].concat()
        };
        let (action, out, reason) = kernel.xdp(&short(&reply(request, request.to), vip));
        assert_eq!((action, reason), (Action::Pass, "icmp_error_delivered"), "{request:?}");
        assert_eq!(out, short(&reply(request, pod), pod.ip()), "{request:?}");
    }
}

#[test]
fn a_checksum_that_was_not_computed_is_not_either_in_a_quote() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let request = &requests()[2];
    assert_eq!((request.protocol, request.to.is_ipv4()), (UDP, true));
    let without = |seen: &Frame, to: IpAddr| {
        let mut quote = seen.bytes()[14..].to_vec();
        quote[20 + 6..20 + 8].fill(0);
        let body = [&[3, 4, 0, 0, 0, 0, 5, 0x78], &quote[..]].concat();
        icmp((OURS, CLIENT), router(to), to, 64, body)
    };
    let pod = pod(request.to.ip(), true);
    let (_, out, reason) = kernel.xdp(&without(&reply(request, request.to), request.to.ip()));
    assert_eq!((out, reason), (without(&reply(request, pod), pod.ip()), "icmp_error_delivered"));
}

/// Where the sum over what is to be seen is zero, that is sent as all ones (RFC 768): zero would
/// say that none was computed.
#[test]
fn a_computed_checksum_of_zero_is_sent_as_all_ones() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in requests().iter().filter(|request| request.protocol == UDP) {
        let (vip, pod) = (request.to.ip(), pod(request.to.ip(), true));
        let l4 = if vip.is_ipv4() { 34 } else { 54 };
        let sum =
            |frame: &Frame| u16::from_be_bytes(frame.bytes()[l4 + 6..][..2].try_into().unwrap());
        let from = |port| Frame { from: (request.from.ip(), port).into(), ..request.clone() };
        // The port that adds what is missing is the checksum without one.
        let asked = |seen: &dyn Fn(&Frame) -> Frame| {
            let asks = from(sum(&seen(&from(0))));
            assert_eq!(sum(&seen(&asks)), 0xffff);
            asks
        };
        let to_pod = |request: &Frame| Frame { to: pod, ..request.clone() };

        let asks = asked(&to_pod);
        let expected = to_pod(&asks).bytes();
        assert_eq!(kernel.xdp(&asks.bytes()), (Action::Pass, expected.clone(), "delivered"));
        let tag = &[(0x8100, 10)];
        let out = kernel.xdp(&tagged(&asks.bytes(), tag)).1;
        assert_eq!(out, tagged(&expected, tag), "the long way through the program");

        let asks = asked(&|it| reply(it, pod));
        let out = kernel.xdp(&too_big(vip, &reply(&asks, asks.to))).1;
        let quote = 14 + if vip.is_ipv4() { 20 + 8 + 20 } else { 40 + 8 + 40 };
        assert_eq!(out[quote + 6..quote + 8], [0xff, 0xff], "in a quote: {asks:?}");

        let asks = asked(&|it| reply(it, it.to));
        let _ = kernel.xdp(&asks.bytes());
        let expected = reply(&asks, asks.to).bytes();
        assert_eq!(kernel.egress(&reply(&asks, pod).bytes()).0, expected, "in a reply: {asks:?}");
    }
}

#[test]
fn an_error_from_a_peer_is_final() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    for request in requests() {
        let mut packet = too_big(request.to.ip(), &reply(&request, request.to));
        packet[6..12].copy_from_slice(&PEER);
        let (action, out, reason) = kernel.xdp(&packet);
        assert_eq!((action, out, reason), (Action::Pass, packet, "pass_no_local_backend"));
    }
}

#[test]
fn leaves_other_icmp_to_the_stack() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in &requests()[..2] {
        let vip = request.to.ip();
        let other_port = Frame { from: (vip, 81).into(), ..reply(request, request.to) };
        let not_ours = reply(request, (router(vip), 80).into());
        let mut cut = too_big(vip, &reply(request, request.to));
        cut.truncate(14 + if vip.is_ipv4() { 20 + 8 + 20 } else { 40 + 8 + 40 } + 3);
        let rows = [
            ("about another port", too_big(vip, &other_port)),
            ("about somebody else's packet", too_big(vip, &not_ours)),
            ("with a quote that is too short", cut),
        ];
        for (name, packet) in rows {
            let (action, out, reason) = kernel.xdp(&packet);
            assert_eq!((action, out, reason), (Action::Pass, packet, "pass_not_for_vip"), "{name}");
        }
    }
}

/// An echo request or reply; `from` and `to` with the MACs of the frame.
pub fn echo(kind: u8, macs: ([u8; 6], [u8; 6]), from: IpAddr, to: IpAddr, hops: u8) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1][..], b"abcdefg"].concat();
    icmp(macs, from, to, hops, body)
}

#[test]
fn the_holder_answers_echo_requests() {
    let mut kernel = Kernel::with(&picture(Pods::Nowhere));
    let rows =
        [(8, 0, IpAddr::from(CLIENT4), IpAddr::from(VIP4)), (128, 129, ip(CLIENT6), ip(VIP6))];
    for (request, reply, client, vip) in rows {
        let (action, out, reason) = kernel.xdp(&echo(request, (OURS, CLIENT), client, vip, 17));
        assert_eq!((action, reason), (Action::Transmit, "echo_answered"));
        assert_eq!(out, echo(reply, (CLIENT, OURS), vip, client, 64));
    }
}

#[test]
fn nobody_else_answers_echo_requests() {
    let question = echo(8, (OURS, CLIENT), CLIENT4.into(), VIP4.into(), 17);
    let question6 = echo(128, (OURS, CLIENT), ip(CLIENT6), ip(VIP6), 17);
    let elsewhere = Picture { vips: BTreeSet::new(), ..picture(Pods::Here) };
    let mut not_holder = Kernel::with(&elsewhere);
    let mut too_late = Kernel::with(&picture(Pods::Here));
    too_late.fence.set(Duration::from_nanos(1)).unwrap();
    for kernel in [&mut not_holder, &mut too_late] {
        for packet in [&question, &question6] {
            let (action, out, reason) = kernel.xdp(packet);
            assert_eq!((action, &out, reason), (Action::Pass, packet, "pass_not_for_vip"));
        }
    }
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let from_group = echo(8, (OURS, [1, 0, 0x5e, 0, 0, 1]), CLIENT4.into(), VIP4.into(), 17);
    let broadcast = echo(8, (OURS, CLIENT), ip("255.255.255.255"), VIP4.into(), 17);
    let tagged = tagged(&question, &[(0x8100, 10)]);
    for packet in [from_group, broadcast, tagged] {
        assert_eq!(kernel.xdp(&packet).0, Action::Pass);
    }
}

/// A packet's fragments, of the first what the whole would be: UDP and SCTP are cut after 8 and 16
/// octets, TCP after 24, because its first fragment has its whole header (RFC 1858 3).
pub fn fragments(request: &Frame) -> Vec<Vec<u8>> {
    let whole = request.bytes();
    let header = if request.to.is_ipv4() { 34 } else { 54 };
    let end = whole.len() - header;
    let pieces = match request.protocol {
        TCP => vec![(0, 24, true), (24, end, false)],
        _ => vec![(0, 8, true), (8, 16, true), (16, end, false)],
    };
    pieces
        .into_iter()
        .map(|(start, end, more)| {
            let payload = &whole[header + start..header + end];
            if request.to.is_ipv4() {
                let flags = if more { 0x2000 } else { 0 } | (start / 8) as u16;
                request.ipv4(payload, flags)
            } else {
                let field = (start as u16) | u16::from(more);
                let mut extension = vec![request.protocol, 0];
                extension.extend(field.to_be_bytes());
                // Packets of one identification are one packet (RFC 8200 4.5).
                extension.extend([9, 8, 7, request.protocol]);
                request.ipv6(44, &[&extension, payload].concat())
            }
        })
        .collect()
}

#[test]
fn fragments_follow_their_first_to_the_pods_node() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    for request in &requests() {
        let expected = Frame { destination: PEER, source: OURS, hops: 63, ..request.clone() };
        let later = fragments(request)[1].clone();
        assert_eq!(kernel.xdp(&later), (Action::Pass, later, "pass_fragment"), "it comes first");
        for (piece, expected) in fragments(request).into_iter().zip(fragments(&expected)) {
            let (action, out, reason) = kernel.xdp(&piece);
            assert_eq!((action, out, reason), (Action::Transmit, expected, "forwarded"));
        }
    }
}

#[test]
fn carries_ipv4_options_to_the_pods_node_and_to_the_pod() {
    for request in requests().iter().filter(|request| request.to.is_ipv4()) {
        let forwarded = Frame { destination: PEER, source: OURS, hops: 63, ..request.clone() };
        let delivered = Frame { to: pod(request.to.ip(), true), ..request.clone() };
        for (pods, action, reason, expected) in [
            (Pods::Elsewhere, Action::Transmit, "forwarded", forwarded),
            (Pods::Here, Action::Pass, "delivered", delivered),
        ] {
            let (got, out, why) = Kernel::with(&picture(pods)).xdp(&with_options(request));
            assert_eq!((got, why), (action, reason), "{request:?}");
            assert_eq!(out, with_options(&expected), "{request:?}, its header's checksum too");
        }
    }
}

#[test]
fn a_later_fragment_from_a_peer_is_final() {
    for request in &requests()[..4] {
        let from_peer = Frame { source: PEER, ..request.clone() };
        let to_pod = Frame { to: pod(request.to.ip(), true), ..from_peer.clone() };
        let mut kernel = Kernel::with(&picture(Pods::Here));
        for (piece, expected) in fragments(&from_peer).into_iter().zip(fragments(&to_pod)) {
            let (action, out, reason) = kernel.xdp(&piece);
            assert_eq!((action, reason), (Action::Pass, "delivered_from_peer"));
            assert_eq!(out, expected, "{request:?}");
        }
        // The first came from the client and was sent on; one that a peer sends comes back.
        let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
        assert_eq!(kernel.xdp(&fragments(request)[0]).2, "forwarded");
        for later in &fragments(&from_peer)[1..] {
            let untouched = (Action::Pass, later.clone(), "pass_no_local_backend");
            assert_eq!(kernel.xdp(later), untouched, "{request:?}");
        }
    }
}

/// A pod in its node's own network (`hostNetwork`): its address is the node's.
#[test]
fn serves_a_pod_that_has_its_nodes_address() {
    let mut wanted = picture(Pods::Nowhere);
    let own = |is_v4| SocketAddr::new(ip(if is_v4 { "192.168.1.11" } else { "fd00:1::11" }), 8080);
    for (port, set) in &mut wanted.services {
        let address = own(port.vip.is_ipv4());
        Arc::make_mut(set).insert(Backend { address, node_mac: OURS, is_local: true });
    }
    let mut kernel = Kernel::with(&wanted);
    for request in requests() {
        let pod = own(request.to.is_ipv4());
        let to_pod = Frame { to: pod, ..request.clone() };
        let (action, out, reason) = kernel.xdp(&request.bytes());
        assert_eq!((action, reason), (Action::Pass, "delivered"), "{request:?}");
        assert_eq!(out, to_pod.bytes(), "{request:?}");
        let reply = reply(&request, pod);
        let restored = Frame { from: request.to, ..reply.clone() };
        assert_eq!(
            kernel.egress(&reply.bytes()),
            (restored.bytes(), Some("restored")),
            "{request:?}"
        );
        // What else the node says to the same client is its own.
        let others = Frame { from: (pod.ip(), 22).into(), ..reply };
        assert_eq!(kernel.egress(&others.bytes()), (others.bytes(), None), "{request:?}");
    }
}

/// A UDP request behind destination options, in two fragments: only the first one has the options
/// and the ports, but the second one names the options all the same.
pub fn pieces_with_options(request: &Frame) -> [Vec<u8>; 2] {
    let payload = &request.bytes()[54..];
    let options = [request.protocol, 0, 1, 4, 0, 0, 0, 0];
    let piece = |field: [u8; 2], rest: &[u8]| {
        let header = [60, 0, field[0], field[1], 9, 8, 7, 6];
        request.ipv6(44, &[&header[..], rest].concat())
    };
    [piece([0, 1], &[&options[..], &payload[..16]].concat()), piece([0, 24], &payload[16..])]
}

/// RFC 8200 4.5: pieces belong together by addresses and identification alone.
#[test]
fn an_ipv6_fragment_follows_its_first_also_behind_options() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    let request = &requests()[3];
    let expected = Frame { destination: PEER, source: OURS, hops: 63, ..request.clone() };
    for (piece, expected) in
        pieces_with_options(request).into_iter().zip(pieces_with_options(&expected))
    {
        let (action, out, reason) = kernel.xdp(&piece);
        assert_eq!((action, out, reason), (Action::Transmit, expected, "forwarded"));
    }
}

#[test]
fn fragments_follow_their_first_to_the_pod() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in &requests()[..4] {
        let expected = Frame { to: pod(request.to.ip(), true), ..request.clone() };
        for (piece, expected) in fragments(request).into_iter().zip(fragments(&expected)) {
            let (action, out, reason) = kernel.xdp(&piece);
            assert_eq!((action, reason), (Action::Pass, "delivered"));
            assert_eq!(out, expected, "{request:?}");
        }
    }
}

#[test]
fn looks_through_extension_headers() {
    let request = requests()[1].clone();
    let segment = request.bytes()[54..].to_vec();
    let options = |next: u8, length: u8| {
        let mut header = vec![next, length, 1, 4, 0, 0, 0, 0];
        header.resize(8 * (usize::from(length) + 1), 0);
        header
    };
    let rows = [
        ("hop-by-hop", 0, options(6, 0), "delivered"),
        ("16 octets of destination options", 60, options(6, 1), "delivered"),
        ("two", 0, [options(60, 0), options(6, 0)].concat(), "delivered"),
        (
            "a fragment header of a whole packet (RFC 6946)",
            44,
            vec![6, 0, 0, 0, 1, 2, 3, 4],
            "delivered",
        ),
        (
            "five",
            0,
            [options(60, 0), options(60, 0), options(60, 0), options(60, 0), options(6, 0)]
                .concat(),
            "pass_fragment",
        ),
        ("beyond the end", 0, vec![6, 255, 1, 4, 0, 0, 0, 0], "pass_truncated"),
    ];
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let to_pod = Frame { to: pod(request.to.ip(), true), ..request.clone() };
    let delivered = to_pod.bytes()[54..].to_vec();
    for (name, next, headers, reason) in rows {
        let packet = request.ipv6(next, &[&headers[..], &segment].concat());
        let expected = match reason {
            "delivered" => to_pod.ipv6(next, &[&headers[..], &delivered].concat()),
            _ => packet.clone(),
        };
        assert_eq!(kernel.xdp(&packet), (Action::Pass, expected, reason), "{name}");
    }
}

#[test]
fn carries_tagged_frames() {
    let tags: [&[(u16, u16)]; 2] = [&[(0x8100, 10)], &[(0x88a8, 20), (0x8100, 10)]];
    for tags in tags {
        let mut there = Kernel::with(&picture(Pods::Elsewhere));
        let mut here = Kernel::with(&picture(Pods::Here));
        for request in requests() {
            let packet = tagged(&request.bytes(), tags);
            let forwarded = Frame { destination: PEER, source: OURS, hops: 63, ..request.clone() };
            let expected = tagged(&forwarded.bytes(), tags);
            assert_eq!(there.xdp(&packet), (Action::Transmit, expected, "forwarded"));
            let delivered = Frame { to: pod(request.to.ip(), true), ..request };
            let expected = tagged(&delivered.bytes(), tags);
            assert_eq!(here.xdp(&packet), (Action::Pass, expected, "delivered"));
        }
        let question = crate::arp(crate::BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4));
        assert_eq!(here.xdp(&tagged(&question, tags)).2, "arp_passed");
        let question = crate::solicitation(Some(CLIENT), CLIENT6, None);
        assert_eq!(here.xdp(&tagged(&question, tags)).2, "ns_passed");
    }
    let three = tagged(&requests()[0].bytes(), &[(0x8100, 1); 3]);
    let mut here = Kernel::with(&picture(Pods::Here));
    assert_eq!(here.xdp(&three), (Action::Pass, three, "pass_other_protocol"));
}

#[test]
fn the_last_hop_is_not_taken_for_another() {
    let mut there = Kernel::with(&picture(Pods::Elsewhere));
    let mut here = Kernel::with(&picture(Pods::Here));
    for request in requests() {
        for hops in [0, 1] {
            let packet = Frame { hops, ..request.clone() }.bytes();
            assert_eq!(there.xdp(&packet), (Action::Pass, packet.clone(), "pass_ttl_expired"));
            assert_eq!(here.xdp(&packet).2, "delivered", "the stack counts this hop");
        }
    }
}
