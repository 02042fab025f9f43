//! The fence on the way out: frames that claim a VIP leave only while this node holds it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use herald_ebpf::{HeldBack, Picture};

use crate::build::{arp, icmpv6, tagged};
use crate::kernel::{IFINDEX, Kernel};
use crate::{BROADCAST, CLIENT, CLIENT4, CLIENT6, OURS, Pods, VIP4, VIP6, picture, requests, v6};

/// Every form in which a host claims an IPv4 address.
fn arp_claims() -> Vec<(&'static str, Vec<u8>)> {
    let nobody = [0; 6];
    vec![
        ("an announcement in request form", arp(BROADCAST, 1, (OURS, VIP4), (nobody, VIP4))),
        ("an announcement in reply form", arp(BROADCAST, 2, (OURS, VIP4), (OURS, VIP4))),
        ("a reply", arp(CLIENT, 2, (OURS, VIP4), (CLIENT, CLIENT4))),
        ("a request sent from the VIP", arp(BROADCAST, 1, (OURS, VIP4), (nobody, CLIENT4))),
        ("a reply with another's MAC", arp(CLIENT, 2, (CLIENT, VIP4), (CLIENT, CLIENT4))),
    ]
}

/// A neighbour advertisement for an address, to everybody or to the client.
fn advertisement(target: &str, to: &str, flags: u8) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, flags, 0, 0, 0];
    body.extend(v6(target).octets());
    body.extend([2, 1]);
    body.extend(OURS);
    icmpv6(([0x33, 0x33, 0, 0, 0, 1], OURS), v6(target), v6(to), body)
}

fn na_claims() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("unsolicited", advertisement(VIP6, "ff02::1", 0x20)),
        ("solicited", advertisement(VIP6, CLIENT6, 0x60)),
    ]
}

/// A neighbour solicitation of ours, for an address and from one.
fn solicitation(target: &str, from: &str, to: &str, with_option: bool) -> Vec<u8> {
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(v6(target).octets());
    if with_option {
        body.extend([1, 1]);
        body.extend(OURS);
    }
    icmpv6(([0x33, 0x33, 0xff, 0, 0, 0], OURS), v6(from), v6(to), body)
}

/// Questions sent from the VIP: who is asked learns where it is (RFC 4861 7.2.3).
fn ns_claims() -> Vec<(&'static str, Vec<u8>)> {
    let group = "ff02::1:ff00:100";
    vec![
        ("resolution from the VIP", solicitation(CLIENT6, VIP6, group, true)),
        ("a reachability check from the VIP", solicitation(CLIENT6, VIP6, CLIENT6, true)),
        ("the same without an option", solicitation(CLIENT6, VIP6, CLIENT6, false)),
    ]
}

/// All claims, untagged and behind one and two VLAN tags.
pub fn claims() -> Vec<(String, Vec<u8>, &'static str)> {
    let arp = arp_claims().into_iter().map(|(name, frame)| (name, frame, "fence_dropped_arp"));
    let na = na_claims().into_iter().map(|(name, frame)| (name, frame, "fence_dropped_na"));
    let ns = ns_claims().into_iter().map(|(name, frame)| (name, frame, "fence_dropped_ns"));
    arp.chain(na)
        .chain(ns)
        .flat_map(|(name, frame, reason)| {
            let one = tagged(&frame, &[(0x8100, 10)]);
            let two = tagged(&frame, &[(0x88a8, 20), (0x8100, 10)]);
            [
                (name.to_owned(), frame, reason),
                (format!("{name}, 802.1Q"), one, reason),
                (format!("{name}, QinQ"), two, reason),
            ]
        })
        .collect()
}

#[test]
fn holds_back_claims_to_a_vip_of_another_node() {
    let mut kernel = Kernel::with(&Picture { vips: BTreeSet::new(), ..picture(Pods::Here) });
    for (name, frame, reason) in claims() {
        assert_eq!(kernel.held_back(&frame), Some(reason), "{name}");
    }
}

