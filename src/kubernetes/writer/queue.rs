//! What is still to be written, and in which order (pure).
//!
//! Addresses go in a lane of their own, because they are waited for. Everything else tells about
//! them, states before Events, and must not take the API server's time from them (`writer`). Work
//! is proportional to what changes, except once for each list of what is wanted: ten thousand
//! Services are written in one sweep. A write that fails, or whose effect the watch does not show
//! in time, comes back after a while; an Event that nobody wants any more is still told if it is
//! about something that has happened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use herald_leader_election::BootTime;

use super::super::write::{Target, Write};
use super::Wanted;

/// After this a write that is still wanted is sent again.
pub(super) const AGAIN: Duration = Duration::from_secs(3);
/// How often an Event is sent that the API server does not take.
const ATTEMPTS: u32 = 3;

/// What a write is about: at most one at a time for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The status of an object.
    Status(Target),
    /// An object of our own.
    Object(Target),
    /// An Event, by its object, reason and text.
    Event(Target, &'static str, String),
}

impl Key {
    fn of(write: &Write) -> Self {
        match write {
            Write::Status { target, .. } => Self::Status(target.clone()),
            Write::Own { target, .. } | Write::Gone(target) => Self::Object(target.clone()),
            Write::Event { about, reason, message, .. } => {
                Self::Event(about.clone(), reason, message.clone())
            }
        }
    }

    /// The kind that is written.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Status(target) | Self::Object(target) => target.kind,
            Self::Event(..) => "Event",
        }
    }

    const fn is_event(&self) -> bool {
        matches!(self, Self::Event(..))
    }

    /// Where it waits.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Status(target) if target.is_service() => Lane::Addresses,
            _ => Lane::Reports,
        }
    }

    /// Whether it tells of something that has happened, and not of how things are.
    fn is_past(&self) -> bool {
        matches!(self, Self::Event(_, "IPAllocated" | "ClearAssignment", _))
    }
}

/// Writes that wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Addresses of Services.
    Addresses,
    /// What is told about them and about this node.
    Reports,
}

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It took effect.
    Written,
    /// Its object has another version by now, or is gone: the decision was about something else.
    Overtaken,
    /// The API server did not do it.
    Failed,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BTreeMap<Key, Entry>,
    addresses: VecDeque<Key>,
    states: VecDeque<Key>,
    events: VecDeque<Key>,
}

#[derive(Debug)]
struct Entry {
    write: Write,
    /// Whether it is the allocator's, and only to be sent while this node is that.
    is_allocators: bool,
    is_wanted: bool,
    step: Step,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Sending,
    /// Another write about the same came while this one was on its way.
    SendingOld,
    /// It may have had no effect; looked at again later.
    Sent(BootTime),
    Done,
}

impl Queue {
    /// Takes in all that is wanted now; what is not in the list is not wanted any more.
    pub fn want(&mut self, wanted: &Wanted) {
        self.entries.values_mut().for_each(|entry| entry.is_wanted = false);
        for write in &wanted.allocator {
            self.want_one(write, true);
        }
        for write in &wanted.node {
            self.want_one(write, false);
        }
        self.entries.retain(|key, entry| match entry.step {
            _ if entry.is_wanted => true,
            Step::Sending | Step::SendingOld => true,
            Step::Waiting | Step::Sent(_) => key.is_past(),
            Step::Done => false,
        });
    }

    fn want_one(&mut self, write: &Write, is_allocators: bool) {
        let key = Key::of(write);
        let Some(entry) = self.entries.get_mut(&key) else {
            let (write, step) = (write.clone(), Step::Waiting);
            let entry = Entry { write, is_allocators, is_wanted: true, step, attempts: 0 };
            self.entries.insert(key.clone(), entry);
            self.line_up(key);
            return;
        };
        entry.is_wanted = true;
        entry.is_allocators = is_allocators;
        if entry.write == *write {
            return;
        }
        entry.write = write.clone();
        match entry.step {
            Step::Waiting | Step::SendingOld => {}
            Step::Sending => entry.step = Step::SendingOld,
            Step::Sent(_) | Step::Done => {
                entry.step = Step::Waiting;
                self.line_up(key);
            }
        }
    }

    fn line_up(&mut self, key: Key) {
        match key.lane() {
            Lane::Addresses => self.addresses.push_back(key),
            Lane::Reports if key.is_event() => self.events.push_back(key),
            Lane::Reports => self.states.push_back(key),
        }
    }

