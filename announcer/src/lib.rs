//! Makes neighbours learn which machine answers for a VIP: ARP for IPv4, neighbour discovery for
//! IPv6.
//!
//! Three layers, to be read in this order:
//!
//! 1. [`wire`]: bytes to checked values and back. Nothing behind it validates again.
//! 2. [`responder`], [`announcement`], [`burst`], [`picture`]: what to say, when and where;
//!    [`claim`], [`probe`], [`conflict`]: whether somebody else says it; [`roll_call`]: which nodes
//!    are still there. Pure: no clock, no socket.
//! 3. [`socket`], [`groups`], [`links`], [`clock`]: the kernel. [`announcer`] ties them together.
//!
//! The crate knows neither Kubernetes nor the election. It is told which VIPs to speak for on which
//! interfaces and until when, and must never speak for any other, nor later.

pub mod announcement;
pub mod announcer;
pub mod burst;
pub mod claim;
pub mod clock;
pub mod conflict;
pub mod counters;
pub mod error;
pub mod groups;
pub mod links;
mod listener;
mod neighbours;
pub mod picture;
pub mod probe;
mod reasons;
pub mod responder;
pub mod roll_call;
pub mod roll_caller;
pub mod socket;
mod voice;
pub mod wire;

pub use announcer::{Announcer, AnnouncerHandle};
pub use conflict::{Conflict, ConflictState, Standing};
pub use counters::{Counters, OfVip};
pub use error::Error;
pub use links::{Link, Links};
pub use neighbours::{Reports, Standings};
pub use picture::{Announced, Answering, Neighbourhood};
pub use roll_call::Presence;
pub use roll_caller::{Presences, RollCallHandle};
pub use wire::MacAddr;

/// The octets of a table of hexadecimal digits; colons and spaces are free, `#` begins a remark.
#[cfg(test)]
pub(crate) fn hex(table: &str) -> Vec<u8> {
    let digits: String = table
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().chars())
        .filter(|c| !c.is_whitespace() && *c != ':')
        .collect();
    assert!(digits.len().is_multiple_of(2), "half an octet in {table}");
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
