//! What a frame is: the way from the Ethernet type, by tags, IPv4 options, IPv6 extension headers
//! and fragments, to the part that handles it. The eBPF programs and any process walk the same
//! way; they differ in how octets are read ([`Octets`]) and in what follows ([`Ways`]).
//!
//! It must end for any octets, never read beyond them, and decide nothing but what the headers
//! say: what a VIP is, is not known here. Read [`walk`] first; the headers are in
//! [`headers`](crate::headers).

use crate::headers::{
    DESTINATION, ETH_ARP_BE, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, EXTENSIONS, Ethernet, Extension,
    FRAGMENT, Fragment, HOP_BY_HOP, Header, Ipv4, Ipv6, Ports, ROUTING, TAG_LEN, Tag, VERSION_6_BE,
    is_tag,
};
use crate::{Address, FragmentKey, Reason, ServiceKey, mapped, protocol};

/// Octets every transport packet has behind its IP headers: UDP's whole header.
const LEAST: u16 = 8;

/// The type of a neighbour solicitation (RFC 4861 4.3).
pub const SOLICITATION: u8 = 135;

/// A frame whose headers can be read.
pub trait Octets {
    /// How a header is seen: in place, or as a copy.
    type Seen<'a, T: Header + 'a>: core::ops::Deref<Target = T>
    where
        Self: 'a;

    /// The header at `offset`, if the frame is that long.
    fn read<T: Header>(&self, offset: usize) -> Option<Self::Seen<'_, T>>;
}

/// What follows when it is known what a frame is; one of these is called for each.
pub trait Ways: Sized {
    /// What it all comes to.
    type Verdict;

    /// Nothing for us, for the reason given.
    fn pass(self, reason: Reason) -> Self::Verdict;
    /// ARP without a tag, still to be parsed.
    fn arp(self) -> Self::Verdict;
    /// A whole TCP, UDP or SCTP packet, or the first fragment of one.
    fn request(self, transport: &Transport) -> Self::Verdict;
    /// A fragment that is not its packet's first; its IP header is at `l3`.
    fn later_fragment(self, l3: usize, is_v4: bool, key: &FragmentKey) -> Self::Verdict;
    /// A whole ICMP message at `l4`.
    fn icmp(self, l3: usize, l4: usize) -> Self::Verdict;
    /// A whole ICMPv6 message at `l4` that is no solicitation.
    fn icmpv6(self, l3: usize, l4: usize) -> Self::Verdict;
    /// A neighbour solicitation right behind an IPv6 header without a tag.
    fn solicitation(self) -> Self::Verdict;
}

/// A TCP, UDP or SCTP packet's headers.
pub struct Transport {
    /// Whom it is for, as the first part of a table is named.
    pub key: ServiceKey,
    /// Who sent it.
    pub client: Address,
    /// The port it was sent from.
    pub client_port_be: u16,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Whether the IP header is IPv4's.
    pub is_v4: bool,
    /// Whether other fragments follow.
    pub pieces: Pieces,
}

/// Whether a packet is the first of its fragments, and which packet's. No `Option`: the compiler
/// would leave the number of none undefined, and the verifier wants every spilled word known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces(u64);

impl Pieces {
    /// The packet is whole.
    pub const NONE: Self = Self(0);

    /// The first fragment of the packet of this identification.
    #[inline(always)]
    pub const fn first_of(identification: u32) -> Self {
        Self(1 << 32 | identification as u64)
    }

    /// Whether other fragments follow.
    #[inline(always)]
    pub const fn are_expected(self) -> bool {
        self.0 != 0
    }

    /// As it lies in the packet; zero also for a whole packet.
    #[inline(always)]
    pub const fn identification(self) -> u32 {
        self.0 as u32
    }
}

/// Goes through a frame's headers, and on by one of the `ways`.
#[inline(always)]
pub fn walk<W: Ways>(frame: &(impl Octets + ?Sized), ways: W) -> W::Verdict {
    let Some(ethernet) = frame.read::<Ethernet>(0) else {
        return ways.pass(Reason::Truncated);
    };
    match ethernet.ether_type_be {
        ETH_ARP_BE => ways.arp(),
        other if is_tag(other) => tagged(frame, ways),
        other => network(frame, ways, ETH_LEN, other),
    }
}

