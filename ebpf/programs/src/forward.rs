//! A request to a service port of a VIP: to the pod's node by MAC (L2 direct server return), or
//! to a pod on this node by destination NAT and the stack.
//!
//! A frame from a peer is final: it is given to a pod of this node or to the stack, never sent
//! on, so that two nodes whose tables differ for a moment cannot play ping-pong. The stack gets
//! the packet after the NAT, so conntrack, the CNI and NetworkPolicy see client -> pod.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::parse::{Pieces, of_pieces};
use herald_ebpf_common::{
    Address, Backend, DRAINS_ONLY, FragmentKey, IS_GONE, IS_LOCAL, Link, Mac, PeerKey,
    REJECT_WHEN_EMPTY, Reason, Remembered, SourceKey, WHOLE_SOURCE,
};

use crate::choose::{self, Asked};
use crate::deliver::{self, deliver};
use crate::maps::{self, BACKENDS, FRAGMENTS, LINKS, PEERS, SOURCES};
use crate::packet::{Ethernet, Ipv4, Ipv6, Verdict, at, drop, pass, set_mac, transmit, words};
use crate::reject;

/// A TCP, UDP or SCTP packet, parsed.
pub struct Request {
    pub asked: Asked,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    pub is_v4: bool,
    pub pieces: Pieces,
}

#[inline(always)]
pub fn request(ctx: &XdpContext, request: &Request) -> Verdict {
    let asked = &request.asked;
    let Some(table) = maps::service(&asked.key) else {
        return pass(Reason::NotForVip);
    };
    let Some((ethernet, own)) = addressed(ctx) else {
        return pass(Reason::OtherMac);
    };
    if table.sources != 0 && !may_ask(table.sources, &asked.client) {
        return drop(Reason::SourceRefused);
    }
    let is_closed = || choose::may_open(ctx, asked.key.protocol, request.l4);
    if table.backends == 0 || (table.flags & DRAINS_ONLY != 0 && is_closed()) {
        let is_final = from_peer(ethernet.source, &asked.client);
        return match table.flags & REJECT_WHEN_EMPTY != 0 && !is_final {
            true => reject::reject(ctx, request, own),
            false => pass(Reason::NoBackend),
        };
    }
    let Some(mut chosen) = choose::backend(ctx, table, asked, Some(request.l4)) else {
        return pass(Reason::NoBackend);
    };
    let is_final = from_peer(ethernet.source, &asked.client);
    let mut reason = if is_final { Reason::DeliveredFromPeer } else { Reason::Delivered };
    if is_final && chosen.backend.flags & IS_LOCAL == 0 {
        let Some(here) = choose::local(table, &chosen) else {
            return pass(Reason::NoLocalBackend);
        };
        chosen = here;
        reason = Reason::DeliveredElsewhere;
    }
    if request.pieces.are_expected() {
        if deliver::needs_length(request, chosen.backend) {
            // No piece of it is rewritten, so the stack has all of them.
            return pass(Reason::SctpPieces);
        }
        let key = FragmentKey {
            vip: words(&asked.key.vip),
            client: words(&asked.client),
            identification: request.pieces.identification(),
            protocol: of_pieces(asked.key.protocol, request.is_v4),
        };
        let backend = Remembered { backend: chosen.index, identity: chosen.backend.identity };
        // Without the entry the other fragments go to the stack, which drops them in time.
        let _ = FRAGMENTS.insert(&key, &backend, 0);
    }
    match chosen.backend.flags & IS_LOCAL != 0 {
        true => deliver(ctx, request, chosen.backend, reason),
        false => send(ctx, request.l3, request.is_v4, chosen.backend, own, Reason::Forwarded),
    }
}

