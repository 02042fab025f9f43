//! The usual packet, in few steps: TCP or UDP, whole, without tags, options or extension headers,
//! for no VIP or for a clean slot of a Service that anybody may ask.
//!
//! It must decide exactly as [`crate::ingress`] would, or not at all (`None`), in which case that
//! one begins anew. Everything rare is left to it; nothing is written before the decision.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::Change;
use herald_ebpf_common::flow::Flow;
use herald_ebpf_common::parse;
use herald_ebpf_common::{
    Address, Backend, Guess, IS_LOCAL, NODE_LINKS, Node, NodeLink, PEER_BITS, Reason, ReverseKey4,
    ReverseValue4, ServiceKey, ServiceKey4, ServiceTable, chunk_of, mapped, peer_bit, protocol,
};

use crate::choose;
use crate::forward::from_peer;
use crate::maps::{self, NODE, REVERSE4, SERVICES, SERVICES4};
use crate::packet::{
    ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, InPlace, Ipv4, Ipv6, Ports, TCP_CHECKSUM,
    UDP_CHECKSUM, Verdict, at, pass, read, transmit, words,
};

/// A MAC's bits of a word of eight octets.
const MAC_BITS: u64 = 0xffff_ffff_ffff;

/// What becomes of a usual packet.
#[inline(always)]
pub fn usual(ctx: &XdpContext) -> Option<Verdict> {
    let ethernet = read::<Ethernet>(ctx, 0)?;
    match ethernet.ether_type_be {
        ETH_IPV4_BE => v4(ctx),
        ETH_IPV6_BE => v6(ctx),
        _ => None,
    }
}

#[inline(always)]
fn v4(ctx: &XdpContext) -> Option<Verdict> {
    let frame = InPlace(ctx);
    let (ip, ports) = parse::usual_v4(&frame)?;
    let vip = ip.destination;
    let guess = maps::guess(vip);
    if guess == Guess::NONE {
        return Some(pass(Reason::NotForVip));
    }
    let client = mapped(ip.source);
    let hash = hash(guess, &client, ports);
    let chunk = chunk_of(hash, guess.chunks());
    let key = ServiceKey4::new(vip, ports.destination_be, ip.protocol).with_chunk(chunk);
    let Some(part) = maps::lookup(&SERVICES4, &key) else {
        return unknown(chunk);
    };
    if part.usual != guess.number() {
        return None;
    }
    let (backend, frame) = decide(ctx, part, hash, &client)?;
    if backend.flags & IS_LOCAL != 0 {
        return deliver(ctx, &key, backend, frame.delivered());
    }
    if frame.is_final || ip.ttl <= 1 {
        return None;
    }
    let ip = at::<Ipv4>(ctx, ETH_LEN)?;
    // SAFETY: within the packet, see `at`; no other reference is used from here on.
    unsafe {
        // One less in the upper octet of a word is one more in the checksum (RFC 1141); the end
        // carry keeps a sum of ones from becoming the other zero.
        let sum = u32::from((*ip).checksum) + 1;
        (*ip).checksum = (sum + u32::from(sum >= 0xffff)) as u16;
        (*ip).ttl -= 1;
    }
    frame.send(ctx, backend)
}

#[inline(always)]
fn v6(ctx: &XdpContext) -> Option<Verdict> {
    let frame = InPlace(ctx);
    let (ip, ports) = parse::usual_v6(&frame)?;
    let guess = maps::guess(ip.destination[3]);
    if guess == Guess::NONE {
        return Some(pass(Reason::NotForVip));
    }
    let client = words(&ip.source);
    let hash = hash(guess, &client, ports);
    let chunk = chunk_of(hash, guess.chunks());
    // By words, for the reason of `ServiceKey4`.
    let [a, b, c, d] = words(&ip.destination);
    let last = u32::from(ports.destination_be) | u32::from(ip.next_header) << 16 | chunk << 24;
    // SAFETY: a service key is five words without padding.
    let key = unsafe { core::mem::transmute::<[u32; 5], ServiceKey>([a, b, c, d, last]) };
    let Some(part) = maps::lookup(&SERVICES, &key) else {
        return unknown(chunk);
    };
    if part.usual != guess.number() {
        return None;
    }
    let (backend, frame) = decide(ctx, part, hash, &client)?;
    if backend.flags & IS_LOCAL != 0 || frame.is_final || ip.hop_limit <= 1 {
        return None;
    }
    let ip = at::<Ipv6>(ctx, ETH_LEN)?;
    // SAFETY: within the packet, see `at`; no other reference is used from here on.
    unsafe { (*ip).hop_limit -= 1 };
    frame.send(ctx, backend)
}

