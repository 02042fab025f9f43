//! Edge: raw frames in and out of one interface (packet(7)).
//!
//! Must never bypass the queueing discipline (PACKET_QDISC_BYPASS): the fence is a tc egress
//! program and has to see every frame we send. Must never receive what no responder could answer;
//! the kernel filters before it wakes us.

use std::io;

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
        Kind::Arp => ethernet::ARP,
        Kind::Solicitations => ethernet::IPV6,
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
    let header = ethernet::HEADER_LENGTH as u32;
    let wanted: &[(u32, u32, u32)] = match kind {
        Kind::Send => return None,
        // ar$op is a request.
        Kind::Arp => &[(libc::BPF_H, header + 6, 1)],
        Kind::Solicitations => &[
            (libc::BPF_B, header + 6, ipv6::NEXT_HEADER_ICMPV6 as u32),
            // ICMPv6 type 135, neighbour solicitation.
            (libc::BPF_B, header + ipv6::HEADER_LENGTH as u32, 135),
        ],
    };
    let pkttype = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    let device = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
    let mut program = vec![
        load(libc::BPF_W, pkttype),
        // PACKET_HOST, PACKET_BROADCAST and PACKET_MULTICAST are 0 to 2.
        jump(libc::BPF_JGT, u32::from(libc::PACKET_MULTICAST)),
        refuse(),
        load(libc::BPF_W, device),
        jump_unless_equal(ifindex),
        refuse(),
    ];
    for &(size, offset, value) in wanted {
        program.extend([load(size, offset), jump_unless_equal(value), refuse()]);
    }
    program.push(give(u32::from(u16::MAX)));
    Some(program)
}

fn load(size: u32, offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, offset)
}

/// Goes on with the next instruction if the comparison holds, else skips it.
fn jump(comparison: u32, value: u32) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | comparison | libc::BPF_K) as u16, 0, 1, value)
}

/// Goes on with the next instruction if the value differs, else skips it.
fn jump_unless_equal(value: u32) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 1, 0, value)
}

fn refuse() -> SockFilter {
    give(0)
}

fn give(octets: u32) -> SockFilter {
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, octets)
}
