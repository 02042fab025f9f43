//! Edge: membership in the solicited-node groups of IPv6 VIPs, so that the NIC's filter lets
//! solicitations in and snooping switches send them here (MLD reports by the kernel, RFC 3810).
//!
//! Needed no matter who answers: a frame that the NIC drops reaches no XDP program either. Several
//! VIPs can share a group; it is left with the last of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

use crate::wire::solicited_node;

/// A group on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// Index of the interface.
    pub ifindex: u32,
    /// The solicited-node group.
    pub group: Ipv6Addr,
}

/// A group that could not be joined.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot join {} on interface index {}; is IPv6 disabled there?",
    .membership.group, .membership.ifindex
)]
pub struct JoinError {
    /// What was attempted.
    pub membership: Membership,
    /// The kernel's answer.
    pub source: io::Error,
}

/// All groups joined. Dropping it leaves them: the kernel does so when the sockets close.
#[derive(Debug, Default)]
pub struct Groups {
    /// A socket's memberships are charged to its option memory (sysctl net.core.optmem_max), so
    /// one socket may not be enough.
    sockets: Vec<Socket>,
    joined: BTreeMap<Membership, usize>,
}

impl Groups {
    /// Joins and leaves groups until exactly those of these VIPs, by interface index, are joined.
    /// What failed is returned and tried again by the next call.
    pub fn set(&mut self, vips: impl IntoIterator<Item = (u32, Ipv6Addr)>) -> Vec<JoinError> {
        let wanted: BTreeSet<Membership> = vips
            .into_iter()
            .map(|(ifindex, vip)| Membership { ifindex, group: solicited_node(vip) })
            .collect();
        let sockets = &self.sockets;
        self.joined.retain(|membership, socket| {
            let keep = wanted.contains(membership);
            if !keep && let Some(socket) = sockets.get(*socket) {
                // Fails only if the interface is gone, and the membership with it.
                let _ = socket.leave_multicast_v6(&membership.group, membership.ifindex);
            }
            keep
        });
        let mut errors = Vec::new();
        for membership in wanted {
            if self.joined.contains_key(&membership) {
                continue;
            }
            match self.join(membership) {
                Ok(socket) => {
                    self.joined.insert(membership, socket);
                }
                Err(source) => errors.push(JoinError { membership, source }),
            }
        }
        errors
    }

    /// How many groups are joined.
    pub fn joined(&self) -> usize {
        self.joined.len()
    }

    fn join(&mut self, membership: Membership) -> io::Result<usize> {
        let Membership { ifindex, group } = membership;
        for (number, socket) in self.sockets.iter().enumerate().rev() {
            match socket.join_multicast_v6(&group, ifindex) {
                Ok(()) => return Ok(number),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        socket.join_multicast_v6(&group, ifindex)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}

/// `ipv6_sock_mc_join` answers ENOMEM when the option memory is used up (net/ipv6/mcast.c).
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}
