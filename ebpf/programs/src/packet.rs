//! Bounds-checked access to the bytes of a packet, the offsets of what is in its headers, and the
//! verdict a program ends with. The headers themselves are in `herald_ebpf_common::headers`.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::{TcContext, XdpContext};
pub use herald_ebpf_common::headers::{
    DESTINATION, ETH_ARP_BE, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, EXTENSIONS, Ethernet, Extension,
    FRAGMENT, Fragment, HOP_BY_HOP, Header, Ipv4, Ipv6, Ports, ROUTING, TAG_LEN, Tag, VERSION_6_BE,
    is_tag,
};
pub use herald_ebpf_common::mac_number;
use herald_ebpf_common::parse::Octets;
pub use herald_ebpf_common::parse::words;
use herald_ebpf_common::{Mac, Reason};

/// The MAC of everybody on the segment.
pub const BROADCAST: Mac = [0xffff; 3];

/// Offset of the checksum in a TCP header (RFC 9293 3.1).
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header (RFC 9260 3.1).
pub const SCTP_CHECKSUM: usize = 8;
/// Octets of an SCTP header.
pub const SCTP_LEN: u16 = 12;

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

/// A packet as the parser reads it: its headers in place.
pub struct InPlace<'a>(pub &'a XdpContext);

impl Octets for InPlace<'_> {
    type Seen<'a, T: Header + 'a>
        = &'a T
    where
        Self: 'a;

    #[inline(always)]
    fn read<T: Header>(&self, offset: usize) -> Option<&T> {
        read::<T>(self.0, offset)
    }
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
