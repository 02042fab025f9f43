//! What a flow sample says (pure): from a record of the ring buffer `SAMPLES` to a flow, its
//! verdict, and where it went.
//!
//! The octets come from the network, so every length in them is checked, and a record that makes no
//! sense is refused with a named reason. It must not show what a packet carries: nothing behind the
//! ports is read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use herald_ebpf_common::headers::{
    DESTINATION, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, EXTENSIONS, Ethernet, Extension, FRAGMENT,
    Fragment, HOP_BY_HOP, Header, Ipv4, Ipv6, Ports, ROUTING, TAG_LEN, Tag, VERSION_6_BE, is_tag,
};
use herald_ebpf_common::parse::Octets;
use herald_ebpf_common::sample::{FRAME, Sample};
use herald_ebpf_common::{Reason, ip, mapped, protocol};

use crate::picture::Protocol;

/// One sampled packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSample {
    /// When, on the boot clock.
    pub at: Duration,
    /// What became of it.
    pub reason: Reason,
    /// Packets it stands for, itself included.
    pub packets: u64,
    /// Index of the interface it came in by.
    pub ifindex: u32,
    /// Octets of the frame, as the programs left it.
    pub length: u32,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Who asked.
    pub client: End,
    /// Whom it asked: a VIP's port. Unknown where the packet has its pod's address now, until
    /// somebody looks it up.
    pub vip: Option<End>,
    /// The MAC of the pod's node, where it was sent there.
    pub next_hop: Option<[u8; 6]>,
    /// The pod, where it was given to one here.
    pub pod: Option<End>,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The address.
    pub ip: IpAddr,
    /// The port; fragments but the first have none.
    pub port: Option<u16>,
}

/// Why a record is no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// It has another length than all records have.
    WrongLength,
    /// It claims to hold more of the frame than it has room for, or than there was.
    HoldsTooMuch,
    /// Its verdict is not known, or is none that is sampled.
    UnknownReason,
    /// The frame is no IP packet of a protocol the programs carry.
    NotCarried,
    /// The frame ends within its headers.
    Cut,
}

impl Unreadable {
    /// The name in metrics and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::WrongLength => "wrong_length",
            Self::HoldsTooMuch => "holds_too_much",
            Self::UnknownReason => "unknown_reason",
            Self::NotCarried => "not_carried",
            Self::Cut => "cut",
        }
    }
}

impl End {
    /// Both parts, if both are known.
    pub const fn with_port(self) -> Option<SocketAddr> {
        match self.port {
            Some(port) => Some(SocketAddr::new(self.ip, port)),
            None => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.with_port() {
            Some(address) => address.fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FlowSample {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn decode(record: &[u8]) -> Result<Self, Unreadable> {
        let record: &[u8; size_of::<Sample>()] =
            record.try_into().map_err(|_| Unreadable::WrongLength)?;
        let (number, frame) = (Number(record), &record[size_of::<Sample>() - FRAME..]);
        let (length, held) = (number.u32(24), number.u32(28));
        let frame = frame.get(..held as usize).filter(|_| held <= length);
        let frame = Beginning(frame.ok_or(Unreadable::HoldsTooMuch)?);
        let reason = number.u32(16);
        let known = Reason::ALL.get(reason as usize).copied();
        let known = known.filter(|_| herald_ebpf_common::sample::is_sampled(reason));
        let reason = known.ok_or(Unreadable::UnknownReason)?;
        let packet = frame.packet()?;
        let packet = match reason {
            Reason::Rejected => packet.quoted(frame)?,
            _ => packet,
        };
        let protocol = packet.protocol.carried().ok_or(Unreadable::NotCarried)?;
        let ports = packet.ports(frame)?;
        let end = |ip, port: fn((u16, u16)) -> u16| End { ip, port: ports.map(port) };
        let client = end(packet.source, |(from, _)| from);
        let asked = end(packet.destination, |(_, to)| to);
        let is_delivered = matches!(
            reason,
            Reason::Delivered | Reason::DeliveredFromPeer | Reason::DeliveredElsewhere
        );
        Ok(Self {
            at: Duration::from_nanos(number.u64(0)),
            reason,
            packets: number.u64(8),
            ifindex: number.u32(20),
            length,
            protocol,
            client,
            vip: (!is_delivered).then_some(asked),
            next_hop: (reason == Reason::Forwarded).then(|| frame.destination()).transpose()?,
            pod: is_delivered.then_some(asked),
        })
    }
}

/// The numbers of a record, by their offsets in [`Sample`].
struct Number<'a>(&'a [u8; size_of::<Sample>()]);

impl Number<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|i| self.0[at + i]))
    }
}

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Sample, at) == 0 && offset_of!(Sample, packets) == 8);
    assert!(offset_of!(Sample, reason) == 16 && offset_of!(Sample, ifindex) == 20);
    assert!(offset_of!(Sample, length) == 24 && offset_of!(Sample, held) == 28);
    assert!(offset_of!(Sample, frame) == 32);
};