/// Gives a request to a pod here, as [`crate::deliver`] does.
#[inline(always)]
fn deliver(
    ctx: &XdpContext,
    key: &ServiceKey4,
    backend: &Backend,
    reason: Reason,
) -> Option<Verdict> {
    const L4: usize = ETH_LEN + size_of::<Ipv4>();
    let is_udp = key.protocol() == protocol::UDP;
    let checksum = match is_udp {
        true => at::<u16>(ctx, L4 + UDP_CHECKSUM)?,
        false => at::<u16>(ctx, L4 + TCP_CHECKSUM)?,
    };
    let ports = at::<Ports>(ctx, L4)?;
    let ip = at::<Ipv4>(ctx, ETH_LEN)?;
    let (pod, port_be) = (backend.address[3], backend.port_be);
    // SAFETY: all three lie within the packet, see `at`, and do not overlap; no other reference
    // is used from here on.
    unsafe {
        let client = ((*ip).source, (*ports).source_be);
        let reverse = ReverseKey4::new((pod, port_be), client, key.protocol());
        let value = ReverseValue4::new(key.vip(), key.port_be());
        let known = REVERSE4.get_ptr(&reverse);
        // An LRU element may be recycled while it is read; the worst is one needless insert.
        let is_current = known.is_some_and(|known| *known == value);
        if !is_current && REVERSE4.insert(&reverse, &value, 0).is_err() {
            return None;
        }
        let change = Change::none().word(key.vip(), pod);
        (*ip).destination = pod;
        (*ip).checksum = change.apply((*ip).checksum);
        (*ports).destination_be = port_be;
        if !(is_udp && *checksum == 0) {
            let new = change.half(key.port_be(), port_be).apply(*checksum);
            *checksum = if is_udp && new == 0 { 0xffff } else { new };
        }
    }
    Some(pass(reason))
}

/// The hash of a flow of a table as guessed.
#[inline(always)]
fn hash(guess: Guess, client: &Address, ports: &Ports) -> u32 {
    let client = words(client);
    let flow = Flow { client, client_port_be: ports.source_be, port_be: ports.destination_be };
    match guess.is_by_client() {
        false => flow.hash(),
        true => flow.of_client().hash(),
    }
}

/// There is no such part: the guess was wrong, unless it is the first, which every table has.
#[inline(always)]
fn unknown(chunk: u32) -> Option<Verdict> {
    (chunk == 0).then(|| pass(Reason::NotForVip))
}

/// What the Ethernet header says.
#[derive(Clone, Copy)]
struct Frame {
    /// Our own MAC, which the frame was sent to.
    own: u64,
    /// Whether a peer sent it here.
    is_final: bool,
}

/// The backend of a clean slot, for a frame that is for us.
#[inline(always)]
fn decide(
    ctx: &XdpContext,
    part: &ServiceTable,
    hash: u32,
    client: &Address,
) -> Option<(&'static Backend, Frame)> {
    let node = NODE.get(0)?;
    // Both MACs in two words.
    let &first = read::<u64>(ctx, 0)?;
    let &rest = read::<u32>(ctx, 8)?;
    let own = first & MAC_BITS;
    let link = link(node, ctx.ingress_ifindex() as u32);
    if link.ifindex != ctx.ingress_ifindex() as u32 || link.mac != own {
        return None;
    }
    let source = first >> 48 | u64::from(rest) << 16;
    let is_final = may_be_peer(node, source)
        && from_peer([source as u16, (source >> 16) as u16, (source >> 32) as u16], client);
    let backend = choose::clean(part, hash)?;
    Some((backend, Frame { own, is_final }))
}

#[inline(always)]
fn link(node: &Node, ifindex: u32) -> &NodeLink {
    &node.links[ifindex as usize & (NODE_LINKS - 1)]
}

#[inline(always)]
fn may_be_peer(node: &Node, mac: u64) -> bool {
    let bit = peer_bit(mac);
    node.peers[(bit & (PEER_BITS - 1)) as usize / 64] >> (bit % 64) & 1 != 0
}

impl Frame {
    /// The reason of a delivery to a pod here.
    #[inline(always)]
    const fn delivered(&self) -> Reason {
        match self.is_final {
            true => Reason::DeliveredFromPeer,
            false => Reason::Delivered,
        }
    }

    /// Sends the frame to the pod's node.
    #[inline(always)]
    fn send(&self, ctx: &XdpContext, backend: &Backend) -> Option<Verdict> {
        let start = ctx.data();
        if start + size_of::<Ethernet>() > ctx.data_end() {
            return None;
        }
        // SAFETY: the MAC and the port behind it are eight octets of an aligned value.
        let to = unsafe { *(&raw const backend.node_mac).cast::<u64>() } & MAC_BITS;
        // SAFETY: twelve octets within the packet. Our own MAC is the source, or the switch would
        // learn the client's behind our port.
        unsafe {
            *(start as *mut u64) = to | self.own << 48;
            *((start + 8) as *mut u32) = (self.own >> 16) as u32;
        }
        Some(transmit(Reason::Forwarded))
    }
}
