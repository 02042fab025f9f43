//! ARP for IPv4 over Ethernet (RFC 826). Must never accept a packet whose stated lengths are not
//! the ones it is read with: every field is checked before the addresses are.

use std::net::Ipv4Addr;

use super::{Ethernet, MacAddr, ParseReason, array, byte, ethernet, word};

/// Octets of a packet for IPv4 over Ethernet.
pub const LENGTH: usize = 28;

const HARDWARE_ETHERNET: u16 = 1;
const HARDWARE_LENGTH: u8 = 6;
const PROTOCOL_LENGTH: u8 = 4;

/// What an ARP packet wants (RFC 826, `ar$op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// "Who has the target address?"
    Request = 1,
    /// "The sender address is at the sender's MAC."
    Reply = 2,
}

/// One ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// `ar$sha`; one machine's.
    pub sender_mac: MacAddr,
    /// `ar$spa`; 0.0.0.0 in a probe (RFC 5227 2.1.1).
    pub sender: Ipv4Addr,
    /// `ar$tha`; means nothing in a request (RFC 5227 2.1.1: SHOULD be zero).
    pub target_mac: MacAddr,
    /// `ar$tpa`.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the payload of a frame of type [`ethernet::ARP`]; bytes behind the packet are padding.
    ///
    /// # Errors
    /// Other hardware, protocol or lengths, an operation besides request and reply, or a sender
    /// that cannot be a host. RFC 826 asks for the first four checks; the sender's follow from
    /// RFC 5227 1.1: ARP relates one host's unicast addresses.
    pub fn parse(payload: &[u8]) -> Result<Self, ParseReason> {
        if word(payload, 0)? != HARDWARE_ETHERNET {
            return Err(ParseReason::ArpHardwareType);
        }
        if word(payload, 2)? != ethernet::IPV4 {
            return Err(ParseReason::ArpProtocolType);
        }
        if byte(payload, 4)? != HARDWARE_LENGTH {
            return Err(ParseReason::ArpHardwareLength);
        }
        if byte(payload, 5)? != PROTOCOL_LENGTH {
            return Err(ParseReason::ArpProtocolLength);
        }
        let operation = match word(payload, 6)? {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(ParseReason::ArpOperation),
        };
        let arp = Self {
            operation,
            sender_mac: MacAddr(array(payload, 8)?),
            sender: Ipv4Addr::from(array::<4>(payload, 14)?),
            target_mac: MacAddr(array(payload, 18)?),
            target: Ipv4Addr::from(array::<4>(payload, 24)?),
        };
        if !arp.sender_mac.is_unicast() {
            return Err(ParseReason::ArpSenderMac);
        }
        if arp.sender.is_multicast() || arp.sender.is_broadcast() || arp.sender.is_loopback() {
            return Err(ParseReason::ArpSenderAddress);
        }
        Ok(arp)
    }

    /// Whether the sender asks and answers itself: an announcement (RFC 5227 1.1), in either form.
    pub fn is_announcement(&self) -> bool {
        self.sender == self.target
    }

    /// The packet without its frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(LENGTH);
        packet.extend_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
        packet.extend_from_slice(&ethernet::IPV4.to_be_bytes());
        packet.extend_from_slice(&[HARDWARE_LENGTH, PROTOCOL_LENGTH]);
        packet.extend_from_slice(&(self.operation as u16).to_be_bytes());
        packet.extend_from_slice(&self.sender_mac.0);
        packet.extend_from_slice(&self.sender.octets());
        packet.extend_from_slice(&self.target_mac.0);
        packet.extend_from_slice(&self.target.octets());
        packet
    }

    /// The packet in a frame from its sender.
    pub fn to_frame(&self, destination: MacAddr) -> Vec<u8> {
        let source = self.sender_mac;
        let payload = &self.to_bytes();
        Ethernet { destination, source, ether_type: ethernet::ARP, payload }.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset, octet put there, and what that makes of a good request.
    const REFUSED: &[(usize, u8, ParseReason)] = &[
        (1, 0x06, ParseReason::ArpHardwareType),
        (0, 0x01, ParseReason::ArpHardwareType),
        (3, 0x06, ParseReason::ArpProtocolType),
        (4, 0x08, ParseReason::ArpHardwareLength),
        (5, 0x10, ParseReason::ArpProtocolLength),
        (7, 0x00, ParseReason::ArpOperation),
        (7, 0x03, ParseReason::ArpOperation),
        (6, 0x01, ParseReason::ArpOperation),
        (8, 0x03, ParseReason::ArpSenderMac),
        (14, 224, ParseReason::ArpSenderAddress),
        (14, 127, ParseReason::ArpSenderAddress),
    ];

    fn request() -> Vec<u8> {
        crate::hex(
            "0001 0800 06 04 0001    # Ethernet, IPv4, lengths, request
             02:00:00:00:00:c1       # sender's MAC
             c0a80164                # 192.168.1.100
             00:00:00:00:00:00       # target's MAC
             c0a801f0                # 192.168.1.240",
        )
    }

    #[test]
    fn reads_a_request() {
        let parsed = Arp::parse(&request());
        let expected = Arp {
            operation: Operation::Request,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 0xc1]),
            sender: Ipv4Addr::new(192, 168, 1, 100),
            target_mac: MacAddr::ZERO,
            target: Ipv4Addr::new(192, 168, 1, 240),
        };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(expected.to_bytes(), request());
    }

    #[test]
    fn names_every_wrong_field() {
        for &(offset, octet, reason) in REFUSED {
            let mut packet = request();
            packet[offset] = octet;
            assert_eq!(Arp::parse(&packet), Err(reason), "octet {octet} at {offset}");
        }
    }

    #[test]
    fn refuses_a_sender_that_is_nobody_or_everybody() {
        let mut nobody = request();
        nobody[8..14].fill(0);
        assert_eq!(Arp::parse(&nobody), Err(ParseReason::ArpSenderMac));
        let mut everybody = request();
        everybody[14..18].fill(255);
        assert_eq!(Arp::parse(&everybody), Err(ParseReason::ArpSenderAddress));
    }

    #[test]
    fn refuses_every_cut_and_ignores_padding() {
        let packet = request();
        for length in 0..LENGTH {
            assert_eq!(Arp::parse(&packet[..length]), Err(ParseReason::Truncated), "{length}");
        }
        let padded = [packet.as_slice(), &[0xee; 18]].concat();
        assert_eq!(Arp::parse(&padded), Arp::parse(&packet));
    }
}
