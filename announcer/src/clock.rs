//! The one clock of the crate: time since boot, which also runs while the machine is suspended, so
//! that a deadline set before the lid closed has passed when it opens. The XDP program reads the
//! same clock (`bpf_ktime_get_boot_ns`).

use std::mem::MaybeUninit;
use std::time::Duration;

/// Time since boot (`CLOCK_BOOTTIME`).
pub fn boot_now() -> Duration {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a live timespec. The call cannot fail: the clock exists since
    // Linux 2.6.39; and if it did, all zeros is a valid timespec that reads as the moment of boot.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, now.as_mut_ptr());
        now.assume_init()
    };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
