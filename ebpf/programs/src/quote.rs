//! ICMP and ICMPv6 errors about requests that were given to a pod here, on their way to the client:
//! a hop between here and the pod asks for shorter packets, or the pod itself has nobody at the
//! port. They quote the request as the pod got it, of which the client knows nothing; it gets to
//! read its own. Only errors to the very client whose request they quote, of flows that are
//! remembered.
//!
//! The same on the way in, where errors quote replies, is done by [`crate::icmp`].

use aya_ebpf::programs::TcContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::{Address, Reason, ReverseKey, mapped, protocol};

use crate::deliver::changed;
use crate::egress::{IPV4_CHECKSUM, IPV6_SOURCE, Restore, store};
use crate::maps;
use crate::packet::{Ipv4, Ipv6, Ports, TCP_CHECKSUM, UDP_CHECKSUM, words};
use crate::unusual::read;

/// Octets before an error's quote (RFC 792, RFC 4443 3), and where its checksum is in them.
const ICMP_LEN: usize = 8;
const ICMP_CHECKSUM: usize = 2;
/// Offsets of the destination in an IPv4 header and an IPv6 header, and of the source in the first.
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;
/// Offset of the destination port.
const PORT: usize = 2;

/// An error, and the flow of the packet it quotes.
struct Quote {
    key: ReverseKey,
    /// Who reports it.
    reporter: Address,
    l3: usize,
    l4: usize,
    inner: usize,
    ports: usize,
    /// Where the message ends, as the outer IP header has it.
    end: usize,
    is_v4: bool,
}

#[inline(always)]
pub fn v4(ctx: &TcContext, l3: usize) -> Option<Restore> {
    let ip = read::<Ipv4>(ctx, l3)?;
    let l4 = l3 + ip.header_length()?;
    let end = l3 + u16::from_be(ip.total_length_be) as usize;
    let (reporter, client) = (mapped(ip.source), ip.destination);
    // Destination unreachable, time exceeded, parameter problem (RFC 792).
    let [kind, _] = *read::<[u8; 2]>(ctx, l4)?;
    if ip.is_piece() || !(kind == 3 || kind == 11 || kind == 12) {
        return None;
    }
    let inner = l4 + ICMP_LEN;
    let quoted = read::<Ipv4>(ctx, inner)?;
    let ports = inner + quoted.header_length()?;
    // A later fragment has no ports.
    if quoted.source != client || quoted.is_later() {
        return None;
    }
    let (pod, protocol) = (mapped(quoted.destination), u32::from(quoted.protocol));
    let key = flow(ctx, ports, pod, mapped(client), protocol)?;
    tell(ctx, &Quote { key, reporter, l3, l4, inner, ports, end, is_v4: true })
}

#[inline(always)]
pub fn v6(ctx: &TcContext, l3: usize, l4: usize) -> Option<Restore> {
    let ip = read::<Ipv6>(ctx, l3)?;
    let end = l3 + size_of::<Ipv6>() + u16::from_be(ip.payload_length_be) as usize;
    let (reporter, client) = (words(&ip.source), words(&ip.destination));
    // Errors are the types below 128 (RFC 4443 2.1).
    let [kind, _] = *read::<[u8; 2]>(ctx, l4)?;
    if kind >= 128 {
        return None;
    }
    let inner = l4 + ICMP_LEN;
    let quoted = read::<Ipv6>(ctx, inner)?;
    if words(&quoted.source) != client {
        return None;
    }
    let ports = inner + size_of::<Ipv6>();
    // With an extension header in between, this is no flow's protocol.
    let (pod, protocol) = (words(&quoted.destination), u32::from(quoted.next_header));
    let key = flow(ctx, ports, pod, client, protocol)?;
    tell(ctx, &Quote { key, reporter, l3, l4, inner, ports, end, is_v4: false })
}

#[inline(always)]
fn flow(
    ctx: &TcContext,
    ports: usize,
    pod: Address,
    client: Address,
    protocol: u32,
) -> Option<ReverseKey> {
    let ports = read::<Ports>(ctx, ports)?;
    let (pod_port_be, client_port_be) = (ports.destination_be, ports.source_be);
    Some(ReverseKey { pod, client, pod_port_be, client_port_be, protocol })
}

/// Tells the client about its own packet, if it is one to a VIP.
#[inline(always)]
fn tell(ctx: &TcContext, quote: &Quote) -> Option<Restore> {
    let known = maps::reverse(&quote.key)?;
    if known.vip == quote.key.pod {
        // A flow that is known to be the pod's own.
        return None;
    }
    match rewrite(ctx, quote, &known.vip, known.port_be) {
        Some(()) => Some(Restore::Done(Reason::ErrorRestored)),
        None => Some(Restore::Failed(Reason::RestoreFailed)),
    }
}

#[inline(always)]
fn rewrite(ctx: &TcContext, quote: &Quote, vip: &Address, port_be: u16) -> Option<()> {
    let pod = &quote.key.pod;
    let old_port_be = quote.key.pod_port_be;
    let address = match quote.is_v4 {
        true => Change::none().word(pod[3], vip[3]),
        false => changed(pod, vip),
    };
    let ports = Change::none().half(old_port_be, port_be);
    let mut change = address.and(ports);
    // The quoted transport checksum, where that much is quoted. SCTP's tells nothing about a packet
    // that is not quoted whole.
    let is_udp = quote.key.protocol == u32::from(protocol::UDP);
    let is_tcp = quote.key.protocol == u32::from(protocol::TCP);
    let at = quote.ports + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if (is_udp || is_tcp)
        && at + size_of::<u16>() <= quote.end
        && let Some(&sum) = read::<u16>(ctx, at)
        // Zero says that none was computed (RFC 768).
        && !(is_udp && sum == 0)
    {
        let new = address.and(ports).apply(sum);
        let new = if is_udp && new == 0 { 0xffff } else { new };
        change = change.half(sum, new);
        store(ctx, at, &[u32::from(new)], 2).ok()?;
    }
    store(ctx, quote.ports + PORT, &[u32::from(port_be)], 2).ok()?;
    let is_the_pods = quote.reporter == *pod;
    if quote.is_v4 {
        let at = quote.inner + IPV4_CHECKSUM;
        let sum = *read::<u16>(ctx, at)?;
        let new = address.apply(sum);
        change = change.half(sum, new);
        store(ctx, at, &[u32::from(new)], 2).ok()?;
        store(ctx, quote.inner + IPV4_DESTINATION, &[vip[3]], 4).ok()?;
        if is_the_pods {
            let new = address.apply(*read::<u16>(ctx, quote.l3 + IPV4_CHECKSUM)?);
            store(ctx, quote.l3 + IPV4_CHECKSUM, &[u32::from(new)], 2).ok()?;
            store(ctx, quote.l3 + IPV4_SOURCE, &[vip[3]], 4).ok()?;
        }
    } else {
        store(ctx, quote.inner + IPV6_DESTINATION, vip, 16).ok()?;
        if is_the_pods {
            // The pseudo-header has the outer source (RFC 4443 2.3).
            change = change.and(address);
            store(ctx, quote.l3 + IPV6_SOURCE, vip, 16).ok()?;
        }
    }
    // Those who make an error compute its checksum at once (net/ipv4/icmp.c, net/ipv6/icmp.c).
    let at = quote.l4 + ICMP_CHECKSUM;
    let new = change.apply(*read::<u16>(ctx, at)?);
    store(ctx, at, &[u32::from(new)], 2).ok()
}
