//! What a packet is: the way from the Ethernet type to the part that handles it. Must stay cheap
//! for packets that are not for a VIP: they are most of a node's traffic.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::{FragmentKey, Reason, ServiceKey, mapped, protocol};

use crate::choose::Asked;
use crate::forward::{self, Pieces, Request};
use crate::packet::{
    ETH_ARP_BE, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, FRAGMENT, Fragment, Ipv4, Ipv6, Ports,
    TAG_LEN, Tag, VERSION_6_BE, Verdict, is_tag, pass, read, words,
};
use crate::{icmp, neighbour, sctp};

/// The fragment offset (RFC 791 3.1).
const OFFSET_BE: u16 = 0x1fff_u16.to_be();
/// The more-fragments flag.
const MORE_BE: u16 = 0x2000_u16.to_be();
/// IPv6 extension headers looked through; behind more of them, the stack looks.
const EXTENSIONS: usize = 4;
/// Octets every transport packet has behind its IP headers: UDP's whole header.
const LEAST: u16 = 8;

/// An IPv6 extension header (RFC 8200 4): hop-by-hop, routing and destination options alike.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next_header: u8,
    /// In units of 8 octets, the first not counted.
    length: u8,
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// What becomes of any packet, as [`Verdict::number`] has it.
///
/// A function of its own, so that its stack is not the usual packet's too; it returns a number
/// because the verifier refuses what a function that returns nothing leaves in its register.
#[inline(never)]
pub fn ingress(ctx: &XdpContext) -> u64 {
    let verdict = judge(ctx);
    if verdict.is_unfinished {
        // It was seen that there is room for it.
        let _ = sctp::finish(ctx);
    }
    verdict.number()
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Verdict {
    let Some(ethernet) = read::<Ethernet>(ctx, 0) else {
        return pass(Reason::Truncated);
    };
    match ethernet.ether_type_be {
        ETH_ARP_BE => neighbour::arp(ctx),
        other if is_tag(other) => tagged(ctx),
        other => network(ctx, ETH_LEN, other),
    }
}

/// Behind one VLAN tag or two.
#[inline(always)]
fn tagged(ctx: &XdpContext) -> Verdict {
    let Some(outer) = read::<Tag>(ctx, ETH_LEN) else {
        return pass(Reason::Truncated);
    };
    if !is_tag(outer.ether_type_be) {
        return network(ctx, ETH_LEN + TAG_LEN, outer.ether_type_be);
    }
    match read::<Tag>(ctx, ETH_LEN + TAG_LEN) {
        Some(inner) => network(ctx, ETH_LEN + 2 * TAG_LEN, inner.ether_type_be),
        None => pass(Reason::Truncated),
    }
}

#[inline(always)]
fn network(ctx: &XdpContext, l3: usize, ether_type_be: u16) -> Verdict {
    match ether_type_be {
        ETH_IPV4_BE => ipv4(ctx, l3),
        ETH_IPV6_BE => ipv6(ctx, l3),
        // Asked in a VLAN, where this interface holds nothing: its own interface answers.
        ETH_ARP_BE => pass(Reason::ArpPassed),
        _ => pass(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn is_transport(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP || number == protocol::SCTP
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, l3: usize) -> Verdict {
    let Some(ip) = read::<Ipv4>(ctx, l3) else {
        return pass(Reason::Truncated);
    };
    let header_length = ((ip.version_ihl & 0x0f) as usize) * 4;
    let total = u16::from_be(ip.total_length_be);
    if ip.version_ihl >> 4 != 4
        || header_length < size_of::<Ipv4>()
        || total < header_length as u16 + LEAST
    {
        return pass(Reason::Truncated);
    }
    let l4 = l3 + header_length;
    let is_piece = ip.fragment_be & (OFFSET_BE | MORE_BE) != 0;
    if !is_transport(ip.protocol) {
        return match ip.protocol == protocol::ICMP && !is_piece {
            true => icmp::v4(ctx, l3, l4),
            false => pass(Reason::NotForVip),
        };
    }
    let identification = u32::from(ip.identification_be);
    if ip.fragment_be & OFFSET_BE != 0 {
        let key = FragmentKey {
            vip: mapped(ip.destination),
            client: mapped(ip.source),
            identification,
            protocol: u32::from(ip.protocol),
        };
        return forward::follow(ctx, l3, true, &key);
    }
    let Some(ports) = read::<Ports>(ctx, l4) else {
        return pass(Reason::Truncated);
    };
    let key = ServiceKey {
        vip: mapped(ip.destination),
        port_be: ports.destination_be,
        protocol: ip.protocol,
        chunk: 0,
    };
    let asked = Asked { key, client: mapped(ip.source), client_port_be: ports.source_be };
    let pieces = if is_piece { Pieces::first_of(identification) } else { Pieces::NONE };
    forward::request(ctx, &Request { asked, l3, l4, is_v4: true, pieces })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, l3: usize) -> Verdict {
    let Some(ip) = read::<Ipv6>(ctx, l3) else {
        return pass(Reason::Truncated);
    };
    if ip.version_class_flow_be & 0xf000_0000_u32.to_be() != VERSION_6_BE {
        return pass(Reason::Truncated);
    }
    let mut l4 = l3 + size_of::<Ipv6>();
    let mut next = ip.next_header;
    let mut pieces = Pieces::NONE;
    let payload = u16::from_be(ip.payload_length_be) as usize;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some(extension) = read::<Extension>(ctx, l4) else {
                    return pass(Reason::Truncated);
                };
                l4 += (extension.length as usize + 1) * 8;
                next = extension.next_header;
            }
            FRAGMENT => {
                let Some(fragment) = read::<Fragment>(ctx, l4) else {
                    return pass(Reason::Truncated);
                };
                let identification = fragment.identification();
                next = fragment.next_header;
                if fragment.is_later() {
                    let key = FragmentKey {
                        vip: words(&ip.destination),
                        client: words(&ip.source),
                        identification,
                        protocol: u32::from(next),
                    };
                    return forward::follow(ctx, l3, false, &key);
                }
                // Without more to come it is whole (RFC 6946).
                if fragment.has_more() {
                    pieces = Pieces::first_of(identification);
                }
                l4 += size_of::<Fragment>();
            }
            _ => break,
        }
    }
    if payload + l3 + size_of::<Ipv6>() < l4 + LEAST as usize {
        return pass(Reason::Truncated);
    }
    if !is_transport(next) {
        return match next {
            protocol::ICMPV6 if !pieces.are_expected() => icmpv6(ctx, l3, l4),
            HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => pass(Reason::Fragment),
            _ => pass(Reason::NotForVip),
        };
    }
    let Some(ports) = read::<Ports>(ctx, l4) else {
        return pass(Reason::Truncated);
    };
    let key = ServiceKey {
        vip: words(&ip.destination),
        port_be: ports.destination_be,
        protocol: next,
        chunk: 0,
    };
    let asked = Asked { key, client: words(&ip.source), client_port_be: ports.source_be };
    forward::request(ctx, &Request { asked, l3, l4, is_v4: false, pieces })
}

#[inline(always)]
fn icmpv6(ctx: &XdpContext, l3: usize, l4: usize) -> Verdict {
    // Type and code. Two octets, because the verifier does not follow the check for one.
    let Some([kind, _]) = read::<[u8; 2]>(ctx, l4) else {
        return pass(Reason::Truncated);
    };
    if *kind != neighbour::SOLICITATION {
        return icmp::v6(ctx, l3, l4);
    }
    // In a VLAN this interface holds nothing; behind an extension header it is unheard of.
    match l4 == ETH_LEN + size_of::<Ipv6>() {
        true => neighbour::icmpv6(ctx),
        false => pass(Reason::NsPassed),
    }
}
