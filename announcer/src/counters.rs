//! What the announcer has done so far, as plain numbers. The driver turns them into metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Sums since the announcer was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames looked at by the userspace responder.
    pub requests: u64,
    /// Answers sent.
    pub replies: u64,
    /// Frames of announcements sent; a round of an IPv4 VIP is two.
    pub announcements: u64,
    /// Questions sent whether a VIP is free.
    pub probes: u64,
    /// Announcements sent against a foreign claim.
    pub defences: u64,
    /// Claims heard for a VIP that is probed or announced, peers' included.
    pub claims: u64,
    /// Claims that came faster than they could be looked at.
    pub claims_dropped: u64,
    /// Answers and rounds held back because the deadline had passed.
    pub fenced: u64,
    /// Frames the kernel did not take.
    pub send_failures: u64,
    /// Frames without an answer, by [`crate::responder::IgnoreReason::label`].
    pub ignored: BTreeMap<&'static str, u64>,
    /// By VIP, for those that were ever announced.
    pub vips: BTreeMap<IpAddr, OfVip>,
}

/// Frames about one VIP. Where the data plane answers, questions and answers are its own, and it
/// does not count them by VIP: a counter there would need another map on the path of every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfVip {
    /// Questions that the userspace responder was to answer.
    pub requests: u64,
    /// Answers sent.
    pub replies: u64,
    /// Frames of announcements sent.
    pub announcements: u64,
}

impl Counters {
    /// Those of a VIP.
    pub(crate) fn of(&mut self, vip: IpAddr) -> &mut OfVip {
        self.vips.entry(vip).or_default()
    }
}

/// The counters, shared by the announcer's tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Counters>>);

impl Shared {
    pub fn update(&self, change: impl FnOnce(&mut Counters)) {
        // Plain numbers cannot be left half changed: a poisoned lock is as good as any.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn snapshot(&self) -> Counters {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
