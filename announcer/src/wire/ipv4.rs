//! The IPv4 header (RFC 791 3.1): enough to tell whose packet it is. Options are stepped over, and
//! fragments are reported, never put together.

use std::net::Ipv4Addr;

use super::{ParseReason, array, byte, checksum, word};

/// Octets of a header without options.
pub const MIN_HEADER_LENGTH: usize = 20;

/// One packet, or one fragment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4<'a> {
    /// Who sent it.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// What the payload is (IANA protocol numbers).
    pub protocol: u8,
    /// Routers it may still pass.
    pub ttl: u8,
    /// Whether this is only a part: more follows, or something came before.
    pub is_fragment: bool,
    /// What the total length covers behind the header; padding of the frame is cut off.
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads the payload of a frame of type [`super::ethernet::IPV4`].
    ///
    /// # Errors
    /// Another version, lengths that contradict each other or the frame, or a wrong header checksum
    /// (RFC 1122 3.2.1.2: discard silently).
    pub fn parse(packet: &'a [u8]) -> Result<Self, ParseReason> {
        let first = byte(packet, 0)?;
        if first >> 4 != 4 {
            return Err(ParseReason::IpVersion);
        }
        let header_length = usize::from(first & 0x0f) * 4;
        if header_length < MIN_HEADER_LENGTH {
            return Err(ParseReason::Ipv4HeaderLength);
        }
        let header = packet.get(..header_length).ok_or(ParseReason::Truncated)?;
        let total_length = usize::from(word(packet, 2)?);
        if total_length < header_length {
            return Err(ParseReason::Ipv4TotalLength);
        }
        let payload = packet.get(header_length..total_length).ok_or(ParseReason::Truncated)?;
        if checksum::internet(header) != 0 {
            return Err(ParseReason::Ipv4Checksum);
        }
        Ok(Self {
            source: Ipv4Addr::from(array::<4>(packet, 12)?),
            destination: Ipv4Addr::from(array::<4>(packet, 16)?),
            protocol: byte(packet, 9)?,
            ttl: byte(packet, 8)?,
            // The more-fragments flag and the offset, without the don't-fragment flag.
            is_fragment: word(packet, 6)? & 0x3fff != 0,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        crate::hex(
            "45 00 001c              # version 4, five words, 28 octets
             0000 4000               # do not fragment
             40 11 b62c              # TTL 64, UDP, checksum
             c0a80164                # 192.168.1.100
             c0a801f0                # 192.168.1.240
             0035 0035 0008 0000",
        )
    }

    #[test]
    fn reads_a_packet_and_cuts_padding_off() {
        let padded = [packet().as_slice(), &[0; 18]].concat();
        let expected = Ipv4 {
            source: Ipv4Addr::new(192, 168, 1, 100),
            destination: Ipv4Addr::new(192, 168, 1, 240),
            protocol: 17,
            ttl: 64,
            is_fragment: false,
            payload: &[0x00, 0x35, 0x00, 0x35, 0x00, 0x08, 0x00, 0x00],
        };
        assert_eq!(Ipv4::parse(&padded), Ok(expected));
    }

    #[test]
    fn names_every_wrong_field() {
        let refused = [
            (0, 0x65, ParseReason::IpVersion),
            (0, 0x44, ParseReason::Ipv4HeaderLength),
            (0, 0x4f, ParseReason::Truncated),
            (3, 0x13, ParseReason::Ipv4TotalLength),
            (3, 0x1d, ParseReason::Truncated),
            (8, 0x3f, ParseReason::Ipv4Checksum),
        ];
        for (offset, octet, reason) in refused {
            let mut packet = packet();
            packet[offset] = octet;
            assert_eq!(Ipv4::parse(&packet), Err(reason), "octet {octet:#x} at {offset}");
        }
    }
}
