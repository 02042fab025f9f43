//! The IPv6 header (RFC 8200 3). Extension headers are not walked: what stands behind one is not
//! neighbour discovery to us (RFC 6980 5 forbids its fragments; no host sends the others).

use std::net::Ipv6Addr;

use super::{ParseReason, array, byte, word};

/// Octets of the header.
pub const HEADER_LENGTH: usize = 40;
/// Next header value of ICMPv6 (RFC 4443 1).
pub const NEXT_HEADER_ICMPV6: u8 = 58;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6<'a> {
    /// Who sent it; never a group.
    pub source: Ipv6Addr,
    /// Whom it is for.
    pub destination: Ipv6Addr,
    /// What the payload begins with.
    pub next_header: u8,
    /// Routers it may still pass; 255 proves that it passed none.
    pub hop_limit: u8,
    /// What the payload length covers; padding of the frame is cut off.
    pub payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Reads the payload of a frame of type [`super::ethernet::IPV6`].
    ///
    /// # Errors
    /// Another version, fewer octets than the payload length states, or a multicast source.
    pub fn parse(packet: &'a [u8]) -> Result<Self, ParseReason> {
        if byte(packet, 0)? >> 4 != 6 {
            return Err(ParseReason::IpVersion);
        }
        let payload_length = usize::from(word(packet, 4)?);
        let payload = packet
            .get(HEADER_LENGTH..HEADER_LENGTH + payload_length)
            .ok_or(ParseReason::Truncated)?;
        let source = Ipv6Addr::from(array::<16>(packet, 8)?);
        if source.is_multicast() {
            return Err(ParseReason::Ipv6Source);
        }
        Ok(Self {
            source,
            destination: Ipv6Addr::from(array::<16>(packet, 24)?),
            next_header: byte(packet, 6)?,
            hop_limit: byte(packet, 7)?,
            payload,
        })
    }

    /// The packet as it is sent, with traffic class and flow label 0. The payload must be shorter
    /// than 64 KiB, as all of ours are; the length of a longer one would be cut to 16 bits.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(HEADER_LENGTH + self.payload.len());
        packet.extend_from_slice(&[0x60, 0, 0, 0]);
        packet.extend_from_slice(&(self.payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[self.next_header, self.hop_limit]);
        packet.extend_from_slice(&self.source.octets());
        packet.extend_from_slice(&self.destination.octets());
        packet.extend_from_slice(self.payload);
        packet
    }
}
