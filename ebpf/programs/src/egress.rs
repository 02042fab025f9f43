//! A pod's reply, on its way out of the interface: its source becomes the VIP and port that the
//! client asked, whatever the stack, conntrack and the CNI made of it before.
//!
//! The kernel's helpers do the rewriting because only they know an unfinished checksum
//! (CHECKSUM_PARTIAL) and a segment that is still to be cut (GSO).

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use herald_ebpf_common::{Reason, ReverseKey, ReverseValue, mapped, protocol};

use crate::maps::REVERSE;
use crate::packet::{
    ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, Ipv4, Ipv6, Ports, TCP_CHECKSUM, UDP_CHECKSUM,
};

/// What became of an outgoing packet.
#[must_use]
pub enum Restore {
    /// No reply of ours.
    Untouched,
    /// Carries the VIP now.
    Done(Reason),
    /// Half rewritten: must not leave.
    Failed(Reason),
}

/// Offset of the source address in an IPv4 header.
const IPV4_SOURCE: usize = 12;
/// Offset of the checksum in an IPv4 header.
const IPV4_CHECKSUM: usize = 10;
/// Offset of the source address in an IPv6 header.
const IPV6_SOURCE: usize = 8;

/// The headers an Ethernet frame needs at most before the ports end: IPv4 with all options.
const PULL: u32 = (ETH_LEN + 60 + size_of::<Ports>()) as u32;

struct Reply {
    key: ReverseKey,
    l4: usize,
    is_v4: bool,
}

#[inline(always)]
pub fn restore(ctx: &TcContext) -> Restore {
    let Some(reply) = parse(ctx) else {
        return Restore::Untouched;
    };
    let Some(known) = REVERSE.get_ptr(&reply.key) else {
        return Restore::Untouched;
    };
    // SAFETY: the element may be recycled by the LRU while we read it; it is copied at once, and
    // an active flow is the last to be evicted.
    let known = unsafe { *known };
    match rewrite(ctx, &reply, &known) {
        Ok(()) => Restore::Done(Reason::Restored),
        Err(_) => Restore::Failed(Reason::RestoreFailed),
    }
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Option<Reply> {
    if ctx.data() + ETH_LEN + size_of::<Ipv6>() + size_of::<Ports>() > ctx.data_end() {
        // Headers outside the linear part: bring in what there is of them.
        let _ = ctx.pull_data(PULL.min(ctx.len()));
    }
    let ethernet = read::<Ethernet>(ctx, 0)?;
    match ethernet.ether_type_be {
        ETH_IPV4_BE => {
            let ip = read::<Ipv4>(ctx, ETH_LEN)?;
            let is_port_protocol = ip.protocol == protocol::TCP || ip.protocol == protocol::UDP;
            let header_length = ((ip.version_ihl & 0x0f) as usize) * 4;
            // A later fragment has no ports; a first one has.
            if !is_port_protocol || ip.fragment_be & 0x1fff_u16.to_be() != 0 || header_length < 20 {
                return None;
            }
            let l4 = ETH_LEN + header_length;
            let ports = read::<Ports>(ctx, l4)?;
            let key = ReverseKey {
                pod: mapped(ip.source),
                client: mapped(ip.destination),
                pod_port_be: ports.source_be,
                client_port_be: ports.destination_be,
                protocol: u32::from(ip.protocol),
            };
            Some(Reply { key, l4, is_v4: true })
        }
        ETH_IPV6_BE => {
            let ip = read::<Ipv6>(ctx, ETH_LEN)?;
            if ip.next_header != protocol::TCP && ip.next_header != protocol::UDP {
                return None;
            }
            let l4 = ETH_LEN + size_of::<Ipv6>();
            let ports = read::<Ports>(ctx, l4)?;
            let key = ReverseKey {
                pod: ip.source,
                client: ip.destination,
                pod_port_be: ports.source_be,
                client_port_be: ports.destination_be,
                protocol: u32::from(ip.next_header),
            };
            Some(Reply { key, l4, is_v4: false })
        }
        _ => None,
    }
}

#[inline(always)]
fn rewrite(ctx: &TcContext, reply: &Reply, known: &ReverseValue) -> Result<(), i64> {
    let is_udp = reply.key.protocol == u32::from(protocol::UDP);
    let offset = if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    let l4_checksum = (reply.l4 + offset) as u32;
    // A UDP checksum of zero stays zero: none was computed.
    let mangled = if is_udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    let skb = ctx.as_ptr().cast();
    let old = reply.key.pod;
    let new = known.vip;
    // SAFETY: helper calls on this program's own context; the pointers are to stack values that
    // outlive the calls, with their exact lengths.
    unsafe {
        if reply.is_v4 {
            let ip_checksum = (ETH_LEN + IPV4_CHECKSUM) as u32;
            check(bpf_l4_csum_replace(skb, l4_checksum, old[3].into(), new[3].into(), pseudo | 4))?;
            check(bpf_l3_csum_replace(skb, ip_checksum, old[3].into(), new[3].into(), 4))?;
            let source = (ETH_LEN + IPV4_SOURCE) as u32;
            check(bpf_skb_store_bytes(skb, source, (&raw const new[3]).cast(), 4, 0))?;
        } else {
            let change = bpf_csum_diff(
                old.as_ptr().cast_mut().cast(),
                16,
                new.as_ptr().cast_mut().cast(),
                16,
                0,
            );
            if change < 0 {
                return Err(change);
            }
            check(bpf_l4_csum_replace(skb, l4_checksum, 0, change as u64, pseudo))?;
            let source = (ETH_LEN + IPV6_SOURCE) as u32;
            check(bpf_skb_store_bytes(skb, source, new.as_ptr().cast(), 16, 0))?;
        }
        let (old_port, new_port) = (reply.key.pod_port_be.into(), known.port_be.into());
        check(bpf_l4_csum_replace(skb, l4_checksum, old_port, new_port, mangled | 2))?;
        let port = (&raw const known.port_be).cast();
        check(bpf_skb_store_bytes(skb, reply.l4 as u32, port, 2, 0))
    }
}

#[inline(always)]
fn check(result: impl Into<i64>) -> Result<(), i64> {
    match result.into() {
        0 => Ok(()),
        error => Err(error),
    }
}

#[inline(always)]
fn read<T>(ctx: &TcContext, offset: usize) -> Option<&T> {
    let start = ctx.data();
    if start + offset + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the linear data; nothing writes while the caller reads.
    Some(unsafe { &*((start + offset) as *const T) })
}
