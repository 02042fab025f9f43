//! How often a node renews, how long a grant lasts, and what follows for raft.
//!
//! Pure arithmetic; it must never read a clock. Everything is derived from two durations so that no
//! combination can be set that breaks the argument in [`crate::raft`].

use std::time::Duration;

use thiserror::Error;

/// Raft ticks in one heartbeat.
pub(crate) const HEARTBEAT_TICKS: u32 = 2;

/// Shortest ttl, in heartbeats: a promise of two and a half, one for the age of the last renewal,
/// and half of one for the election itself.
const LEAST_TTL: u32 = 4;
/// Shortest heartbeat: below it, ordinary scheduling delay looks like death.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
/// Longest ttl: beyond it a dead node's VIPs are gone for longer than anybody waits.
const LONGEST_TTL: Duration = Duration::from_secs(60);

/// The two durations of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A node renews its session this often, and the leader asks its quorum this often.
    pub heartbeat: Duration,
    /// How long a granted renewal lasts, counted from when it was sent.
    pub ttl: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(100), ttl: Duration::from_millis(600) }
    }
}

impl Timing {
    /// For wired networks and nodes that are never busy: a quarter of a second to a new holder. One
    /// lost heartbeat is forgiven, two in a row cost an election.
    pub fn fast() -> Self {
        Self { heartbeat: Duration::from_millis(50), ttl: Duration::from_millis(200) }
    }

    /// For Wi-Fi and loaded machines: seconds of silence are forgiven.
    pub fn calm() -> Self {
        Self { heartbeat: Duration::from_millis(500), ttl: Duration::from_millis(3000) }
    }
}

/// Why two durations do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    /// Scheduling delay alone would end sessions.
    #[error("a renewal each {heartbeat:?} is too often: it must be at least {least:?}")]
    HeartbeatTooShort {
        /// The time between renewals asked for.
        heartbeat: Duration,
        /// The shortest.
        least: Duration,
    },
    /// One late renewal, or the death of the raft leader, would silence nodes that live.
    #[error(
        "ttl {ttl:?} is too short for a renewal each {heartbeat:?}: one that is late, or lost with \
         who grants it, must not cost a living node its voice, so ttl must be at least {least:?}"
    )]
    TtlTooShort {
        /// The time between renewals asked for.
        heartbeat: Duration,
        /// The ttl asked for.
        ttl: Duration,
        /// The shortest ttl that goes with the heartbeat.
        least: Duration,
    },
    /// A dead node's VIPs would be gone for too long.
    #[error("ttl {ttl:?} is longer than {most:?}: VIPs of a dead node would be gone as long")]
    TtlTooLong {
        /// The ttl asked for.
        ttl: Duration,
        /// The longest.
        most: Duration,
    },
}

impl Timing {
    /// Refuses durations that cannot keep what the design promises.
    ///
    /// # Errors
    /// The first reason found.
    pub fn check(&self) -> Result<(), TimingError> {
        let Self { heartbeat, ttl } = *self;
        if heartbeat < SHORTEST_HEARTBEAT {
            return Err(TimingError::HeartbeatTooShort { heartbeat, least: SHORTEST_HEARTBEAT });
        }
        if ttl > LONGEST_TTL {
            return Err(TimingError::TtlTooLong { ttl, most: LONGEST_TTL });
        }
        let least = heartbeat.saturating_mul(LEAST_TTL);
        if ttl < least {
            return Err(TimingError::TtlTooShort { heartbeat, ttl, least });
        }
        Ok(())
    }

