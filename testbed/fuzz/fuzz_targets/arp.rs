//! Any bytes as an ARP packet: never a panic, and what is accepted is written back as it was read.
#![no_main]

use herald_announcer::wire::{Arp, arp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Arp::parse(bytes) {
        assert_eq!(packet.to_bytes(), bytes[..arp::LENGTH]);
    }
});
