//! A request to a service port of a VIP: to the pod's node by MAC (L2 direct server return), or
//! to a pod on this node by destination NAT and the stack.
//!
//! A frame from a peer is final: it is given to a pod of this node or to the stack, never sent
//! on, so that two nodes whose tables differ for a moment cannot play ping-pong. The stack gets
//! the packet after the NAT, so conntrack, the CNI and NetworkPolicy see client -> pod.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::flow::Flow;
use herald_ebpf_common::{
    Address, Backend, LOCAL_SLOTS, Mac, PeerKey, Reason, ReverseKey, ReverseValue, SLOTS,
    ServiceKey, ServiceTable, V4_MAPPED, mapped, protocol,
};

use crate::maps::{self, BACKENDS, LINKS, PEERS, REVERSE, SERVICES};
use crate::packet::{
    ETH_IPV4_BE, ETH_LEN, Ethernet, Ipv4, Ipv6, Ports, TCP_CHECKSUM, UDP_CHECKSUM, Verdict, at,
    pass, read, set_mac, transmit,
};

/// A TCP or UDP packet, parsed.
pub struct Request {
    pub key: ServiceKey,
    pub client: Address,
    pub client_port_be: u16,
    /// Offset of the TCP or UDP header: 34 to 74.
    pub l4: usize,
}

#[inline(always)]
pub fn request(ctx: &XdpContext, request: &Request) -> Verdict {
    let Some(table) = maps::lookup(&SERVICES, &request.key) else {
        return pass(Reason::NotForVip);
    };
    let Some(ethernet) = at::<Ethernet>(ctx, 0) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ethernet = unsafe { &mut *ethernet };
    let own = maps::lookup(&LINKS, &(ctx.ingress_ifindex() as u32));
    let Some(own) = own.filter(|link| link.mac == ethernet.destination) else {
        return pass(Reason::OtherMac);
    };
    if table.backends == 0 {
        return pass(Reason::NoBackend);
    }
    let flow = Flow {
        client: request.client,
        client_port_be: request.client_port_be,
        port_be: request.key.port_be,
    };
    let hash = flow.hash();
    let chosen = BACKENDS.get(u32::from(table.slots[hash as usize & (SLOTS - 1)]));
    let Some(chosen) = chosen else {
        return pass(Reason::NoBackend);
    };
    if chosen.is_local == 1 {
        let reason = match from_peer(ethernet.source, request.client) {
            true => Reason::DeliveredFromPeer,
            false => Reason::Delivered,
        };
        return deliver(ctx, request, chosen, reason);
    }
    if from_peer(ethernet.source, request.client) {
        return match local(table, hash) {
            Some(backend) => deliver(ctx, request, backend, Reason::DeliveredElsewhere),
            None => pass(Reason::NoLocalBackend),
        };
    }
    set_mac(&mut ethernet.destination, &chosen.node_mac);
    // Our own MAC, or the switch would learn the client's behind our port.
    set_mac(&mut ethernet.source, &own.mac);
    transmit(Reason::Forwarded)
}

/// Whether a peer forwarded this frame, rather than being the client itself.
#[inline(always)]
fn from_peer(source: Mac, client: Address) -> bool {
    match maps::lookup(&PEERS, &PeerKey { mac: source, reserved: 0 }) {
        Some(peer) => peer.v4 != client && peer.v6 != client,
        None => false,
    }
}

/// A backend on this node for a flow whose own slot points elsewhere.
#[inline(always)]
fn local(table: &ServiceTable, hash: u32) -> Option<&'static Backend> {
    if table.local_count == 0 {
        return None;
    }
    let index = (hash % table.local_count) as usize & (LOCAL_SLOTS - 1);
    BACKENDS.get(u32::from(table.local[index])).filter(|backend| backend.is_local == 1)
}

/// Destination NAT to a pod of this node; the reply's way back is remembered first.
#[inline(always)]
fn deliver(ctx: &XdpContext, request: &Request, backend: &Backend, reason: Reason) -> Verdict {
    let reverse = ReverseKey {
        pod: backend.address,
        client: request.client,
        pod_port_be: backend.port_be,
        client_port_be: request.client_port_be,
        protocol: u32::from(request.key.protocol),
    };
    let value = ReverseValue { vip: request.key.vip, port_be: request.key.port_be, reserved: 0 };
    let known = REVERSE.get_ptr(&reverse);
    // SAFETY: an LRU element may be recycled while we read it; the worst is one needless insert.
    let is_current = known.is_some_and(|known| unsafe { *known == value });
    if !is_current && REVERSE.insert(&reverse, &value, 0).is_err() {
        // The reply could not be given the VIP: the client would see a stranger.
        return pass(Reason::NoBackend);
    }
    match rewrite(ctx, request, backend) {
        Some(()) => pass(reason),
        None => pass(Reason::Truncated),
    }
}

#[inline(always)]
fn rewrite(ctx: &XdpContext, request: &Request, backend: &Backend) -> Option<()> {
    let is_v4 = read::<Ethernet>(ctx, 0)?.ether_type_be == ETH_IPV4_BE;
    let ports = at::<Ports>(ctx, request.l4)?;
    let offset = match request.key.protocol {
        protocol::TCP => TCP_CHECKSUM,
        _ => UDP_CHECKSUM,
    };
    let checksum = at::<u16>(ctx, request.l4 + offset)?;
    let addresses = match is_v4 {
        true => rewrite_v4(ctx, backend)?,
        false => rewrite_v6(ctx, backend)?,
    };
    // SAFETY: both lie within the packet, see `at`; no other reference lives.
    unsafe {
        let change = addresses.half((*ports).destination_be, backend.port_be);
        (*ports).destination_be = backend.port_be;
        let is_udp = request.key.protocol == protocol::UDP;
        // A UDP checksum of zero means none was computed (RFC 768); a computed zero is sent as
        // all ones.
        if !(is_udp && *checksum == 0) {
            let new = change.apply(*checksum);
            *checksum = if is_udp && new == 0 { 0xffff } else { new };
        }
    }
    Some(())
}

#[inline(always)]
fn rewrite_v4(ctx: &XdpContext, backend: &Backend) -> Option<Change> {
    let ip = at::<Ipv4>(ctx, ETH_LEN)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ip = unsafe { &mut *ip };
    let change = Change::none().word(ip.destination, backend.address[3]);
    ip.destination = backend.address[3];
    ip.checksum = change.apply(ip.checksum);
    Some(change)
}

#[inline(always)]
fn rewrite_v6(ctx: &XdpContext, backend: &Backend) -> Option<Change> {
    let ip = at::<Ipv6>(ctx, ETH_LEN)?;
    // SAFETY: within the packet, see `at`; no other reference lives.
    let ip = unsafe { &mut *ip };
    let change = Change::none()
        .word(ip.destination[0], backend.address[0])
        .word(ip.destination[1], backend.address[1])
        .word(ip.destination[2], backend.address[2])
        .word(ip.destination[3], backend.address[3]);
    ip.destination = backend.address;
    Some(change)
}

const _: () = {
    // `rewrite` writes the last word of a mapped address into an IPv4 header.
    let loopback = mapped(0x7f00_0001_u32.to_be());
    assert!(loopback[2] == V4_MAPPED && loopback[3] == 0x7f00_0001_u32.to_be());
};
