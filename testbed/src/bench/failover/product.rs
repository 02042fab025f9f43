//! What a product must be able to do to be measured.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::Serialize;

use super::event::Event;
use crate::lab::Lab;

/// Whose failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// Debian's keepalived, VRRPv3.
    Keepalived,
    /// Herald.
    Herald,
}

/// A running product with one holder for all its VIPs.
pub trait Product {
    /// Which.
    fn name(&self) -> Name;
    /// Whether the event exists for it.
    fn has(&self, event: Event) -> bool;
    /// The network.
    fn lab(&self) -> &Lab;
    /// Its VIPs; the first is the one that is probed.
    fn vips(&self) -> &[IpAddr];
    /// The service at the first VIP.
    fn server(&self) -> SocketAddr;
    /// Waits until all is well, with one holder for all VIPs, and tells which node.
    fn ready(&mut self) -> anyhow::Result<String>;
    /// A port of c1's from which the service is reached, on a server that outlives the holder.
    fn port(&self, holder: &str) -> anyhow::Result<u16>;
    /// Does it to the holder.
    fn cause(&mut self, event: Event, holder: &str) -> anyhow::Result<()>;
    /// Undoes it, without waiting for anything.
    fn heal(&mut self, event: Event, holder: &str) -> anyhow::Result<()>;
}

impl Name {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Keepalived, Self::Herald];
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keepalived => "keepalived",
            Self::Herald => "herald",
        })
    }
}
