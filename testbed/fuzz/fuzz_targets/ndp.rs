//! Any bytes as an IPv6 packet with neighbour discovery: never a panic, and what is accepted means
//! the same after it was written and read again. The checksum is made right first, or hardly any
//! input would get past it.
#![no_main]

use herald_announcer::wire::{Ipv6, Ndp, checksum, ipv6};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Some(summed) = with_checksum(bytes) {
        check(&summed);
    }
});

fn check(bytes: &[u8]) {
    if let Ok(message) = Ndp::parse(bytes) {
        let written = match message {
            Ndp::Solicitation(solicitation) => solicitation.to_bytes(),
            Ndp::Advertisement(advertisement) => advertisement.to_bytes(),
        };
        assert_eq!(Ndp::parse(&written), Ok(message));
    }
}

fn with_checksum(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut packet = bytes.to_vec();
    let at = ipv6::HEADER_LENGTH + 2;
    packet.get_mut(at..at + 2)?.fill(0);
    let ip = Ipv6::parse(&packet).ok()?;
    let sum = checksum::icmpv6(ip.source, ip.destination, ip.payload);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}
