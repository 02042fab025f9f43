//! Bounds-checked access to the bytes of a packet, the offsets of the headers in it, and the
//! verdict a program ends with.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::{TcContext, XdpContext};
pub use herald_ebpf_common::mac_number;
use herald_ebpf_common::{Address, Mac, Reason};

/// Ethernet header (IEEE 802.3): destination, source, type.
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

/// A VLAN tag behind its own EtherType: the VLAN, then the EtherType of what follows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tag {
    pub control_be: u16,
    pub ether_type_be: u16,
}

/// Whether a VLAN tag follows this EtherType.
#[inline(always)]
pub fn is_tag(ether_type_be: u16) -> bool {
    ether_type_be == TAG_BE || ether_type_be == OUTER_TAG_BE
}

/// The MAC of everybody on the segment.
pub const BROADCAST: Mac = [0xffff; 3];

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ether_type_be: u16,
}

/// IPv4 header without options (RFC 791 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
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

/// IPv6 header (RFC 8200 3).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version_class_flow_be: u32,
    pub payload_length_be: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// The first word of an IPv6 header without traffic class and flow label.
pub const VERSION_6_BE: u32 = 0x6000_0000_u32.to_be();

/// Next header of [`Fragment`].
pub const FRAGMENT: u8 = 44;

/// The IPv6 fragment header (RFC 8200 4.5). The identification in halves: it is not aligned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fragment {
    pub next_header: u8,
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

/// The first four bytes of TCP and UDP alike.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports {
    pub source_be: u16,
    pub destination_be: u16,
}

/// Offset of the checksum in a TCP header (RFC 9293 3.1).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header (RFC 9260 3.1).
pub const SCTP_CHECKSUM: usize = 8;
/// Octets of an SCTP header.
pub const SCTP_LEN: u16 = 12;

/// A copy of an address by its words, for the reason of [`set_mac`].
#[inline(always)]
pub fn words(address: &Address) -> Address {
    [address[0], address[1], address[2], address[3]]
}

/// Copies a MAC by its words: as a whole, LLVM calls memmove, which BPF has not.
#[inline(always)]
pub fn set_mac(to: &mut Mac, from: &Mac) {
    let (first, second, third) = (from[0], from[1], from[2]);
    to[0] = first;
    to[1] = second;
    to[2] = third;
}

/// Writes the MAC that [`mac_number`] read.
#[inline(always)]
pub fn set_mac_number(to: &mut Mac, number: u64) {
    to[0] = number as u16;
    to[1] = (number >> 16) as u16;
    to[2] = (number >> 32) as u16;
}

/// What becomes of a packet, and why.
#[must_use]
#[derive(Clone, Copy)]
pub struct Verdict {
    pub action: u32,
    pub reason: Reason,
    /// Whether `sctp::finish` has to finish the packet.
    pub is_unfinished: bool,
}

impl Verdict {
    /// The action above, the reason below.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        (self.action as u64) << 32 | self.reason as u64
    }
}

#[inline(always)]
pub const fn pass(reason: Reason) -> Verdict {
    Verdict { action: xdp_action::XDP_PASS, reason, is_unfinished: false }
}

#[inline(always)]
pub const fn drop(reason: Reason) -> Verdict {
    Verdict { action: xdp_action::XDP_DROP, reason, is_unfinished: false }
}

/// Out of the interface the packet came in by.
#[inline(always)]
pub const fn transmit(reason: Reason) -> Verdict {
    Verdict { action: xdp_action::XDP_TX, reason, is_unfinished: false }
}

/// A `T` at `offset` of the packet, if the packet is that long.
///
/// The pointer is aligned as the headers are: two bytes after a word boundary for everything
/// behind Ethernet. BPF loads it as whole words all the same, which this target's kernels allow
/// (`bpf_verifier.c`, packet pointers with efficient unaligned access).
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some((start + offset) as *mut T)
}

/// As [`at`], for offsets that are sums of the same variable: the compiler concludes from the
/// check of one that another is needless, which the verifier does not. So it may not see the sum.
#[inline(always)]
pub fn at_variable<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    at::<T>(ctx, core::hint::black_box(offset))
}

/// As [`at_variable`], for reading.
#[inline(always)]
pub fn read_variable<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    // SAFETY: within the packet; nothing else holds a reference while the caller reads.
    at_variable::<T>(ctx, offset).map(|value| unsafe { &*value })
}

/// As [`at`], for reading.
#[inline(always)]
pub fn read<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    // SAFETY: within the packet; nothing else holds a reference while the caller reads.
    at::<T>(ctx, offset).map(|value| unsafe { &*value })
}

/// As [`read`], of an outgoing packet's linear part.
#[inline(always)]
pub fn tc_read<T>(ctx: &TcContext, offset: usize) -> Option<&T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the linear data; nothing writes while the caller reads.
    Some(unsafe { &*((start + offset) as *const T) })
}

/// Whether an IPv4 address (as it lies in the packet) can be a host's, or is a probe's 0.0.0.0:
/// no multicast, broadcast or loopback address.
#[inline(always)]
pub fn is_host(ip: u32) -> bool {
    let first = ip.to_ne_bytes()[0];
    first != 127 && first & 0xf0 != 224 && ip != u32::MAX
}
