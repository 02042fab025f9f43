//! How often work may be done again that costs more the more there is (pure).
//!
//! Deciding reads the whole picture, so its cost grows with the number of Services, and in a burst
//! of changes each one asks for it. Changes that come alone are answered at once; in a burst the
//! work takes a small share of a processor and each time does more changes together. A leaky bucket
//! of time spent.

use std::time::Duration;

use crate::model::BootTime;

/// Time that may be spent without any wait.
const BURST: Duration = Duration::from_millis(100);
/// One part in so many of the time may be spent for ever.
const SHARE: u32 = 32;
/// Nobody waits longer than this, whatever the work costs, unless more is said.
const MOST: Duration = Duration::from_secs(1);

/// The bucket: how much more has been spent than was allowed for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    spent: Duration,
    at: BootTime,
    /// What the last work took.
    took: Duration,
    /// The longest wait.
    most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self::waiting_at_most(MOST)
    }
}

impl Pace {
    /// For work that nobody waits for longer than this, whatever it costs.
    #[must_use]
    pub const fn waiting_at_most(most: Duration) -> Self {
        Self { spent: Duration::ZERO, at: BootTime::SILENT, took: Duration::ZERO, most }
    }

    /// Work that ended at this time took so long.
    pub fn spend(&mut self, took: Duration, now: BootTime) {
        // More would only mean a longer wait than is ever asked for.
        self.spent = (self.left(now) + took).min(BURST + self.most / SHARE);
        self.at = now;
        self.took = took;
    }

    /// The same for work that clients wait for, as in a failover: whatever was spent before, it
    /// waits for no longer than the last work took, and so may have half of a processor.
    #[must_use]
    pub fn wait_urgent(&self, now: BootTime) -> Duration {
        let rest = self.took.saturating_sub(now.since(self.at));
        self.wait(now).min(rest)
    }

    /// How long the next work should wait; zero when it may begin.
    #[must_use]
    pub fn wait(&self, now: BootTime) -> Duration {
        (self.left(now).saturating_sub(BURST) * SHARE).min(self.most)
    }

    fn left(&self, now: BootTime) -> Duration {
        self.spent.saturating_sub(now.since(self.at) / SHARE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// How often work of this cost is done within a time in which it is always asked for.
    fn count(cost: Duration, time: Duration) -> u32 {
        let (mut pace, mut now, mut count) = (Pace::default(), BootTime(ms(1000)), 0);
        let end = BootTime(now.0 + time);
        while now < end {
            now = BootTime(now.0 + pace.wait(now) + cost);
            pace.spend(cost, now);
            count += 1;
        }
        count
    }

    #[test]
    fn what_clients_wait_for_does_not_wait_for_what_was_spent_before() {
        let mut pace = Pace::default();
        let now = BootTime(ms(1000));
        assert_eq!(pace.wait_urgent(now), Duration::ZERO);
        for _ in 0..20 {
            pace.spend(ms(10), now);
        }
        assert_eq!(pace.wait(now), MOST);
        assert_eq!(pace.wait_urgent(now), ms(10));
        assert_eq!(pace.wait_urgent(BootTime(ms(1004))), ms(6));
        assert_eq!(pace.wait_urgent(BootTime(ms(1010))), Duration::ZERO);
    }

    #[test]
    fn a_few_changes_are_answered_at_once() {
        let mut pace = Pace::default();
        for n in 0..10 {
            let now = BootTime(ms(1000 + n));
            assert_eq!(pace.wait(now), Duration::ZERO);
            pace.spend(ms(10), now);
        }
        let now = BootTime(ms(1010));
        pace.spend(ms(10), now);
        assert!(pace.wait(now) > Duration::ZERO, "the burst is used up");
        assert_eq!(pace.wait(BootTime(ms(1010 + 32 * 10))), Duration::ZERO);
    }

    #[test]
    fn in_a_long_burst_the_work_takes_its_share_and_no_more() {
        // 100 ms at once, a part of sixteen seconds, and what begins just before the end.
        assert_eq!(count(ms(5), ms(16_000)), 121);
    }

    #[test]
    fn where_more_is_said_long_work_waits_longer() {
        let mut pace = Pace::waiting_at_most(ms(3000));
        pace.spend(ms(400), BootTime(ms(1000)));
        assert_eq!(pace.wait(BootTime(ms(1000))), ms(3000));
        assert_eq!(pace.wait(BootTime(ms(4000))), Duration::ZERO);
    }

    #[test]
    fn work_that_takes_very_long_waits_a_second_each_time() {
        // Three at once or nearly, then one in each 1.4 seconds.
        let often = count(ms(400), ms(9000));
        assert!((6..=8).contains(&often), "{often}");
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_is_said(costs in prop::collection::vec((0..5000_u64, 0..5000_u64), 1..50)) {
            let (mut pace, mut now) = (Pace::default(), BootTime(ms(0)));
            for (cost, pause) in costs {
                now = BootTime(now.0 + ms(cost));
                pace.spend(ms(cost), now);
                prop_assert!(pace.wait(now) <= MOST);
                let later = BootTime(now.0 + pace.wait(now));
                prop_assert_eq!(pace.wait(later), Duration::ZERO);
                now = BootTime(now.0 + ms(pause));
            }
        }
    }
}