/// A protocol number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Carries(u8);

impl Carries {
    const fn carried(self) -> Option<Protocol> {
        match self.0 {
            protocol::TCP => Some(Protocol::Tcp),
            protocol::UDP => Some(Protocol::Udp),
            protocol::SCTP => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// What an IP header says.
#[derive(Clone, Copy)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: Carries,
    /// Where the header behind it begins.
    l4: usize,
    /// Not the first fragment: there is no such header.
    is_later: bool,
}

impl Packet {
    /// The packet that an ICMP error of ours quotes.
    fn quoted(self, frame: Beginning<'_>) -> Result<Self, Unreadable> {
        const ICMP_LEN: usize = 8;
        match self.protocol.0 {
            protocol::ICMP => frame.ipv4(self.l4 + ICMP_LEN),
            protocol::ICMPV6 => frame.ipv6(self.l4 + ICMP_LEN),
            _ => Err(Unreadable::NotCarried),
        }
    }

    fn ports(self, frame: Beginning<'_>) -> Result<Option<(u16, u16)>, Unreadable> {
        if self.is_later {
            return Ok(None);
        }
        let ports = frame.read::<Ports>(self.l4)?;
        Ok(Some((u16::from_be(ports.source_be), u16::from_be(ports.destination_be))))
    }
}

/// The beginning of a frame. It is not read by `parse::walk`: what the programs pass on because it
/// is too short for their purposes has ends all the same, and a piece of an IPv6 packet a protocol.
#[derive(Clone, Copy)]
struct Beginning<'a>(&'a [u8]);

impl Beginning<'_> {
    fn packet(self) -> Result<Packet, Unreadable> {
        let mut ether_type_be = self.read::<Ethernet>(0)?.ether_type_be;
        let mut at = ETH_LEN;
        for _ in 0..TAGS {
            if is_tag(ether_type_be) {
                ether_type_be = self.read::<Tag>(at)?.ether_type_be;
                at += TAG_LEN;
            }
        }
        match ether_type_be {
            ETH_IPV4_BE => self.ipv4(at),
            ETH_IPV6_BE => self.ipv6(at),
            _ => Err(Unreadable::NotCarried),
        }
    }

    /// RFC 791 3.1.
    fn ipv4(self, at: usize) -> Result<Packet, Unreadable> {
        let header = self.read::<Ipv4>(at)?;
        Ok(Packet {
            source: ip(&mapped(header.source)),
            destination: ip(&mapped(header.destination)),
            protocol: Carries(header.protocol),
            l4: at + header.header_length().ok_or(Unreadable::NotCarried)?,
            is_later: header.is_later(),
        })
    }

    /// RFC 8200 3 and 4, as far as the programs look.
    fn ipv6(self, at: usize) -> Result<Packet, Unreadable> {
        let header = self.read::<Ipv6>(at)?;
        if header.version_class_flow_be & 0xf000_0000_u32.to_be() != VERSION_6_BE {
            return Err(Unreadable::NotCarried);
        }
        let mut packet = Packet {
            source: ip(&header.source),
            destination: ip(&header.destination),
            protocol: Carries(header.next_header),
            l4: at + size_of::<Ipv6>(),
            is_later: false,
        };
        for _ in 0..EXTENSIONS {
            match packet.protocol.0 {
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    let extension = self.read::<Extension>(packet.l4)?;
                    packet.protocol = Carries(extension.next_header);
                    packet.l4 += (usize::from(extension.length) + 1) * 8;
                }
                FRAGMENT => {
                    let fragment = self.read::<Fragment>(packet.l4)?;
                    packet.protocol = Carries(fragment.next_header);
                    packet.l4 += size_of::<Fragment>();
                    packet.is_later = fragment.is_later();
                }
                _ => break,
            }
            if packet.is_later {
                break;
            }
        }
        Ok(packet)
    }

    /// The MAC the frame is for.
    fn destination(self) -> Result<[u8; 6], Unreadable> {
        self.0.first_chunk().copied().ok_or(Unreadable::Cut)
    }

    fn read<T: Header>(self, at: usize) -> Result<T, Unreadable> {
        Octets::read::<T>(self.0, at).map(|header| *header).ok_or(Unreadable::Cut)
    }
}

/// VLAN tags looked through, as the programs do.
const TAGS: usize = 2;

#[cfg(test)]
mod tests;
