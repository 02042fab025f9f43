//! Destination NAT to a pod of this node, in place; checksums follow by what changed.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::{
    Address, Backend, IS_LOCAL, Reason, ReverseKey, ReverseValue, V4_MAPPED, mapped, protocol,
};

use crate::forward::Request;
use crate::maps;
use crate::packet::{
    Ipv4, Ipv6, Ports, SCTP_LEN, TCP_CHECKSUM, UDP_CHECKSUM, Verdict, at, at_variable, pass,
    read_variable, words,
};
use crate::sctp;

/// Gives a request to a pod; the reply's way back is remembered first.
#[inline(always)]
pub fn deliver(ctx: &XdpContext, request: &Request, backend: &Backend, reason: Reason) -> Verdict {
    let asked = &request.asked;
    let reverse = ReverseKey {
        pod: words(&backend.address),
        client: words(&asked.client),
        pod_port_be: backend.port_be,
        client_port_be: asked.client_port_be,
        protocol: u32::from(asked.key.protocol),
    };
    let value =
        ReverseValue { vip: words(&asked.key.vip), port_be: asked.key.port_be, reserved: 0 };
    let is_current = maps::reverse(&reverse).is_some_and(|known| known == value);
    if !is_current && !maps::set_reverse(&reverse, &value) {
        // The reply could not be given the VIP: the client would see a stranger.
        return pass(Reason::ReverseFull);
    }
    match rewrite(ctx, request, backend) {
        Some(is_unfinished) => Verdict { is_unfinished, ..pass(reason) },
        None => pass(Reason::Truncated),
    }
}

/// Whether a request's checksum can only follow if the packet's length is known.
#[inline(always)]
pub fn needs_length(request: &Request, backend: &Backend) -> bool {
    let asked = &request.asked.key;
    asked.protocol == protocol::SCTP
        && backend.flags & IS_LOCAL != 0
        && backend.port_be != asked.port_be
}

/// Whether the packet is still to be finished.
#[inline(always)]
fn rewrite(ctx: &XdpContext, request: &Request, backend: &Backend) -> Option<bool> {
    let ports = at::<Ports>(ctx, request.l4)?;
    let offset = match request.asked.key.protocol {
        protocol::TCP => TCP_CHECKSUM,
        protocol::UDP => UDP_CHECKSUM,
        _ => return rewrite_sctp(ctx, request, backend),
    };
    let checksum = at::<u16>(ctx, request.l4 + offset)?;
    let addresses = address(ctx, request.l3, request.is_v4, &backend.address)?;
    // SAFETY: both lie within the packet, see `at`; no other reference lives.
    unsafe {
        let change = addresses.half((*ports).destination_be, backend.port_be);
        (*ports).destination_be = backend.port_be;
        let is_udp = request.asked.key.protocol == protocol::UDP;
        // A UDP checksum of zero means none was computed (RFC 768); a computed zero is sent as
        // all ones.
        if !(is_udp && *checksum == 0) {
            let new = change.apply(*checksum);
            *checksum = if is_udp && new == 0 { 0xffff } else { new };
        }
    }
    Some(false)
}

/// As [`rewrite`]; SCTP's checksum covers no address.
#[inline(always)]
fn rewrite_sctp(ctx: &XdpContext, request: &Request, backend: &Backend) -> Option<bool> {
    let (old, new) = (request.asked.key.port_be, backend.port_be);
    let is_unfinished = old != new;
    if is_unfinished {
        let length = length(ctx, request)?;
        let header = at_variable::<[u16; SCTP_LEN as usize / 2]>(ctx, request.l4)?;
        if length < SCTP_LEN || !sctp::defer(request.l4, old, new, length) {
            return None;
        }
        // SAFETY: within the packet, see `at`; no other reference lives.
        unsafe { (*header)[1] = new };
    }
    let _ = address(ctx, request.l3, request.is_v4, &backend.address)?;
    Some(is_unfinished)
}

/// Octets behind a packet's IP headers, as those say, which leave some.
#[inline(always)]
fn length(ctx: &XdpContext, request: &Request) -> Option<u16> {
    let before = request.l4 - request.l3;
    let all = match request.is_v4 {
        true => u16::from_be(read_variable::<Ipv4>(ctx, request.l3)?.total_length_be) as usize,
        false => {
            let payload = u16::from_be(read_variable::<Ipv6>(ctx, request.l3)?.payload_length_be);
            size_of::<Ipv6>() + payload as usize
        }
    };
    Some((all - before) as u16)
}

/// Writes the destination address of the IP header; what the transport checksum must follow.
#[inline(always)]
pub fn address(ctx: &XdpContext, l3: usize, is_v4: bool, to: &Address) -> Option<Change> {
    if is_v4 {
        let ip = at_variable::<Ipv4>(ctx, l3)?;
        // SAFETY: within the packet, see `at`; no other reference lives.
        let ip = unsafe { &mut *ip };
        let change = Change::none().word(ip.destination, to[3]);
        ip.destination = to[3];
        ip.checksum = change.apply(ip.checksum);
        return Some(change);
    }
    let ip = at::<Ipv6>(ctx, l3)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ip = unsafe { &mut *ip };
    let change = changed(&ip.destination, to);
    ip.destination = words(to);
    Some(change)
}

/// The change from one address to another.
#[inline(always)]
pub fn changed(from: &Address, to: &Address) -> Change {
    Change::none()
        .word(from[0], to[0])
        .word(from[1], to[1])
        .word(from[2], to[2])
        .word(from[3], to[3])
}

const _: () = {
    // `address` writes the last word of a mapped address into an IPv4 header.
    let loopback = mapped(0x7f00_0001_u32.to_be());
    assert!(loopback[2] == V4_MAPPED && loopback[3] == 0x7f00_0001_u32.to_be());
};
