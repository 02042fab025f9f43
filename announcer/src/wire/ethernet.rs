//! Ethernet II frames. The kernel has taken the checksum and any VLAN tag away before we see them;
//! a tag that is still there shows as its own Ethernet type and is never looked through.

use super::{MacAddr, ParseReason, array, word};

/// Octets before the payload.
pub const HEADER_LENGTH: usize = 14;
/// Ethernet type of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethernet type of ARP.
pub const ARP: u16 = 0x0806;
/// Ethernet type of IPv6.
pub const IPV6: u16 = 0x86dd;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    /// Whom it is for.
    pub destination: MacAddr,
    /// Who sent it; never a group.
    pub source: MacAddr,
    /// What the payload is. Values below 0x0600 are lengths (IEEE 802.3 3.2.6): nothing we read.
    pub ether_type: u16,
    /// Everything behind the header, padding included.
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// The frame is shorter than its header, or sent by a group.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ParseReason> {
        let destination = MacAddr(array(frame, 0)?);
        let source = MacAddr(array(frame, 6)?);
        let ether_type = word(frame, 12)?;
        let payload = frame.get(HEADER_LENGTH..).ok_or(ParseReason::Truncated)?;
        if source.is_multicast() {
            return Err(ParseReason::EthernetSource);
        }
        Ok(Self { destination, source, ether_type, payload })
    }

    /// The frame as it is sent. Padding to the smallest frame is the driver's work.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_LENGTH + self.payload.len());
        frame.extend_from_slice(&self.destination.0);
        frame.extend_from_slice(&self.source.0);
        frame.extend_from_slice(&self.ether_type.to_be_bytes());
        frame.extend_from_slice(self.payload);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_frame_from_a_group() {
        let mut frame = [0; HEADER_LENGTH];
        frame[6] = 0x01;
        assert_eq!(Ethernet::parse(&frame), Err(ParseReason::EthernetSource));
    }

    #[test]
    fn refuses_a_cut_header() {
        assert_eq!(Ethernet::parse(&[0; HEADER_LENGTH - 1]), Err(ParseReason::Truncated));
        assert!(Ethernet::parse(&[0; HEADER_LENGTH]).is_ok());
    }
}
