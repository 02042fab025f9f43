//! Edge: what [`crate::conflict`] knows, told to the outside.
//!
//! Must never tell more often than something changed: whoever sends claims decides how many there
//! are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::conflict::{Conflict, ConflictState, Conflicts, Standing};

/// Every VIP's standing, told when one changes.
pub type Standings = Arc<BTreeMap<IpAddr, Standing>>;
/// Every conflict there is, told when one changes.
pub type Reports = Arc<BTreeMap<IpAddr, Conflict>>;

/// Both, as the announcer tells them.
#[derive(Debug, Default)]
pub struct Told {
    pub standings: watch::Sender<Standings>,
    pub conflicts: watch::Sender<Reports>,
}

impl Told {
    /// Tells what is new. Conflicts before standings: who is woken by a standing and then reads the
    /// conflicts finds the reason.
    pub fn tell(&self, conflicts: &Conflicts) {
        let reports = conflicts.conflicts();
        self.log(&reports);
        replace(&self.conflicts, reports);
        replace(&self.standings, conflicts.standings());
    }

    fn log(&self, reports: &BTreeMap<IpAddr, Conflict>) {
        let before = self.conflicts.borrow();
        let same = |vip, now: &Conflict| {
            before.get(vip).is_some_and(|was| (was.mac, was.state) == (now.mac, now.state))
        };
        for (vip, conflict) in reports.iter().filter(|(vip, now)| !same(vip, now)) {
            let Conflict { mac, interface, .. } = conflict;
            match conflict.state {
                ConflictState::Blocked => {
                    tracing::warn!(%vip, %mac, interface, "another host uses a VIP: not announced");
                }
                ConflictState::Defended => {
                    tracing::warn!(%vip, %mac, interface, "another host claims a VIP: defended");
                }
            }
        }
        for vip in before.keys().filter(|vip| !reports.contains_key(vip)) {
            tracing::info!(%vip, "no other host is known to use the VIP any more");
        }
    }
}

fn replace<T: PartialEq>(told: &watch::Sender<Arc<T>>, now: T) {
    told.send_if_modified(|before| {
        let is_new = **before != now;
        if is_new {
            *before = Arc::new(now);
        }
        is_new
    });
}
