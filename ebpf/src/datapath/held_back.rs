//! What the fence stopped, by interface: frames by which this node would have claimed a VIP that is
//! not its own at that moment.

use aya::maps::MapError;
use herald_ebpf_common::{HeldBackKey, Reason};

use super::{Datapath, failed};
use crate::Error;

/// Frames that the fence stopped on their way out of one interface, since the maps were first
/// pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// ARP requests, replies and announcements that name such a VIP as their sender's.
    pub arp: u64,
    /// Neighbour advertisements for such a VIP.
    pub advertisements: u64,
    /// Neighbour solicitations sent from such a VIP.
    pub solicitations: u64,
}

impl Datapath {
    /// What the fence stopped at an interface.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn held_back(&self, ifindex: u32) -> Result<HeldBack, Error> {
        Ok(HeldBack {
            arp: self.stopped(ifindex, Reason::FenceDroppedArp)?,
            advertisements: self.stopped(ifindex, Reason::FenceDroppedNa)?,
            solicitations: self.stopped(ifindex, Reason::FenceDroppedNs)?,
        })
    }

    fn stopped(&self, ifindex: u32, reason: Reason) -> Result<u64, Error> {
        let key = HeldBackKey { ifindex, reason: reason as u32 };
        match self.held_back.get(&key, 0) {
            Ok(counts) => Ok(counts.iter().sum()),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(failed("read", "HELD_BACK")(error)),
        }
    }
}
