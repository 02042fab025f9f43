//! No bytes make a parser or the responder panic, and what is built can be read back.
//!
//! Random bytes alone hardly get past a checksum, so half of the cases are good frames with a few
//! octets changed, some of them with the checksum made right again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_announcer::announcement;
use herald_announcer::claim::{Claim, Form, claim};
use herald_announcer::probe;
use herald_announcer::responder::{LinkIdentity, Verdict, respond};
use herald_announcer::wire::{
    Arp, Ethernet, Ipv4, Ipv6, MacAddr, Ndp, NeighbourAdvertisement, NeighbourSolicitation,
    Operation, checksum, ethernet, solicited_node,
};
use proptest::collection::vec;
use proptest::prelude::*;

const OWN: LinkIdentity = LinkIdentity { mac: MacAddr([2, 0, 0, 0, 0, 1]) };

fn unicast_mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| MacAddr([0x02, a, b, c, d, e]))
}

fn unicast_v4() -> impl Strategy<Value = Ipv4Addr> {
    (1_u8..=126, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d))
}

fn unicast_v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0xfd; 16];
        octets[1..].copy_from_slice(&rest);
        octets.into()
    })
}

fn arp() -> impl Strategy<Value = Arp> {
    let operation = prop_oneof![Just(Operation::Request), Just(Operation::Reply)];
    (operation, unicast_mac(), unicast_v4(), any::<[u8; 6]>(), any::<Ipv4Addr>()).prop_map(
        |(operation, sender_mac, sender, target_mac, target)| Arp {
            operation,
            sender_mac,
            sender,
            target_mac: MacAddr(target_mac),
            target,
        },
    )
}

fn solicitation() -> impl Strategy<Value = NeighbourSolicitation> {
    (unicast_v6(), unicast_v6(), proptest::option::of(unicast_mac()), any::<bool>()).prop_map(
        |(source, target, source_mac, to_group)| NeighbourSolicitation {
            source,
            destination: if to_group { solicited_node(target) } else { target },
            target,
            source_mac,
        },
    )
}

fn advertisement() -> impl Strategy<Value = NeighbourAdvertisement> {
    let flags = any::<(bool, bool, bool)>();
    (unicast_v6(), unicast_v6(), unicast_v6(), flags, proptest::option::of(unicast_mac())).prop_map(
        |(source, destination, target, (router, solicited, overrides), target_mac)| {
            NeighbourAdvertisement {
                source,
                destination,
                router,
                solicited,
                overrides,
                target,
                target_mac,
            }
        },
    )
}

/// A frame that is nearly right: a good one, changed, cut or lengthened, with the ICMPv6 checksum
/// made right again where there is room for one.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        arp().prop_map(|arp| arp.to_frame(MacAddr::BROADCAST)),
        solicitation().prop_map(|ns| ns.to_frame(MacAddr([2, 0, 0, 0, 0, 9]), OWN.mac)),
        advertisement().prop_map(|na| na.to_frame(MacAddr([2, 0, 0, 0, 0, 9]), OWN.mac)),
    ];
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tail = vec(any::<u8>(), 0..80);
    (good, changes, tail, any::<prop::sample::Index>(), any::<bool>(), any::<bool>()).prop_map(
        |(mut frame, changes, tail, cut, is_cut, is_sealed)| {
            frame.extend(tail);
            for (at, octet) in changes {
                let at = at.index(frame.len());
                frame[at] = octet;
            }
            if is_cut {
                frame.truncate(cut.index(frame.len()));
            }
            if is_sealed {
                seal(&mut frame);
            }
            frame
        },
    )
}

