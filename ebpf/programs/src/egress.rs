//! A pod's reply, on its way out of the interface: its source becomes the VIP and port that the
//! client asked, whatever the stack, conntrack and the CNI made of it before.
//!
//! The kernel's helpers do the rewriting because only they know an unfinished transport checksum
//! (CHECKSUM_PARTIAL) and a segment that is still to be cut (GSO); that of the IPv4 header is
//! always finished.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::parse::{is_transport, of_pieces};
use herald_ebpf_common::{
    DIRECT, FragmentKey, Reason, ReverseKey, ReverseValue, ServiceKey, SourceKey, WHOLE_SOURCE,
    mapped, protocol,
};

use crate::deliver::changed;
use crate::maps::{self, FALLBACK, REPLY_FRAGMENTS, SOURCES};
use crate::packet::{
    ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, Ipv4, Ipv6, Ports, SCTP_CHECKSUM, SCTP_LEN,
    TCP_CHECKSUM, UDP_CHECKSUM, tc_read, words,
};
use crate::sctp;

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

impl Restore {
    /// In the upper half, [`UNTOUCHED`], [`DONE`] or [`FAILED`]; the reason below.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        match self {
            Self::Untouched => UNTOUCHED << 32,
            Self::Done(reason) => DONE << 32 | reason as u64,
            Self::Failed(reason) => FAILED << 32 | reason as u64,
        }
    }
}

pub const UNTOUCHED: u64 = 0;
pub const DONE: u64 = 1;
pub const FAILED: u64 = 2;
/// For [`crate::unusual`] to look at.
pub const UNUSUAL: u64 = 3;

/// Offset of the checksum in an IPv4 header.
pub const IPV4_CHECKSUM: usize = 10;
/// Offset of the source address in an IPv6 header.
pub const IPV6_SOURCE: usize = 8;

/// What a helper says of a packet that ends too early.
const TOO_SHORT: i64 = -14;

/// The headers an Ethernet frame needs at most before the TCP flags end: IPv4 with all
/// options.
const PULL: u32 = (ETH_LEN + 60 + 14) as u32;

/// What may be a reply: a packet of a transport protocol.
pub struct Reply {
    pub key: ReverseKey,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    pub is_v4: bool,
    pub part: Part,
    pub identification: u32,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    /// Without ports: those in the key mean nothing.
    Later,
}

/// What becomes of a usual packet, as [`Restore::number`] has it: of TCP, UDP or SCTP, without tags
/// and extension headers. [`UNUSUAL`] in the upper half for any other.
///
/// A function of its own: its stack and that of [`crate::unusual`] together are more than there is.
#[inline(never)]
pub fn restore(ctx: &TcContext) -> u64 {
    match parse(ctx) {
        Some(reply) => give(ctx, &reply).number(),
        None => UNUSUAL << 32,
    }
}

/// Gives a reply the VIP and port that its client asked.
#[inline(always)]
pub fn give(ctx: &TcContext, reply: &Reply) -> Restore {
    let fragment = FragmentKey {
        vip: words(&reply.key.pod),
        client: words(&reply.key.client),
        identification: reply.identification,
        protocol: of_pieces(reply.key.protocol as u8, reply.is_v4),
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
        let Some(known) = by_port(ctx, reply) else {
            return Restore::Untouched;
        };
        (known, Reason::RestoredByPort)
    };
    if known.vip == reply.key.pod {
        // A flow that is known to be the pod's own, see `by_port`.
        return Restore::Untouched;
    }
    if reply.part == Part::First {
        if is_sctp(reply) && known.port_be != reply.key.pod_port_be {
            // The checksum follows only if the whole packet's length is known.
            return Restore::Failed(Reason::RestoreFailed);
        }
        // Without the entry the other fragments leave under the pod's address, and the packet is
        // lost as it would be with any of them.
        let _ = REPLY_FRAGMENTS.insert(&fragment, &known.vip, 0);
    }
    match rewrite(ctx, reply, &known) {
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
        chunk: 0,
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
        ETH_IPV4_BE => ipv4(ctx, ETH_LEN),
        ETH_IPV6_BE => {
            let ip = tc_read::<Ipv6>(ctx, ETH_LEN)?;
            let (l4, next) = (ETH_LEN + size_of::<Ipv6>(), ip.next_header);
            let (pod, client) = (words(&ip.source), words(&ip.destination));
            if !is_transport(next) {
                return None;
            }
            let (from, to) = ports(ctx, l4, Part::Whole)?;
            let protocol = u32::from(next);
            let key = ReverseKey { pod, client, pod_port_be: from, client_port_be: to, protocol };
            let (part, identification) = (Part::Whole, 0);
            Some(Reply { key, l3: ETH_LEN, l4, is_v4: false, part, identification })
        }
        _ => None,
    }
}

#[inline(always)]
pub fn ipv4(ctx: &TcContext, l3: usize) -> Option<Reply> {
    let ip = tc_read::<Ipv4>(ctx, l3)?;
    if !is_transport(ip.protocol) {
        return None;
    }
    let l4 = l3 + ip.header_length()?;
    let part = part(ip.is_later(), ip.has_more());
    let (pod, client) = (mapped(ip.source), mapped(ip.destination));
    let identification = u32::from(ip.identification_be);
    let protocol = u32::from(ip.protocol);
    let (from, to) = ports(ctx, l4, part)?;
    let key = ReverseKey { pod, client, pod_port_be: from, client_port_be: to, protocol };
    Some(Reply { key, l3, l4, is_v4: true, part, identification })
}

