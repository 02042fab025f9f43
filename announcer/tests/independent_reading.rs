//! Our frames read by another implementation (pnet_packet), so that a mistake shared by our writer
//! and our reader does not pass. pnet reads only frames of ours here: on bytes from the network it
//! must not be used, and the last test shows why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv6Addr};

use herald_announcer::announcement;
use herald_announcer::wire::{MacAddr, Ndp, NeighbourSolicitation, ParseReason, solicited_node};
use pnet_packet::Packet;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::icmpv6::ndp::{
    NdpOptionTypes, NeighborAdvertFlags, NeighborAdvertPacket, NeighborSolicitPacket,
};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types, checksum};
use pnet_packet::ipv6::Ipv6Packet;

const OURS: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

fn pnet(mac: MacAddr) -> pnet_base::MacAddr {
    mac.0.into()
}

#[test]
fn pnet_reads_our_arp_announcements() {
    let frames = announcement::frames("192.168.1.240".parse().unwrap(), OURS);
    let operations = [ArpOperations::Request, ArpOperations::Reply];
    assert_eq!(frames.len(), operations.len());
    for (frame, operation) in frames.iter().zip(operations) {
        let ethernet = EthernetPacket::new(frame).unwrap();
        assert_eq!(ethernet.get_destination(), pnet_base::MacAddr::broadcast());
        assert_eq!(ethernet.get_source(), pnet(OURS));
        assert_eq!(ethernet.get_ethertype(), EtherTypes::Arp);
        let arp = ArpPacket::new(ethernet.payload()).unwrap();
        assert_eq!(arp.get_hardware_type(), ArpHardwareTypes::Ethernet);
        assert_eq!(arp.get_protocol_type(), EtherTypes::Ipv4);
        assert_eq!((arp.get_hw_addr_len(), arp.get_proto_addr_len()), (6, 4));
        assert_eq!(arp.get_operation(), operation);
        assert_eq!(arp.get_sender_hw_addr(), pnet(OURS));
        assert_eq!(arp.get_sender_proto_addr().octets(), [192, 168, 1, 240]);
        assert_eq!(arp.get_target_proto_addr().octets(), [192, 168, 1, 240]);
    }
}

#[test]
fn pnet_reads_our_unsolicited_advertisement() {
    let vip: Ipv6Addr = "fd00:1::f0".parse().unwrap();
    let frames = announcement::frames(IpAddr::V6(vip), OURS);
    let ethernet = EthernetPacket::new(&frames[0]).unwrap();
    assert_eq!(ethernet.get_destination().octets(), [0x33, 0x33, 0, 0, 0, 1]);
    let ip = Ipv6Packet::new(ethernet.payload()).unwrap();
    assert_eq!((ip.get_source(), ip.get_hop_limit()), (vip, 255));
    let icmp = Icmpv6Packet::new(ip.payload()).unwrap();
    assert_eq!(icmp.get_icmpv6_type(), Icmpv6Types::NeighborAdvert);
    let expected = checksum(&icmp, &ip.get_source(), &ip.get_destination());
    assert_eq!(icmp.get_checksum(), expected);
    let advertisement = NeighborAdvertPacket::new(ip.payload()).unwrap();
    assert_eq!(advertisement.get_flags(), NeighborAdvertFlags::Override);
    assert_eq!(advertisement.get_target_addr(), vip);
    let options = advertisement.get_options();
    assert_eq!(options.len(), 1);
    assert_eq!(options[0].option_type, NdpOptionTypes::TargetLLAddr);
    assert_eq!(options[0].data, OURS.0);
}

fn solicitation() -> Vec<u8> {
    let target: Ipv6Addr = "fd00:1::f0".parse().unwrap();
    let question = NeighbourSolicitation {
        source: "fd00:1::64".parse().unwrap(),
        destination: solicited_node(target),
        target,
        source_mac: Some(OURS),
    };
    question.to_bytes()
}

#[test]
fn pnet_reads_our_solicitation() {
    let packet = solicitation();
    let ip = Ipv6Packet::new(&packet).unwrap();
    let icmp = Icmpv6Packet::new(ip.payload()).unwrap();
    assert_eq!(icmp.get_checksum(), checksum(&icmp, &ip.get_source(), &ip.get_destination()));
    let solicitation = NeighborSolicitPacket::new(ip.payload()).unwrap();
    assert_eq!(solicitation.get_target_addr().to_string(), "fd00:1::f0");
    assert_eq!(solicitation.get_options()[0].option_type, NdpOptionTypes::SourceLLAddr);
}

/// The reason why pnet must not read what comes from the network. If this fails after an update of
/// pnet, the trap is gone and the sentence above can be looked at again.
#[test]
fn pnet_fails_on_the_option_length_that_we_refuse() {
    let mut packet = solicitation();
    let option_length = packet.len() - 7;
    packet[option_length] = 32;
    let message = packet[40..].to_vec();
    let options = std::panic::catch_unwind(|| {
        NeighborSolicitPacket::new(&message).unwrap().get_options().len()
    });
    // With overflow checks it panics; without, it hands out an option of 256 octets that the packet
    // does not hold.
    assert!(options.map_or(true, |count| count > 0));

    // The same bytes with a right checksum.
    packet[42..44].fill(0);
    let (source, destination) = ("fd00:1::64".parse().unwrap(), solicitation_group());
    let sum = herald_announcer::wire::checksum::icmpv6(source, destination, &packet[40..]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(Ndp::parse(&packet), Err(ParseReason::OptionTruncated));
}

fn solicitation_group() -> Ipv6Addr {
    solicited_node("fd00:1::f0".parse().unwrap())
}
