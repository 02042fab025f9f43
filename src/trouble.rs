//! Which failures of requests to an API server are worth a person's attention (pure).
//!
//! An API server that restarts is not there at first, and then refuses everybody until it has read
//! the roles; nobody has to do anything about it. So what may pass by itself is told once, when
//! nothing of its kind has been answered for a while. An answer that will be the same next time is
//! told at once.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_leader_election::BootTime;
use kube::runtime::watcher;

/// Much longer than an API server takes from its first answer to its roles.
const PATIENCE: Duration = Duration::from_secs(30);

/// Failures by the kind that is asked for; rights are given by kind.
#[derive(Debug, Default)]
pub struct Troubles(BTreeMap<&'static str, Trouble>);

#[derive(Debug)]
struct Trouble {
    cause: Cause,
    since: BootTime,
    is_told: bool,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The API server does not answer, or not as one that works.
    Away,
    /// It does not let us, as yet or at all.
    Refused,
    /// It will answer so again.
    Wrong,
}

impl Troubles {
    /// A request about this kind was answered as it should be. True if a person was told of
    /// failures.
    #[must_use]
    pub fn answered(&mut self, kind: &'static str) -> bool {
        self.0.remove(kind).is_some_and(|trouble| trouble.is_told)
    }

    /// A request about this kind has failed. True if that is to be told.
    #[must_use]
    pub fn failed(&mut self, kind: &'static str, cause: Cause, now: BootTime) -> bool {
        let begun = || Trouble { cause, since: now, is_told: false };
        let trouble = self.0.entry(kind).or_insert_with(begun);
        if trouble.cause != cause {
            (trouble.cause, trouble.since) = (cause, now);
        }
        let is_due = cause == Cause::Wrong || now.since(trouble.since) >= PATIENCE;
        let is_news = is_due && !trouble.is_told;
        trouble.is_told |= is_due;
        is_news
    }
}

impl Cause {
    const fn of_code(code: u16) -> Self {
        match code {
            401 | 403 => Self::Refused,
            // Gone is the version that a watch began with; it begins anew.
            408 | 410 | 429 | 500.. => Self::Away,
            _ => Self::Wrong,
        }
    }
}

impl From<&kube::Error> for Cause {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(answer) => Self::of_code(answer.code),
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                Self::Away
            }
            _ => Self::Wrong,
        }
    }
}

impl From<&watcher::Error> for Cause {
    fn from(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => error.into(),
            watcher::Error::WatchError(answer) => Self::of_code(answer.code),
            watcher::Error::NoResourceVersion => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn answer(code: u16) -> Cause {
        let answer = Box::new(Status { code, ..Status::default() });
        (&watcher::Error::InitialListFailed(kube::Error::Api(answer))).into()
    }

    #[test]
    fn a_server_that_restarts_is_nobodys_business() {
        let mut troubles = Troubles::default();
        let refused = Cause::from(&kube::Error::Service("connection refused".into()));
        for (second, cause) in [(0, refused), (29, answer(503)), (40, answer(403))] {
            assert!(!troubles.failed("Service", cause, at(second)), "{cause:?}");
        }
        assert!(!troubles.answered("Service"));
        assert!(!troubles.failed("Service", answer(403), at(99)), "another outage");
    }

    #[test]
    fn one_that_stays_away_is_told_once() {
        let mut troubles = Troubles::default();
        let told: Vec<_> = (0..90)
            .step_by(3)
            .filter(|now| troubles.failed("Service", answer(503), at(*now)))
            .collect();
        assert_eq!(told, [30]);
        assert!(!troubles.failed("Service", answer(403), at(90)), "it is coming back");
        assert!(troubles.answered("Service"));
    }

    #[test]
    fn rights_that_lack_for_long_are_told_once_and_so_is_their_return() {
        let mut troubles = Troubles::default();
        let told: Vec<_> = (0..60)
            .step_by(3)
            .filter(|now| {
                assert!(!troubles.answered("Service"), "another kind is written all the time");
                troubles.failed("Event", answer(403), at(*now))
            })
            .collect();
        assert_eq!(told, [30]);
        assert!(troubles.answered("Event"));
        assert!(!troubles.answered("Event"));
    }

    #[test]
    fn what_will_not_pass_is_told_at_once() {
        let mut troubles = Troubles::default();
        let told = [0, 3, 6].map(|now| troubles.failed("IPAddressPool", answer(422), at(now)));
        assert_eq!(told, [true, false, false]);
    }
}