    /// One raft tick.
    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat / HEARTBEAT_TICKS
    }

    /// How long a follower that heard its leader will vote for nobody else.
    ///
    /// Three and a half heartbeats, so that two may get lost; less if the ttl is short: when the
    /// leader dies, the last renewal of a living node may be a heartbeat old, and the election must
    /// be over before its grant is. At the shortest ttl, two and a half: one may get lost.
    pub(crate) fn promise(&self) -> Duration {
        let half = self.heartbeat / 2;
        (half * 7).min(self.ttl.saturating_sub(half * 3))
    }

    /// Whole ticks in the promise: what the raft library knows of it.
    pub(crate) fn promise_ticks(&self) -> usize {
        let ticks = self.promise().as_nanos() / self.tick().as_nanos().max(1);
        usize::try_from(ticks).unwrap_or(usize::MAX)
    }

    /// When a follower that hears nothing of its leader any more stands for election: once its own
    /// promise has run out, and those of the others, which may have heard the leader a little
    /// later; one after the other, so that they do not split the votes.
    pub(crate) fn stands_after(&self, rank: u32) -> Duration {
        self.promise() + self.heartbeat / 10 + self.turn() * rank
    }

    /// When it stands again if that led nowhere.
    pub(crate) fn stands_again_after(&self, rank: u32, attempts: u32) -> Duration {
        let wait = (self.heartbeat / 2).saturating_mul(1 << attempts.min(8)).min(self.promise());
        wait + self.turn() * rank
    }

    /// Between two nodes that stand: time for two rounds of questions and a write to a slow disk.
    pub(crate) fn turn(&self) -> Duration {
        self.heartbeat / 4
    }

    /// What a leader may rely on of that promise.
    pub(crate) fn lease(&self) -> Duration {
        less_margin(self.promise())
    }

    /// What a node may rely on of a grant, from when it sent the renewal.
    pub(crate) fn grant(&self) -> Duration {
        less_margin(self.ttl)
    }

    /// How long a leader waits for a silent session before it revokes it.
    pub(crate) fn patience(&self) -> Duration {
        self.ttl + margin(self.ttl)
    }

    pub(crate) fn ticks(&self, count: u32) -> Duration {
        self.tick().saturating_mul(count)
    }
}

/// Allowance for clocks that run at different rates: 1 % and a millisecond. Quartz stays within
/// 0.02 %, and NTP slews a Linux clock by at most 0.05 % (adjtimex(2)); CLOCK_BOOTTIME is slewed
/// too.
fn margin(of: Duration) -> Duration {
    of / 100 + Duration::from_millis(1)
}

fn less_margin(of: Duration) -> Duration {
    of.saturating_sub(margin(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(heartbeat: u64, ttl: u64) -> Timing {
        Timing { heartbeat: Duration::from_millis(heartbeat), ttl: Duration::from_millis(ttl) }
    }

    #[test]
    fn default_is_accepted() {
        assert_eq!(Timing::default().check(), Ok(()));
    }

    #[test]
    fn every_profile_is_accepted() {
        for profile in [Timing::fast(), Timing::default(), Timing::calm()] {
            assert_eq!(profile.check(), Ok(()), "{profile:?}");
        }
    }

    #[test]
    fn a_ttl_that_an_election_outlasts_is_refused() {
        let refused = timing(100, 399).check().unwrap_err();
        assert!(refused.to_string().contains("at least 400ms"), "{refused}");
    }

    #[test]
    fn the_second_to_stand_wins_before_a_grant_of_the_dead_leader_ends() {
        for timing in [Timing::fast(), Timing::default(), Timing::calm(), timing(10, 40)] {
            // The last renewal that was granted is up to a heartbeat older than the last word.
            let left = timing.grant() - timing.heartbeat;
            assert!(timing.stands_after(1) < left, "{timing:?}: {left:?}");
            assert!(timing.promise() >= timing.heartbeat * 5 / 2, "{timing:?}");
            assert!(timing.promise_ticks() >= 5);
            assert!(
                timing.tick() * u32::try_from(timing.promise_ticks()).unwrap() <= timing.promise()
            );
        }
    }

    #[test]
    fn who_stands_again_waits_longer_each_time() {
        let timing = Timing::default();
        let waits = [0, 1, 2, 3, 9, 90].map(|attempt| timing.stands_again_after(0, attempt));
        assert_eq!(waits.map(|wait| wait.as_millis()), [50, 100, 200, 350, 350, 350]);
        assert_eq!(timing.stands_again_after(2, 0), Duration::from_millis(100));
    }

    #[test]
    fn durations_out_of_range_are_refused() {
        assert!(matches!(timing(1, 600).check(), Err(TimingError::HeartbeatTooShort { .. })));
        assert!(matches!(timing(100, 61_000).check(), Err(TimingError::TtlTooLong { .. })));
    }

    #[test]
    fn lease_ends_before_the_promise_and_the_grant_before_patience() {
        let timing = Timing::default();
        assert_eq!(timing.promise(), Duration::from_millis(350));
        assert_eq!(Timing::fast().promise(), Duration::from_millis(125));
        assert_eq!(timing.lease(), Duration::from_micros(345_500));
        assert_eq!(timing.grant(), Duration::from_millis(593));
        assert_eq!(timing.patience(), Duration::from_millis(607));
    }
}
