//! Memory that a burst of work has left behind, given back to the kernel.
//!
//! Every round builds a picture of everything and drops the one before. glibc keeps what was freed
//! between pieces that are still in use: a third of a speaker with ten thousand Services was such
//! room. Giving it back takes as long as a round, so it is done once, when the burst is over.

use std::time::Duration;

use herald_leader_election::BootTime;

/// Rounds that took less than this together leave little behind.
const WORTHWHILE: Duration = Duration::from_millis(500);
/// No round for so long: the burst is over.
const QUIET: Duration = Duration::from_secs(3);

/// How much work was done since the memory was last given back (pure).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slack {
    spent: Duration,
    at: BootTime,
}

impl Slack {
    /// A round that ended at this time took so long.
    pub(super) fn spend(&mut self, took: Duration, now: BootTime) {
        self.spent += took;
        self.at = now;
    }

    /// How long until it is time to give back, if there will be such a time; nothing once it is
    /// over.
    pub(super) fn wait(&self, now: BootTime) -> Option<Duration> {
        (self.spent >= WORTHWHILE).then(|| (self.at + QUIET).since(now))
    }

    /// It has been given back.
    pub(super) fn given_back(&mut self) {
        self.spent = Duration::ZERO;
    }
}

/// Gives back to the kernel what the heap does not use. Edge: other allocators do it by themselves.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "edge: the C library's own call")]
    // SAFETY: it takes a number and may be called by any thread at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn memory_is_given_back_once_a_while_after_a_burst() {
        let mut slack = Slack::default();
        assert_eq!(slack.wait(at(1)), None);
        slack.spend(WORTHWHILE / 2, at(1));
        assert_eq!(slack.wait(at(100)), None, "not worth it");
        slack.spend(WORTHWHILE / 2, at(101));
        assert_eq!(slack.wait(at(101)), Some(QUIET));
        slack.spend(Duration::from_millis(1), at(102));
        assert_eq!(slack.wait(at(103)), Some(QUIET - Duration::from_secs(1)), "the burst goes on");
        assert_eq!(slack.wait(at(105)), Some(Duration::ZERO));
        slack.given_back();
        assert_eq!(slack.wait(at(105)), None);
    }
}
