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
use herald_ebpf_common::{
    DIRECT, FragmentKey, Reason, ReverseKey, ReverseValue, ServiceKey, SourceKey, WHOLE_SOURCE,
    mapped, protocol,
};

use crate::maps::{self, FALLBACK, REPLY_FRAGMENTS, SOURCES};
use crate::packet::{
    ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, FRAGMENT, Fragment, Ipv4, Ipv6, Ports,
    TCP_CHECKSUM, UDP_CHECKSUM, tc_read, words,
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

/// The headers an Ethernet frame needs at most before the TCP flags end: IPv4 with all
/// options.
const PULL: u32 = (ETH_LEN + 60 + 14) as u32;

struct Reply {
    key: ReverseKey,
    l4: usize,
    is_v4: bool,
    part: Part,
    identification: u32,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    /// Without ports: those in the key mean nothing.
    Later,
}

#[inline(always)]
pub fn restore(ctx: &TcContext) -> Restore {
    let Some(reply) = parse(ctx) else {
        return Restore::Untouched;
    };
    let fragment = FragmentKey {
        vip: words(&reply.key.pod),
        client: words(&reply.key.client),
        identification: reply.identification,
        protocol: reply.key.protocol,
    };
    let (known, reason) = if reply.part == Part::Later {
        let Some(vip) = REPLY_FRAGMENTS.get_ptr(&fragment) else {
            return Restore::Untouched;
        };
        // SAFETY: the element may be recycled by the LRU while we read it; a packet's fragments
        // leave within microseconds of each other.
        let vip = unsafe { words(&*vip) };
        (ReverseValue { vip, port_be: 0, reserved: 0 }, Reason::Restored)
    } else if let Some(known) = maps::reverse(&reply.key) {
        (known, Reason::Restored)
    } else {
        let Some(known) = by_port(ctx, &reply) else {
            return Restore::Untouched;
        };
        (known, Reason::RestoredByPort)
    };
    if known.vip == reply.key.pod {
        // A flow that is known to be the pod's own, see `by_port`.
        return Restore::Untouched;
    }
    if reply.part == Part::First {
        // Without the entry the other fragments leave under the pod's address, and the packet is
        // lost as it would be with any of them.
        let _ = REPLY_FRAGMENTS.insert(&fragment, &known.vip, 0);
    }
    match rewrite(ctx, &reply, &known) {
        Ok(()) => Restore::Done(reason),
        Err(_) => Restore::Failed(Reason::RestoreFailed),
    }
}

/// What only one VIP's port can have asked for, when the flow's entry was evicted. For TCP alone:
/// every other reply follows a request, which has just written the entry again.
///
/// A client may also speak to the pod under its own address. Some networks are known to, and
/// their flows are never touched. Of the others, a flow that opens without an entry is the pod's
/// own and is remembered as such: a request to the VIP would have left one a moment ago.
#[inline(always)]
fn by_port(ctx: &TcContext, reply: &Reply) -> Option<ReverseValue> {
    const SYN: u8 = 0x02;
    // The data offset and the flags.
    const DECISIVE: usize = 12;
    if reply.key.protocol != u32::from(protocol::TCP) {
        return None;
    }
    let key = ServiceKey {
        vip: words(&reply.key.pod),
        port_be: reply.key.pod_port_be,
        protocol: protocol::TCP,
        reserved: 0,
    };
    let known = maps::lookup(&FALLBACK, &key)?;
    let client =
        SourceKey { prefix_bits: WHOLE_SOURCE, list: DIRECT, address: words(&reply.key.client) };
    if maps::contains(&SOURCES, &client) {
        return None;
    }
    let [_, flags] = tc_read::<[u8; 2]>(ctx, reply.l4 + DECISIVE)?;
    if flags & SYN != 0 {
        let port_be = reply.key.pod_port_be;
        let own = ReverseValue { vip: words(&reply.key.pod), port_be, reserved: 0 };
        let _ = maps::set_reverse(&reply.key, &own);
        return None;
    }
    Some(ReverseValue { vip: words(&known.vip), port_be: known.port_be, reserved: 0 })
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Option<Reply> {
    if ctx.data() + ETH_LEN + size_of::<Ipv6>() + size_of::<Ports>() > ctx.data_end() {
        // Headers outside the linear part: bring in what there is of them.
        let _ = ctx.pull_data(PULL.min(ctx.len()));
    }
    let ethernet = tc_read::<Ethernet>(ctx, 0)?;
    match ethernet.ether_type_be {
        ETH_IPV4_BE => {
            let ip = tc_read::<Ipv4>(ctx, ETH_LEN)?;
            let header_length = ((ip.version_ihl & 0x0f) as usize) * 4;
            if !is_transport(ip.protocol) || header_length < 20 {
                return None;
            }
            let l4 = ETH_LEN + header_length;
            let is_later = ip.fragment_be & 0x1fff_u16.to_be() != 0;
            let has_more = ip.fragment_be & 0x2000_u16.to_be() != 0;
            let part = part(is_later, has_more);
            let (pod, client) = (mapped(ip.source), mapped(ip.destination));
            let identification = u32::from(ip.identification_be);
            let protocol = u32::from(ip.protocol);
            let (from, to) = ports(ctx, l4, part)?;
            let key = ReverseKey { pod, client, pod_port_be: from, client_port_be: to, protocol };
            Some(Reply { key, l4, is_v4: true, part, identification })
        }
        ETH_IPV6_BE => {
            let ip = tc_read::<Ipv6>(ctx, ETH_LEN)?;
            let mut l4 = ETH_LEN + size_of::<Ipv6>();
            let mut next = ip.next_header;
            let mut part = Part::Whole;
            let mut identification = 0;
            let (pod, client) = (words(&ip.source), words(&ip.destination));
            if next == FRAGMENT {
                let fragment = tc_read::<Fragment>(ctx, l4)?;
                next = fragment.next_header;
                identification = fragment.identification();
                part = self::part(fragment.is_later(), fragment.has_more());
                l4 += size_of::<Fragment>();
            }
            if !is_transport(next) {
                return None;
            }
            let (from, to) = ports(ctx, l4, part)?;
            let protocol = u32::from(next);
            let key = ReverseKey { pod, client, pod_port_be: from, client_port_be: to, protocol };
            Some(Reply { key, l4, is_v4: false, part, identification })
        }
        _ => None,
    }
}

#[inline(always)]
fn part(is_later: bool, has_more: bool) -> Part {
    match (is_later, has_more) {
        (true, _) => Part::Later,
        (false, true) => Part::First,
        (false, false) => Part::Whole,
    }
}

#[inline(always)]
fn ports(ctx: &TcContext, l4: usize, part: Part) -> Option<(u16, u16)> {
    if part == Part::Later {
        return Some((0, 0));
    }
    tc_read::<Ports>(ctx, l4).map(|ports| (ports.source_be, ports.destination_be))
}

#[inline(always)]
fn is_transport(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP || number == protocol::SCTP
}

#[inline(always)]
fn rewrite(ctx: &TcContext, reply: &Reply, known: &ReverseValue) -> Result<(), i64> {
    let is_udp = reply.key.protocol == u32::from(protocol::UDP);
    // An SCTP checksum covers no address, and its port is the Service's.
    // A later fragment has none.
    let has_sum = reply.key.protocol != u32::from(protocol::SCTP) && reply.part != Part::Later;
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
            if has_sum {
                let (old, new) = (old[3].into(), new[3].into());
                check(bpf_l4_csum_replace(skb, l4_checksum, old, new, pseudo | 4))?;
            }
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
            if has_sum {
                check(bpf_l4_csum_replace(skb, l4_checksum, 0, change as u64, pseudo))?;
            }
            let source = (ETH_LEN + IPV6_SOURCE) as u32;
            check(bpf_skb_store_bytes(skb, source, new.as_ptr().cast(), 16, 0))?;
        }
        if !has_sum {
            return Ok(());
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
