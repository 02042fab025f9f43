//! The Internet checksum (RFC 1071) and the pseudo-header of ICMPv6 (RFC 8200 8.1).

use std::net::Ipv6Addr;

/// One's complement of the one's complement sum. Over a range that contains its own correct
/// checksum the result is 0.
pub fn internet(bytes: &[u8]) -> u16 {
    finish(sum(bytes))
}

/// As [`internet`], with the IPv6 pseudo-header in front.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = message.len() as u64;
    let header = sum(&source.octets()) + sum(&destination.octets());
    finish(header + length + u64::from(super::ipv6::NEXT_HEADER_ICMPV6) + sum(message))
}

/// Sum of 16-bit words in network order, the last one filled up with zeros. 64 bits hold the sum
/// of any slice that fits in memory.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let last = words.remainder().first().map_or(0, |&octet| u64::from(octet) << 8);
    whole + last
}

fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_worked_example_of_rfc_1071() {
        // RFC 1071 3: the words 0001 f203 f4f5 f6f7 sum up to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet(&bytes), !0xddf2);
    }

    #[test]
    fn fills_an_odd_octet_with_zero() {
        assert_eq!(internet(&[0xab]), internet(&[0xab, 0x00]));
    }
}