/// Makes the payload length cover the frame, and the ICMPv6 checksum right.
fn seal(frame: &mut [u8]) {
    const MESSAGE: usize = ethernet::HEADER_LENGTH + 40;
    if frame.len() < MESSAGE + 4 || frame[12..14] != ethernet::IPV6.to_be_bytes() {
        return;
    }
    let length = (frame.len() - MESSAGE) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[MESSAGE + 2..MESSAGE + 4].fill(0);
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let sum = checksum::icmpv6(address(22), address(38), &frame[MESSAGE..]);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A pool holds hosts' addresses only.
fn could_be_a_vip(ip: IpAddr) -> bool {
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_multicast() || ip.is_loopback() || ip.is_unspecified() || is_broadcast)
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..200), nearly_right()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in any_frame()) {
        let _ = Ethernet::parse(&bytes);
        let _ = claim(&bytes);
        for payload in [&bytes[..], bytes.get(ethernet::HEADER_LENGTH..).unwrap_or_default()] {
            let _ = Arp::parse(payload);
            let _ = Ipv4::parse(payload);
            let _ = Ipv6::parse(payload);
            let _ = Ndp::parse(payload);
        }
    }

    /// Whatever the question was, an answer names our MAC, goes to one machine or all nodes, and
    /// is itself a frame that nobody answers.
    #[test]
    fn every_answer_is_a_valid_one(frame in any_frame()) {
        if let Verdict::Reply(reply) = respond(&frame, &OWN, could_be_a_vip) {
            let sent = Ethernet::parse(&reply).unwrap();
            prop_assert_eq!(sent.source, OWN.mac);
            match sent.ether_type {
                ethernet::ARP => {
                    let arp = Arp::parse(sent.payload).unwrap();
                    prop_assert_eq!(arp.operation, Operation::Reply);
                    prop_assert_eq!(arp.sender_mac, OWN.mac);
                    prop_assert!(sent.destination.is_unicast());
                }
                _ => {
                    let Ok(Ndp::Advertisement(na)) = Ndp::parse(sent.payload) else {
                        return Err(TestCaseError::fail("not an advertisement"));
                    };
                    prop_assert_eq!(na.source, na.target);
                    prop_assert_eq!(na.target_mac, Some(OWN.mac));
                    prop_assert_eq!(na.solicited, !na.destination.is_multicast());
                }
            }
            let claimed = claim(&reply).unwrap();
            prop_assert_eq!((claimed.mac, claimed.form), (OWN.mac, Form::Use));
            let elsewhere = LinkIdentity { mac: sent.destination };
            prop_assert!(matches!(respond(&reply, &elsewhere, |_| true), Verdict::Ignore(_)));
        }
    }

    #[test]
    fn speaks_for_nothing_means_silence(frame in any_frame()) {
        prop_assert!(matches!(respond(&frame, &OWN, |_| false), Verdict::Ignore(_)));
    }

    #[test]
    fn arp_round_trips(arp in arp()) {
        prop_assert_eq!(Arp::parse(&arp.to_bytes()), Ok(arp));
    }

    #[test]
    fn solicitations_round_trip(ns in solicitation()) {
        prop_assert_eq!(Ndp::parse(&ns.to_bytes()), Ok(Ndp::Solicitation(ns)));
    }

    #[test]
    fn advertisements_round_trip(na in advertisement()) {
        prop_assert_eq!(Ndp::parse(&na.to_bytes()), Ok(Ndp::Advertisement(na)));
    }

    #[test]
    fn ethernet_round_trips(
        destination in any::<[u8; 6]>(),
        source in unicast_mac(),
        ether_type in any::<u16>(),
        payload in vec(any::<u8>(), 0..64),
    ) {
        let destination = MacAddr(destination);
        let frame = Ethernet { destination, source, ether_type, payload: &payload };
        let bytes = frame.to_bytes();
        prop_assert_eq!(Ethernet::parse(&bytes), Ok(frame));
    }

    #[test]
    fn mac_addresses_round_trip_as_text(octets in any::<[u8; 6]>()) {
        prop_assert_eq!(MacAddr(octets).to_string().parse(), Ok(MacAddr(octets)));
    }

    /// A valid question for a VIP is always answered.
    #[test]
    fn no_valid_question_goes_unanswered(ns in solicitation(), asker in unicast_mac()) {
        let frame = ns.to_frame(asker, OWN.mac);
        let verdict = respond(&frame, &OWN, |ip| ip == IpAddr::V6(ns.target));
        prop_assert!(matches!(verdict, Verdict::Reply(_)), "{:?}", verdict);
    }

    #[test]
    fn no_announcement_is_ever_answered(octets in unicast_v4(), v6 in unicast_v6()) {
        for vip in [IpAddr::V4(octets), IpAddr::V6(v6)] {
            for frame in announcement::frames(vip, MacAddr([2, 0, 0, 0, 0, 9])) {
                prop_assert!(matches!(respond(&frame, &OWN, |_| true), Verdict::Ignore(_)));
            }
        }
    }

    /// A claim names one machine; whoever answered it would be answering that machine.
    #[test]
    fn every_claim_is_one_machines(frame in any_frame()) {
        if let Some(claim) = claim(&frame) {
            prop_assert!(!claim.mac.is_multicast());
            prop_assert!(!claim.address.is_multicast());
        }
    }

    /// What we ask, others understand: as a probe, and as a question to be answered.
    #[test]
    fn every_probe_is_understood(v4 in unicast_v4(), v6 in unicast_v6(), asker in unicast_mac()) {
        for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            let frame = probe::frame(address, asker);
            prop_assert_eq!(claim(&frame), Some(Claim { address, mac: asker, form: Form::Probe }));
            let verdict = respond(&frame, &OWN, |ip| ip == address);
            prop_assert!(matches!(verdict, Verdict::Reply(_)), "{:?}", verdict);
        }
    }
}
