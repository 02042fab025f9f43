//! Speakers of one cluster that elect in different ways (pure): while `--election` is being
//! changed, raft's speakers and those by Leases run side by side, and neither knows the other's
//! claims.
//!
//! # Why the two never speak at once
//!
//! Each shows itself, then looks: of two that do so at least one sees the other, because the API
//! server orders writes and consistent reads.
//!
//! 1. A speaker by Leases shows itself by its open session, and looks for marks of raft's speakers
//!    each time it has opened one. While it sees one that claims to speak, it takes and speaks for
//!    nothing.
//! 2. A raft speaker shows itself by a mark, [`Stage::Claimed`], and looks for sessions. While one
//!    is open it waits; one that stands still for its ttl it ends by a write that demands that very
//!    version, as another speaker by Leases would (`herald_leader_election::lease`, 2). Only if
//!    none is left it goes on to [`Stage::Speaking`].
//! 3. A mark stays until its speaker has ended in good order, or the next one on its node takes its
//!    place. So raft needs the API server only to start, and a dead raft speaker's mark keeps those
//!    by Leases silent: nobody can know whether it is dead.
//! 4. Where one raft speaker speaks already, all others may: no speaker by Leases does.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_leader_election::lease::Version;
use herald_leader_election::{BootTime, NodeName};

/// How far a raft speaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has seen others and is silent.
    Waiting,
    /// It wants to speak, and looks.
    Claimed,
    /// It speaks.
    Speaking,
}

impl Stage {
    /// As the mark has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Claimed => "claimed",
            Self::Speaking => "speaking",
        }
    }

    /// Back from a label; one that is not known could mean anything.
    pub fn of(label: &str) -> Self {
        match label {
            "waiting" => Self::Waiting,
            "claimed" => Self::Claimed,
            _ => Self::Speaking,
        }
    }
}

/// The mark of a raft speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its node.
    pub node: NodeName,
    /// How far it is.
    pub stage: Stage,
    /// How long its kernel may still speak once its process is gone.
    pub ttl: Duration,
}

/// The open session of a speaker by Leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its node.
    pub node: NodeName,
    /// The writing that was seen.
    pub version: Version,
    /// How long it lasts.
    pub ttl: Duration,
}

/// What a speaker has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Speak.
    May,
    /// Stay silent because of these.
    Wait {
        /// Nodes whose speakers are alive, or may be.
        living: Vec<NodeName>,
        /// Nodes of which the session, or the mark, is to be ended first.
        ended: Vec<NodeName>,
    },
}

/// What a raft speaker has seen of sessions.
#[derive(Debug, Default)]
pub struct Sight(BTreeMap<NodeName, (Version, BootTime)>);

impl Sight {
    /// For a raft speaker.
    pub fn judge(&mut self, marks: &[Mark], sessions: &[Session], now: BootTime) -> Verdict {
        let is_same = |node: &NodeName, version: &Version| {
            sessions.iter().any(|it| it.node == *node && it.version == *version)
        };
        self.0.retain(|node, (version, _)| is_same(node, version));
        if sessions.is_empty() || marks.iter().any(|mark| mark.stage == Stage::Speaking) {
            return Verdict::May;
        }
        let (mut living, mut ended) = (Vec::new(), Vec::new());
        for session in sessions {
            let first = (session.version.clone(), now);
            let (_, since) = self.0.entry(session.node.clone()).or_insert(first);
            let is_over = now.since(*since) >= patience(session.ttl);
            let list = if is_over { &mut ended } else { &mut living };
            list.push(session.node.clone());
        }
        Verdict::Wait { living, ended }
    }
}

/// For a speaker by Leases on the node `me` that was started at `started`.
pub fn judge(me: &NodeName, marks: &[Mark], started: BootTime, now: BootTime) -> Verdict {
    let (mut living, mut ended) = (Vec::new(), Vec::new());
    for mark in marks {
        // Its process was here before this one: only its kernel may still speak.
        let is_over = mark.node == *me
            && (mark.stage == Stage::Waiting || now.since(started) >= patience(mark.ttl));
        match (is_over, mark.stage) {
            (true, _) => ended.push(mark.node.clone()),
            (false, Stage::Waiting) => {}
            (false, Stage::Claimed | Stage::Speaking) => living.push(mark.node.clone()),
        }
    }
    match (&living[..], &ended[..]) {
        ([], []) => Verdict::May,
        _ => Verdict::Wait { living, ended },
    }
}

