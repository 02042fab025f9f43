//! A packet socket (edge): whole frames of one interface, in and out.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Large enough for all frames of a 20 MB transfer, should the reader not run for a while.
const BUFFER: libc::c_int = 256 << 20;
/// How long one call to receive waits.
const PATIENCE: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 20_000 };

/// linux/if_packet.h; the libc crate does not have it.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Lets pass ARP and ICMPv6 without extension headers (classic BPF, linux/filter.h).
static NEIGHBOURHOOD: [libc::sock_filter; 7] = [
    // The type of the frame's payload.
    libc::sock_filter { code: 0x28, jt: 0, jf: 0, k: 12 },
    libc::sock_filter { code: 0x15, jt: 3, jf: 0, k: 0x0806 },
    libc::sock_filter { code: 0x15, jt: 0, jf: 3, k: 0x86dd },
    // The next header of an IPv6 packet.
    libc::sock_filter { code: 0x30, jt: 0, jf: 0, k: 20 },
    libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: 58 },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0004_0000 },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
];

/// A frame that came in.
#[derive(Debug)]
pub(crate) struct Stamped<'b> {
    /// Cut to the buffer.
    pub frame: &'b [u8],
    /// Through which interface.
    pub interface: u32,
    /// When, on the kernel's clock of civil time.
    pub at: Duration,
}

/// An open socket.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl PacketSocket {
    /// Opens it on an interface of the calling thread's namespace.
    pub(crate) fn open(interface: u32, protocol: libc::c_int) -> io::Result<Self> {
        // SAFETY: takes numbers. Protocol 0 receives nothing before the bind below.
        let descriptor =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)?;
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &PATIENCE)?;
        socket.bind(interface, protocol)?;
        Ok(socket)
    }

    /// Opens it on all interfaces of the calling thread's namespace, for what comes in and is ARP
    /// or ICMPv6, to be read by [`PacketSocket::receive_stamped`].
    pub(crate) fn open_everywhere() -> io::Result<Self> {
        let socket = Self::open(0, 0)?;
        let program = libc::sock_fprog {
            len: NEIGHBOURHOOD.len() as libc::c_ushort,
            filter: NEIGHBOURHOOD.as_ptr().cast_mut(),
        };
        socket.option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        socket.option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        socket.option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1)?;
        // Only now does it receive, so that nothing came past the filter.
        socket.bind(0, libc::ETH_P_ALL)?;
        Ok(socket)
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are the slice's.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame, cut to the buffer, and whether it goes out of the interface; none if none
    /// comes for 20 ms.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<(&'b [u8], bool)>> {
        self.receive_with(buffer, 0)
    }

    /// The same, for a capture that `is_stopped` or goes on: then nothing is waited for. What is
    /// queued still belongs to it, and where frames never cease, a queue is empty all the same
    /// before the next one comes.
    pub(crate) fn receive_for<'b>(
        &self,
        buffer: &'b mut [u8],
        is_stopped: bool,
    ) -> io::Result<Option<(&'b [u8], bool)>> {
        self.receive_with(buffer, if is_stopped { libc::MSG_DONTWAIT } else { 0 })
    }

    fn receive_with<'b>(
        &self,
        buffer: &'b mut [u8],
        flags: libc::c_int,
    ) -> io::Result<Option<(&'b [u8], bool)>> {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: buffer and address are valid for the lengths given.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
                (&raw mut address).cast(),
                &raw mut length,
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        };
        Ok(Some((&buffer[..received], address.sll_pkttype == libc::PACKET_OUTGOING)))
    }

    /// The next frame, cut to the buffer, with the kernel's time stamp; none if none comes for 20
    /// ms.
    pub(crate) fn receive_stamped<'b>(
        &self,
        buffer: &'b mut [u8],
    ) -> io::Result<Option<Stamped<'b>>> {
        // SAFETY: all zeros is a valid sockaddr_ll and a valid msghdr.
        let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // Of eight octets each, for control messages must be aligned.
        let mut control = [0u64; 8];
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of_val(&address) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in the message is to a value of the length given beside it.
        let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        };
        // SAFETY: the kernel has filled in the message, whose buffers are still there.
        let at = unsafe { stamp(&message) }.ok_or_else(|| io::Error::other("no time stamp"))?;
        let interface = u32::try_from(address.sll_ifindex).map_err(io::Error::other)?;
        Ok(Some(Stamped { frame: &buffer[..received], interface, at }))
    }

    /// Frames dropped because the buffer was full, since the last call.
    pub(crate) fn missed(&self) -> io::Result<u32> {
        // SAFETY: all zeros is a valid tpacket_stats.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the value has the length given.
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(statistics.tp_drops)
    }

    /// From now on it receives; protocol 0 leaves it deaf.
    fn bind(&self, interface: u32, protocol: libc::c_int) -> io::Result<()> {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
        address.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address has the length given.
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) })
    }

    fn option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the value has the length given.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                length,
            )
        })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The time stamp among a message's control messages.
///
/// # Safety
///
/// The message must be one that recvmsg(2) has filled in, with its buffers still there.
unsafe fn stamp(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: as the caller says; these walk the control messages within their length.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                let seconds = u64::try_from(time.tv_sec).ok()?;
                return Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
        None
    }
}
