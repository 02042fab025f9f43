//! What a flow sample says (pure): from a record of the ring buffer `SAMPLES` to a flow, its
//! verdict, and where it went.
//!
//! The octets come from the network, so every length in them is checked, and a record that makes no
//! sense is refused with a named reason. It must not show what a packet carries: nothing behind the
//! ports is read.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use herald_ebpf_common::sample::{FRAME, Sample};
use herald_ebpf_common::{Reason, protocol};

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
        let frame = Octets(frame.ok_or(Unreadable::HoldsTooMuch)?);
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
            next_hop: (reason == Reason::Forwarded).then(|| frame.array(0)).transpose()?,
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
    fn quoted(self, frame: Octets<'_>) -> Result<Self, Unreadable> {
        const ICMP_LEN: usize = 8;
        match self.protocol.0 {
            protocol::ICMP => frame.ipv4(self.l4 + ICMP_LEN),
            protocol::ICMPV6 => frame.ipv6(self.l4 + ICMP_LEN),
            _ => Err(Unreadable::NotCarried),
        }
    }

    fn ports(self, frame: Octets<'_>) -> Result<Option<(u16, u16)>, Unreadable> {
        match self.is_later {
            true => Ok(None),
            false => Ok(Some((frame.u16(self.l4)?, frame.u16(self.l4 + 2)?))),
        }
    }
}

/// The beginning of a frame.
#[derive(Clone, Copy)]
struct Octets<'a>(&'a [u8]);

impl Octets<'_> {
    fn packet(self) -> Result<Packet, Unreadable> {
        let mut at = 12;
        for _ in 0..=TAGS {
            let ether_type = self.u16(at)?;
            at += 2;
            match ether_type {
                0x0800 => return self.ipv4(at),
                0x86dd => return self.ipv6(at),
                // IEEE 802.1Q and 802.1ad: two octets of tag, then the next type.
                0x8100 | 0x88a8 => at += 2,
                _ => break,
            }
        }
        Err(Unreadable::NotCarried)
    }

    /// RFC 791 3.1.
    fn ipv4(self, at: usize) -> Result<Packet, Unreadable> {
        let header: [u8; 20] = self.array(at)?;
        let length = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || length < header.len() {
            return Err(Unreadable::NotCarried);
        }
        Ok(Packet {
            source: self.array::<4>(at + 12)?.into(),
            destination: self.array::<4>(at + 16)?.into(),
            protocol: Carries(header[9]),
            l4: at + length,
            is_later: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
        })
    }

    /// RFC 8200 3 and 4, as far as the programs look.
    fn ipv6(self, at: usize) -> Result<Packet, Unreadable> {
        let header: [u8; 40] = self.array(at)?;
        if header[0] >> 4 != 6 {
            return Err(Unreadable::NotCarried);
        }
        let mut packet = Packet {
            source: Ipv6Addr::from(self.array::<16>(at + 8)?).into(),
            destination: Ipv6Addr::from(self.array::<16>(at + 24)?).into(),
            protocol: Carries(header[6]),
            l4: at + header.len(),
            is_later: false,
        };
        for _ in 0..EXTENSIONS {
            let [next, length, offset_high, offset_low] = match packet.protocol.0 {
                HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => self.array(packet.l4)?,
                _ => break,
            };
            let is_fragment = packet.protocol.0 == FRAGMENT;
            packet.l4 += if is_fragment { 8 } else { (usize::from(length) + 1) * 8 };
            packet.protocol = Carries(next);
            if is_fragment && u16::from_be_bytes([offset_high, offset_low]) & 0xfff8 != 0 {
                packet.is_later = true;
                break;
            }
        }
        Ok(packet)
    }

    fn u16(self, at: usize) -> Result<u16, Unreadable> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Unreadable> {
        let octets = self.0.get(at..).and_then(|rest| rest.first_chunk());
        octets.copied().ok_or(Unreadable::Cut)
    }
}

/// VLAN tags looked through, as the programs do.
const TAGS: usize = 2;
/// IPv6 extension headers looked through, as the programs do.
const EXTENSIONS: usize = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[cfg(test)]
mod tests;
