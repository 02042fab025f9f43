//! What a packet is: the way from the Ethernet type to the part that handles it. Must stay cheap
//! for packets that are not for a VIP: they are most of a node's traffic.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::{Reason, ServiceKey, mapped, protocol};

use crate::forward::{self, Request};
use crate::neighbour;
use crate::packet::{
    ETH_ARP_BE, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, Ipv4, Ipv6, Ports, VERSION_6_BE,
    Verdict, pass, read, words,
};

/// The more-fragments flag and the fragment offset (RFC 791 3.1).
const FRAGMENT_BE: u16 = 0x3fff_u16.to_be();

pub fn ingress(ctx: &XdpContext) -> Verdict {
    let Some(ethernet) = read::<Ethernet>(ctx, 0) else {
        return pass(Reason::Truncated);
    };
    match ethernet.ether_type_be {
        ETH_IPV4_BE => ipv4(ctx),
        ETH_IPV6_BE => ipv6(ctx),
        ETH_ARP_BE => neighbour::arp(ctx),
        _ => pass(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext) -> Verdict {
    let Some(ip) = read::<Ipv4>(ctx, ETH_LEN) else {
        return pass(Reason::Truncated);
    };
    if ip.protocol != protocol::TCP && ip.protocol != protocol::UDP {
        return pass(Reason::NotForVip);
    }
    if ip.fragment_be & FRAGMENT_BE != 0 {
        return pass(Reason::Fragment);
    }
    let header_length = ((ip.version_ihl & 0x0f) as usize) * 4;
    if ip.version_ihl >> 4 != 4 || header_length < size_of::<Ipv4>() {
        return pass(Reason::Truncated);
    }
    let l4 = ETH_LEN + header_length;
    let Some(ports) = read::<Ports>(ctx, l4) else {
        return pass(Reason::Truncated);
    };
    forward::request(
        ctx,
        &Request {
            key: ServiceKey {
                vip: mapped(ip.destination),
                port_be: ports.destination_be,
                protocol: ip.protocol,
                reserved: 0,
            },
            client: mapped(ip.source),
            client_port_be: ports.source_be,
            l4,
        },
    )
}

#[inline(always)]
fn ipv6(ctx: &XdpContext) -> Verdict {
    let Some(ip) = read::<Ipv6>(ctx, ETH_LEN) else {
        return pass(Reason::Truncated);
    };
    if ip.version_class_flow_be & 0xf000_0000_u32.to_be() != VERSION_6_BE {
        return pass(Reason::Truncated);
    }
    let l4 = ETH_LEN + size_of::<Ipv6>();
    match ip.next_header {
        protocol::TCP | protocol::UDP => {}
        protocol::ICMPV6 => return neighbour::icmpv6(ctx),
        // Hop-by-hop, routing, fragment and destination options (RFC 8200 4).
        0 | 43 | 44 | 60 => return pass(Reason::Fragment),
        _ => return pass(Reason::NotForVip),
    }
    let Some(ports) = read::<Ports>(ctx, l4) else {
        return pass(Reason::Truncated);
    };
    forward::request(
        ctx,
        &Request {
            key: ServiceKey {
                vip: words(&ip.destination),
                port_be: ports.destination_be,
                protocol: ip.next_header,
                reserved: 0,
            },
            client: words(&ip.source),
            client_port_be: ports.source_be,
            l4,
        },
    )
}