/// Behind one VLAN tag or two.
#[inline(always)]
fn tagged<W: Ways>(frame: &(impl Octets + ?Sized), ways: W) -> W::Verdict {
    let Some(outer) = frame.read::<Tag>(ETH_LEN) else {
        return ways.pass(Reason::Truncated);
    };
    if !is_tag(outer.ether_type_be) {
        return network(frame, ways, ETH_LEN + TAG_LEN, outer.ether_type_be);
    }
    match frame.read::<Tag>(ETH_LEN + TAG_LEN) {
        Some(inner) => network(frame, ways, ETH_LEN + 2 * TAG_LEN, inner.ether_type_be),
        None => ways.pass(Reason::Truncated),
    }
}

#[inline(always)]
fn network<W: Ways>(
    frame: &(impl Octets + ?Sized),
    ways: W,
    l3: usize,
    ether_type_be: u16,
) -> W::Verdict {
    match ether_type_be {
        ETH_IPV4_BE => ipv4(frame, ways, l3),
        ETH_IPV6_BE => ipv6(frame, ways, l3),
        // Asked in a VLAN, where this interface holds nothing: its own interface answers.
        ETH_ARP_BE => ways.pass(Reason::ArpPassed),
        _ => ways.pass(Reason::OtherProtocol),
    }
}

/// Whether this protocol's packets have ports that Services are named by.
#[inline(always)]
pub fn is_transport(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP || number == protocol::SCTP
}

#[inline(always)]
fn ipv4<W: Ways>(frame: &(impl Octets + ?Sized), ways: W, l3: usize) -> W::Verdict {
    let Some(ip) = frame.read::<Ipv4>(l3) else {
        return ways.pass(Reason::Truncated);
    };
    let Some(header_length) = ip.header_length() else {
        return ways.pass(Reason::Truncated);
    };
    if u16::from_be(ip.total_length_be) < header_length as u16 + LEAST {
        return ways.pass(Reason::Truncated);
    }
    let l4 = l3 + header_length;
    let is_piece = ip.is_piece();
    if !is_transport(ip.protocol) {
        return match ip.protocol == protocol::ICMP && !is_piece {
            true => ways.icmp(l3, l4),
            false => ways.pass(Reason::NotForVip),
        };
    }
    let identification = u32::from(ip.identification_be);
    if ip.is_later() {
        let key = FragmentKey {
            vip: mapped(ip.destination),
            client: mapped(ip.source),
            identification,
            protocol: of_pieces(ip.protocol, true),
        };
        return ways.later_fragment(l3, true, &key);
    }
    let Some(ports) = frame.read::<Ports>(l4) else {
        return ways.pass(Reason::Truncated);
    };
    let key = ServiceKey {
        vip: mapped(ip.destination),
        port_be: ports.destination_be,
        protocol: ip.protocol,
        chunk: 0,
    };
    let (client, client_port_be) = (mapped(ip.source), ports.source_be);
    let pieces = if is_piece { Pieces::first_of(identification) } else { Pieces::NONE };
    ways.request(&Transport { key, client, client_port_be, l3, l4, is_v4: true, pieces })
}

