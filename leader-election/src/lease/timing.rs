//! How often a session is renewed in the API server, and what follows.
//!
//! Pure arithmetic; it must never read a clock.

use std::time::Duration;

use crate::timing::TimingError;

/// Renewals in one ttl, at least: one may fail or be late.
const LEAST_RENEWALS: u32 = 3;
/// Shortest time between renewals: an API server is not asked more often by every node.
const SHORTEST_RENEWAL: Duration = Duration::from_millis(200);
/// Longest ttl. Longer than raft's, for it is also how long VIPs outlast an API server that is
/// away, such as one that is upgraded; and a dead node's VIPs are gone for as long.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 60);

/// The two durations of sessions in the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// A node renews its session this often.
    pub renew: Duration,
    /// How long a renewal lasts, counted from when it was sent.
    pub ttl: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self { renew: Duration::from_millis(1500), ttl: Duration::from_secs(5) }
    }
}

impl LeaseTiming {
    /// Refuses durations that cannot keep a session alive.
    ///
    /// # Errors
    /// The first reason found.
    pub fn check(&self) -> Result<(), TimingError> {
        let Self { renew, ttl } = *self;
        if renew < SHORTEST_RENEWAL {
            return Err(TimingError::HeartbeatTooShort {
                heartbeat: renew,
                least: SHORTEST_RENEWAL,
            });
        }
        if ttl > LONGEST_TTL {
            return Err(TimingError::TtlTooLong { ttl, most: LONGEST_TTL });
        }
        let least = renew.saturating_mul(LEAST_RENEWALS);
        if ttl < least {
            return Err(TimingError::TtlTooShort { heartbeat: renew, ttl, least });
        }
        Ok(())
    }

    /// What a node may rely on of a renewal, from when it sent it.
    pub(crate) fn grant(&self) -> Duration {
        self.ttl.saturating_sub(self.margin())
    }

    /// How long a session must stand still before it is revoked.
    pub(crate) fn patience(&self) -> Duration {
        self.ttl + self.margin()
    }

    /// As for [`crate::Timing`]: 1 % and a millisecond.
    fn margin(&self) -> Duration {
        self.ttl / 100 + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_accepted_and_what_cannot_work_is_not() {
        assert_eq!(LeaseTiming::default().check(), Ok(()));
        let short = LeaseTiming { ttl: Duration::from_secs(4), ..LeaseTiming::default() };
        assert!(matches!(short.check(), Err(TimingError::TtlTooShort { .. })));
        let eager = LeaseTiming { renew: Duration::from_millis(10), ..LeaseTiming::default() };
        assert!(matches!(eager.check(), Err(TimingError::HeartbeatTooShort { .. })));
        let [longest, longer] = [600, 601].map(|seconds| LeaseTiming {
            ttl: Duration::from_secs(seconds),
            ..LeaseTiming::default()
        });
        assert_eq!(longest.check(), Ok(()));
        assert!(matches!(longer.check(), Err(TimingError::TtlTooLong { .. })));
    }
}
