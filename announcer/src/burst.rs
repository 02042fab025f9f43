//! When a VIP is announced after it was gained: at once, then at growing distances.
//!
//! Timers are data: the caller asks what is due and when to come back. Must never start by itself;
//! a sync that changes nothing starts nothing, since the caller names only what is new.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Waits before each round of an IPv4 burst, from the round before: 0, 0.1, 0.5, 1, 2 and 4 s.
///
/// RFC 5227 2.3 asks for two announcements two seconds apart (ANNOUNCE_NUM, ANNOUNCE_INTERVAL); the
/// rounds at 0, 2 and 4 s are these and one to spare. The early ones are for the frame that is lost
/// while a switch moves the address to another port: without them a client waits for the next
/// round, or for its cache to age. Broadcasts cost every host on the segment, so it ends there.
const IPV4_GAPS: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Waits before each round of an IPv6 burst: 0, 1 and 2 s. RFC 4861 7.2.6 allows no more than
/// MAX_NEIGHBOR_ADVERTISEMENT (3), no closer than RetransTimer (1 s by section 10).
const IPV6_GAPS: &[Duration] = &[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(1)];

/// A VIP on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The VIP.
    pub vip: IpAddr,
    /// Index of the interface.
    pub ifindex: u32,
}

/// All bursts under way. Times are durations since boot.
#[derive(Clone, Debug, Default)]
pub struct Bursts {
    running: BTreeMap<Key, Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    due: Duration,
    /// Rounds already handed out.
    rounds: usize,
}

impl Bursts {
    /// Begins a burst, or begins it anew.
    pub fn start(&mut self, key: Key, now: Duration) {
        self.running.insert(key, Burst { due: now, rounds: 0 });
    }

    /// Ends a burst at once, if one is under way.
    pub fn stop(&mut self, key: &Key) {
        self.running.remove(key);
    }

    /// The keys whose round is due, each once, even if several rounds have been missed: neighbours
    /// learn nothing from the second of two frames. The next round counts from `now`.
    pub fn due(&mut self, now: Duration) -> Vec<Key> {
        let mut keys = Vec::new();
        self.running.retain(|key, burst| {
            if burst.due > now {
                return true;
            }
            keys.push(*key);
            burst.rounds += 1;
            match gaps(key.vip).get(burst.rounds) {
                Some(gap) => {
                    burst.due = now + *gap;
                    true
                }
                None => false,
            }
        });
        keys
    }

    /// When the next round is due; `None` when nothing is under way.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.running.values().map(|burst| burst.due).min()
    }
}

fn gaps(vip: IpAddr) -> &'static [Duration] {
    match vip {
        IpAddr::V4(_) => IPV4_GAPS,
        IpAddr::V6(_) => IPV6_GAPS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(vip: &str) -> Key {
        Key { vip: vip.parse().unwrap(), ifindex: 2 }
    }

    /// Follows the deadlines and returns the times of all rounds, in milliseconds from the start.
    fn rounds(bursts: &mut Bursts, start: Duration) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(now) = bursts.next_deadline() {
            assert_eq!(bursts.due(now.saturating_sub(Duration::from_nanos(1))), []);
            times.extend(bursts.due(now).iter().map(|_| (now - start).as_millis()));
        }
        times
    }

    #[test]
    fn ipv4_rounds_begin_at_once_and_spread() {
        let start = Duration::from_secs(1000);
        let mut bursts = Bursts::default();
        bursts.start(key("192.168.1.240"), start);
        assert_eq!(rounds(&mut bursts, start), [0, 100, 500, 1000, 2000, 4000]);
        assert_eq!(bursts.next_deadline(), None);
    }

    #[test]
    fn ipv6_rounds_obey_the_retransmission_timer() {
        let start = Duration::from_secs(1000);
        let mut bursts = Bursts::default();
        bursts.start(key("fd00:1::f0"), start);
        assert_eq!(rounds(&mut bursts, start), [0, 1000, 2000]);
    }

    #[test]
    fn a_vip_gained_again_begins_anew() {
        let mut bursts = Bursts::default();
        bursts.start(key("192.168.1.240"), Duration::ZERO);
        assert_eq!(bursts.due(Duration::ZERO).len(), 1);
        let again = Duration::from_millis(50);
        bursts.start(key("192.168.1.240"), again);
        assert_eq!(rounds(&mut bursts, again), [0, 100, 500, 1000, 2000, 4000]);
    }

    #[test]
    fn a_lost_vip_is_silent_at_once() {
        let mut bursts = Bursts::default();
        bursts.start(key("192.168.1.240"), Duration::ZERO);
        bursts.start(key("192.168.1.241"), Duration::ZERO);
        bursts.stop(&key("192.168.1.240"));
        assert_eq!(bursts.due(Duration::ZERO), [key("192.168.1.241")]);
    }

    #[test]
    fn missed_rounds_are_not_made_up_in_a_volley() {
        let mut bursts = Bursts::default();
        bursts.start(key("192.168.1.240"), Duration::ZERO);
        let late = Duration::from_secs(3);
        assert_eq!(bursts.due(late).len(), 1);
        assert_eq!(bursts.due(late).len(), 0);
        assert_eq!(bursts.next_deadline(), Some(late + Duration::from_millis(100)));
    }

    #[test]
    fn interfaces_have_bursts_of_their_own() {
        let mut bursts = Bursts::default();
        let (one, two) = (key("192.168.1.240"), Key { ifindex: 3, ..key("192.168.1.240") });
        bursts.start(one, Duration::ZERO);
        bursts.start(two, Duration::from_millis(10));
        assert_eq!(bursts.due(Duration::ZERO), [one]);
        assert_eq!(bursts.next_deadline(), Some(Duration::from_millis(10)));
        assert_eq!(bursts.due(Duration::from_millis(10)), [two]);
    }
}
