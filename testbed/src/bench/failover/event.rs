//! What happens to the holder of the VIPs, and how often the daemons hear of each other (pure).

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// Something that ends a node's holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Event {
    /// Its link passes nothing any more, in both directions, and stays up.
    Cut,
    /// Nothing that it sends arrives any more; it hears everything.
    OneWayCut,
    /// Its daemon is killed (SIGKILL), and started again after some seconds.
    Kill,
    /// Its daemon is killed and started again at once.
    Restart,
    /// Its daemon is stopped (SIGSTOP), and goes on after some seconds.
    Stop,
    /// Its daemon is asked to end (SIGTERM), and started again after some seconds.
    Term,
    /// An administrator moves its VIPs to another node.
    Move,
    /// An administrator drains the node, and undoes it after some seconds.
    Drain,
    /// Its daemon is asked to end and a new one is started at once.
    Upgrade,
    /// It comes back after its link was cut for some seconds.
    Return,
}

/// How often the daemons tell each other that they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Each 100 ms; Herald's sessions last 600 ms. With Leases each 1.5 s, and they last 5 s.
    Default,
    /// Each 50 ms; Herald's sessions last 200 ms.
    Fast,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Cut,
        Self::OneWayCut,
        Self::Kill,
        Self::Restart,
        Self::Stop,
        Self::Term,
        Self::Move,
        Self::Drain,
        Self::Upgrade,
        Self::Return,
    ];

    /// Whether the node's pods and forwarding live on, so that no datagram need be lost.
    pub fn spares_traffic(self) -> bool {
        !matches!(self, Self::Cut | Self::OneWayCut)
    }
}

impl Profile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::Fast];

    /// Between two signs of life.
    pub fn beat(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 100,
            Self::Fast => 50,
        })
    }

    /// How long Herald's sessions last where raft decides.
    pub fn ttl(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 600,
            Self::Fast => 200,
        })
    }
}

/// As written on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}
