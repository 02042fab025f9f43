//! What the XDP program should do with any frame, written apart from it and for reading: plain
//! slices, no pointers, no incremental checksums. It knows the pictures of this test alone.
//!
//! A checksum is not predicted but held to its invariant, however wrong it was: the one's
//! complement sum of all it covers, itself included, is the same before and after (RFC 1071);
//! SCTP's differs from the right one by the same bits.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

use crate::asks_model::{self, Asks};
use crate::build::crc32c;
use crate::kernel::Action;
use crate::{OURS, PEER, Pods, VIP4, VIP6, pod, v6};

/// What is allowed to come out.
pub struct Expected {
    pub action: Action,
    /// The frame, with its checksums as they came.
    pub frame: Vec<u8>,
    pub sums: Vec<Sum>,
}

/// A checksum: where it is, and what else it covers that may have changed.
pub struct Sum {
    pub at: usize,
    pub covers: Vec<Range<usize>>,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Internet,
    /// Zero says that there is none.
    Udp,
    /// Over a packet of so many octets. Zero says that it is still to be computed.
    Sctp(usize),
}

/// The data plane's memory, as far as outcomes depend on it.
#[derive(Default)]
pub struct Model {
    pub asks: Asks,
    /// Packets of which a first fragment was seen.
    pub firsts: HashSet<Vec<u8>>,
}

/// What becomes of a frame.
enum Fate {
    Passed,
    /// Somebody else's test: ARP, neighbour discovery.
    Unjudged,
    Changed(Expected),
    Dropped,
    /// Answered with this frame, or dropped because too many were.
    Rejected(Vec<u8>),
    /// A later fragment of a packet seen before: changed, unless that was forgotten.
    Either(Expected),
}

/// What a frame carries, by its headers alone.
pub enum Carried {
    Arp,
    Ip(Headers),
}

/// Where an IP packet's headers are, and what they say.
pub struct Headers {
    pub l3: usize,
    /// Behind the last header that was looked through.
    pub l4: usize,
    pub protocol: u8,
    pub is_v4: bool,
    /// The fragment's, in units of 8 octets.
    pub offset: u16,
    pub has_more: bool,
    /// Addresses and identification, in IPv4 the protocol too: the same of all fragments of a
    /// packet. Empty in a whole packet of IPv6.
    pub name: Vec<u8>,
}

/// An IP packet in its frame.
struct Packet<'a> {
    frame: &'a [u8],
    pods: Pods,
    l3: usize,
    l4: usize,
    protocol: u8,
    is_v4: bool,
}

/// `None` wherever a frame ends too early, and of what is neither ARP nor IP.
pub fn walk(frame: &[u8]) -> Option<Carried> {
    let mut l3 = 14;
    for _ in 0..2 {
        if matches!(half(frame, l3 - 2)?, 0x8100 | 0x88a8) {
            l3 += 4;
        }
    }
    match half(frame, l3 - 2)? {
        0x0800 => ipv4(frame, l3).map(Carried::Ip),
        0x86dd => ipv6(frame, l3).map(Carried::Ip),
        0x0806 => Some(Carried::Arp),
        _ => None,
    }
}

fn ipv4(frame: &[u8], l3: usize) -> Option<Headers> {
    let header = frame.get(l3..l3 + 20)?;
    let length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || length < 20 || usize::from(half(header, 2)?) < length + 8 {
        return None;
    }
    let (protocol, fragment) = (header[9], half(header, 6)?);
    Some(Headers {
        l3,
        l4: l3 + length,
        protocol,
        is_v4: true,
        offset: fragment & 0x1fff,
        has_more: fragment & 0x2000 != 0,
        name: [&header[12..20], &header[4..6], &[protocol]].concat(),
    })
}

