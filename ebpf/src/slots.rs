//! One service's slots over time (pure): who has each slot now, who had it less than a drain time
//! ago, and what the kernel should read there.
//!
//! A slot whose backend changed is dirty until the drain time is over. Meanwhile flows with an
//! entry go where the entry says, SYNs to the current backend, and the rest to the one that had
//! the slot before it all began: whoever came in between wrote entries for its flows.
//!
//! It stays dirty for all of that time, however quiet it is. The flow table has the flows that had
//! a packet since the change and says nothing of the others; nor is a flow over that has none for a
//! while, and its end is not seen, because replies do not pass here. To call a slot clean early
//! would break flows that the drain time promises to keep; who wants that gives a shorter one.
//!
//! A slot of a Service with client affinity is *held*: a backend that loses it while it still gets
//! new flows keeps it for the affinity's timeout, and only then does the slot change hands as
//! above. Nobody knows which clients of a clean slot are active, because none has any state; so
//! all of them count as active when the slot is lost. What [`crate::Affinity`] promises, and what
//! it does not, follows from that.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_ebpf_common::{PREVIOUS_IS_CURRENT, Slot};

/// The slots of one service; backends are indices into `BACKENDS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// By slot, who is to have it; a power of two long, or empty without backends.
    wanted: Vec<u16>,
    /// Who has a slot although another is to have it, and until when. Counted in `physical`.
    held: BTreeMap<u32, Past>,
    /// Former backends of dirty slots, the oldest first. Slots are counted in `physical`.
    past: BTreeMap<u32, Vec<Past>>,
    /// How many slots the kernel has: more than `wanted` while some of them are held or dirty from
    /// the time when the table was larger.
    physical: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    index: u16,
    until: Duration,
    /// See [`Fate`]; once not, never again.
    precedes: bool,
}

/// What becomes of a backend that loses a slot, or lost it a short time ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whether it lives, so that its flows can stay.
    pub lives: bool,
    /// Whether the flows that have no entry are its.
    pub precedes: bool,
    /// For how long from now on it keeps a slot that it loses, if it does.
    pub keeps: Option<Duration>,
}

impl Slots {
    /// What an earlier process left; its dirty slots stay so until `until`.
    pub fn adopt(slots: &[Slot], until: Duration) -> Self {
        let mut past = BTreeMap::new();
        for (number, slot) in (0..).zip(slots) {
            if slot.current != slot.previous {
                let is_current = slot.previous == PREVIOUS_IS_CURRENT;
                let index = if is_current { slot.current } else { slot.previous };
                past.insert(number, vec![Past { index, until, precedes: true }]);
            }
        }
        let wanted = slots.iter().map(|slot| slot.current).collect();
        Self { wanted, held: BTreeMap::new(), past, physical: slots.len() }
    }

    /// Who is to have each slot, as was assigned last.
    pub fn wanted(&self) -> &[u16] {
        &self.wanted
    }

    /// How many slots the kernel should have; 0 without backends.
    pub fn len(&self) -> usize {
        self.physical
    }

    /// Whether there is no slot at all.
    pub fn is_empty(&self) -> bool {
        self.physical == 0
    }

