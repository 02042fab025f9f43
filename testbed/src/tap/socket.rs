//! A packet socket (edge): whole frames of one interface, in and out.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Large enough for all frames of a 20 MB transfer, should the reader not run for a while.
const BUFFER: libc::c_int = 256 << 20;
/// How long one call to receive waits.
const PATIENCE: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 20_000 };

/// An open socket.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens it on an interface of the calling thread's namespace.
    pub(crate) fn open(interface: u32, protocol: libc::c_int) -> io::Result<Self> {
        let protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
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
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address has the length given.
        check(unsafe { libc::bind(descriptor, (&raw const address).cast(), length) })?;
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
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: buffer and address are valid for the lengths given.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
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
