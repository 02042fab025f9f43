//! ICMP and ICMPv6 for a VIP: an error goes to the backend whose packet it quotes, or path MTU
//! discovery would stall the flow; an echo request is answered by the holder.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::{Backend, IS_LOCAL, Reason, ServiceKey, mapped, protocol};

use crate::choose::{self, Asked};
use crate::deliver::{self, changed};
use crate::forward::{addressed, from_peer, send};
use crate::maps;
use crate::neighbour::{self, Voice, is_group};
use crate::packet::{
    ETH_LEN, Ipv4, Ipv6, Ports, TCP_CHECKSUM, UDP_CHECKSUM, Verdict, at, at_variable, is_host,
    pass, read, read_variable, set_mac, transmit, words,
};

/// The first eight octets of ICMP and ICMPv6 messages alike (RFC 792, RFC 4443 2.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

/// RFC 792: destination unreachable, source quench, time exceeded, parameter problem.
const ERRORS_V4: [u8; 4] = [3, 4, 11, 12];
/// RFC 4443 3: destination unreachable, packet too big, time exceeded, parameter problem.
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];
const ECHO_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// The TTL and hop limit of an answer.
const HOPS: u8 = 64;

/// An error's quoted packet: one that a backend sent with the VIP as its source.
struct Quote {
    asked: Asked,
    /// Who reports the error.
    reporter: herald_ebpf_common::Address,
    l3: usize,
    l4: usize,
    inner: usize,
    ports: usize,
    /// Where the message ends, as the outer IP header has it.
    end: usize,
    is_v4: bool,
}

#[inline(always)]
pub fn v4(ctx: &XdpContext, l3: usize, l4: usize) -> Verdict {
    let (Some(ip), Some(icmp)) = (read::<Ipv4>(ctx, l3), read_variable::<Icmp>(ctx, l4)) else {
        return pass(Reason::Truncated);
    };
    if icmp.kind == ECHO_V4 && icmp.code == 0 {
        return echo_v4(ctx, l3, l4);
    }
    if !is_one_of(icmp.kind, &ERRORS_V4) {
        return pass(Reason::NotForVip);
    }
    let inner = l4 + size_of::<Icmp>();
    let Some(quoted) = read_variable::<Ipv4>(ctx, inner) else {
        return pass(Reason::NotForVip);
    };
    let Some(header_length) = quoted.header_length() else {
        return pass(Reason::NotForVip);
    };
    let ports = inner + header_length;
    let Some(port) = read_variable::<Ports>(ctx, ports) else {
        return pass(Reason::NotForVip);
    };
    // Only the VIP itself may be told about the VIP's packets; a later fragment has no ports.
    if quoted.source != ip.destination || quoted.is_later() {
        return pass(Reason::NotForVip);
    }
    let key = ServiceKey {
        vip: mapped(quoted.source),
        port_be: port.source_be,
        protocol: quoted.protocol,
        chunk: 0,
    };
    let client = mapped(quoted.destination);
    let asked = Asked { key, client, client_port_be: port.destination_be };
    let reporter = mapped(ip.source);
    let end = l3 + u16::from_be(ip.total_length_be) as usize;
    error(ctx, &Quote { asked, reporter, l3, l4, inner, ports, end, is_v4: true })
}

#[inline(always)]
pub fn v6(ctx: &XdpContext, l3: usize, l4: usize) -> Verdict {
    let (Some(ip), Some(icmp)) = (read::<Ipv6>(ctx, l3), read_variable::<Icmp>(ctx, l4)) else {
        return pass(Reason::Truncated);
    };
    if icmp.kind == ECHO_V6 && icmp.code == 0 {
        return echo_v6(ctx, l3, l4);
    }
    if !is_one_of(icmp.kind, &ERRORS_V6) {
        return pass(Reason::NotForVip);
    }
    let inner = l4 + size_of::<Icmp>();
    let ports = inner + size_of::<Ipv6>();
    let (Some(quoted), Some(port)) =
        (read_variable::<Ipv6>(ctx, inner), read_variable::<Ports>(ctx, ports))
    else {
        return pass(Reason::NotForVip);
    };
    if quoted.source != ip.destination {
        return pass(Reason::NotForVip);
    }
    let key = ServiceKey {
        vip: words(&quoted.source),
        port_be: port.source_be,
        // With an extension header in between, this is no service's protocol.
        protocol: quoted.next_header,
        chunk: 0,
    };
    let client = words(&quoted.destination);
    let asked = Asked { key, client, client_port_be: port.destination_be };
    let reporter = words(&ip.source);
    let end = l3 + size_of::<Ipv6>() + u16::from_be(ip.payload_length_be) as usize;
    error(ctx, &Quote { asked, reporter, l3, l4, inner, ports, end, is_v4: false })
}

