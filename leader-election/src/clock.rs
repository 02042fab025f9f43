//! The one place of this crate that reads a clock: time since boot, suspend included.
//!
//! It must never be called by a core; cores take time as an argument. The clock is the one the
//! fence compares against in the kernel (`bpf_ktime_get_boot_ns`), so a deadline computed from it
//! means the same on both sides. See clock_gettime(2), CLOCK_BOOTTIME.

use std::time::Duration;

use crate::model::BootTime;

/// The time since this machine booted, counting time spent suspended.
#[expect(unsafe_code, reason = "edge: the standard library has no CLOCK_BOOTTIME")]
pub fn boot_now() -> BootTime {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec that outlives the call, which writes nothing else. The call
    // cannot fail for CLOCK_BOOTTIME with a valid pointer (Linux 2.6.39); were it to, `at` keeps
    // zero, every deadline lies ahead of it and the raft ticks stand still, so nothing is granted.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) };
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(at.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::boot_now;

    #[test]
    fn never_goes_backwards() {
        let first = boot_now();
        assert!(boot_now() >= first);
    }
}
