//! Bytes from the network to checked values, and values back to bytes.
//!
//! Every `parse` takes a slice and returns the value or a [`ParseReason`]; no input makes it panic,
//! and nothing behind it looks at raw bytes again. Read [`arp`] first: the other files follow it.

#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod ndp;

pub use arp::{Arp, Operation};
pub use ethernet::Ethernet;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use mac::{MacAddr, MacAddrError};
pub use ndp::{Ndp, NeighbourAdvertisement, NeighbourSolicitation, solicited_node};

use crate::reasons::reasons;

reasons! {
    /// Why bytes are not the packet they were taken for.
    pub enum ParseReason {
        /// Shorter than the headers, or than the length a header states.
        Truncated = "truncated",
        /// The Ethernet source is a group address (IEEE 802.3 3.2.3).
        EthernetSource = "ethernet_source",
        /// ARP for another kind of hardware than Ethernet.
        ArpHardwareType = "arp_hardware_type",
        /// ARP for another protocol than IPv4.
        ArpProtocolType = "arp_protocol_type",
        /// ARP hardware addresses are not six octets long.
        ArpHardwareLength = "arp_hardware_length",
        /// ARP protocol addresses are not four octets long.
        ArpProtocolLength = "arp_protocol_length",
        /// ARP operation that is neither request nor reply.
        ArpOperation = "arp_operation",
        /// The ARP sender's hardware address is no single machine's.
        ArpSenderMac = "arp_sender_mac",
        /// The ARP sender's protocol address is no host's.
        ArpSenderAddress = "arp_sender_address",
        /// The IP version does not match the Ethernet type.
        IpVersion = "ip_version",
        /// An IPv4 header length below five words.
        Ipv4HeaderLength = "ipv4_header_length",
        /// An IPv4 total length below the header length.
        Ipv4TotalLength = "ipv4_total_length",
        /// The IPv4 header checksum is wrong.
        Ipv4Checksum = "ipv4_checksum",
        /// The IPv6 payload is not ICMPv6, or lies behind extension headers.
        NotIcmpv6 = "not_icmpv6",
        /// The IPv6 source is a multicast address (RFC 4291 2.7).
        Ipv6Source = "ipv6_source",
        /// The hop limit is not 255: a router has forwarded it (RFC 4861 7.1).
        HopLimit = "hop_limit",
        /// The ICMPv6 checksum is wrong (RFC 4861 7.1).
        Icmpv6Checksum = "icmpv6_checksum",
        /// Neither neighbour solicitation nor neighbour advertisement.
        Icmpv6Type = "icmpv6_type",
        /// The ICMPv6 code is not 0 (RFC 4861 7.1).
        Icmpv6Code = "icmpv6_code",
        /// The target is a multicast address (RFC 4861 7.1).
        TargetMulticast = "target_multicast",
        /// An option states the length 0 (RFC 4861 4.6: discard the packet).
        OptionZeroLength = "option_zero_length",
        /// An option reaches past the end of the packet.
        OptionTruncated = "option_truncated",
        /// A link-layer address option that does not hold one machine's Ethernet address.
        OptionLinkLayer = "option_link_layer",
        /// From the unspecified address, but not to a solicited-node address (RFC 4861 7.1.1).
        UnspecifiedDestination = "unspecified_destination",
        /// From the unspecified address, yet with a source link-layer address (RFC 4861 7.1.1).
        UnspecifiedLinkLayer = "unspecified_link_layer",
        /// An advertisement to a multicast address that claims to be solicited (RFC 4861 7.1.2).
        SolicitedMulticast = "solicited_multicast",
    }
}

impl std::error::Error for ParseReason {}

/// The first `N` bytes at `offset`.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], ParseReason> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(ParseReason::Truncated)
}

/// The byte at `offset`.
fn byte(bytes: &[u8], offset: usize) -> Result<u8, ParseReason> {
    bytes.get(offset).copied().ok_or(ParseReason::Truncated)
}

/// The number in network order at `offset`.
fn word(bytes: &[u8], offset: usize) -> Result<u16, ParseReason> {
    array(bytes, offset).map(u16::from_be_bytes)
}