#[inline(always)]
fn is_one_of(kind: u8, kinds: &[u8; 4]) -> bool {
    kind == kinds[0] || kind == kinds[1] || kind == kinds[2] || kind == kinds[3]
}

#[inline(always)]
fn error(ctx: &XdpContext, quote: &Quote) -> Verdict {
    let Some(table) = maps::service(&quote.asked.key) else {
        return pass(Reason::NotForVip);
    };
    let Some((ethernet, own)) = addressed(ctx) else {
        return pass(Reason::OtherMac);
    };
    if table.backends == 0 {
        return pass(Reason::NoBackend);
    }
    let Some(mut chosen) = choose::backend(ctx, table, &quote.asked, None) else {
        return pass(Reason::NoBackend);
    };
    if chosen.backend.flags & IS_LOCAL == 0 {
        if !from_peer(ethernet.source, &quote.reporter) {
            let reason = Reason::ErrorForwarded;
            return send(ctx, quote.l3, quote.is_v4, chosen.backend, own, reason);
        }
        let Some(here) = choose::local(table, &chosen) else {
            return pass(Reason::NoLocalBackend);
        };
        chosen = here;
    }
    match rewrite(ctx, quote, chosen.backend) {
        Some(()) => pass(Reason::ErrorDelivered),
        None => pass(Reason::Truncated),
    }
}

/// To the pod, about the packet as the pod sent it, its transport checksum included where that is
/// quoted: a stack or a filter that verifies it would take the error for a forged one. Not so
/// SCTP's: it tells nothing about a packet that is not quoted whole, so nobody looks at it.
#[inline(always)]
fn rewrite(ctx: &XdpContext, quote: &Quote, backend: &Backend) -> Option<()> {
    let (vip_port_be, port_be) = (quote.asked.key.port_be, backend.port_be);
    let icmp = at_variable::<Icmp>(ctx, quote.l4)?;
    let ports = at_variable::<Ports>(ctx, quote.ports)?;
    let mut change = Change::none();
    let mut quoted;
    // SAFETY: all lie within the packet, see `at`, and do not overlap.
    unsafe {
        if quote.is_v4 {
            let inner = &mut *at_variable::<Ipv4>(ctx, quote.inner)?;
            quoted = Change::none().word(inner.source, backend.address[3]);
            let checksum = quoted.apply(inner.checksum);
            change = change.half(inner.checksum, checksum);
            inner.source = backend.address[3];
            inner.checksum = checksum;
            let _ = deliver::address(ctx, quote.l3, true, &backend.address)?;
        } else {
            let inner = &mut *at_variable::<Ipv6>(ctx, quote.inner)?;
            quoted = changed(&inner.source, &backend.address);
            inner.source = words(&backend.address);
            // The pseudo-header has the outer destination (RFC 4443 2.3).
            let outer = deliver::address(ctx, quote.l3, false, &backend.address)?;
            change = change.and(outer);
        }
        quoted = quoted.half(vip_port_be, port_be);
        (*ports).source_be = port_be;
        change = change.and(quoted);
        if let Some(checksum) = transport_checksum(ctx, quote) {
            let is_udp = quote.asked.key.protocol == protocol::UDP;
            // As in `deliver`: zero means that none was computed.
            if !(is_udp && *checksum == 0) {
                let new = quoted.apply(*checksum);
                let new = if is_udp && new == 0 { 0xffff } else { new };
                change = change.half(*checksum, new);
                *checksum = new;
            }
        }
        (*icmp).checksum = change.apply((*icmp).checksum);
    }
    Some(())
}

