//! Neighbour solicitations and advertisements (RFC 4861 4.3, 4.4), IPv6 and ICMPv6 headers
//! included. Must never accept what RFC 4861 7.1.1 or 7.1.2 discards; the order of the checks is
//! the order in which those sections list them.

use std::net::Ipv6Addr;

use super::ipv6::NEXT_HEADER_ICMPV6;
use super::{Ethernet, Ipv6, MacAddr, ParseReason, array, byte, checksum, ethernet};

/// Every node on the link (RFC 4291 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hop limit that no router lets pass unchanged (RFC 4861 7.1).
pub const HOP_LIMIT: u8 = 255;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Type, code, checksum, flags and target: both messages without options.
const FIXED_LENGTH: usize = 24;
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// An Ethernet link-layer address option in units of eight octets (RFC 2464 6).
const LINK_LAYER_UNITS: u8 = 1;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// The group on which an address is asked for (RFC 4291 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from_octets([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff, o[13], o[14], o[15]])
}

/// Either message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// "Who has the target?"
    Solicitation(NeighbourSolicitation),
    /// "The target is here."
    Advertisement(NeighbourAdvertisement),
}

/// A question for an address (RFC 4861 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourSolicitation {
    /// Who asks; unspecified in duplicate address detection (RFC 4862 5.4.2).
    pub source: Ipv6Addr,
    /// The target's solicited-node group, or the target itself.
    pub destination: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// Where the one who asks can be reached, if it says so.
    pub source_mac: Option<MacAddr>,
}

/// An answer, or an announcement (RFC 4861 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourAdvertisement {
    /// Who says it.
    pub source: Ipv6Addr,
    /// Who asked, or all nodes.
    pub destination: Ipv6Addr,
    /// The sender is a router.
    pub router: bool,
    /// This answers a solicitation from `destination`.
    pub solicited: bool,
    /// Replaces what the receiver has in its cache.
    pub overrides: bool,
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// Where the target can be reached.
    pub target_mac: Option<MacAddr>,
}

impl Ndp {
    /// Reads the payload of a frame of type [`ethernet::IPV6`].
    ///
    /// # Errors
    /// Not a valid IPv6 packet, another ICMPv6 type, or one of the rules of RFC 4861 7.1.1 and
    /// 7.1.2 is broken.
    pub fn parse(packet: &[u8]) -> Result<Self, ParseReason> {
        let ip = Ipv6::parse(packet)?;
        if ip.next_header != NEXT_HEADER_ICMPV6 {
            return Err(ParseReason::NotIcmpv6);
        }
        let message = ip.payload;
        match byte(message, 0)? {
            SOLICITATION => solicitation(&ip).map(Self::Solicitation),
            ADVERTISEMENT => advertisement(&ip).map(Self::Advertisement),
            _ => Err(ParseReason::Icmpv6Type),
        }
    }
}

fn solicitation(ip: &Ipv6<'_>) -> Result<NeighbourSolicitation, ParseReason> {
    let common = common(ip)?;
    let source_mac = link_layer_option(ip.payload, OPTION_SOURCE_LINK_LAYER)?;
    if ip.source.is_unspecified() {
        if !is_solicited_node(ip.destination) {
            return Err(ParseReason::UnspecifiedDestination);
        }
        if source_mac.is_some() {
            return Err(ParseReason::UnspecifiedLinkLayer);
        }
    }
    Ok(NeighbourSolicitation {
        source: ip.source,
        destination: ip.destination,
        target: common.target,
        source_mac,
    })
}

fn advertisement(ip: &Ipv6<'_>) -> Result<NeighbourAdvertisement, ParseReason> {
    let common = common(ip)?;
    let solicited = common.flags & FLAG_SOLICITED != 0;
    if ip.destination.is_multicast() && solicited {
        return Err(ParseReason::SolicitedMulticast);
    }
    Ok(NeighbourAdvertisement {
        source: ip.source,
        destination: ip.destination,
        router: common.flags & FLAG_ROUTER != 0,
        solicited,
        overrides: common.flags & FLAG_OVERRIDE != 0,
        target: common.target,
        target_mac: link_layer_option(ip.payload, OPTION_TARGET_LINK_LAYER)?,
    })
}

