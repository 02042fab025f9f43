//! Edge: raw frames in and out of one interface (packet(7)).
//!
//! Must never bypass the queueing discipline (PACKET_QDISC_BYPASS): the fence is a tc egress
//! program and has to see every frame we send. Must never receive what no responder could answer;
//! the kernel filters before it wakes us.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::wire::{ethernet, ipv6};

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends; receives nothing.
    Send,
    /// Receives ARP requests.
    Arp,
    /// Receives neighbour solicitations.
    Solicitations,
    /// Receives ARP packets that claim an address of [`PacketSocket::hear_claims_of`]; until that
    /// is called, probes only.
    ArpClaims,
    /// Receives neighbour advertisements, and solicitations of duplicate address detection.
    NdpClaims,
}

/// A socket bound to one interface, as long as the interface keeps its index.
#[derive(Debug)]
pub struct PacketSocket {
    ifindex: u32,
    socket: AsyncFd<Socket>,
}

impl PacketSocket {
    /// Opens a socket. Needs a tokio runtime, like every [`AsyncFd`].
    ///
    /// # Errors
    /// [`Error::MissingCapability`], or the kernel's refusal: the interface may just have gone.
    pub fn open(ifindex: u32, kind: Kind) -> Result<Self, Error> {
        let socket = raw_socket()?;
        let failed = |source| Error::OpenSocket { ifindex, source };
        // Created for protocol 0, the socket receives nothing until it is bound: the filter is
        // there before the first frame (packet(7), "sll_protocol").
        if let Some(filter) = filter(ifindex, kind) {
            socket.attach_filter(&filter).map_err(failed)?;
        }
        socket.bind(&address(ifindex, kind)).map_err(failed)?;
        // SAFETY: the socket owns its descriptor, and nothing replaces or closes it before the
        // AsyncFd is dropped.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|e| failed(e.into()))?;
        Ok(Self { ifindex, socket })
    }

    /// Makes a socket for [`Kind::ArpClaims`] receive claims of these addresses, and perhaps of a
    /// few between them: a filter has room for some ranges only.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hear_claims_of(
        &self,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<(), Error> {
        let program = arp_claims(self.ifindex, &ranges(addresses));
        self.socket
            .get_ref()
            .attach_filter(&program)
            .map_err(|source| Error::OpenSocket { ifindex: self.ifindex, source })
    }

    /// Sends a frame now or not at all: what waits for a queue to drain may leave after the
    /// deadline.
    ///
    /// # Errors
    /// The kernel's answer: the interface is down or gone, its queue is full, or the fence has
    /// dropped the frame (ENOBUFS).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(drop)
    }

    /// Waits for a frame and returns its length. A frame longer than the buffer is cut, and its
    /// parser will say so.
    ///
    /// # Errors
    /// The kernel's answer. That the interface went down is none: frames come again with it.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let received = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |socket| {
                    io::Read::read(&mut &*socket, buffer)
                })
                .await;
            match received {
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                other => {
                    return other
                        .map_err(|source| Error::Receive { ifindex: self.ifindex, source });
                }
            }
        }
    }
}

/// Tries once whether packet sockets are allowed, so that a missing capability is told at the
/// start and not at the first VIP.
///
/// # Errors
/// [`Error::MissingCapability`], or the kernel's refusal.
pub fn check_permission() -> Result<(), Error> {
    raw_socket().map(drop)
}

fn raw_socket() -> Result<Socket, Error> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None::<Protocol>);
    socket.map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::MissingCapability,
        _ => Error::OpenSocket { ifindex: 0, source },
    })
}

