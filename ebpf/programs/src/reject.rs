//! The answer for a Service without a ready backend, as kube-proxy gives it: ICMP port
//! unreachable (RFC 792, RFC 4443 3.1), so that a client learns at once and not by a timeout.
//!
//! An answer is never longer than what a flood would pay for it: it quotes eight octets of the
//! transport header and no more. What it cannot quote that simply goes to the stack. Nor are there
//! more answers than the kernel itself would give (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)): the rest is
//! dropped, as the kernel drops it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::fold;
use herald_ebpf_common::{Link, Reason, protocol};

use crate::forward::Request;
use crate::maps;
use crate::neighbour::{is_group, pseudo_header};
use crate::packet::{
    ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, Ipv4, Ipv6, VERSION_6_BE, Verdict, at, drop,
    is_host, mac_number, pass, set_mac_number, transmit, words,
};

/// Octets of the transport header that are quoted.
const QUOTED: usize = 8;
const ICMP_LEN: usize = 8;
const IPV4_LEN: usize = size_of::<Ipv4>();
const IPV6_LEN: usize = size_of::<Ipv6>();
/// An ICMP message with its quote.
const MESSAGE_V4: usize = ICMP_LEN + IPV4_LEN + QUOTED;
const MESSAGE_V6: usize = ICMP_LEN + IPV6_LEN + QUOTED;
/// Type and code: port unreachable.
const UNREACHABLE_V4_BE: u32 = 0x0303_0000_u32.to_be();
const UNREACHABLE_V6_BE: u32 = 0x0104_0000_u32.to_be();
const DONT_FRAGMENT_BE: u16 = 0x4000_u16.to_be();
const HOPS: u8 = 64;

#[inline(always)]
pub fn reject(ctx: &XdpContext, request: &Request, own: &Link) -> Verdict {
    let header = if request.is_v4 { IPV4_LEN } else { IPV6_LEN };
    let is_plain = request.l3 == ETH_LEN && request.l4 == ETH_LEN + header;
    let is_whole = ctx.data() + ETH_LEN + header + QUOTED <= ctx.data_end();
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: within the packet, see `at`.
    let sender = unsafe { (*ethernet).source };
    let client = &request.asked.client;
    let is_answerable = match request.is_v4 {
        true => is_host(client[3]) && client[3] != 0,
        false => {
            client[0] & 0xff00_0000_u32.to_be() != 0xff00_0000_u32.to_be() && *client != [0; 4]
        }
    };
    if !is_plain || !is_whole || !is_answerable || is_group(&sender) {
        return pass(Reason::NoBackend);
    }
    if !maps::may_reject() {
        return drop(Reason::RejectLimited);
    }
    let (asker, own) = (mac_number(&sender), mac_number(&own.mac));
    let done = match request.is_v4 {
        true => v4(ctx, request, asker, own),
        false => v6(ctx, request, asker, own),
    };
    match done {
        Some(()) => transmit(Reason::Rejected),
        None => pass(Reason::NoBackend),
    }
}

#[inline(always)]
fn v4(ctx: &XdpContext, request: &Request, asker: u64, own: u64) -> Option<()> {
    resize(ctx, IPV4_LEN + ICMP_LEN, ETH_LEN + IPV4_LEN + MESSAGE_V4)?;
    frame(ctx, asker, own, ETH_IPV4_BE)?;
    let ip = at::<Ipv4>(ctx, ETH_LEN)?;
    let message = at::<[u32; MESSAGE_V4 / 4]>(ctx, ETH_LEN + IPV4_LEN)?;
    // SAFETY: both lie within the packet, see `at`, and do not overlap; a helper reads as many
    // octets as were checked.
    unsafe {
        (*ip).version_ihl = 0x45;
        (*ip).tos = 0;
        (*ip).total_length_be = ((IPV4_LEN + MESSAGE_V4) as u16).to_be();
        (*ip).identification_be = 0;
        (*ip).fragment_be = DONT_FRAGMENT_BE;
        (*ip).ttl = HOPS;
        (*ip).protocol = protocol::ICMP;
        (*ip).checksum = 0;
        (*ip).source = request.asked.key.vip[3];
        (*ip).destination = request.asked.client[3];
        (*ip).checksum = !fold(sum(ip.cast(), IPV4_LEN));
        (*message)[0] = UNREACHABLE_V4_BE;
        (*message)[1] = 0;
        let checksum = !fold(sum(message.cast(), MESSAGE_V4));
        (*message)[0] = UNREACHABLE_V4_BE | u32::from(checksum) << 16;
    }
    Some(())
}

#[inline(always)]
fn v6(ctx: &XdpContext, request: &Request, asker: u64, own: u64) -> Option<()> {
    resize(ctx, IPV6_LEN + ICMP_LEN, ETH_LEN + IPV6_LEN + MESSAGE_V6)?;
    frame(ctx, asker, own, ETH_IPV6_BE)?;
    let ip = at::<Ipv6>(ctx, ETH_LEN)?;
    let message = at::<[u32; MESSAGE_V6 / 4]>(ctx, ETH_LEN + IPV6_LEN)?;
    // SAFETY: as in `v4`.
    unsafe {
        (*ip).version_class_flow_be = VERSION_6_BE;
        (*ip).payload_length_be = (MESSAGE_V6 as u16).to_be();
        (*ip).next_header = protocol::ICMPV6;
        (*ip).hop_limit = HOPS;
        (*ip).source = words(&request.asked.key.vip);
        (*ip).destination = words(&request.asked.client);
        (*message)[0] = UNREACHABLE_V6_BE;
        (*message)[1] = 0;
        let pseudo = pseudo_header(&*ip, MESSAGE_V6);
        let checksum = !fold(pseudo + sum(message.cast(), MESSAGE_V6));
        (*message)[0] = UNREACHABLE_V6_BE | u32::from(checksum) << 16;
    }
    Some(())
}

/// Makes room for new headers before the packet's own IP header, and cuts its end.
#[inline(always)]
fn resize(ctx: &XdpContext, room: usize, length: usize) -> Option<()> {
    let context = ctx.as_ptr();
    // SAFETY: helpers on this program's own context; every pointer is taken anew after them.
    unsafe {
        let cut = length as i64 - room as i64 - (ctx.data_end() - ctx.data()) as i64;
        if cut != 0 && bpf_xdp_adjust_tail(context.cast(), cut as i32) != 0 {
            return None;
        }
        if bpf_xdp_adjust_head(context.cast(), -(room as i32)) != 0 {
            return None;
        }
    }
    Some(())
}

#[inline(always)]
fn frame(ctx: &XdpContext, to: u64, from: u64, ether_type_be: u16) -> Option<()> {
    let ethernet = at::<Ethernet>(ctx, 0)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ethernet = unsafe { &mut *ethernet };
    set_mac_number(&mut ethernet.destination, to);
    set_mac_number(&mut ethernet.source, from);
    ethernet.ether_type_be = ether_type_be;
    Some(())
}

/// The sum of a part of the packet, a multiple of four octets long.
///
/// # Safety
///
/// `start` points to `length` checked octets of the packet.
#[inline(always)]
unsafe fn sum(start: *mut u32, length: usize) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, start, length as u32, 0) as u64 }
}
