//! Emptying the connection table of the calling thread's namespace (edge).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, bail};

/// Forgets all connections.
///
/// # Errors
///
/// The kernel's refusal.
pub fn flush() -> anyhow::Result<()> {
    // SAFETY: takes constants; the result is checked before it is owned.
    let socket = unsafe {
        let raw = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_NETFILTER,
        );
        if raw < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a netlink socket");
        }
        OwnedFd::from_raw_fd(raw)
    };
    // `nlmsghdr` and `nfgenmsg`: IPCTNL_MSG_CT_DELETE of no connection in particular, which is all
    // of them (net/netfilter/nf_conntrack_netlink.c, ctnetlink_flush_conntrack).
    const DELETE: u16 = 1 << 8 | 2;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::new();
    message.extend(20_u32.to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 12]);
    let mut answer = [0u8; 64];
    // SAFETY: both buffers outlive the calls and are as long as said.
    let length = unsafe {
        let sent = libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0);
        if sent < 0 {
            return Err(io::Error::last_os_error()).context("cannot ask for an empty table");
        }
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    if length < 20 {
        return Err(io::Error::last_os_error()).context("no answer about the connection table");
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => {
            bail!("cannot empty the connection table: {}", io::Error::from_raw_os_error(-error))
        }
    }
}
