//! What one frame says about the use of an address: that its sender has it, or that its sender is
//! about to take it.
//!
//! Must never take a question for a claim: a frame names a claim only by the rules of RFC 5227
//! 2.1.1 and 2.4 for ARP and of RFC 4862 5.4.3 and 5.4.5 for neighbour discovery. Whose claim is
//! foreign is [`crate::conflict`]'s business. Read [`crate::wire`] first.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use crate::wire::{Arp, Ethernet, MacAddr, Ndp, Operation, ethernet};

/// How an address is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The sender has the address.
    Use,
    /// The sender asks whether it may take the address: an ARP probe, or a solicitation of
    /// duplicate address detection. Against an address in use this is only a question.
    Probe,
}

/// What a frame claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address claimed.
    pub address: IpAddr,
    /// The MAC the sender claims it for.
    pub mac: MacAddr,
    /// How.
    pub form: Form,
}

/// Reads one frame, as it lies on the wire; `None` if it claims nothing.
pub fn claim(frame: &[u8]) -> Option<Claim> {
    let frame = Ethernet::parse(frame).ok()?;
    match frame.ether_type {
        ethernet::ARP => arp(&Arp::parse(frame.payload).ok()?),
        ethernet::IPV6 => ndp(frame.source, &Ndp::parse(frame.payload).ok()?),
        _ => None,
    }
}

/// RFC 5227 2.4: any ARP packet, request or reply, claims its sender address. 2.1.1: a request from
/// 0.0.0.0 is a probe for its target address. The MAC is the one in the packet: what neighbours
/// would learn.
fn arp(arp: &Arp) -> Option<Claim> {
    let (address, form) = match (arp.sender, arp.operation) {
        (Ipv4Addr::UNSPECIFIED, Operation::Request) => (arp.target, Form::Probe),
        (Ipv4Addr::UNSPECIFIED, Operation::Reply) => return None,
        (sender, _) => (sender, Form::Use),
    };
    Some(Claim { address: IpAddr::V4(address), mac: arp.sender_mac, form })
}

/// RFC 4862 5.4.5: an advertisement claims its target. 5.4.3: a solicitation from the unspecified
/// address is another node's duplicate address detection; any other solicitation is address
/// resolution and claims nothing.
fn ndp(sender: MacAddr, ndp: &Ndp) -> Option<Claim> {
    match ndp {
        Ndp::Advertisement(na) => {
            let mac = na.target_mac.unwrap_or(sender);
            Some(Claim { address: IpAddr::V6(na.target), mac, form: Form::Use })
        }
        Ndp::Solicitation(ns) if ns.source.is_unspecified() => {
            Some(Claim { address: IpAddr::V6(ns.target), mac: sender, form: Form::Probe })
        }
        Ndp::Solicitation(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NeighbourSolicitation, solicited_node};
    use crate::{announcement, probe};

    const MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x99]);

    fn vips() -> [IpAddr; 2] {
        ["192.168.1.240".parse().unwrap(), "fd00:1::f0".parse().unwrap()]
    }

    fn arp_frame(operation: Operation, sender: &str, target: &str) -> Vec<u8> {
        let packet = Arp {
            operation,
            sender_mac: MAC,
            sender: sender.parse().unwrap(),
            target_mac: MacAddr::ZERO,
            target: target.parse().unwrap(),
        };
        packet.to_frame(MacAddr::BROADCAST)
    }

    #[test]
    fn an_announcement_claims_use() {
        for address in vips() {
            for frame in announcement::frames(address, MAC) {
                assert_eq!(claim(&frame), Some(Claim { address, mac: MAC, form: Form::Use }));
            }
        }
    }

    #[test]
    fn a_probe_claims_what_it_asks_for() {
        for address in vips() {
            let expected = Claim { address, mac: MAC, form: Form::Probe };
            assert_eq!(claim(&probe::frame(address, MAC)), Some(expected));
        }
    }

    #[test]
    fn a_request_claims_its_sender_and_not_its_target() {
        let frame = arp_frame(Operation::Request, "192.168.1.240", "192.168.1.1");
        let address = vips()[0];
        assert_eq!(claim(&frame), Some(Claim { address, mac: MAC, form: Form::Use }));
    }

    #[test]
    fn a_reply_from_nobody_claims_nothing() {
        assert_eq!(claim(&arp_frame(Operation::Reply, "0.0.0.0", "192.168.1.240")), None);
    }

    #[test]
    fn address_resolution_claims_nothing() {
        let IpAddr::V6(target) = vips()[1] else { unreachable!() };
        let question = NeighbourSolicitation {
            source: "fd00:1::64".parse().unwrap(),
            destination: solicited_node(target),
            target,
            source_mac: Some(MAC),
        };
        assert_eq!(claim(&question.to_frame(MAC, MacAddr::BROADCAST)), None);
    }

    #[test]
    fn an_advertisement_claims_for_the_mac_it_names() {
        let mut frame = announcement::frames(vips()[1], MAC).remove(0);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x11]);
        assert_eq!(claim(&frame).map(|claim| claim.mac), Some(MAC));
    }

    #[test]
    fn what_is_not_a_whole_frame_claims_nothing() {
        for address in vips() {
            let frame = announcement::frames(address, MAC).remove(0);
            for length in 0..frame.len() {
                assert_eq!(claim(&frame[..length]), None, "{length} octets");
            }
        }
    }
}
