//! Any bytes as a frame, as an IPv4 and as an IPv6 packet: never a panic, and never a payload that
//! reaches out of the packet.
#![no_main]

use herald_announcer::wire::{Arp, Ethernet, Ipv4, Ipv6, Ndp, ethernet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Ipv4::parse(bytes) {
        assert!(packet.payload.len() + 20 <= bytes.len());
    }
    if let Ok(packet) = Ipv6::parse(bytes) {
        assert!(packet.payload.len() + 40 <= bytes.len());
    }
    if let Ok(frame) = Ethernet::parse(bytes) {
        // Verdicts on the payload are the other targets' matter; here only that there is one.
        match frame.ether_type {
            ethernet::ARP => drop(Arp::parse(frame.payload)),
            ethernet::IPV4 => drop(Ipv4::parse(frame.payload)),
            ethernet::IPV6 => drop(Ndp::parse(frame.payload)),
            _ => {}
        }
    }
});
