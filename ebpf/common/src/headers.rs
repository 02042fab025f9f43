//! The headers in a frame, field by field as they lie there. What is in them is network order.

use crate::Mac;

/// Octets of an Ethernet header (IEEE 802.3): destination, source, type.
pub const ETH_LEN: usize = 14;
/// EtherType of IPv4, as it lies in the packet.
pub const ETH_IPV4_BE: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6, as it lies in the packet.
pub const ETH_IPV6_BE: u16 = 0x86dd_u16.to_be();
/// EtherType of ARP, as it lies in the packet.
pub const ETH_ARP_BE: u16 = 0x0806_u16.to_be();

/// EtherTypes of an IEEE 802.1Q tag and of the outer tag of two (802.1ad).
const TAG_BE: u16 = 0x8100_u16.to_be();
const OUTER_TAG_BE: u16 = 0x88a8_u16.to_be();

/// Octets a VLAN tag adds.
pub const TAG_LEN: usize = 4;

/// The first word of an IPv6 header without traffic class and flow label.
pub const VERSION_6_BE: u32 = 0x6000_0000_u32.to_be();

/// Next headers of IPv6's [`Extension`]s (RFC 8200 4): hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing.
pub const ROUTING: u8 = 43;
/// Destination options.
pub const DESTINATION: u8 = 60;
/// Next header of [`Fragment`].
pub const FRAGMENT: u8 = 44;
/// IPv6 extension headers that are looked through; behind more of them, the stack looks.
pub const EXTENSIONS: usize = 4;

/// Plain words without padding, of which any bits are valid. Only the types of this file are.
pub trait Header: Copy + sealed::Plain {}

mod sealed {
    pub trait Plain {}
}

macro_rules! headers {
    ($($name:ty: $octets:literal),* $(,)?) => {
        $(
            impl sealed::Plain for $name {}
            impl Header for $name {}
            // A header with padding would be longer than the octets it names.
            const _: () = assert!(size_of::<$name>() == $octets);
        )*
    };
}

headers!(Ethernet: 14, Tag: 4, Ipv4: 20, Ipv6: 40, Extension: 2, Fragment: 8, Ports: 4, [u8; 2]: 2);

/// Ethernet (IEEE 802.3).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ethernet {
    /// Who is to take the frame.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
    /// What follows.
    pub ether_type_be: u16,
}

/// A VLAN tag behind its own EtherType: the VLAN, then the EtherType of what follows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tag {
    /// Priority and VLAN.
    pub control_be: u16,
    /// What follows.
    pub ether_type_be: u16,
}

/// Whether a VLAN tag follows this EtherType.
#[inline(always)]
pub fn is_tag(ether_type_be: u16) -> bool {
    ether_type_be == TAG_BE || ether_type_be == OUTER_TAG_BE
}

/// IPv4 header without options (RFC 791 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "named as in the RFC")]
pub struct Ipv4 {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_length_be: u16,
    pub identification_be: u16,
    pub fragment_be: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

impl Ipv4 {
    /// Octets of the header with its options; none if it is no IPv4 header.
    #[inline(always)]
    pub fn header_length(&self) -> Option<usize> {
        let length = ((self.version_ihl & 0x0f) as usize) * 4;
        (self.version_ihl >> 4 == 4 && length >= size_of::<Self>()).then_some(length)
    }

    /// Whether other fragments come before this one.
    #[inline(always)]
    pub fn is_later(&self) -> bool {
        self.fragment_be & OFFSET_BE != 0
    }

    /// Whether other fragments come after this one.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.fragment_be & MORE_BE != 0
    }

    /// Whether it is a fragment at all.
    #[inline(always)]
    pub fn is_piece(&self) -> bool {
        self.fragment_be & (OFFSET_BE | MORE_BE) != 0
    }
}

/// The fragment offset in [`Ipv4::fragment_be`] (RFC 791 3.1).
const OFFSET_BE: u16 = 0x1fff_u16.to_be();
/// The more-fragments flag there.
const MORE_BE: u16 = 0x2000_u16.to_be();

/// IPv6 header (RFC 8200 3).
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "named as in the RFC")]
pub struct Ipv6 {
    pub version_class_flow_be: u32,
    pub payload_length_be: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// An IPv6 extension header (RFC 8200 4): hop-by-hop, routing and destination options alike.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Extension {
    /// What follows it.
    pub next_header: u8,
    /// In units of 8 octets, the first not counted.
    pub length: u8,
}

/// The IPv6 fragment header (RFC 8200 4.5). The identification in halves: it is not aligned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fragment {
    /// What the fragments make up.
    pub next_header: u8,
    /// Nothing yet.
    pub reserved: u8,
    offset_be: u16,
    identification: [u16; 2],
}

impl Fragment {
    /// As it lies in the packet.
    #[inline(always)]
    pub fn identification(&self) -> u32 {
        u32::from(self.identification[0]) | u32::from(self.identification[1]) << 16
    }

    /// Whether other fragments come before this one.
    #[inline(always)]
    pub fn is_later(&self) -> bool {
        self.offset_be & 0xfff8_u16.to_be() != 0
    }

    /// Whether other fragments come after this one.
    #[inline(always)]
    pub fn has_more(&self) -> bool {
        self.offset_be & 1_u16.to_be() != 0
    }
}

/// The first four octets of TCP, UDP and SCTP alike.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "named as in the RFCs")]
pub struct Ports {
    pub source_be: u16,
    pub destination_be: u16,
}
