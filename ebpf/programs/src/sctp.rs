//! SCTP's checksum when one of the ports changes.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::crc32c;

use crate::maps;
use crate::packet::{SCTP_CHECKSUM, at_variable};

/// The checksum after a port that was `old` becomes `new`; `reach` is the number of octets from
/// that port, itself included, to the packet's end.
///
/// Zero stays zero: such a checksum is still to be computed. The kernel leaves that to the
/// interface if it offers it (NETIF_F_SCTP_CRC), as each veth does, and to
/// `skb_crc32c_csum_help` at the first one that does not, which sums up all there is, the field
/// included. A finished checksum happens to be zero once in 2^32 packets and is not told from that:
/// it is wrong afterwards, and the receiver drops the packet.
#[inline(always)]
pub fn checksum(checksum: u32, old: u16, new: u16, reach: u16) -> u32 {
    match checksum {
        0 => 0,
        finished => crc32c::after(finished, old, new, reach),
    }
}

/// Leaves the checksum of a packet with a new destination port to [`finish`]; false if that is not
/// possible. The packet has so many octets behind its IP headers, which end at `l4`, and its SCTP
/// header is whole.
///
/// The verifier walks through [`crc32c::after`] in every state in which it is called, and a million
/// steps are its limit. So that is called where all paths have come together, and what it needs
/// comes out of a map, of whose values the verifier knows no more than their size: all paths are
/// one.
#[inline(always)]
pub fn defer(l4: usize, old: u16, new: u16, length: u16) -> bool {
    let number =
        (l4 as u64) << 48 | u64::from(old) << 32 | u64::from(new) << 16 | u64::from(length);
    maps::set_unfinished(number)
}

/// Writes the checksum; returns a number for the reason of [`crate::ingress::ingress`].
#[inline(never)]
pub fn finish(ctx: &XdpContext) -> u64 {
    let number = maps::unfinished();
    let (old, new, length) = ((number >> 32) as u16, (number >> 16) as u16, number as u16);
    let l4 = (number >> 48) as usize & MOST;
    let Some(field) = at_variable::<u32>(ctx, l4 + SCTP_CHECKSUM) else {
        return 0;
    };
    // SAFETY: within the packet, see `at`; no other reference lives. The destination port has one
    // port before it.
    unsafe { *field = checksum(*field, old, new, length.wrapping_sub(2)) };
    1
}

/// No IP headers end behind it: [`crate::ingress`] looks through four extension headers. The
/// verifier wants a bound.
const MOST: usize = 0x3fff;
