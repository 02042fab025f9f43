//! The frames that ask whether anybody has an address, without claiming it.
//!
//! Must never name the address as the sender's: a neighbour would learn from that. When they are
//! sent is [`crate::conflict`]'s business.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{Arp, MacAddr, NeighbourSolicitation, Operation, solicited_node};

/// The frame of one probe: an ARP probe (RFC 5227 2.1.1), or a neighbour solicitation of duplicate
/// address detection (RFC 4862 5.4.2: from the unspecified address, to the target's solicited-node
/// group, without a source link-layer address).
pub fn frame(vip: IpAddr, mac: MacAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(target) => {
            let (sender, target_mac) = (Ipv4Addr::UNSPECIFIED, MacAddr::ZERO);
            let operation = Operation::Request;
            let packet = Arp { operation, sender_mac: mac, sender, target_mac, target };
            packet.to_frame(MacAddr::BROADCAST)
        }
        IpAddr::V6(target) => {
            let destination = solicited_node(target);
            let source = Ipv6Addr::UNSPECIFIED;
            let packet = NeighbourSolicitation { source, destination, target, source_mac: None };
            packet.to_frame(mac, MacAddr::of_ipv6_multicast(destination))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

    #[test]
    fn ipv4_is_asked_for_from_nobodys_address() {
        let expected = crate::hex(
            "ff:ff:ff:ff:ff:ff 02:00:00:00:00:01 0806
             0001 0800 06 04 0001
             02:00:00:00:00:01 00000000      # 0.0.0.0
             00:00:00:00:00:00 c0a801f0      # 192.168.1.240",
        );
        assert_eq!(frame("192.168.1.240".parse().unwrap(), MAC), expected);
    }

    #[test]
    fn ipv6_is_asked_for_as_duplicate_address_detection_does() {
        let expected = crate::hex(
            "33:33:ff:00:00:f0 02:00:00:00:00:01 86dd
             60000000 0018 3a ff
             00000000 00000000 00000000 00000000     # ::
             ff020000 00000000 00000001 ff0000f0     # ff02::1:ff00:f0
             87 00 7bc6 00000000                     # no option
             fd000001 00000000 00000000 000000f0",
        );
        assert_eq!(frame("fd00:1::f0".parse().unwrap(), MAC), expected);
    }
}
