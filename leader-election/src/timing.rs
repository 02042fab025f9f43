//! How often a node renews, how long a grant lasts, and what follows for raft.
//!
//! Pure arithmetic; it must never read a clock. Everything is derived from two durations so that no
//! combination can be set that breaks the argument in [`crate::raft`].

use std::time::Duration;

use thiserror::Error;

/// Raft ticks in one heartbeat.
pub(crate) const HEARTBEAT_TICKS: u32 = 2;
/// Ticks without a leader's word after which a follower may vote, and the least it waits to stand.
pub(crate) const ELECTION_TICKS: u32 = 8;
/// A follower stands after at least [`ELECTION_TICKS`] and less than this many ticks.
pub(crate) const ELECTION_TICKS_END: u32 = 11;

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

/// Why two durations do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    /// Scheduling delay alone would end sessions.
    #[error("heartbeat {heartbeat:?} is shorter than {SHORTEST_HEARTBEAT:?}")]
    HeartbeatTooShort {
        /// The heartbeat asked for.
        heartbeat: Duration,
    },
    /// The death of the raft leader would silence nodes that live.
    #[error(
        "ttl {ttl:?} is too short for heartbeat {heartbeat:?}: an election takes up to {election:?} \
         and the last renewal may be one heartbeat old by then, so ttl must be at least {least:?}"
    )]
    TtlTooShort {
        /// The heartbeat asked for.
        heartbeat: Duration,
        /// The ttl asked for.
        ttl: Duration,
        /// The longest a follower waits before it stands for election.
        election: Duration,
        /// The shortest ttl that goes with the heartbeat.
        least: Duration,
    },
    /// A dead node's VIPs would be gone for too long.
    #[error(
        "ttl {ttl:?} is longer than {LONGEST_TTL:?}: VIPs of a dead node would be gone as long"
    )]
    TtlTooLong {
        /// The ttl asked for.
        ttl: Duration,
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
            return Err(TimingError::HeartbeatTooShort { heartbeat });
        }
        if ttl > LONGEST_TTL {
            return Err(TimingError::TtlTooLong { ttl });
        }
        let election = self.ticks(ELECTION_TICKS_END - 1);
        let least = election.saturating_add(heartbeat);
        if ttl < least {
            return Err(TimingError::TtlTooShort { heartbeat, ttl, election, least });
        }
        Ok(())
    }

    /// One raft tick.
    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat / HEARTBEAT_TICKS
    }

    /// How long a follower that heard its leader will vote for nobody else.
    ///
    /// One tick less than raft's election timeout: ticks fall on a grid, so the first one may follow
    /// the heartbeat at once.
    pub(crate) fn promise(&self) -> Duration {
        self.ticks(ELECTION_TICKS - 1)
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
/// 0.02 %, and NTP slews a Linux clock by at most 0.05 % (adjtimex(2)); CLOCK_BOOTTIME is slewed too.
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
    fn a_ttl_that_an_election_outlasts_is_refused() {
        let refused = timing(100, 599).check().unwrap_err();
        assert!(refused.to_string().contains("at least 600ms"), "{refused}");
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
        assert_eq!(timing.lease(), Duration::from_micros(345_500));
        assert_eq!(timing.grant(), Duration::from_millis(593));
        assert_eq!(timing.patience(), Duration::from_millis(607));
    }
}
