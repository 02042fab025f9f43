//! The session's deadline in the kernel: the one word that every answer for a VIP depends on.

use std::time::Duration;

use aya::maps::{Array, MapData};

use crate::Error;

/// Writes the map `SESSION`. Separate from the rest of the data plane, because the election must
/// be able to move the deadline without waiting for a table to be written.
pub struct SessionFence {
    map: Array<MapData, u64>,
}

impl SessionFence {
    pub(crate) const fn new(map: Array<MapData, u64>) -> Self {
        Self { map }
    }

    /// Lets the programs answer for held VIPs until `until` on the boot clock
    /// (`CLOCK_BOOTTIME`); zero silences them at once.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] if the kernel refuses; the old deadline then stays.
    pub fn set(&mut self, until: Duration) -> Result<(), Error> {
        let nanoseconds = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.map.set(0, nanoseconds, 0).map_err(|source| Error::Map {
            operation: "write",
            map: "SESSION",
            source,
        })
    }
}