fn ipv6(frame: &[u8], l3: usize) -> Option<Headers> {
    let header = frame.get(l3..l3 + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut found = Headers {
        l3,
        l4: l3 + 40,
        protocol: header[6],
        is_v4: false,
        offset: 0,
        has_more: false,
        name: vec![],
    };
    for _ in 0..4 {
        match found.protocol {
            0 | 43 | 60 => {
                let extension = frame.get(found.l4..found.l4 + 2)?;
                found.protocol = extension[0];
                found.l4 += 8 * (1 + usize::from(extension[1]));
            }
            44 => {
                let extension = frame.get(found.l4..found.l4 + 8)?;
                found.protocol = extension[0];
                let field = half(extension, 2)?;
                let name = [&header[8..40], &extension[4..8]].concat();
                if field >> 3 != 0 {
                    return Some(Headers { offset: field >> 3, has_more: false, name, ..found });
                }
                if field & 1 != 0 {
                    (found.has_more, found.name) = (true, name);
                }
                found.l4 += 8;
            }
            _ => {}
        }
    }
    (l3 + 40 + usize::from(half(header, 4)?) >= found.l4 + 8).then_some(found)
}

impl Model {
    /// Whether `action` and `out` are right for `frame`; if not, what would have been.
    pub fn judge(
        &mut self,
        pods: Pods,
        frame: &[u8],
        action: Action,
        out: &[u8],
    ) -> Result<&'static str, String> {
        let passed = action == Action::Pass && out == frame;
        match self.fate(pods, frame).unwrap_or(Fate::Passed) {
            Fate::Unjudged => Ok("unjudged"),
            Fate::Passed if passed => Ok("passed"),
            Fate::Passed => Err("it should be passed untouched".to_owned()),
            Fate::Dropped | Fate::Rejected(_) if action == Action::Drop && out == frame => {
                Ok("dropped")
            }
            Fate::Dropped => Err("it should be dropped".to_owned()),
            Fate::Rejected(answer) => match (action, out) == (Action::Transmit, &answer[..]) {
                true => Ok("rejected"),
                false => Err(format!("{answer:02x?} expected")),
            },
            Fate::Either(_) if passed => Ok("forgotten"),
            Fate::Changed(expected) | Fate::Either(expected) => {
                expected.check(frame, action, out).map(|()| "changed")
            }
        }
    }

    /// `None` wherever a frame ends too early.
    fn fate(&mut self, pods: Pods, frame: &[u8]) -> Option<Fate> {
        match walk(frame)? {
            Carried::Arp => Some(Fate::Unjudged),
            Carried::Ip(headers) => {
                let Headers { l3, l4, protocol, is_v4, offset, has_more, name } = headers;
                let packet = Packet { frame, pods, l3, l4, protocol, is_v4 };
                self.transport(&packet, offset, has_more, name)
            }
        }
    }

    fn transport(
        &mut self,
        packet: &Packet<'_>,
        offset: u16,
        has_more: bool,
        name: Vec<u8>,
    ) -> Option<Fate> {
        match (packet.protocol, packet.is_v4) {
            // IPv6 follows any packet by its name; without a service there is none.
            (6 | 17 | 132, _) | (_, false) if offset != 0 => {
                let expected = self.firsts.contains(&name).then(|| packet.follow())??;
                Some(Fate::Either(expected))
            }
            (6 | 17 | 132, _) => {
                let vip = packet.vip()?;
                if half(packet.frame, packet.l4 + 2)? != 80 || packet.destination() != vip {
                    return None;
                }
                match self.asks {
                    Asks::Sources if !asks_model::may_ask(packet.source()) => {
                        return Some(Fate::Dropped);
                    }
                    Asks::Reject if packet.is_final() => return None,
                    Asks::Reject => {
                        let answer = asks_model::answer(packet.frame, packet.l3, packet.l4);
                        return answer.map(Fate::Rejected);
                    }
                    Asks::Sources | Asks::Nothing => {}
                }
                // In pieces, it cannot be given another port.
                if packet.protocol == 132 && has_more && matches!(packet.pods, Pods::Here) {
                    return None;
                }
                if has_more {
                    self.firsts.insert(name);
                }
                packet.request().map(Fate::Changed)
            }
            (1, true) | (58, false) if offset == 0 && !has_more => packet.icmp(),
            _ => None,
        }
    }
}

