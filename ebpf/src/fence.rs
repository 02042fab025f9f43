//! The session's deadline in the kernel: the one word that every answer for a VIP depends on.

use std::fs;
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

/// That deadlines mean the same here and in the programs. `bpf_ktime_get_boot_ns` knows no time
/// namespaces, while `CLOCK_BOOTTIME` is shifted in them (time_namespaces(7)): a deadline written
/// in one that is an hour ahead would let the kernel answer for an hour.
///
/// # Errors
///
/// [`Error::OwnBootClock`].
pub(crate) fn check_boot_clock() -> Result<(), Error> {
    // A kernel without time namespaces has no such file.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    match seconds_ahead(&offsets) {
        0 => Ok(()),
        ahead_s => Err(Error::OwnBootClock { ahead_s }),
    }
}

/// From lines of a clock's name, seconds and nanoseconds; a part of a second counts as one.
fn seconds_ahead(offsets: &str) -> i64 {
    let mut clocks = offsets.lines().map(str::split_whitespace);
    let boot = clocks.find_map(|mut words| (words.next()? == "boottime").then_some(words));
    let mut numbers = boot.into_iter().flatten().map(|word| word.parse::<i64>().unwrap_or(1));
    let (seconds, nanos) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds + nanos.signum()
}

#[cfg(test)]
mod tests {
    use super::seconds_ahead;

    #[test]
    fn reads_how_far_the_boot_clock_is_ahead() {
        for (offsets, ahead) in [
            ("", 0),
            ("monotonic           5         0\nboottime            0         0\n", 0),
            ("monotonic           0         0\nboottime         3600         0\n", 3600),
            ("monotonic           0         0\nboottime        -3600         0\n", -3600),
            ("monotonic           0         0\nboottime            0 500000000\n", 1),
        ] {
            assert_eq!(seconds_ahead(offsets), ahead, "{offsets}");
        }
    }
}
