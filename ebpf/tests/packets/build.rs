//! Frames for the tables, built field by field with full checksums, so that a row says only what
//! matters to it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// A TCP, UDP or SCTP frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        match self.from.is_ipv4() {
            true => self.ipv4(&self.l4(), 0x4000),
            false => self.ipv6(self.protocol, &self.l4()),
        }
    }

    /// The frame with another payload behind its IPv4 header and these flags and offset in it.
    pub fn ipv4(&self, payload: &[u8], fragment: u16) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from.ip(), self.to.ip()) else {
            panic!("not of IPv4: {self:?}");
        };
        let mut bytes = ethernet(self.destination, self.source, 0x0800);
        bytes.extend([0x45, 0]);
        bytes.extend((20 + payload.len() as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(payload);
        seal_ipv4(&mut bytes);
        bytes
    }

    /// The frame with another payload behind its IPv6 header, which names `next`.
    pub fn ipv6(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (self.from.ip(), self.to.ip()) else {
            panic!("not of IPv6: {self:?}");
        };
        let mut bytes = ethernet(self.destination, self.source, 0x86dd);
        bytes.extend(ipv6(from, to, payload.len() as u16, next, self.hops));
        bytes.extend(payload);
        bytes
    }

    fn l4(&self) -> Vec<u8> {
        let payload = b"a request of odd length";
        let mut l4 = Vec::new();
        l4.extend(self.from.port().to_be_bytes());
        l4.extend(self.to.port().to_be_bytes());
        if self.protocol == SCTP {
            // A verification tag, the checksum, and a DATA chunk's beginning.
            l4.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 3, 0, 27]);
            l4.extend(payload);
            seal_sctp(&mut l4);
            return l4;
        }
        let at = if self.protocol == TCP {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
            16
        } else {
            l4.extend((8 + payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        };
        l4.extend(payload);
        let sum = transport_checksum(self.from.ip(), self.to.ip(), self.protocol, &l4);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }
}

pub fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16) -> Vec<u8> {
    [&destination[..], &source[..], &ether_type.to_be_bytes()[..]].concat()
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, length: u16, next: u8, hops: u8) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([next, hops]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    ip
}

/// An ARP packet in an Ethernet frame.
pub fn arp(
    destination: [u8; 6],
    operation: u16,
    sender: ([u8; 6], [u8; 4]),
    target: ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let mut bytes = ethernet(destination, sender.0, 0x0806);
    bytes.extend([0, 1, 8, 0, 6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender.0);
    bytes.extend(sender.1);
    bytes.extend(target.0);
    bytes.extend(target.1);
    bytes
}

/// An ICMPv6 message of neighbour discovery; `body` begins with type and code.
pub fn icmpv6(
    (destination, source): ([u8; 6], [u8; 6]),
    from: Ipv6Addr,
    to: Ipv6Addr,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let sum = transport_checksum(from.into(), to.into(), 58, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = ethernet(destination, source, 0x86dd);
    bytes.extend(ipv6(from, to, body.len() as u16, 58, 255));
    bytes.extend(body);
    bytes
}

/// An ICMP or ICMPv6 message, as the addresses have it; `body` begins with type and code.
pub fn icmp(
    (destination, source): ([u8; 6], [u8; 6]),
    from: IpAddr,
    to: IpAddr,
    hops: u8,
    mut body: Vec<u8>,
) -> Vec<u8> {
    body[2..4].fill(0);
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let sum = match from.is_ipv4() {
        true => checksum(&body),
        false => transport_checksum(from, to, 58, &body),
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let (from, to) = (SocketAddr::new(from, 0), SocketAddr::new(to, 0));
    let frame = Frame { destination, source, from, to, protocol, hops };
    match from.is_ipv4() {
        true => frame.ipv4(&body, 0x4000),
        false => frame.ipv6(58, &body),
    }
}

/// Writes the checksum of an untagged frame's IPv4 header.
pub fn seal_ipv4(bytes: &mut [u8]) {
    bytes[24..26].fill(0);
    let sum = checksum(&bytes[14..14 + usize::from(bytes[14] & 15) * 4]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((l4.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(l4);
    match checksum(&bytes) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    }
}

/// Writes the checksum of an SCTP packet, without its IP headers.
pub fn seal_sctp(l4: &mut [u8]) {
    l4[8..12].fill(0);
    let checksum = crc32c(l4.iter().copied());
    l4[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// RFC 9260 appendix A, an octet at a time.
pub fn crc32c(octets: impl Iterator<Item = u8>) -> u32 {
    const BY_OCTET: [u32; 256] = {
        let mut table = [0; 256];
        let mut octet = 0;
        while octet < 256 {
            let mut crc = octet as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[octet] = crc;
            octet += 1;
        }
        table
    };
    !octets.fold(u32::MAX, |crc, octet| crc >> 8 ^ BY_OCTET[usize::from(crc as u8 ^ octet)])
}

/// RFC 1071, the plain way.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// A frame with options in its IPv4 header: three that do nothing, and the end of the list.
pub fn with_options(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[14] = 0x46;
    bytes.splice(34..34, [1, 1, 1, 0]);
    let length = bytes.len() as u16 - 14;
    bytes[16..18].copy_from_slice(&length.to_be_bytes());
    seal_ipv4(&mut bytes);
    bytes
}

/// A frame behind VLAN tags: each an EtherType and a VLAN, outermost first.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (ether_type, vlan) in tags {
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}