impl Packet<'_> {
    fn addresses(&self) -> (Range<usize>, Range<usize>) {
        match self.is_v4 {
            true => (self.l3 + 12..self.l3 + 16, self.l3 + 16..self.l3 + 20),
            false => (self.l3 + 8..self.l3 + 24, self.l3 + 24..self.l3 + 40),
        }
    }

    fn source(&self) -> &[u8] {
        &self.frame[self.addresses().0]
    }

    fn destination(&self) -> Vec<u8> {
        self.frame[self.addresses().1].to_vec()
    }

    /// The family's VIP, if the frame is for our MAC.
    fn vip(&self) -> Option<Vec<u8>> {
        (self.frame[..6] == OURS).then(|| match self.is_v4 {
            true => VIP4.to_vec(),
            false => v6(VIP6).octets().to_vec(),
        })
    }

    fn is_final(&self) -> bool {
        let peer_itself: &[&[u8]] = match self.is_v4 {
            true => &[&[192, 168, 1, 12]],
            false => &[&[0; 16], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 168, 1, 12]],
        };
        self.frame[6..12] == PEER && !peer_itself.contains(&self.source())
    }

    fn pod(&self) -> Vec<u8> {
        let vip = if self.is_v4 { IpAddr::from(VIP4) } else { v6(VIP6).into() };
        match pod(vip, true).ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        }
    }

    fn header_sum(&self) -> Vec<Sum> {
        let header = self.l3..self.l3 + 20;
        let sum = Sum { at: self.l3 + 10, covers: one(header), kind: Kind::Internet };
        if self.is_v4 { vec![sum] } else { vec![] }
    }

    fn forwarded(&self) -> Option<Expected> {
        let hops = self.l3 + if self.is_v4 { 8 } else { 7 };
        if self.is_final() || self.frame[hops] <= 1 {
            return None;
        }
        let mut frame = self.frame.to_vec();
        frame[..6].copy_from_slice(&PEER);
        frame[6..12].copy_from_slice(&OURS);
        frame[hops] -= 1;
        Some(Expected { action: Action::Transmit, frame, sums: self.header_sum() })
    }

    /// To the pod, by its address alone.
    fn addressed(&self) -> Expected {
        let mut frame = self.frame.to_vec();
        frame[self.addresses().1].copy_from_slice(&self.pod());
        Expected { action: Action::Pass, frame, sums: self.header_sum() }
    }

    fn follow(&self) -> Option<Expected> {
        let _ = self.vip()?;
        match self.pods {
            Pods::Here => Some(self.addressed()),
            _ => self.forwarded(),
        }
    }

    fn request(&self) -> Option<Expected> {
        let Pods::Here = self.pods else { return self.forwarded() };
        let sum = match self.protocol {
            132 => self.sctp_sum(self.l4, self.end()? - self.l4)?,
            protocol => {
                let at = self.l4 + if protocol == 17 { 6 } else { 16 };
                let _ = half(self.frame, at)?;
                let (from, to) = self.addresses();
                let ports = self.l4..self.l4 + 4;
                Sum { at, covers: vec![from, to, ports, at..at + 2], kind: kind(protocol) }
            }
        };
        let mut expected = self.addressed();
        expected.frame[self.l4 + 2..self.l4 + 4].copy_from_slice(&8080_u16.to_be_bytes());
        expected.sums.push(sum);
        Some(expected)
    }

    /// Where the IP header says that the packet ends.
    fn end(&self) -> Option<usize> {
        Some(match self.is_v4 {
            true => self.l3 + usize::from(half(self.frame, self.l3 + 2)?),
            false => self.l3 + 40 + usize::from(half(self.frame, self.l3 + 4)?),
        })
    }

    /// The checksum of an SCTP packet of so many octets, however many of them are in the frame.
    fn sctp_sum(&self, start: usize, length: usize) -> Option<Sum> {
        let _ = self.frame.get(start + 8..start + 12).filter(|_| length >= 12)?;
        let covers = one(start..self.frame.len().min(start + length));
        Some(Sum { at: start + 8, covers, kind: Kind::Sctp(length) })
    }

    fn icmp(&self) -> Option<Fate> {
        let icmp = self.frame.get(self.l4..self.l4 + 8)?;
        match (icmp[0], self.is_v4) {
            (135, false) => Some(Fate::Unjudged),
            (8, true) | (128, false) if icmp[1] == 0 => self.echo(),
            (3 | 4 | 11 | 12, true) | (1..=4, false) => self.error().map(Fate::Changed),
            _ => None,
        }
    }

    fn echo(&self) -> Option<Fate> {
        let from = self.source();
        let is_host = match self.is_v4 {
            true => from[0] != 127 && from[0] & 0xf0 != 224 && *from != [255; 4] && *from != [0; 4],
            false => from[0] != 255 && *from != [0; 16] && self.l4 == 54,
        };
        let is_group = self.frame[6] & 1 != 0;
        if self.l3 != 14 || !is_host || is_group || self.destination() != self.vip()? {
            return None;
        }
        let mut frame = self.frame.to_vec();
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&OURS);
        let (source, destination) = self.addresses();
        frame[source].copy_from_slice(&self.destination());
        frame[destination].copy_from_slice(self.source());
        frame[self.l3 + if self.is_v4 { 8 } else { 7 }] = 64;
        frame[self.l4] = if self.is_v4 { 0 } else { 129 };
        let mut sums = self.header_sum();
        let covers = one(self.l4..self.l4 + 4);
        sums.push(Sum { at: self.l4 + 2, covers, kind: Kind::Internet });
        Some(Fate::Changed(Expected { action: Action::Transmit, frame, sums }))
    }

    /// To the backend of the quoted flow.
    fn error(&self) -> Option<Expected> {
        let inner = self.l4 + 8;
        let quoted = self.frame.get(inner..inner + if self.is_v4 { 20 } else { 40 })?;
        let length = if self.is_v4 { usize::from(quoted[0] & 15) * 4 } else { 40 };
        let is_whole =
            !self.is_v4 || quoted[0] >> 4 == 4 && length >= 20 && half(quoted, 6)? & 0x1fff == 0;
        let (protocol, from) = match self.is_v4 {
            true => (quoted[9], inner + 12..inner + 16),
            false => (quoted[6], inner + 8..inner + 24),
        };
        let ports = inner + length;
        let _ = self.frame.get(ports..ports + 4)?;
        let is_ours = self.frame[from.clone()] == self.destination()
            && self.destination() == self.vip()?
            && matches!(protocol, 6 | 17 | 132)
            && half(self.frame, ports)? == 80;
        if !is_whole || !is_ours {
            return None;
        }
        match self.pods {
            Pods::Here => {}
            Pods::Nowhere => return None,
            _ => return self.forwarded(),
        }
        let mut expected = self.addressed();
        expected.frame[from.clone()].copy_from_slice(&self.pod());
        expected.frame[ports..ports + 2].copy_from_slice(&8080_u16.to_be_bytes());
        let mut covers = one(self.l4..ports + 4);
        // What is behind the message's end is no checksum.
        let end = self.end()?.min(self.frame.len());
        let at = ports + if protocol == 17 { 6 } else { 16 };
        // A quoted checksum of SCTP stays as it is.
        if protocol != 132 && at + 2 <= end {
            let quoted = vec![from.clone(), ports..ports + 4, at..at + 2];
            expected.sums.push(Sum { at, covers: quoted, kind: kind(protocol) });
            covers.push(at..at + 2);
        }
        if self.is_v4 {
            let header = inner..inner + 20;
            expected.sums.push(Sum { at: inner + 10, covers: one(header), kind: Kind::Internet });
        } else {
            covers.push(self.addresses().1);
        }
        expected.sums.push(Sum { at: self.l4 + 2, covers, kind: Kind::Internet });
        Some(expected)
    }
}

