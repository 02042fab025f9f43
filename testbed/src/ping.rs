//! An echo request and its answer (edge). Runs in the namespace of the thread that calls it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::FromRawFd;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clock;

/// An answer that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks an address once.
///
/// # Errors
///
/// If it does not answer within a second, or with other octets.
pub fn ping(address: IpAddr) -> anyhow::Result<()> {
    let socket = raw(address).context("cannot make a raw socket")?;
    socket.connect(SocketAddr::new(address, 0)).with_context(|| format!("no way to {address}"))?;
    socket.set_read_timeout(Some(LIMIT))?;
    let (asks, answers) = if address.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut message = vec![asks, 0, 0, 0, 0x4c, 0x42, 0, 1];
    message.extend(b"an echo of odd length");
    if address.is_ipv4() {
        // The kernel does so for ICMPv6.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let begin = clock::now();
    socket.send(&message)?;
    let mut buffer = [0; 2048];
    while begin.elapsed() < LIMIT {
        let length = socket.recv(&mut buffer).with_context(|| format!("no echo of {address}"))?;
        // Of IPv4 the header comes too.
        let header = if address.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let Some(answer) = buffer[..length].get(header..) else { continue };
        if answer.first() != Some(&answers) {
            continue;
        }
        ensure!(answer.get(4..) == message.get(4..), "another echo of {address}: {answer:02x?}");
        ensure!(address.is_ipv6() || checksum(answer) == 0, "a wrong checksum from {address}");
        return Ok(());
    }
    anyhow::bail!("no echo of {address} in time")
}

/// A raw socket for ICMP or ICMPv6; its datagrams begin as [`ping`] has it.
fn raw(like: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match like {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    // SAFETY: takes three numbers.
    let descriptor = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's. What is called on it works on any datagram socket.
    Ok(unsafe { UdpSocket::from_raw_fd(descriptor) })
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
