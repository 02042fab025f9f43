//! The answer to one frame: whether somebody asks for a VIP we speak for, and the bytes to say so.
//!
//! The XDP program gives the same answers; this file is the model it is tested against, so a rule
//! here is a rule there. Must never answer for an address that `speaks_for` denies, and never
//! answer an announcement: that is another machine claiming the address, and a reply would start
//! a duel of caches. Read [`crate::wire`] first.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};

use crate::wire::ndp::ALL_NODES;
use crate::wire::{
    Arp, Ethernet, MacAddr, Ndp, NeighbourAdvertisement, NeighbourSolicitation, Operation,
    ParseReason, ethernet, solicited_node,
};

/// What we are on the link the frame came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkIdentity {
    /// The interface's own address.
    pub mac: MacAddr,
}

/// What becomes of a frame.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this frame out of the interface the question came in by.
    Reply(Vec<u8>),
    /// Say nothing.
    Ignore(IgnoreReason),
}

/// Why a frame gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IgnoreReason {
    /// Neither ARP nor IPv6.
    OtherProtocol,
    /// Not what its type says, or a packet that its RFC discards.
    Malformed(ParseReason),
    /// The frame is for another machine and reached us by flooding.
    OtherMac,
    /// An answer, not a question.
    NotARequest,
    /// The sender announces that it has the address (RFC 5227 2.3).
    Announcement,
    /// A solicitation sent neither to its target nor to the target's solicited-node group.
    OtherDestination,
    /// We do not speak for the address.
    NotOurs,
}

impl IgnoreReason {
    /// The fixed name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::OtherProtocol => "other_protocol",
            Self::Malformed(reason) => reason.label(),
            Self::OtherMac => "other_mac",
            Self::NotARequest => "not_a_request",
            Self::Announcement => "announcement",
            Self::OtherDestination => "other_destination",
            Self::NotOurs => "not_ours",
        }
    }
}

impl From<ParseReason> for IgnoreReason {
    fn from(reason: ParseReason) -> Self {
        Self::Malformed(reason)
    }
}

/// Decides about one frame, as it lies on the wire.
pub fn respond(frame: &[u8], link: &LinkIdentity, speaks_for: impl Fn(IpAddr) -> bool) -> Verdict {
    let answer = Ethernet::parse(frame).map_err(IgnoreReason::from).and_then(|frame| {
        match frame.ether_type {
            ethernet::ARP => arp(&frame, link, speaks_for),
            ethernet::IPV6 => ndp(&frame, link, speaks_for),
            _ => Err(IgnoreReason::OtherProtocol),
        }
    });
    match answer {
        Ok(reply) => Verdict::Reply(reply),
        Err(reason) => Verdict::Ignore(reason),
    }
}

/// The reply goes to the sender's MAC as the packet states it (RFC 826, "Packet Reception"), by
/// unicast. A probe (sender 0.0.0.0) is a question like any other: unanswered, its sender would
/// take the VIP for free (RFC 5227 2.1.1).
fn arp(
    frame: &Ethernet<'_>,
    link: &LinkIdentity,
    speaks_for: impl Fn(IpAddr) -> bool,
) -> Result<Vec<u8>, IgnoreReason> {
    // Unicast requests are how hosts verify an entry they have (RFC 1122 2.3.2.1).
    if frame.destination != MacAddr::BROADCAST && frame.destination != link.mac {
        return Err(IgnoreReason::OtherMac);
    }
    let request = Arp::parse(frame.payload)?;
    if request.operation != Operation::Request {
        return Err(IgnoreReason::NotARequest);
    }
    if request.is_announcement() {
        return Err(IgnoreReason::Announcement);
    }
    if !speaks_for(IpAddr::V4(request.target)) {
        return Err(IgnoreReason::NotOurs);
    }
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: link.mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    };
    Ok(reply.to_frame(request.sender_mac))
}

fn ndp(
    frame: &Ethernet<'_>,
    link: &LinkIdentity,
    speaks_for: impl Fn(IpAddr) -> bool,
) -> Result<Vec<u8>, IgnoreReason> {
    let Ndp::Solicitation(question) = Ndp::parse(frame.payload)? else {
        return Err(IgnoreReason::NotARequest);
    };
    // A group's packet in a unicast frame is legal (RFC 6085): access points convert it so.
    let group_mac = MacAddr::of_ipv6_multicast(question.destination);
    let by_group = question.destination.is_multicast() && frame.destination == group_mac;
    if !by_group && frame.destination != link.mac {
        return Err(IgnoreReason::OtherMac);
    }
    // RFC 4861 7.2.2 and 7.3.3 know these two destinations.
    let target = question.target;
    if question.destination != target && question.destination != solicited_node(target) {
        return Err(IgnoreReason::OtherDestination);
    }
    if !speaks_for(IpAddr::V6(target)) {
        return Err(IgnoreReason::NotOurs);
    }
    Ok(advertisement(&question, frame.source, link.mac))
}

/// The answer of RFC 4861 7.2.4.
///
/// - The source is the VIP: an address of the sending interface (4.4), and the only one we know to
///   exist there.
/// - To duplicate address detection (unspecified source): all nodes, Solicited = 0.
/// - Else to who asked, Solicited = 1, in a frame to its source link-layer option, or without one
///   to the MAC the question came from. Reachability checks (7.3.3) need not carry the option;
///   MetalLB stays silent there and loses the neighbour (metallb#2920).
/// - Override = 1: 7.2.4 asks for 0 only for anycast and proxied addresses. The fence makes the
///   holder the VIP's single owner, and an entry that still names the last one has to go.
fn advertisement(question: &NeighbourSolicitation, asker: MacAddr, own: MacAddr) -> Vec<u8> {
    let to_all = question.source == Ipv6Addr::UNSPECIFIED;
    let destination = if to_all { ALL_NODES } else { question.source };
    let destination_mac = if to_all {
        MacAddr::of_ipv6_multicast(ALL_NODES)
    } else {
        question.source_mac.unwrap_or(asker)
    };
    let answer = NeighbourAdvertisement {
        source: question.target,
        destination,
        router: false,
        solicited: !to_all,
        overrides: true,
        target: question.target,
        target_mac: Some(own),
    };
    answer.to_frame(own, destination_mac)
}

#[cfg(test)]
mod tests;