fn address(ifindex: u32, kind: Kind) -> SockAddr {
    let protocol = match kind {
        Kind::Send => 0,
        Kind::Arp | Kind::ArpClaims => ethernet::ARP,
        Kind::Solicitations | Kind::NdpClaims => ethernet::IPV6,
    };
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is as large and as aligned as any socket address, and sockaddr_ll is one
    // (packet(7)); the length is the length of what was written.
    unsafe {
        *storage.view_as::<libc::sockaddr_ll>() = link;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}

/// A classic BPF program that accepts what a socket of the kind is for.
///
/// Binding to a protocol rather than to ETH_P_ALL keeps outgoing frames away and costs other
/// protocols nothing, but leaves two doors open (net/core/dev.c, `__netif_receive_skb_core`):
/// a frame of VLAN 5 is given both to `eth0.5` and, with its tag gone, to sockets on `eth0`, so the
/// device must be ours; one of a VLAN without a device is marked as another host's, as are
/// flooded frames, so the packet type must be ours too.
fn filter(ifindex: u32, kind: Kind) -> Option<Vec<SockFilter>> {
    let mut program = for_this_link(ifindex);
    match kind {
        Kind::Send => return None,
        Kind::ArpClaims => return Some(arp_claims(ifindex, &[])),
        // ar$op is a request.
        Kind::Arp => program.extend(require(libc::BPF_H, HEADER + 6, 1)),
        Kind::Solicitations => {
            program.extend(require(libc::BPF_B, NEXT_HEADER, u32::from(ipv6::NEXT_HEADER_ICMPV6)));
            program.extend(require(libc::BPF_B, ICMPV6_TYPE, SOLICITATION));
        }
        Kind::NdpClaims => {
            program.extend(require(libc::BPF_B, NEXT_HEADER, u32::from(ipv6::NEXT_HEADER_ICMPV6)));
            program.push(load(libc::BPF_B, ICMPV6_TYPE));
            program.extend(accept_if_equal(ADVERTISEMENT));
            program.extend(require(libc::BPF_B, ICMPV6_TYPE, SOLICITATION));
            // From the unspecified address; its first word tells it from every unicast address.
            program.extend(require(libc::BPF_W, HEADER + 8, 0));
        }
    }
    program.push(accept());
    Some(program)
}

/// ARP packets whose sender address lies in a range, both ends included, and probes.
fn arp_claims(ifindex: u32, ranges: &[(Ipv4Addr, Ipv4Addr)]) -> Vec<SockFilter> {
    let mut program = for_this_link(ifindex);
    // ar$spa, which is 0 in a probe.
    program.push(load(libc::BPF_W, HEADER + 14));
    program.extend(accept_if_equal(0));
    for &(first, last) in ranges {
        program.extend([
            // Below the range: over the rest of it.
            branch(libc::BPF_JGE, first.to_bits(), 0, 2),
            // Above it: over the acceptance.
            branch(libc::BPF_JGT, last.to_bits(), 1, 0),
            accept(),
        ]);
    }
    program.push(refuse());
    program
}

/// Covers addresses with few ranges: first those without gaps, then the smallest gaps
/// are taken in. VIPs come from pools, so there are hardly more ranges than pools.
fn ranges(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let ascending: BTreeSet<Ipv4Addr> = addresses.into_iter().collect();
    let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for address in ascending {
        match ranges.last_mut() {
            Some((_, last)) if address.to_bits() - last.to_bits() <= 1 => *last = address,
            _ => ranges.push((address, address)),
        }
    }
    while ranges.len() > MAX_RANGES {
        let gap = |pair: &[(Ipv4Addr, Ipv4Addr)]| pair[1].0.to_bits() - pair[0].1.to_bits();
        let smallest = ranges.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair));
        let Some((at, _)) = smallest else { break };
        let (_, last) = ranges.remove(at + 1);
        ranges[at].1 = last;
    }
    ranges
}

/// Refuses frames for another machine or device.
fn for_this_link(ifindex: u32) -> Vec<SockFilter> {
    let pkttype = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    let device = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
    let mut program = vec![
        load(libc::BPF_W, pkttype),
        // PACKET_HOST, PACKET_BROADCAST and PACKET_MULTICAST are 0 to 2.
        branch(libc::BPF_JGT, u32::from(libc::PACKET_MULTICAST), 0, 1),
        refuse(),
    ];
    program.extend(require(libc::BPF_W, device, ifindex));
    program
}

/// Refuses the frame if the value at the offset is another.
fn require(size: u32, offset: u32, value: u32) -> [SockFilter; 3] {
    [load(size, offset), branch(libc::BPF_JEQ, value, 1, 0), refuse()]
}

/// Accepts the frame if the value loaded last is this one.
fn accept_if_equal(value: u32) -> [SockFilter; 2] {
    [branch(libc::BPF_JEQ, value, 0, 1), accept()]
}

fn load(size: u32, offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Skips so many instructions if the comparison holds, and so many if not.
fn branch(comparison: u32, value: u32, if_true: u8, if_false: u8) -> SockFilter {
    let code = (libc::BPF_JMP | comparison | libc::BPF_K) as u16;
    SockFilter::new(code, if_true, if_false, value)
}

fn accept() -> SockFilter {
    give(u32::from(u16::MAX))
}

fn refuse() -> SockFilter {
    give(0)
}

fn give(octets: u32) -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, octets)
}

/// Where a frame's payload begins.
const HEADER: u32 = ethernet::HEADER_LENGTH as u32;
const NEXT_HEADER: u32 = HEADER + 6;
const ICMPV6_TYPE: u32 = HEADER + ipv6::HEADER_LENGTH as u32;
/// ICMPv6 types (RFC 4861 4.3, 4.4).
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;
/// Ranges in a filter: a few dozen instructions for each ARP packet on the link.
const MAX_RANGES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(addresses: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        let text = |(first, last)| format!("{first}-{last}");
        ranges(addresses).into_iter().map(text).collect()
    }

    #[test]
    fn neighbouring_addresses_are_one_range() {
        assert_eq!(covered(&[]), [""; 0]);
        assert_eq!(
            covered(&["10.0.0.255", "10.0.1.0", "10.0.1.1", "192.168.1.240"]),
            ["10.0.0.255-10.0.1.1", "192.168.1.240-192.168.1.240"]
        );
    }

    #[test]
    fn too_many_ranges_take_in_the_smallest_gaps() {
        let scattered = (0..1000_u32).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n * n));
        let ranges = ranges(scattered.clone());
        assert_eq!(ranges.len(), MAX_RANGES);
        assert!(ranges.is_sorted() && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        for address in scattered {
            assert!(ranges.iter().any(|(first, last)| (first..=last).contains(&&address)));
        }
        assert_eq!(ranges[31].0, Ipv4Addr::from_bits(0x0a00_0000 + 999 * 999));
    }
}
