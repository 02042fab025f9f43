//! One CPU, and nobody else on it (edge).

use std::io;
use std::time::Duration;

use anyhow::Context;

/// Time of real-time work after which the kernel ends the process (`RLIMIT_RTTIME`): a spinning
/// FIFO thread would take a CPU from the machine for good.
const LIMIT: Duration = Duration::from_secs(30);

/// Pins this thread, and all it starts from now on, to one CPU: the last one, which serves the
/// fewest interrupts. Sets the limit that ends the process if it spins.
///
/// # Errors
///
/// The kernel's refusal.
pub fn limit() -> anyhow::Result<()> {
    let microseconds = LIMIT.as_micros() as u64;
    let limit = libc::rlimit { rlim_cur: microseconds, rlim_max: microseconds };
    // SAFETY: a limit that outlives the call.
    done(unsafe { libc::setrlimit(libc::RLIMIT_RTTIME, &raw const limit) })
        .context("cannot limit real-time work")?;
    // SAFETY: an all-zero set is an empty set, which the calls read and fill.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        done(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed))
            .context("cannot read the CPUs")?;
        let last = (0..libc::CPU_SETSIZE as usize).rfind(|cpu| libc::CPU_ISSET(*cpu, &allowed));
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last.context("no CPU")?, &mut one);
        done(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one))
            .context("cannot pin to a CPU")
    }
}

/// Runs code in a thread that is preempted only by the kernel (`SCHED_FIFO`).
///
/// # Errors
///
/// The kernel's refusal, or what the code returns.
pub fn undisturbed<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let first = libc::sched_param { sched_priority: 1 };
            // SAFETY: a parameter that outlives the call; 0 is this thread.
            done(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) })
                .context("cannot run under SCHED_FIFO")?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What this thread has run so far; what others ran meanwhile does not count.
pub fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
