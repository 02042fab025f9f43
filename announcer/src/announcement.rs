//! The frames that make every neighbour learn a VIP at once, unasked.
//!
//! Must never be sent for a VIP this node does not hold: the caller asks the fence first, and the
//! kernel asks again. When they are sent is [`crate::burst`]'s business.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ndp::ALL_NODES;
use crate::wire::{Arp, MacAddr, NeighbourAdvertisement, Operation};

/// The frames of one round.
pub fn frames(vip: IpAddr, mac: MacAddr) -> Vec<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => arp(vip, mac),
        IpAddr::V6(vip) => vec![neighbour_advertisement(vip, mac)],
    }
}

/// The one frame that answers a foreign claim. RFC 5227 2.4 allows "one single ARP Announcement",
/// which is the request form (2.3); IPv6 has one form.
pub fn defence(vip: IpAddr, mac: MacAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp_form(Operation::Request, vip, mac, MacAddr::ZERO),
        IpAddr::V6(vip) => neighbour_advertisement(vip, mac),
    }
}

/// Both forms, since no single one is learnt from by everybody: RFC 5227 3 prefers the request
/// ("ARP Announcement"), and RFC 5944 4.6 lets a host update its cache from either and gives
/// the reply form its target hardware address.
fn arp(vip: Ipv4Addr, mac: MacAddr) -> Vec<Vec<u8>> {
    vec![
        arp_form(Operation::Request, vip, mac, MacAddr::ZERO),
        arp_form(Operation::Reply, vip, mac, mac),
    ]
}

fn arp_form(operation: Operation, vip: Ipv4Addr, mac: MacAddr, target_mac: MacAddr) -> Vec<u8> {
    let packet = Arp { operation, sender_mac: mac, sender: vip, target_mac, target: vip };
    packet.to_frame(MacAddr::BROADCAST)
}

/// RFC 4861 7.2.6: to all nodes, Solicited = 0, Override = 1 to replace what they know.
fn neighbour_advertisement(vip: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let announcement = NeighbourAdvertisement {
        source: vip,
        destination: ALL_NODES,
        router: false,
        solicited: false,
        overrides: true,
        target: vip,
        target_mac: Some(mac),
    };
    announcement.to_frame(mac, MacAddr::of_ipv6_multicast(ALL_NODES))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

    #[test]
    fn ipv4_is_announced_in_request_and_reply_form() {
        let request = crate::hex(
            "ff:ff:ff:ff:ff:ff 02:00:00:00:00:01 0806
             0001 0800 06 04 0001
             02:00:00:00:00:01 c0a801f0      # 192.168.1.240
             00:00:00:00:00:00 c0a801f0",
        );
        let reply = crate::hex(
            "ff:ff:ff:ff:ff:ff 02:00:00:00:00:01 0806
             0001 0800 06 04 0002
             02:00:00:00:00:01 c0a801f0      # 192.168.1.240
             02:00:00:00:00:01 c0a801f0",
        );
        let vip = "192.168.1.240".parse().unwrap();
        assert_eq!(defence(vip, MAC), request, "a defence is the first of the two");
        assert_eq!(frames(vip, MAC), [request, reply]);
    }

    #[test]
    fn ipv6_is_announced_to_all_nodes_with_override() {
        let advertisement = crate::hex(
            "33:33:00:00:00:01 02:00:00:00:00:01 86dd
             60000000 0020 3a ff             # 32 octets of ICMPv6, hop limit 255
             fd000001 00000000 00000000 000000f0   # the VIP
             ff020000 00000000 00000000 00000001   # all nodes
             88 00 58bb 20000000             # advertisement, only Override set
             fd000001 00000000 00000000 000000f0
             02 01 02:00:00:00:00:01         # target link-layer address",
        );
        assert_eq!(frames("fd00:1::f0".parse().unwrap(), MAC), [advertisement]);
    }
}