    /// When the first dirty slot becomes clean, or the first held one changes hands.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.past.values().flatten().chain(self.held.values()).map(|past| past.until).min()
    }

    /// What the kernel should read in a slot.
    pub fn slot(&self, number: usize) -> Slot {
        let current = self.now(number).unwrap_or(0);
        let Some(past) = self.past.get(&(number as u32)) else {
            return Slot { current, previous: current };
        };
        let oldest = past.iter().find(|past| past.precedes).map(|past| past.index);
        let previous = oldest.filter(|index| *index != current).unwrap_or(PREVIOUS_IS_CURRENT);
        Slot { current, previous }
    }

    /// The backends that any slot names, now or as former ones.
    pub fn named(&self) -> impl Iterator<Item = u16> {
        let past = self.past.values().flatten().chain(self.held.values()).map(|past| past.index);
        self.wanted.iter().copied().chain(past)
    }

    /// A backend has a new index: nothing moves.
    pub fn rename(&mut self, names: &BTreeMap<u16, u16>) {
        let rename = |index: &mut u16| *index = names.get(index).copied().unwrap_or(*index);
        self.wanted.iter_mut().for_each(rename);
        self.held.values_mut().for_each(|held| rename(&mut held.index));
        self.past.values_mut().flatten().for_each(|past| rename(&mut past.index));
    }

    /// Gives the slots to `wanted`; those that change are dirty until `until`, if their former
    /// backend lives.
    pub fn assign(
        &mut self,
        wanted: Vec<u16>,
        now: Duration,
        until: Duration,
        fate: impl Fn(u16) -> Fate,
    ) {
        let length = wanted.len();
        let old = std::mem::take(self);
        if length == 0 {
            return;
        }
        self.physical = length.max(old.physical);
        self.wanted = wanted;
        for number in 0..self.physical {
            let place = (number & old.physical.wrapping_sub(1)) as u32;
            let mut past = old.past.get(&place).cloned().unwrap_or_default();
            past.retain(|past| past.until > now && fate(past.index).lives);
            past.iter_mut().for_each(|past| past.precedes &= fate(past.index).precedes);
            if let Some(index) = old.now(number).filter(|loser| self.now(number) != Some(*loser)) {
                let Fate { lives, precedes, keeps } = fate(index);
                // Who holds it already got the time in full when it lost the slot.
                let since = old.held.get(&place).map_or(Duration::MAX, |held| held.until);
                let held_until = keeps.map(|time| (now + time).min(since));
                if let Some(until) = held_until.filter(|until| *until > now) {
                    self.held.insert(number as u32, Past { index, until, precedes });
                } else if lives {
                    match past.iter_mut().find(|past| past.index == index) {
                        Some(past) => past.until = until,
                        None => past.push(Past { index, until, precedes }),
                    }
                }
            }
            if !past.is_empty() {
                self.past.insert(number as u32, past);
            }
        }
        if self.past.is_empty() && self.held.is_empty() {
            self.physical = length;
        }
    }

    /// Who has a slot.
    fn now(&self, number: usize) -> Option<u16> {
        if self.wanted.is_empty() {
            return None;
        }
        let place = (number & (self.physical - 1)) as u32;
        let held = self.held.get(&place).map(|held| held.index);
        Some(held.unwrap_or_else(|| self.wanted[number & (self.wanted.len() - 1)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(900);

    const STAYS: Fate = Fate { lives: true, precedes: true, keeps: None };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn clean(index: u16) -> Slot {
        Slot { current: index, previous: index }
    }

    /// Slots of a history of assignments, each at its second; all backends live.
    fn history(assignments: &[(u64, &[u16])]) -> Slots {
        let mut slots = Slots::default();
        for (second, current) in assignments {
            slots.assign(current.to_vec(), at(*second), at(*second) + DRAIN, |_| STAYS);
        }
        slots
    }

    fn kernel(slots: &Slots) -> Vec<Slot> {
        (0..slots.len()).map(|number| slots.slot(number)).collect()
    }

    #[test]
    fn only_a_changed_slot_is_dirty() {
        let slots = history(&[(0, &[1, 2]), (1, &[1, 3])]);
        assert_eq!(kernel(&slots), [clean(1), Slot { current: 3, previous: 2 }]);
        assert_eq!(slots.next_deadline(), Some(at(901)));
    }

    #[test]
    fn a_slot_is_clean_after_the_drain_time() {
        let slots = history(&[(0, &[1, 2]), (1, &[1, 3]), (901, &[1, 3])]);
        assert_eq!((kernel(&slots), slots.next_deadline()), (vec![clean(1), clean(3)], None));
    }

    #[test]
    fn a_dead_backend_keeps_nothing() {
        let mut slots = history(&[(0, &[1, 2])]);
        slots.assign(vec![1, 3], at(1), at(901), |index| Fate { lives: index != 2, ..STAYS });
        assert_eq!(kernel(&slots), [clean(1), clean(3)]);
    }

    #[test]
    fn flows_without_an_entry_belong_to_the_oldest_until_it_is_drained() {
        let slots = history(&[(0, &[1]), (100, &[2]), (200, &[3])]);
        assert_eq!(kernel(&slots), [Slot { current: 3, previous: 1 }]);
        let slots = history(&[(0, &[1]), (100, &[2]), (200, &[3]), (1000, &[3])]);
        assert_eq!(kernel(&slots), [Slot { current: 3, previous: 2 }]);
    }

    #[test]
    fn flows_that_left_a_backend_do_not_return_with_it() {
        let left = |index| Fate { precedes: index != 1, ..STAYS };
        for again in [2, 3] {
            let mut slots = history(&[(0, &[1])]);
            slots.assign(vec![2], at(10), at(910), left);
            let moved = Slot { current: 2, previous: PREVIOUS_IS_CURRENT };
            assert_eq!(kernel(&slots), [moved]);
            slots.assign(vec![again], at(20), at(920), |_| STAYS);
            let previous = if again == 2 { PREVIOUS_IS_CURRENT } else { 2 };
            assert_eq!(kernel(&slots), [Slot { current: again, previous }]);
        }
    }

    #[test]
    fn a_backend_that_returns_leaves_its_slot_dirty() {
        let slots = history(&[(0, &[1]), (1, &[2]), (2, &[1])]);
        let expected = Slot { current: 1, previous: PREVIOUS_IS_CURRENT };
        assert_eq!(kernel(&slots), [expected]);
    }

    #[test]
    fn a_table_that_grows_remembers_by_the_low_bits() {
        let slots = history(&[(0, &[1, 2]), (1, &[1, 2, 3, 2])]);
        let dirty = Slot { current: 3, previous: 1 };
        assert_eq!(kernel(&slots), [clean(1), clean(2), dirty, clean(2)]);
    }

    #[test]
    fn a_table_that_shrinks_keeps_its_size_until_it_is_clean() {
        let mut slots = history(&[(0, &[1, 2, 3, 2]), (1, &[1, 2])]);
        let dirty = Slot { current: 1, previous: 3 };
        assert_eq!(kernel(&slots), [clean(1), clean(2), dirty, clean(2)]);
        slots.assign(vec![1, 2], at(901), at(1801), |_| STAYS);
        assert_eq!(kernel(&slots), [clean(1), clean(2)]);
    }

    /// As [`history`], of a Service with an affinity of 100 seconds; backend 9 gets no new flows.
    fn held(assignments: &[(u64, &[u16])]) -> Slots {
        let mut slots = Slots::default();
        let keeps = |index| (index != 9).then_some(at(100));
        let fate = |index| Fate { lives: index != 8, keeps: keeps(index), ..STAYS };
        for (second, wanted) in assignments {
            let now = at(*second);
            slots.assign(wanted.to_vec(), now, now + DRAIN, fate);
        }
        slots
    }

    #[test]
    fn a_slot_with_affinity_is_held_for_the_timeout_and_dirty_after_it() {
        let slots = held(&[(0, &[1, 2]), (10, &[1, 3])]);
        assert_eq!(
            (kernel(&slots), slots.next_deadline()),
            (vec![clean(1), clean(2)], Some(at(110)))
        );
        let slots = held(&[(0, &[1, 2]), (10, &[1, 3]), (109, &[1, 3])]);
        assert_eq!(
            (kernel(&slots), slots.next_deadline()),
            (vec![clean(1), clean(2)], Some(at(110)))
        );
        let slots = held(&[(0, &[1, 2]), (10, &[1, 3]), (110, &[1, 3])]);
        let dirty = Slot { current: 3, previous: 2 };
        assert_eq!(
            (kernel(&slots), slots.next_deadline()),
            (vec![clean(1), dirty], Some(at(1010)))
        );
        let slots = held(&[(0, &[1, 2]), (10, &[1, 3]), (110, &[1, 3]), (1010, &[1, 3])]);
        assert_eq!((kernel(&slots), slots.next_deadline()), (vec![clean(1), clean(3)], None));
    }

    #[test]
    fn a_held_slot_that_is_lost_again_is_held_no_longer() {
        let slots = held(&[(0, &[1]), (10, &[2]), (60, &[3])]);
        assert_eq!((kernel(&slots), slots.next_deadline()), (vec![clean(1)], Some(at(110))));
        let slots = held(&[(0, &[1]), (10, &[2]), (60, &[3]), (110, &[3])]);
        assert_eq!(kernel(&slots), [Slot { current: 3, previous: 1 }], "nobody was with 2");
        let slots = held(&[(0, &[1]), (10, &[2]), (60, &[1])]);
        assert_eq!((kernel(&slots), slots.next_deadline()), (vec![clean(1)], None));
    }

    #[test]
    fn who_gets_no_new_flows_or_is_dead_holds_nothing() {
        let slots = held(&[(0, &[9]), (10, &[2])]);
        assert_eq!(kernel(&slots), [Slot { current: 2, previous: 9 }]);
        let slots = held(&[(0, &[9]), (10, &[2]), (20, &[3])]);
        assert_eq!(kernel(&slots), [Slot { current: 2, previous: 9 }], "2 has new clients");
        let mut slots = held(&[(0, &[1]), (10, &[2])]);
        let dead =
            |index| Fate { lives: index != 1, keeps: (index != 1).then_some(at(100)), ..STAYS };
        slots.assign(vec![2], at(20), at(920), dead);
        assert_eq!((kernel(&slots), slots.next_deadline()), (vec![clean(2)], None));
    }

    #[test]
    fn a_shorter_timeout_counts_at_once_and_a_longer_one_from_the_next_change() {
        let held_for = |seconds| {
            let mut slots = held(&[(0, &[1]), (10, &[2])]);
            let fate = |_| Fate { keeps: Some(at(seconds)), ..STAYS };
            slots.assign(vec![2], at(20), at(920), fate);
            slots.next_deadline()
        };
        assert_eq!((held_for(5), held_for(500)), (Some(at(25)), Some(at(110))));
    }

    #[test]
    fn held_slots_stay_while_the_table_grows_and_shrinks() {
        let slots = held(&[(0, &[1, 2]), (10, &[3, 2]), (20, &[3, 2, 4, 2])]);
        assert_eq!(kernel(&slots), [clean(1), clean(2), clean(1), clean(2)]);
        let slots = held(&[(0, &[1, 2]), (10, &[3, 2]), (20, &[3, 2, 4, 2]), (110, &[3, 2, 4, 2])]);
        let dirty = |current| Slot { current, previous: 1 };
        assert_eq!(kernel(&slots), [dirty(3), clean(2), dirty(4), clean(2)]);
        let slots = held(&[(0, &[1, 2, 3, 2]), (10, &[1, 2])]);
        assert_eq!(kernel(&slots), [clean(1), clean(2), clean(3), clean(2)]);
    }

    #[test]
    fn an_adopted_table_is_read_back_as_it_was() {
        let slots = kernel(&history(&[(0, &[1, 2, 4, 5]), (1, &[2, 2, 4, 5]), (2, &[2, 1, 4, 5])]));
        assert_eq!(kernel(&Slots::adopt(&slots, at(900))), slots);
    }
}
