//! Listens at a port of the lab's bridge (edge): who claims which address by ARP or neighbour
//! discovery, and which flows carry a VIP as their source, in which direction.
//!
//! It only listens. Frames are read with the announcer's checked parsers, and where those refuse,
//! not at all; what the kernel dropped before we read it is counted and must be 0 for a "never".

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Context;
use herald_announcer::MacAddr;
use herald_announcer::wire::{Arp, Ethernet, Ndp, Operation, ethernet};

use crate::clock;
use crate::lab::{addresses, bpf};

pub mod ports;
mod recording;
mod socket;
pub mod turns;

pub(crate) use recording::Recording;
pub(crate) use socket::PacketSocket;

/// Which way a frame went through the port, seen from the host at the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The host sent it.
    FromHost,
    /// The bridge sent it to the host.
    ToHost,
}

/// Somebody said where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// When we heard it.
    pub at: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// The address.
    pub address: IpAddr,
    /// Where it is said to be.
    pub mac: MacAddr,
    /// In which form.
    pub kind: Kind,
}

/// How a voice speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ARP reply or solicited neighbour advertisement.
    Answer,
    /// An ARP announcement (RFC 5227 1.1) or unsolicited neighbour advertisement.
    Announcement,
    /// A question about another address that says where the one who asks is.
    Question,
}

/// A flow whose packets carry a VIP as source, by direction, VIP and the client's end.
pub type Flow = (Direction, SocketAddr, SocketAddr);

/// All that was heard.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// Who claimed what, in order.
    pub voices: Vec<Voice>,
    /// Frames of each flow from a VIP.
    pub flows: BTreeMap<Flow, u64>,
    /// Frames the kernel had to drop because we read too slowly.
    pub missed: u32,
}

/// A running tap.
#[derive(Debug)]
pub struct Tap(Recording<Capture>);

impl Tap {
    /// Starts to listen at a host's bridge port, watching flows from these addresses. To be called
    /// in the bridge's namespace.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn at(host: &str, vips: &[IpAddr]) -> anyhow::Result<Self> {
        let socket = PacketSocket::open(bpf::index(&addresses::port(host))?, libc::ETH_P_ALL)
            .with_context(|| format!("cannot listen at the port of {host}"))?;
        let vips = vips.to_vec();
        Ok(Self(Recording::start(socket, move |capture: &mut Capture, frame, direction| {
            capture.take(frame, direction, &vips);
        })))
    }

    /// Stops and tells what was heard.
    ///
    /// # Errors
    ///
    /// If the socket failed.
    pub fn finish(self) -> anyhow::Result<Capture> {
        let (mut capture, missed) = self.0.finish()?;
        capture.missed = missed;
        Ok(capture)
    }
}

impl Capture {
    fn take(&mut self, frame: &[u8], direction: Direction, vips: &[IpAddr]) {
        if let Some((address, mac, kind)) = voice(frame) {
            let at = clock::now();
            self.voices.push(Voice { at, direction, address, mac, kind });
        } else if let Some((source, destination)) = ends(frame)
            && vips.contains(&source.ip())
        {
            *self.flows.entry((direction, source, destination)).or_default() += 1;
        }
    }

    /// What was said about an address, in order.
    pub fn voices_for(&self, address: IpAddr) -> impl Iterator<Item = &Voice> {
        self.voices.iter().filter(move |voice| voice.address == address)
    }

    /// Who spoke for an address, one after another: a node appears again only if it spoke after
    /// another one did.
    pub fn turns(&self, address: IpAddr) -> Vec<&'static str> {
        let mut turns: Vec<&str> =
            self.voices_for(address).map(|v| addresses::node_of(v.mac).unwrap_or("?")).collect();
        turns.dedup();
        turns
    }

    /// The clients' ends of the flows in a direction.
    pub fn clients(&self, direction: Direction) -> impl Iterator<Item = SocketAddr> {
        self.flows.keys().filter(move |flow| flow.0 == direction).map(|flow| flow.2)
    }
}

/// The address a frame claims, and for whom.
pub(crate) fn voice(frame: &[u8]) -> Option<(IpAddr, MacAddr, Kind)> {
    let frame = Ethernet::parse(frame).ok()?;
    match frame.ether_type {
        ethernet::ARP => {
            let arp = Arp::parse(frame.payload).ok()?;
            let kind = match arp.operation {
                _ if arp.is_announcement() => Kind::Announcement,
                Operation::Reply => Kind::Answer,
                Operation::Request => return None,
            };
            Some((arp.sender.into(), arp.sender_mac, kind))
        }
        ethernet::IPV6 => match Ndp::parse(frame.payload).ok()? {
            Ndp::Advertisement(advertisement) => {
                let kind = match advertisement.solicited {
                    true => Kind::Answer,
                    false => Kind::Announcement,
                };
                let mac = advertisement.target_mac.unwrap_or(frame.source);
                Some((advertisement.target.into(), mac, kind))
            }
            Ndp::Solicitation(_) => None,
        },
        _ => None,
    }
}

/// Both ends of a TCP or UDP packet; only the beginning of it may be there.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = frame.get(ethernet::HEADER_LENGTH..)?;
    let (source, destination, ports): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let address = |at: usize| packet.get(at..at + 4)?.try_into().ok().map(<[u8; 4]>::into);
            (address(12)?, address(16)?, packet.get(header..header + 4)?)
        }
        6 => {
            let address =
                |at: usize| packet.get(at..at + 16)?.try_into().ok().map(<[u8; 16]>::into);
            (address(8)?, address(24)?, packet.get(40..44)?)
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2))))
}