    /// The next write to send from a lane. The allocator's are put off while this node may not act
    /// as that.
    pub fn next(&mut self, lane: Lane, now: BootTime, may_allocate: bool) -> Option<(Key, Write)> {
        while let Some(key) = self.first(lane) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.step != Step::Waiting {
                continue;
            }
            if entry.is_allocators && !may_allocate {
                entry.step = Step::Sent(now);
                continue;
            }
            entry.step = Step::Sending;
            entry.attempts += 1;
            return Some((key, entry.write.clone()));
        }
        None
    }

    fn first(&mut self, lane: Lane) -> Option<Key> {
        match lane {
            Lane::Addresses => self.addresses.pop_front(),
            Lane::Reports => self.states.pop_front().or_else(|| self.events.pop_front()),
        }
    }

    /// A write that `next` handed out has ended.
    pub fn ended(&mut self, key: Key, outcome: Outcome, now: BootTime) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let is_told = key.is_event() && (outcome != Outcome::Failed || entry.attempts >= ATTEMPTS);
        entry.step = match (&key, outcome) {
            _ if entry.step == Step::SendingOld => Step::Waiting,
            _ if is_told => Step::Done,
            (Key::Object(_), Outcome::Written) => Step::Done,
            // The watch shows whether a status has taken effect.
            _ => Step::Sent(now),
        };
        match entry.step {
            Step::Waiting => self.line_up(key),
            _ if entry.is_wanted => {}
            Step::Sent(_) if key.is_past() => {}
            _ => drop(self.entries.remove(&key)),
        }
    }

    /// Lines up again what was sent a while ago and is still wanted.
    pub fn again(&mut self, now: BootTime) {
        let is_due = |entry: &Entry| match entry.step {
            Step::Sent(at) => now.since(at) >= AGAIN,
            _ => false,
        };
        let due = self.entries.iter_mut().filter(|(_, entry)| is_due(entry));
        let due: Vec<_> = due
            .map(|(key, entry)| {
                entry.step = Step::Waiting;
                key.clone()
            })
            .collect();
        due.into_iter().for_each(|key| self.line_up(key));
    }

    /// Whether something is to be looked at again.
    pub fn is_unsettled(&self) -> bool {
        self.entries.values().any(|entry| matches!(entry.step, Step::Sent(_)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::write::Severity;
    use crate::observed::ServiceName;

    fn target(name: &str) -> Target {
        Target::service(&ServiceName::new("default", name))
    }

    fn status(name: &str, version: &str) -> Write {
        let patch = json!({"metadata": {"resourceVersion": version}});
        Write::Status { target: target(name), patch: patch.into() }
    }

    fn event(name: &str, reason: &'static str, message: &str) -> Write {
        Write::Event {
            about: target(name),
            uid: String::new(),
            severity: Severity::Normal,
            reason,
            message: message.into(),
        }
    }

    fn own(name: &str) -> Write {
        Write::Own { target: target(name), labels: json!({}).into(), status: json!({}).into() }
    }

    fn allocator(writes: &[Write]) -> Wanted {
        Wanted { allocator: writes.to_vec(), ..Wanted::default() }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    /// Everything that would be sent now.
    fn sent(queue: &mut Queue, now: u64) -> Vec<Write> {
        let mut next = |lane| queue.next(lane, at(now), true).map(|(_, write)| write);
        let addresses: Vec<_> = std::iter::from_fn(|| next(Lane::Addresses)).collect();
        let reports = std::iter::from_fn(|| next(Lane::Reports));
        addresses.into_iter().chain(reports).collect()
    }

    fn finish(queue: &mut Queue, writes: &[Write], outcome: Outcome, now: u64) {
        writes.iter().for_each(|write| queue.ended(Key::of(write), outcome, at(now)));
    }

    #[test]
    fn addresses_have_a_lane_of_their_own() {
        let mut queue = Queue::default();
        let mut pool = target("p");
        pool.kind = "IPAddressPool";
        let pool = Write::Status { target: pool, patch: json!({}).into() };
        let event = event("a", "IPAllocated", "one");
        queue.want(&allocator(&[event.clone(), pool.clone(), status("a", "1"), own("n")]));
        let mut next = |lane| queue.next(lane, at(0), true).map(|(_, write)| write);
        assert_eq!(next(Lane::Addresses), Some(status("a", "1")));
        assert_eq!(next(Lane::Addresses), None);
        let reports: Vec<_> = std::iter::from_fn(|| next(Lane::Reports)).collect();
        assert_eq!(reports, [pool, own("n"), event], "states before Events");
    }

    #[test]
    fn states_come_before_events_and_each_text_is_told_once() {
        let mut queue = Queue::default();
        let told = event("a", "IPAllocated", "one");
        let other = event("a", "AddressConflict", "of one address");
        let third = event("a", "AddressConflict", "of another");
        let all = [told.clone(), status("a", "1"), other.clone(), status("b", "1"), third.clone()];
        queue.want(&allocator(&all));
        let order = [status("a", "1"), status("b", "1"), told, other, third];
        assert_eq!(sent(&mut queue, 0), order);
        finish(&mut queue, &order, Outcome::Written, 0);
        queue.want(&allocator(&all));
        assert_eq!(sent(&mut queue, 1), []);
    }

    #[test]
    fn what_was_overtaken_is_dropped_and_the_next_decision_is_sent_at_once() {
        let mut queue = Queue::default();
        queue.want(&allocator(&[status("a", "1")]));
        assert_eq!(sent(&mut queue, 0).len(), 1);
        queue.ended(Key::Status(target("a")), Outcome::Overtaken, at(0));
        queue.want(&allocator(&[status("a", "1")]));
        assert_eq!(sent(&mut queue, 1), [], "not the same again and again");
        queue.want(&allocator(&[status("a", "2")]));
        assert_eq!(sent(&mut queue, 1), [status("a", "2")]);
    }

    #[test]
    fn one_write_at_a_time_is_on_its_way_for_each_object() {
        let mut queue = Queue::default();
        queue.want(&allocator(&[status("a", "1")]));
        assert_eq!(sent(&mut queue, 0).len(), 1);
        queue.want(&allocator(&[status("a", "2")]));
        queue.want(&allocator(&[status("a", "3")]));
        assert_eq!(sent(&mut queue, 0), []);
        queue.ended(Key::Status(target("a")), Outcome::Overtaken, at(0));
        assert_eq!(sent(&mut queue, 0), [status("a", "3")]);
    }

    #[test]
    fn what_failed_comes_back_after_a_while_also_objects_of_our_own() {
        for (write, outcome) in [(own("a"), Outcome::Failed), (status("a", "1"), Outcome::Written)]
        {
            let mut queue = Queue::default();
            queue.want(&allocator(std::slice::from_ref(&write)));
            assert_eq!(sent(&mut queue, 0).len(), 1);
            finish(&mut queue, std::slice::from_ref(&write), outcome, 0);
            assert!(queue.is_unsettled());
            queue.again(at(2));
            assert_eq!(sent(&mut queue, 2), []);
            queue.again(at(3));
            assert_eq!(sent(&mut queue, 3), [write]);
        }
    }

    #[test]
    fn an_event_that_is_never_taken_is_given_up() {
        let mut queue = Queue::default();
        queue.want(&allocator(&[event("a", "IPAllocated", "one")]));
        let mut count = 0;
        for now in 0..30 {
            queue.again(at(now));
            let sent = sent(&mut queue, now);
            count += sent.len();
            finish(&mut queue, &sent, Outcome::Failed, now);
        }
        assert_eq!(count, 3);
        assert!(!queue.is_unsettled());
    }

    #[test]
    fn tells_what_has_happened_but_not_what_is_not_so_any_more() {
        let mut queue = Queue::default();
        let past = event("a", "IPAllocated", "one");
        queue.want(&allocator(&[past.clone(), event("b", "AllocationFailed", "two")]));
        queue.want(&allocator(&[]));
        let told = sent(&mut queue, 0);
        assert_eq!(told, [past]);
        finish(&mut queue, &told, Outcome::Written, 0);
        assert!(queue.entries.is_empty());
    }

    #[test]
    fn what_comes_back_after_it_was_gone_is_told_again() {
        let mut queue = Queue::default();
        let write = event("a", "AddressConflict", "one");
        for _ in 0..2 {
            queue.want(&allocator(std::slice::from_ref(&write)));
            assert_eq!(sent(&mut queue, 0).len(), 1);
            finish(&mut queue, std::slice::from_ref(&write), Outcome::Written, 0);
            queue.want(&allocator(&[]));
        }
    }

    #[test]
    fn the_allocators_writes_wait_while_it_may_not_act() {
        let mut queue = Queue::default();
        let wanted =
            Wanted { allocator: vec![status("a", "1")], node: vec![own("n")], is_busy: false };
        queue.want(&wanted);
        assert!(queue.next(Lane::Addresses, at(0), false).is_none());
        let (_, write) = queue.next(Lane::Reports, at(0), false).unwrap();
        assert_eq!(write, own("n"));
        queue.again(at(3));
        assert_eq!(sent(&mut queue, 3), [status("a", "1")]);
    }
}