#[inline(always)]
pub fn part(is_later: bool, has_more: bool) -> Part {
    match (is_later, has_more) {
        (true, _) => Part::Later,
        (false, true) => Part::First,
        (false, false) => Part::Whole,
    }
}

#[inline(always)]
pub fn ports(ctx: &TcContext, l4: usize, part: Part) -> Option<(u16, u16)> {
    if part == Part::Later {
        return Some((0, 0));
    }
    tc_read::<Ports>(ctx, l4).map(|ports| (ports.source_be, ports.destination_be))
}

#[inline(always)]
fn is_sctp(reply: &Reply) -> bool {
    reply.key.protocol == u32::from(protocol::SCTP)
}

/// Gives a reply its VIP and port. A helper costs as much as half the rest of this program, so the
/// octets from the address to the port behind it are written at once where they lie together.
#[inline(always)]
fn rewrite(ctx: &TcContext, reply: &Reply, known: &ReverseValue) -> Result<(), i64> {
    let is_udp = reply.key.protocol == u32::from(protocol::UDP);
    let has_ports = reply.part != Part::Later;
    let has_sum = has_ports && !is_sctp(reply);
    let (old, new, client) = (&reply.key.pod, &known.vip, &reply.key.client);
    let (old_port, new_port) = (reply.key.pod_port_be, known.port_be);
    // Without options and extension headers.
    let bare = if reply.is_v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    let is_together = has_ports && reply.l4 == reply.l3 + bare;
    let ip_checksum = match tc_read::<Ipv4>(ctx, reply.l3) {
        Some(ip) => Change::none().word(old[3], new[3]).apply(ip.checksum),
        None => 0,
    };
    if has_sum {
        let offset = if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        let at = (reply.l4 + offset) as u32;
        // A UDP checksum of zero stays zero: none was computed.
        let mangled = if is_udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let change = match reply.is_v4 {
            true => Change::none().word(old[3], new[3]),
            false => changed(old, new),
        };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
        let skb = ctx.as_ptr().cast();
        // SAFETY: helper calls on this program's own context.
        unsafe {
            check(bpf_l4_csum_replace(skb, at, 0, change.sum().into(), pseudo))?;
            if old_port != new_port {
                let (old, new) = (old_port.into(), new_port.into());
                check(bpf_l4_csum_replace(skb, at, old, new, mangled | 2))?;
            }
        }
    }
    if reply.is_v4 {
        // The checksum, source, destination and source port.
        let words = [
            u32::from(ip_checksum) | new[3] << 16,
            new[3] >> 16 | client[3] << 16,
            client[3] >> 16 | u32::from(new_port) << 16,
        ];
        let length = if is_together { 12 } else { 6 };
        store(ctx, reply.l3 + IPV4_CHECKSUM, &words, length)?;
    } else {
        // The source, destination and source port.
        let [a, b, c, d] = *new;
        let [e, f, g, h] = *client;
        let words = [a, b, c, d, e, f, g, h, u32::from(new_port)];
        store(ctx, reply.l3 + IPV6_SOURCE, &words, if is_together { 34 } else { 16 })?;
    }
    if has_ports && !is_together && old_port != new_port {
        store(ctx, reply.l4, &[u32::from(new_port)], 2)?;
    }
    // Last, when the verifier has least to remember: see `sctp::defer`.
    if has_ports && is_sctp(reply) && old_port != new_port {
        rewrite_sctp(ctx, reply, new_port)?;
    }
    Ok(())
}

/// SCTP's checksum, which covers no address, when the source port changes.
#[inline(always)]
fn rewrite_sctp(ctx: &TcContext, reply: &Reply, new_port: u16) -> Result<(), i64> {
    let l3 = reply.l3;
    let before = reply.l4 - l3;
    let all = match reply.is_v4 {
        true => tc_read::<Ipv4>(ctx, l3).map(|ip| u16::from_be(ip.total_length_be) as usize),
        false => tc_read::<Ipv6>(ctx, l3)
            .map(|ip| size_of::<Ipv6>() + u16::from_be(ip.payload_length_be) as usize),
    };
    let Some(all) = all.filter(|all| *all >= before + SCTP_LEN as usize) else {
        return Err(TOO_SHORT);
    };
    let at = reply.l4 + SCTP_CHECKSUM;
    let length = (all - before) as u16;
    let old = ctx.load::<u32>(at).map_err(i64::from)?;
    let new = sctp::checksum(old, reply.key.pod_port_be, new_port, length);
    store(ctx, at, &[new], 4)
}

/// Writes the first octets of some words.
#[inline(always)]
pub fn store<const N: usize>(
    ctx: &TcContext,
    offset: usize,
    words: &[u32; N],
    length: u32,
) -> Result<(), i64> {
    // SAFETY: a helper call on this program's own context; the words outlive it and are as many
    // octets at least.
    check(unsafe {
        bpf_skb_store_bytes(ctx.as_ptr().cast(), offset as u32, words.as_ptr().cast(), length, 0)
    })
}

#[inline(always)]
fn check(result: impl Into<i64>) -> Result<(), i64> {
    match result.into() {
        0 => Ok(()),
        error => Err(error),
    }
}
