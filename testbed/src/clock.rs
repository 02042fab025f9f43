//! The present and waiting for it to pass (edge): the only file of the lab that reads a clock.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Now.
#[expect(clippy::disallowed_methods, reason = "edge: the lab measures real packets in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day since 1970, which is what the kernel stamps frames with.
#[expect(clippy::disallowed_methods, reason = "edge: compared with the kernel's time stamps")]
pub fn wall() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "edge: the lab waits for other processes")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Asks every 5 ms until there is an answer, and returns it.
///
/// # Errors
///
/// If there is none in time, in words: `what` did not happen within `limit`.
pub fn await_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if now() > end {
            bail!("waited {} s for this, in vain: {what}", limit.as_secs_f32());
        }
        pause(Duration::from_millis(5));
    }
}