#[inline(always)]
fn ipv6<W: Ways>(frame: &(impl Octets + ?Sized), ways: W, l3: usize) -> W::Verdict {
    let Some(ip) = frame.read::<Ipv6>(l3) else {
        return ways.pass(Reason::Truncated);
    };
    if ip.version_class_flow_be & 0xf000_0000_u32.to_be() != VERSION_6_BE {
        return ways.pass(Reason::Truncated);
    }
    let mut l4 = l3 + size_of::<Ipv6>();
    let mut next = ip.next_header;
    let mut pieces = Pieces::NONE;
    let payload = u16::from_be(ip.payload_length_be) as usize;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some(extension) = frame.read::<Extension>(l4) else {
                    return ways.pass(Reason::Truncated);
                };
                l4 += (extension.length as usize + 1) * 8;
                next = extension.next_header;
            }
            FRAGMENT => {
                let Some(fragment) = frame.read::<Fragment>(l4) else {
                    return ways.pass(Reason::Truncated);
                };
                let identification = fragment.identification();
                next = fragment.next_header;
                if fragment.is_later() {
                    let key = FragmentKey {
                        vip: words(&ip.destination),
                        client: words(&ip.source),
                        identification,
                        protocol: of_pieces(next, false),
                    };
                    return ways.later_fragment(l3, false, &key);
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
        return ways.pass(Reason::Truncated);
    }
    if !is_transport(next) {
        return match next {
            protocol::ICMPV6 if !pieces.are_expected() => icmpv6(frame, ways, l3, l4),
            HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => ways.pass(Reason::Fragment),
            _ => ways.pass(Reason::NotForVip),
        };
    }
    let Some(ports) = frame.read::<Ports>(l4) else {
        return ways.pass(Reason::Truncated);
    };
    let key = ServiceKey {
        vip: words(&ip.destination),
        port_be: ports.destination_be,
        protocol: next,
        chunk: 0,
    };
    let (client, client_port_be) = (words(&ip.source), ports.source_be);
    ways.request(&Transport { key, client, client_port_be, l3, l4, is_v4: false, pieces })
}

#[inline(always)]
fn icmpv6<W: Ways>(frame: &(impl Octets + ?Sized), ways: W, l3: usize, l4: usize) -> W::Verdict {
    // Type and code. Two octets, because the verifier does not follow the check for one.
    let Some(message) = frame.read::<[u8; 2]>(l4) else {
        return ways.pass(Reason::Truncated);
    };
    if message[0] != SOLICITATION {
        return ways.icmpv6(l3, l4);
    }
    // In a VLAN this interface holds nothing; behind an extension header it is unheard of.
    match l4 == ETH_LEN + size_of::<Ipv6>() {
        true => ways.solicitation(),
        false => ways.pass(Reason::NsPassed),
    }
}

/// The headers of a usual IPv4 packet: TCP or UDP, whole, without tags or options. Whatever this
/// takes, [`walk`] takes for a request of the same addresses and ports.
#[inline(always)]
pub fn usual_v4<O: Octets + ?Sized>(frame: &O) -> Option<(O::Seen<'_, Ipv4>, O::Seen<'_, Ports>)> {
    // Ports first: with them there, the header before them is.
    let ports = frame.read::<Ports>(ETH_LEN + size_of::<Ipv4>())?;
    let ip = frame.read::<Ipv4>(ETH_LEN)?;
    let is_usual = ip.version_ihl == 0x45
        && !ip.is_piece()
        && u16::from_be(ip.total_length_be) >= size_of::<Ipv4>() as u16 + LEAST
        && is_rewritten(ip.protocol);
    is_usual.then_some((ip, ports))
}

/// As [`usual_v4`], of IPv6, without extension headers.
#[inline(always)]
pub fn usual_v6<O: Octets + ?Sized>(frame: &O) -> Option<(O::Seen<'_, Ipv6>, O::Seen<'_, Ports>)> {
    let ports = frame.read::<Ports>(ETH_LEN + size_of::<Ipv6>())?;
    let ip = frame.read::<Ipv6>(ETH_LEN)?;
    let is_usual = ip.version_class_flow_be & 0xf000_0000_u32.to_be() == VERSION_6_BE
        && u16::from_be(ip.payload_length_be) >= LEAST
        && is_rewritten(ip.next_header);
    is_usual.then_some((ip, ports))
}

/// The protocols whose checksums change with the addresses they cover.
#[inline(always)]
fn is_rewritten(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP
}

/// What belongs to the name of a packet in pieces beside its addresses and identification: the
/// protocol (RFC 791 3.2), but not in IPv6 (RFC 8200 4.5), where it may be behind further extension
/// headers that only the first piece has.
#[inline(always)]
pub const fn of_pieces(protocol: u8, is_v4: bool) -> u32 {
    if is_v4 { protocol as u32 } else { 0 }
}

/// A copy of an address by its words: as a whole, LLVM calls memmove, which BPF has not.
#[inline(always)]
pub fn words(address: &Address) -> Address {
    [address[0], address[1], address[2], address[3]]
}
