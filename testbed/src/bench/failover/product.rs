//! What a product must be able to do to be measured.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::event::{Event, Profile};
use crate::lab::Lab;
use crate::lab::addresses::nodes;
use crate::lab::fault::Fault;

/// Whose failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// Debian's keepalived, VRRPv3.
    Keepalived,
    /// Herald, whose speakers elect among themselves (raft).
    Herald,
    /// Herald, whose speakers elect by Leases in a Kubernetes API server, as in its DaemonSet.
    #[serde(rename = "herald-lease")]
    #[value(name = "herald-lease")]
    HeraldLease,
}

/// A running product with one holder for all its VIPs.
pub trait Product {
    /// Which.
    fn name(&self) -> Name;
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
    /// Starts a node's daemon.
    fn start_daemon(&mut self, node: &str) -> anyhow::Result<()>;
    /// Kills it (SIGKILL).
    fn kill_daemon(&mut self, node: &str) -> anyhow::Result<()>;
    /// Asks it to end (SIGTERM), and waits until it has.
    fn end_daemon(&mut self, node: &str) -> anyhow::Result<()>;
    /// Stops it (SIGSTOP).
    fn freeze_daemon(&mut self, node: &str) -> anyhow::Result<()>;
    /// Lets it go on (SIGCONT).
    fn thaw_daemon(&mut self, node: &str) -> anyhow::Result<()>;
    /// Moves the holder's VIPs to another node, as an administrator.
    fn move_from(&mut self, holder: &str) -> anyhow::Result<()>;
    /// Drains a node, as an administrator.
    fn drain(&mut self, node: &str) -> anyhow::Result<()>;
    /// Undoes it.
    fn undrain(&mut self, node: &str) -> anyhow::Result<()>;
    /// The fault of a link that lasts.
    fn fault(&mut self) -> &mut Option<Fault>;
    /// Ends all daemons however they are, and starts them with nothing left of what was done.
    fn start_anew(&mut self) -> anyhow::Result<()>;

    /// Does it to the holder.
    fn cause(&mut self, event: Event, holder: &str) -> anyhow::Result<()> {
        match event {
            Event::Cut | Event::Return => self.lab().cut(holder),
            Event::OneWayCut => {
                let fault = self.lab().mute(holder)?;
                *self.fault() = Some(fault);
                Ok(())
            }
            Event::Kill => self.kill_daemon(holder),
            Event::Restart => {
                self.kill_daemon(holder)?;
                self.start_daemon(holder)
            }
            Event::Stop => self.freeze_daemon(holder),
            Event::Term => self.end_daemon(holder),
            Event::Upgrade => {
                self.end_daemon(holder)?;
                self.start_daemon(holder)
            }
            Event::Move => self.move_from(holder),
            Event::Drain => self.drain(holder),
        }
    }

    /// Undoes it, without waiting for anything.
    fn heal(&mut self, event: Event, holder: &str) -> anyhow::Result<()> {
        match event {
            Event::Cut | Event::Return => self.lab().heal(holder),
            Event::OneWayCut => {
                *self.fault() = None;
                Ok(())
            }
            Event::Kill | Event::Term => self.start_daemon(holder),
            Event::Stop => self.thaw_daemon(holder),
            Event::Drain => self.undrain(holder),
            Event::Restart | Event::Upgrade | Event::Move => Ok(()),
        }
    }

    /// Undoes whatever was done, and starts anew.
    fn reset(&mut self) -> anyhow::Result<()> {
        *self.fault() = None;
        for node in nodes() {
            self.lab().heal(&node)?;
        }
        self.start_anew()
    }
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Keepalived, Self::Herald, Self::HeraldLease];

    /// Whether this is the product that is measured, not the rival.
    pub fn is_ours(self) -> bool {
        self != Self::Keepalived
    }

    /// Whether the product has such a beat: Leases are renewed each 1.5 s, whatever is asked for.
    pub fn beats(self, profile: Profile) -> bool {
        self != Self::HeraldLease || profile == Profile::Default
    }

    /// Whether the event exists for the product. keepalived's administrators change priorities and
    /// reload, or end it: that is `term`.
    pub fn has(self, event: Event) -> bool {
        self.is_ours() || !matches!(event, Event::Move | Event::Drain)
    }

    /// Whether all is soon as before an event that was undone, without [`Product::ready`] starting
    /// anything anew: then the next run may begin while second voices are still listened for.
    pub fn recovers_from(self, event: Event) -> bool {
        self.is_ours() || !matches!(event, Event::Kill | Event::Restart)
    }

    /// How long a session of Herald's lasts.
    pub fn ttl(self, profile: Profile) -> Duration {
        match self {
            Self::HeraldLease => Duration::from_secs(5),
            Self::Keepalived | Self::Herald => profile.ttl(),
        }
    }

    /// How long an event lasts before it is undone: longer than any failover of the product's.
    pub fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::HeraldLease => 8,
            Self::Keepalived | Self::Herald => 3,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keepalived => "keepalived",
            Self::Herald => "herald",
            Self::HeraldLease => "herald-lease",
        })
    }
}
