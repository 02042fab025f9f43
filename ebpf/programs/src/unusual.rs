//! What leaves in an unusual form: replies behind VLAN tags that are part of the frame, or with
//! IPv6 extension headers, and ICMP errors. Everything else is left alone.
//!
//! In functions of their own, so that the usual reply neither runs nor carries any of it.

use aya_ebpf::programs::TcContext;
use herald_ebpf_common::parse::is_transport;
use herald_ebpf_common::{ReverseKey, protocol};

use crate::egress::{Part, Reply, Restore, UNTOUCHED, give, ipv4, part, ports};
use crate::packet::{
    DESTINATION, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, EXTENSIONS, Ethernet, Extension, FRAGMENT,
    Fragment, HOP_BY_HOP, Ipv4, Ipv6, ROUTING, TAG_LEN, Tag, is_tag, tc_read, words,
};
use crate::quote;

/// Octets that are brought into the linear part: an error's quote with all its headers, and more
/// extension headers than anybody sends.
const PULL: u32 = 256;

/// What becomes of a packet that [`crate::egress::restore`] does not look at, as
/// [`Restore::number`] has it.
#[inline(always)]
pub fn unusual(ctx: &TcContext) -> u64 {
    const ONE: usize = ETH_LEN + TAG_LEN;
    const TWO: usize = ETH_LEN + 2 * TAG_LEN;
    let Some(tags) = tags(ctx) else { return UNTOUCHED };
    match tags {
        0 => behind::<ETH_LEN>(ctx),
        1 => behind::<ONE>(ctx),
        _ => behind::<TWO>(ctx),
    }
}

/// How many tags there are, of two that are looked for.
#[inline(always)]
fn tags(ctx: &TcContext) -> Option<u32> {
    if !is_tag(tc_read::<Ethernet>(ctx, 0)?.ether_type_be) {
        return Some(0);
    }
    match is_tag(tc_read::<Tag>(ctx, ETH_LEN)?.ether_type_be) {
        true => Some(2),
        false => Some(1),
    }
}

/// As [`unusual`], with the IP header there. A function for each offset: the verifier wants it
/// known.
#[inline(never)]
fn behind<const L3: usize>(ctx: &TcContext) -> u64 {
    judge::<L3>(ctx).unwrap_or(Restore::Untouched).number()
}

#[inline(always)]
fn judge<const L3: usize>(ctx: &TcContext) -> Option<Restore> {
    let ether_type_be = *tc_read::<u16>(ctx, L3 - size_of::<u16>())?;
    if ether_type_be != ETH_IPV4_BE && ether_type_be != ETH_IPV6_BE {
        return None;
    }
    let wanted = PULL.min(ctx.len());
    if ctx.data() + wanted as usize > ctx.data_end() {
        let _ = ctx.pull_data(wanted);
    }
    match ether_type_be == ETH_IPV4_BE {
        true => v4::<L3>(ctx),
        false => v6::<L3>(ctx),
    }
}

#[inline(always)]
fn v4<const L3: usize>(ctx: &TcContext) -> Option<Restore> {
    match tc_read::<Ipv4>(ctx, L3)?.protocol {
        protocol::ICMP => quote::v4(ctx, L3),
        _ if L3 != ETH_LEN => ipv4(ctx, L3).map(|reply| give(ctx, &reply)),
        _ => None,
    }
}

#[inline(always)]
fn v6<const L3: usize>(ctx: &TcContext) -> Option<Restore> {
    let ip = tc_read::<Ipv6>(ctx, L3)?;
    let (pod, client) = (words(&ip.source), words(&ip.destination));
    let (mut l4, mut next) = (L3 + size_of::<Ipv6>(), ip.next_header);
    let (mut piece, mut identification) = (Part::Whole, 0);
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let extension = read::<Extension>(ctx, l4)?;
                l4 += (extension.length as usize + 1) * 8;
                next = extension.next_header;
            }
            FRAGMENT => {
                let fragment = read::<Fragment>(ctx, l4)?;
                next = fragment.next_header;
                identification = fragment.identification();
                piece = part(fragment.is_later(), fragment.has_more());
                l4 += size_of::<Fragment>();
                if piece == Part::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    if next == protocol::ICMPV6 && piece == Part::Whole {
        return quote::v6(ctx, L3, l4);
    }
    // What a later fragment names is what its packet's first one begins with: the protocol, or
    // further extension headers (RFC 8200 4.5).
    if piece != Part::Later && !is_transport(next) {
        return None;
    }
    let l4 = core::hint::black_box(l4);
    let (from, to) = ports(ctx, l4, piece)?;
    let protocol = u32::from(next);
    let key = ReverseKey { pod, client, pod_port_be: from, client_port_be: to, protocol };
    Some(give(ctx, &Reply { key, l3: L3, l4, is_v4: false, part: piece, identification }))
}

/// As [`tc_read`], for offsets that are sums, for the reason of `packet::at_variable`.
#[inline(always)]
pub fn read<T>(ctx: &TcContext, offset: usize) -> Option<&T> {
    tc_read::<T>(ctx, core::hint::black_box(offset))
}
