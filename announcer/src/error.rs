//! What can go wrong at the edges, each with what was attempted on what.

use std::io;

/// An error of the edges of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks a capability.
    #[error("cannot open a packet socket: CAP_NET_RAW is missing; run as root or grant it")]
    MissingCapability,
    /// A packet socket could not be set up.
    #[error("cannot open a packet socket on interface index {ifindex}")]
    OpenSocket {
        /// The interface.
        ifindex: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A packet socket failed while it was read.
    #[error("cannot receive from the packet socket on interface index {ifindex}")]
    Receive {
        /// The interface.
        ifindex: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket to watch links")]
    OpenNetlink(#[source] io::Error),
    /// The kernel refused to list links or addresses.
    #[error("cannot list {what} by netlink")]
    List {
        /// "links" or "addresses".
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The netlink socket was closed under us.
    #[error("the netlink socket that watches links has ended")]
    NetlinkEnded,
    /// Nobody watches the links any more, so nothing can be announced safely.
    #[error("the watch over links has ended")]
    LinksEnded,
    /// A task of ours panicked.
    #[error("a task of the announcer has failed")]
    Task(#[from] tokio::task::JoinError),
}