impl Expected {
    pub fn check(mut self, before: &[u8], action: Action, out: &[u8]) -> Result<(), String> {
        for sum in &self.sums {
            let field = sum.at..sum.at + if let Kind::Sctp(_) = sum.kind { 4 } else { 2 };
            let Some(found) = out.get(field.clone()) else {
                return Err(format!("no checksum at {}", sum.at));
            };
            self.frame[field.clone()].copy_from_slice(found);
            if !sum.is_right(&before[field], found, before, out) {
                return Err(format!("the checksum at {} is wrong", sum.at));
            }
        }
        match (action, out) == (self.action, &self.frame[..]) {
            true => Ok(()),
            false => Err(format!("{:?} with {:02x?} expected", self.action, self.frame)),
        }
    }
}

impl Sum {
    fn is_right(&self, was: &[u8], is: &[u8], before: &[u8], after: &[u8]) -> bool {
        let [was_absent, is_absent] = [was, is].map(|sum| sum.iter().all(|octet| *octet == 0));
        match self.kind {
            Kind::Udp if was_absent || is_absent => was_absent && is_absent,
            Kind::Sctp(_) if was_absent => is_absent,
            Kind::Sctp(length) => self.error(before, length) == self.error(after, length),
            _ => residue(before, &self.covers) == residue(after, &self.covers),
        }
    }

    /// The bits in which an SCTP packet's checksum differs from the right one.
    fn error(&self, frame: &[u8], length: usize) -> u32 {
        let field = &frame[self.at..self.at + 4];
        let range = &self.covers[0];
        let (before, behind) = (range.start..self.at, self.at + 4..range.end);
        let octets = frame[before].iter().chain(&[0; 4]).chain(&frame[behind]).copied();
        let all = octets.chain(std::iter::repeat(0)).take(length);
        u32::from_le_bytes([field[0], field[1], field[2], field[3]]) ^ crc32c(all)
    }
}

pub fn kind(protocol: u8) -> Kind {
    if protocol == 17 { Kind::Udp } else { Kind::Internet }
}

/// The sum of 16-bit words modulo 0xffff, which a right change keeps.
fn residue(frame: &[u8], ranges: &[Range<usize>]) -> u64 {
    let words = ranges.iter().flat_map(|range| frame[range.clone()].chunks(2));
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    words.map(word).sum::<u64>() % 0xffff
}

pub fn one(range: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(range).collect()
}

pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