/// The quoted packet's transport checksum, if that much of it is quoted.
#[inline(always)]
fn transport_checksum(ctx: &XdpContext, quote: &Quote) -> Option<*mut u16> {
    let offset = match quote.asked.key.protocol {
        protocol::TCP => TCP_CHECKSUM,
        protocol::UDP => UDP_CHECKSUM,
        _ => return None,
    };
    let at = quote.ports + offset;
    if at + size_of::<u16>() > quote.end {
        return None;
    }
    at_variable::<u16>(ctx, at)
}

#[inline(always)]
fn echo_v4(ctx: &XdpContext, l3: usize, l4: usize) -> Verdict {
    let (Some(ip), Some(icmp)) = (at::<Ipv4>(ctx, l3), at_variable::<Icmp>(ctx, l4)) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: both lie within the packet, see `at`, and do not overlap.
    let (ip, icmp) = unsafe { (&mut *ip, &mut *icmp) };
    let vip = ip.destination;
    // In another VLAN, the VIP is another interface's to speak for.
    if l3 != ETH_LEN || !is_host(ip.source) || ip.source == 0 || !speaks(ctx, mapped(vip)) {
        return pass(Reason::NotForVip);
    }
    let Some(()) = turn_back(ctx) else {
        return pass(Reason::OtherMac);
    };
    ip.destination = ip.source;
    ip.source = vip;
    let word = |ttl: u8| u16::from_ne_bytes([ttl, protocol::ICMP]);
    let aged = Change::none().half(word(ip.ttl), word(HOPS));
    ip.ttl = HOPS;
    ip.checksum = aged.apply(ip.checksum);
    become_reply(icmp, ECHO_REPLY_V4);
    transmit(Reason::EchoAnswered)
}

#[inline(always)]
fn echo_v6(ctx: &XdpContext, l3: usize, l4: usize) -> Verdict {
    let (Some(ip), Some(icmp)) = (at::<Ipv6>(ctx, l3), at_variable::<Icmp>(ctx, l4)) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: both lie within the packet, see `at`, and do not overlap.
    let (ip, icmp) = unsafe { (&mut *ip, &mut *icmp) };
    let vip = words(&ip.destination);
    let asker = words(&ip.source);
    let is_group = asker[0] & 0xff00_0000_u32.to_be() == 0xff00_0000_u32.to_be();
    // Extension headers would be sent back unread.
    let is_plain = l3 == ETH_LEN && l4 == l3 + size_of::<Ipv6>();
    if !is_plain || is_group || asker == [0; 4] || !speaks(ctx, vip) {
        return pass(Reason::NotForVip);
    }
    let Some(()) = turn_back(ctx) else {
        return pass(Reason::OtherMac);
    };
    ip.destination = asker;
    ip.source = vip;
    ip.hop_limit = HOPS;
    become_reply(icmp, ECHO_REPLY_V6);
    transmit(Reason::EchoAnswered)
}

#[inline(always)]
fn speaks(ctx: &XdpContext, address: herald_ebpf_common::Address) -> bool {
    matches!(neighbour::voice(address, ctx.ingress_ifindex() as u32), Voice::Speaks)
}

/// Back to who sent the frame, if it was sent to us alone.
#[inline(always)]
fn turn_back(ctx: &XdpContext) -> Option<()> {
    let (ethernet, own) = addressed(ctx)?;
    if is_group(&ethernet.source) {
        return None;
    }
    let asker = ethernet.source;
    set_mac(&mut ethernet.destination, &asker);
    set_mac(&mut ethernet.source, &own.mac);
    Some(())
}

#[inline(always)]
fn become_reply(icmp: &mut Icmp, kind: u8) {
    let word = |kind: u8| u16::from_ne_bytes([kind, 0]);
    let change = Change::none().half(word(icmp.kind), word(kind));
    icmp.kind = kind;
    icmp.checksum = change.apply(icmp.checksum);
}