#[test]
fn lets_the_holder_speak_until_its_deadline() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for (name, frame, _) in claims() {
        kernel.leaves_alone(&frame, &name);
    }
    kernel.fence.set(Duration::from_nanos(1)).unwrap();
    for (name, frame, reason) in claims() {
        assert_eq!(kernel.held_back(&frame), Some(reason), "{name}, past the deadline");
    }
}

#[test]
fn holds_back_a_vip_held_on_another_interface_only() {
    let vips = picture(Pods::Here).vips.into_iter().map(|(vip, _)| (vip, 77)).collect();
    let mut kernel = Kernel::with(&Picture { vips, ..picture(Pods::Here) });
    for (name, frame, reason) in claims() {
        // A tagged frame leaves by the parent of the interface that holds the VIP.
        let expected = if name.contains("Q") { None } else { Some(reason) };
        assert_eq!(kernel.held_back(&frame), expected, "{name}");
    }
}

#[test]
fn a_vip_that_is_given_up_is_fenced_at_once() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    let mut given_up = picture(Pods::Here);
    given_up.vips.retain(|(vip, _)| *vip != IpAddr::from(VIP4));
    kernel.datapath.apply(&given_up).unwrap();
    for (name, frame, reason) in claims() {
        let expected = Some(reason).filter(|reason| *reason == "fence_dropped_arp");
        assert_eq!(kernel.held_back(&frame), expected, "{name}");
    }
}

/// Frames that claim nothing, or not the VIP.
pub fn innocents() -> Vec<(&'static str, Vec<u8>)> {
    let ours = [192, 168, 1, 11];
    let group = "ff02::1:ff00:f0";
    vec![
        ("our own announcement", arp(BROADCAST, 1, (OURS, ours), ([0; 6], ours))),
        ("a question about the VIP", arp(BROADCAST, 1, (OURS, ours), ([0; 6], VIP4))),
        ("a probe for the VIP (RFC 5227 2.1)", arp(BROADCAST, 1, (OURS, [0; 4]), ([0; 6], VIP4))),
        ("our own advertisement", advertisement("fd00:1::11", "ff02::1", 0x20)),
        ("a truncated ARP packet", arp(CLIENT, 2, (OURS, VIP4), (CLIENT, CLIENT4))[..30].to_vec()),
        ("a question about the VIP in IPv6", solicitation(VIP6, "fd00:1::11", group, true)),
        ("an address test for the VIP (RFC 4862 5.4.2)", solicitation(VIP6, "::", group, false)),
        ("a cut solicitation", solicitation(CLIENT6, VIP6, CLIENT6, false)[..70].to_vec()),
        ("traffic", requests()[0].bytes()),
        ("traffic in IPv6", requests()[1].bytes()),
    ]
}

#[test]
fn lets_everything_else_leave() {
    let mut kernel = Kernel::with(&Picture { vips: BTreeSet::new(), ..picture(Pods::Here) });
    for (name, frame) in innocents() {
        kernel.leaves_alone(&frame, name);
    }
    assert_eq!(kernel.datapath.held_back(IFINDEX).unwrap(), HeldBack::default());
}

#[test]
fn counts_what_it_held_back_by_interface() {
    let mut kernel = Kernel::with(&Picture { vips: BTreeSet::new(), ..picture(Pods::Here) });
    for (_, frame, _) in claims() {
        let _ = kernel.held_back(&frame);
    }
    // Each untagged, tagged and tagged twice.
    let expected = HeldBack {
        arp: 3 * arp_claims().len() as u64,
        advertisements: 3 * na_claims().len() as u64,
        solicitations: 3 * ns_claims().len() as u64,
    };
    assert_eq!(kernel.datapath.held_back(IFINDEX).unwrap(), expected);
    assert_eq!(kernel.datapath.held_back(IFINDEX + 1).unwrap(), HeldBack::default());
}
