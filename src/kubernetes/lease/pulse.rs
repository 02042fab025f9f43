//! How the API server answers, for `herald status` and for the pace of requests: counts, when this
//! node's session was last renewed, since when nothing gets through and why.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herald_leader_election::BootTime;

/// Shared by the edge, which takes the pulse, and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Beat>>);

/// The state of things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Requests sent: writes and reads; not the watch.
    pub requests: u64,
    /// Writes that were done.
    pub writes: u64,
    /// Writes that met another version.
    pub conflicts: u64,
    /// Requests without an answer that helps.
    pub failures: u64,
    /// When the last renewal of this node's session that was done was sent.
    pub renewed: Option<BootTime>,
    /// The outage, if there is one.
    pub outage: Option<Outage>,
}

/// Nothing gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first request was sent that failed.
    pub since: BootTime,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one says.
    pub why: String,
}

impl Pulse {
    /// As it is now.
    pub fn beat(&self) -> Beat {
        self.inner().clone()
    }

    /// A request is sent.
    pub fn sent(&self) {
        self.inner().requests += 1;
    }

    /// The API server did a write, sent then; `own` if it renews this node's session.
    pub fn written(&self, sent: BootTime, own: bool) {
        let mut beat = self.inner();
        beat.writes += 1;
        if own {
            beat.renewed = beat.renewed.max(Some(sent));
        }
        beat.outage = None;
    }

    /// The API server gave an answer that changes nothing.
    pub fn answered(&self, is_conflict: bool) {
        let mut beat = self.inner();
        beat.conflicts += u64::from(is_conflict);
        beat.outage = None;
    }

    /// A request, sent then, came to nothing. True if it is the first in a row.
    pub fn failed(&self, sent: BootTime, why: String) -> bool {
        let mut beat = self.inner();
        beat.failures += 1;
        let is_first = beat.outage.is_none();
        let outage = beat.outage.get_or_insert_with(|| Outage {
            since: sent,
            failures: 0,
            why: String::new(),
        });
        outage.failures = outage.failures.saturating_add(1);
        outage.why = why;
        is_first
    }

    /// How long to wait before the next request: nothing as a rule, longer with every failure, at
    /// most `most`. `chance`, any number, spreads it over the upper half, so that the speakers of a
    /// cluster do not come back all at once.
    pub fn pause(&self, most: Duration, chance: u64) -> Duration {
        let Some(outage) = self.inner().outage.clone() else { return Duration::ZERO };
        let full = (FIRST_PAUSE * (1 << outage.failures.min(8))).min(most);
        let half = full / 2;
        half + half.mul_f64(f64::from(u32::try_from(chance % 1000).unwrap_or(0)) / 1000.0)
    }

    fn inner(&self) -> MutexGuard<'_, Beat> {
        // A panic while it was held ends the process anyway (rule: every task is awaited).
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Half of what is waited after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn an_outage_begins_with_the_first_failure_and_ends_with_any_answer() {
        let pulse = Pulse::default();
        pulse.written(at(1), true);
        assert!(pulse.failed(at(3), "no route".into()));
        assert!(!pulse.failed(at(4), "timed out".into()));
        let outage = Outage { since: at(3), failures: 2, why: "timed out".into() };
        assert_eq!(pulse.beat().outage, Some(outage));
        assert_eq!(pulse.beat().renewed, Some(at(1)));
        pulse.answered(true);
        let beat = pulse.beat();
        assert_eq!((beat.outage, beat.conflicts, beat.failures), (None, 1, 2));
    }

    #[test]
    fn waits_longer_with_every_failure_but_never_too_long() {
        let pulse = Pulse::default();
        let most = Duration::from_millis(400);
        assert_eq!(pulse.pause(most, 999), Duration::ZERO);
        let mut pauses = Vec::new();
        for failure in 0..6 {
            pulse.failed(at(failure), String::new());
            pauses.push([0, 500].map(|chance| pulse.pause(most, chance).as_millis()));
        }
        assert_eq!(pauses, [[25, 37], [50, 75], [100, 150], [200, 300], [200, 300], [200, 300]]);
    }
}