/// A fragment that is not its packet's first: it has no ports and follows the one that had.
#[inline(always)]
pub fn follow(ctx: &XdpContext, l3: usize, is_v4: bool, key: &FragmentKey) -> Verdict {
    let Some(known) = FRAGMENTS.get_ptr(key) else {
        return pass(Reason::Fragment);
    };
    // SAFETY: an LRU element may be recycled while it is read; the identity tells whether what
    // was read belongs together.
    let known = unsafe { *known };
    let Some((ethernet, own)) = addressed(ctx) else {
        return pass(Reason::OtherMac);
    };
    let backend = BACKENDS.get(known.backend);
    let Some(backend) = backend.filter(|b| b.identity == known.identity && b.flags & IS_GONE == 0)
    else {
        return pass(Reason::Fragment);
    };
    let is_final = from_peer(ethernet.source, &key.client);
    if backend.flags & IS_LOCAL == 0 {
        return match is_final {
            true => pass(Reason::NoLocalBackend),
            false => send(ctx, l3, is_v4, backend, own, Reason::Forwarded),
        };
    }
    // The transport checksum is in the first fragment and was right for all of them there.
    match deliver::address(ctx, l3, is_v4, &backend.address) {
        Some(_) if is_final => pass(Reason::DeliveredFromPeer),
        Some(_) => pass(Reason::Delivered),
        None => pass(Reason::Truncated),
    }
}

/// The Ethernet header and our interface, if the frame is for our MAC.
#[inline(always)]
pub fn addressed(ctx: &XdpContext) -> Option<(&'static mut Ethernet, &'static Link)> {
    let ethernet = at::<Ethernet>(ctx, 0)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ethernet = unsafe { &mut *ethernet };
    let own = maps::lookup(&LINKS, &(ctx.ingress_ifindex() as u32))?;
    (own.mac == ethernet.destination).then_some((ethernet, own))
}

/// Sends a packet on to a pod's node, one hop older.
#[inline(always)]
pub fn send(
    ctx: &XdpContext,
    l3: usize,
    is_v4: bool,
    backend: &Backend,
    own: &Link,
    reason: Reason,
) -> Verdict {
    match age(ctx, l3, is_v4) {
        None => return pass(Reason::Truncated),
        Some(false) => return pass(Reason::TtlExpired),
        Some(true) => {}
    }
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ethernet = unsafe { &mut *ethernet };
    set_mac(&mut ethernet.destination, &backend.node_mac);
    // Our own MAC, or the switch would learn the client's behind our port.
    set_mac(&mut ethernet.source, &own.mac);
    transmit(reason)
}

/// Takes one from the TTL or hop limit, as every forwarder must (RFC 1812 5.3.1, RFC 8200 3);
/// false if there is none left to take.
#[inline(always)]
fn age(ctx: &XdpContext, l3: usize, is_v4: bool) -> Option<bool> {
    if is_v4 {
        let ip = at::<Ipv4>(ctx, l3)?;
        // SAFETY: within the packet, see `at`; no other reference lives.
        let ip = unsafe { &mut *ip };
        if ip.ttl <= 1 {
            return Some(false);
        }
        let word = |ttl: u8| u16::from_ne_bytes([ttl, ip.protocol]);
        let change = Change::none().half(word(ip.ttl), word(ip.ttl - 1));
        ip.ttl -= 1;
        ip.checksum = change.apply(ip.checksum);
        return Some(true);
    }
    let ip = at::<Ipv6>(ctx, l3)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ip = unsafe { &mut *ip };
    if ip.hop_limit <= 1 {
        return Some(false);
    }
    ip.hop_limit -= 1;
    Some(true)
}

/// Whether a peer forwarded this frame, rather than being the client itself.
#[inline(always)]
pub fn from_peer(source: Mac, client: &Address) -> bool {
    match maps::lookup(&PEERS, &PeerKey { mac: source, reserved: 0 }) {
        Some(peer) => peer.v4 != *client && peer.v6 != *client,
        None => false,
    }
}

/// Whether a client is in one of a Service's loadBalancerSourceRanges.
#[inline(always)]
pub fn may_ask(list: u32, client: &Address) -> bool {
    let key = SourceKey { prefix_bits: WHOLE_SOURCE, list, address: words(client) };
    maps::contains(&SOURCES, &key)
}
