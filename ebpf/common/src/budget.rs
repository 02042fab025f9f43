//! How often something may be done (pure): a token bucket that is one number, the moment at which
//! it would be full again (the generic cell rate algorithm, ITU-T I.371 Annex A, its virtual
//! schedule).

/// A bucket, full at first. For one CPU at a time.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Nanoseconds of the clock it is asked with.
    full_at: u64,
}

/// What a [`Budget`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds until what was taken is there again.
    pub interval: u64,
    /// How often it can be taken at once.
    pub burst: u64,
}

/// Of ICMP errors each CPU makes: as many as Linux lets a whole machine make, a thousand a second
/// and fifty at once (net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst,
/// Documentation/networking/ip-sysctl.rst).
pub const REJECTIONS: Rate = Rate { interval: 1_000_000, burst: 50 };

impl Budget {
    /// Takes one at the moment `now`, in nanoseconds; false if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, rate: Rate, now: u64) -> bool {
        let from = if self.full_at > now { self.full_at } else { now };
        if from - now > rate.interval * (rate.burst - 1) {
            return false;
        }
        self.full_at = from + rate.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, REJECTIONS, Rate};

    const RATE: Rate = Rate { interval: 10, burst: 3 };

    #[test]
    fn gives_a_burst_then_one_an_interval() {
        let mut budget = Budget::default();
        let asked = [
            (100, true),
            (100, true),
            (100, true),
            (100, false),
            (105, false),
            (109, false),
            (110, true),
            (111, false),
            (120, true),
            (129, false),
        ];
        for (now, is_given) in asked {
            assert_eq!(budget.take(RATE, now), is_given, "at {now}");
        }
    }

    #[test]
    fn is_full_again_after_a_rest_and_no_fuller() {
        let mut budget = Budget::default();
        for now in [0, 1_000_000] {
            let taken = (0..10).filter(|_| budget.take(RATE, now)).count();
            assert_eq!(taken, 3, "at {now}");
        }
    }

    #[test]
    fn of_rejections_there_are_fifty_at_once_and_a_thousand_a_second() {
        let (mut budget, start) = (Budget::default(), 7_000_000_000);
        let at_once = (0..1_000).filter(|_| budget.take(REJECTIONS, start)).count();
        assert_eq!(at_once, 50);
        let asked = (1..=10_000).map(|tenth| start + tenth * 100_000);
        let in_a_second = asked.filter(|now| budget.take(REJECTIONS, *now)).count();
        assert_eq!(in_a_second, 1_000);
    }
}