/// Clocks may differ in rate; ten times what the elections allow for.
fn patience(ttl: Duration) -> Duration {
    ttl + ttl / 10 + Duration::from_millis(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn mark(node: &str, stage: Stage) -> Mark {
        Mark { node: node.into(), stage, ttl: TTL }
    }

    fn session(node: &str, version: &str) -> Session {
        Session { node: node.into(), version: Version(version.into()), ttl: TTL }
    }

    fn wait(living: &[&str], ended: &[&str]) -> Verdict {
        let names = |list: &[&str]| list.iter().map(|node| (*node).into()).collect();
        Verdict::Wait { living: names(living), ended: names(ended) }
    }

    #[test]
    fn a_raft_speaker_waits_for_sessions_and_ends_those_that_stand_still() {
        let mut sight = Sight::default();
        let ours = [mark("n1", Stage::Claimed)];
        assert_eq!(sight.judge(&ours, &[], at(0)), Verdict::May);
        let both = |version| [session("n2", "a"), session("n3", version)];
        assert_eq!(sight.judge(&ours, &both("a"), at(0)), wait(&["n2", "n3"], &[]));
        assert_eq!(sight.judge(&ours, &both("b"), at(5)), wait(&["n2", "n3"], &[]), "not quite");
        assert_eq!(sight.judge(&ours, &both("c"), at(6)), wait(&["n3"], &["n2"]));
        assert_eq!(sight.judge(&ours, &[session("n3", "d")], at(9)), wait(&["n3"], &[]));
        // It came back in between, so it counts from now.
        let back = [session("n2", "a"), session("n3", "d")];
        assert_eq!(sight.judge(&ours, &back, at(12)), wait(&["n2", "n3"], &[]));
    }

    #[test]
    fn where_one_raft_speaker_speaks_the_others_may() {
        let waiting = [session("n3", "a")];
        for (stage, verdict) in [
            (Stage::Speaking, Verdict::May),
            (Stage::Claimed, wait(&["n3"], &[])),
            (Stage::Waiting, wait(&["n3"], &[])),
        ] {
            let marks = [mark("n2", stage)];
            assert_eq!(Sight::default().judge(&marks, &waiting, at(0)), verdict, "{stage:?}");
        }
    }

    #[test]
    fn a_speaker_by_leases_waits_for_marks_that_may_speak() {
        let judged = |marks: &[Mark], now| judge(&"n1".into(), marks, at(0), at(now));
        assert_eq!(judged(&[], 0), Verdict::May);
        assert_eq!(judged(&[mark("n2", Stage::Waiting)], 0), Verdict::May);
        for stage in [Stage::Claimed, Stage::Speaking, Stage::of("of a later version")] {
            // Nobody can know whether it is dead.
            assert_eq!(judged(&[mark("n2", stage)], 1000), wait(&["n2"], &[]));
        }
    }

    #[test]
    fn the_mark_of_the_process_before_goes_once_its_kernel_is_silent() {
        let judged = |stage, now| judge(&"n1".into(), &[mark("n1", stage)], at(10), at(now));
        assert_eq!(judged(Stage::Speaking, 10), wait(&["n1"], &[]));
        assert_eq!(judged(Stage::Speaking, 15), wait(&["n1"], &[]));
        assert_eq!(judged(Stage::Speaking, 16), wait(&[], &["n1"]));
        assert_eq!(judged(Stage::Waiting, 10), wait(&[], &["n1"]), "it never spoke");
    }

    #[test]
    fn stages_read_back() {
        for stage in [Stage::Waiting, Stage::Claimed, Stage::Speaking] {
            assert_eq!(Stage::of(stage.label()), stage);
        }
    }

    /// Every order in which two speakers can write and look: they never both go ahead.
    #[test]
    fn of_two_that_show_themselves_and_look_at_least_one_waits() {
        // Steps of the raft speaker and of the one by Leases: show, look. R and L say whose turn.
        for order in ["RRLL", "RLRL", "RLLR", "LRRL", "LRLR", "LLRR"] {
            let (mut marks, mut sessions) = (Vec::new(), Vec::new());
            let (mut raft, mut lease) = (None, None);
            for turn in order.chars() {
                match turn {
                    'R' if marks.is_empty() => marks.push(mark("n1", Stage::Claimed)),
                    'R' => raft = Some(Sight::default().judge(&marks, &sessions, at(0))),
                    _ if sessions.is_empty() => sessions.push(session("n2", "a")),
                    _ => lease = Some(judge(&"n2".into(), &marks, at(0), at(0))),
                }
            }
            let (raft, lease) = (raft.unwrap(), lease.unwrap());
            assert!(raft != Verdict::May || lease != Verdict::May, "{order}");
        }
    }
}
