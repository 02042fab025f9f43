//! The frame the packet source fills in (pure): headers and the sums its checksums begin with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use herald_ebpf::common::bench::{FRAME, Load, Shape};

/// What goes where.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Destination and source MAC.
    pub macs: ([u8; 6], [u8; 6]),
    /// Whom the client speaks to, or who replies.
    pub other: SocketAddr,
    /// Whether the client is the source.
    pub is_request: bool,
}

impl Template {
    /// The load of so many flows; see [`Load::flows`].
    pub fn load(&self, flows: u32) -> Load {
        let (header, shape) = match (self.other.ip(), self.is_request) {
            (IpAddr::V4(ip), true) => (v4(Ipv4Addr::UNSPECIFIED, ip), Shape::RequestV4),
            (IpAddr::V4(ip), false) => (v4(ip, Ipv4Addr::UNSPECIFIED), Shape::ReplyV4),
            (IpAddr::V6(ip), _) => (v6(CLIENTS6, ip), Shape::RequestV6),
        };
        let port = self.other.port();
        let tcp = tcp(if self.is_request { (0, port) } else { (port, 0) });
        let kind: u16 = if self.other.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut frame = [0; FRAME];
        let parts = [&self.macs.0[..], &self.macs.1, &kind.to_be_bytes(), &header, &tcp];
        let bytes = parts.into_iter().flatten();
        frame.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        // IPv6 has no checksum of its own; the source does not write one there.
        let addresses = if self.other.is_ipv4() { &header[12..] } else { &header[8..] };
        let length = tcp.len() as u16;
        let l4_sum = sum(addresses) + sum(&tcp) + sum(&[0, 6]) + sum(&length.to_be_bytes());
        let template = std::array::from_fn(|word| {
            u64::from_ne_bytes(std::array::from_fn(|octet| frame[8 * word + octet]))
        });
        Load {
            template,
            l3_sum: sum(&header),
            l4_sum,
            shape: shape as u32,
            flows,
            flood: 0,
            program: 0,
        }
    }
}

/// The clients' network; the last word tells one from the next.
const CLIENTS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0);

/// Octets of TCP payload: short, as acknowledgements are.
const PAYLOAD: usize = 6;

fn v4(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let total = (20 + 20 + PAYLOAD) as u16;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn v6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let payload = (20 + PAYLOAD) as u16;
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(payload.to_be_bytes());
    header.extend([6, 64]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn tcp((from, to): (u16, u16)) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    segment.resize(20 + PAYLOAD, 0);
    segment
}

/// The words as they lie in memory; one's complement sums do not depend on byte order (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_everything_in_its_place() {
        let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let other = "192.168.1.240:80".parse().unwrap();
        let load = Template { macs, other, is_request: true }.load(4);
        let frame: Vec<u8> = load.template.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(frame[..6], macs.0);
        assert_eq!(frame[12..14], [8, 0]);
        assert_eq!(frame[26..34], [0, 0, 0, 0, 192, 168, 1, 240]);
        assert_eq!(frame[34..38], [0, 0, 0, 80]);
        assert_eq!((frame[47], load.shape), (0x10, 0));
        let other = "[fd00:1::f0]:80".parse().unwrap();
        let load = Template { macs, other, is_request: true }.load(4);
        let frame: Vec<u8> = load.template.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!((frame[54..58].to_vec(), frame[67], load.shape), (vec![0, 0, 0, 80], 0x10, 1));
    }
}