struct Common {
    flags: u8,
    target: Ipv6Addr,
}

/// The rules that 7.1.1 and 7.1.2 share, but for the options.
fn common(ip: &Ipv6<'_>) -> Result<Common, ParseReason> {
    let message = ip.payload;
    if ip.hop_limit != HOP_LIMIT {
        return Err(ParseReason::HopLimit);
    }
    if checksum::icmpv6(ip.source, ip.destination, message) != 0 {
        return Err(ParseReason::Icmpv6Checksum);
    }
    if byte(message, 1)? != 0 {
        return Err(ParseReason::Icmpv6Code);
    }
    let target = Ipv6Addr::from(array::<16>(message, 8)?);
    if target.is_multicast() {
        return Err(ParseReason::TargetMulticast);
    }
    Ok(Common { flags: byte(message, 4)?, target })
}

/// The last link-layer address option of the kind, after a walk over all options: unknown ones are
/// stepped over (RFC 4861 4.6), one of length 0 condemns the packet (ibid.), and so does one that
/// reaches past the end.
fn link_layer_option(message: &[u8], kind: u8) -> Result<Option<MacAddr>, ParseReason> {
    let mut found = None;
    let mut rest = message.get(FIXED_LENGTH..).ok_or(ParseReason::Truncated)?;
    while !rest.is_empty() {
        let units = byte(rest, 1).map_err(|_| ParseReason::OptionTruncated)?;
        if units == 0 {
            return Err(ParseReason::OptionZeroLength);
        }
        let (option, behind) =
            rest.split_at_checked(usize::from(units) * 8).ok_or(ParseReason::OptionTruncated)?;
        if option.first() == Some(&kind) {
            let mac = MacAddr(array(option, 2)?);
            if units != LINK_LAYER_UNITS || !mac.is_unicast() {
                return Err(ParseReason::OptionLinkLayer);
            }
            found = Some(mac);
        }
        rest = behind;
    }
    Ok(found)
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    solicited_node(address) == address
}

impl NeighbourSolicitation {
    /// The packet, IPv6 header included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let option = self.source_mac.map(|mac| (OPTION_SOURCE_LINK_LAYER, mac));
        packet(SOLICITATION, 0, self.source, self.destination, self.target, option)
    }

    /// The packet in a frame.
    pub fn to_frame(&self, source: MacAddr, destination: MacAddr) -> Vec<u8> {
        let payload = &self.to_bytes();
        Ethernet { destination, source, ether_type: ethernet::IPV6, payload }.to_bytes()
    }
}

impl NeighbourAdvertisement {
    /// The packet, IPv6 header included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = [
            (self.router, FLAG_ROUTER),
            (self.solicited, FLAG_SOLICITED),
            (self.overrides, FLAG_OVERRIDE),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
        let option = self.target_mac.map(|mac| (OPTION_TARGET_LINK_LAYER, mac));
        packet(ADVERTISEMENT, flags, self.source, self.destination, self.target, option)
    }

    /// The packet in a frame.
    pub fn to_frame(&self, source: MacAddr, destination: MacAddr) -> Vec<u8> {
        let payload = &self.to_bytes();
        Ethernet { destination, source, ether_type: ethernet::IPV6, payload }.to_bytes()
    }
}

fn packet(
    kind: u8,
    flags: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    if let Some((kind, mac)) = option {
        message.extend_from_slice(&[kind, LINK_LAYER_UNITS]);
        message.extend_from_slice(&mac.0);
    }
    let sum = checksum::icmpv6(source, destination, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let next_header = NEXT_HEADER_ICMPV6;
    Ipv6 { source, destination, next_header, hop_limit: HOP_LIMIT, payload: &message }.to_bytes()
}

#[cfg(test)]
mod tests;
