//! One service's slots over time (pure): who has each slot now, who had it less than a drain time
//! ago, and what the kernel should read there.
//!
//! A slot whose backend changed is dirty until the drain time is over. Meanwhile flows with an
//! entry go where the entry says, SYNs to the current backend, and the rest to the one that had
//! the slot before it all began: whoever came in between wrote entries for its flows.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_ebpf_common::{PREVIOUS_IS_CURRENT, Slot};

/// The slots of one service; backends are indices into `BACKENDS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// By slot; a power of two long, or empty without backends.
    current: Vec<u16>,
    /// Former backends of dirty slots, the oldest first. Slots are counted in `physical`.
    past: BTreeMap<u32, Vec<Past>>,
    /// How many slots the kernel has: more than `current` while some of them are dirty from the
    /// time when the table was larger.
    physical: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    index: u16,
    until: Duration,
}

impl Slots {
    /// What an earlier process left; its dirty slots stay so until `until`.
    pub fn adopt(slots: &[Slot], until: Duration) -> Self {
        let mut past = BTreeMap::new();
        for (number, slot) in (0..).zip(slots) {
            if slot.current != slot.previous {
                let is_current = slot.previous == PREVIOUS_IS_CURRENT;
                let index = if is_current { slot.current } else { slot.previous };
                past.insert(number, vec![Past { index, until }]);
            }
        }
        let current = slots.iter().map(|slot| slot.current).collect();
        Self { current, past, physical: slots.len() }
    }

    /// Who has each slot.
    pub fn current(&self) -> &[u16] {
        &self.current
    }

    /// How many slots the kernel should have; 0 without backends.
    pub fn len(&self) -> usize {
        self.physical
    }

    /// Whether there is no slot at all.
    pub fn is_empty(&self) -> bool {
        self.physical == 0
    }

    /// When the first dirty slot becomes clean.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.past.values().flatten().map(|past| past.until).min()
    }

    /// What the kernel should read in a slot. `may_precede` says whether a former backend gets
    /// the flows that have no entry.
    pub fn slot(&self, number: usize, may_precede: impl Fn(u16) -> bool) -> Slot {
        let current = self.now(number).unwrap_or(0);
        let Some(past) = self.past.get(&(number as u32)) else {
            return Slot { current, previous: current };
        };
        let oldest = past.iter().map(|past| past.index).find(|index| may_precede(*index));
        let previous = oldest.filter(|index| *index != current).unwrap_or(PREVIOUS_IS_CURRENT);
        Slot { current, previous }
    }

    /// The backends that any slot names, now or as former ones.
    pub fn named(&self) -> impl Iterator<Item = u16> {
        let past = self.past.values().flatten().map(|past| past.index);
        self.current.iter().copied().chain(past)
    }

    /// A backend has a new index: nothing moves.
    pub fn rename(&mut self, names: &BTreeMap<u16, u16>) {
        let rename = |index: &mut u16| *index = names.get(index).copied().unwrap_or(*index);
        self.current.iter_mut().for_each(rename);
        self.past.values_mut().flatten().for_each(|past| rename(&mut past.index));
    }

    /// Gives the slots to `current`; those that change are dirty until `until`, unless their
    /// former backend does not live.
    pub fn assign(
        &mut self,
        current: Vec<u16>,
        now: Duration,
        until: Duration,
        lives: impl Fn(u16) -> bool,
    ) {
        let wanted = current.len();
        let old = std::mem::take(self);
        self.physical = wanted.max(old.physical);
        self.current = current;
        if wanted == 0 {
            *self = Self::default();
            return;
        }
        for number in 0..self.physical {
            let before = match old.physical {
                0 => None,
                physical => old.past.get(&((number & (physical - 1)) as u32)),
            };
            let mut past: Vec<Past> = before.into_iter().flatten().copied().collect();
            past.retain(|past| past.until > now && lives(past.index));
            if let Some(loser) = old.now(number).filter(|loser| self.now(number) != Some(*loser))
                && lives(loser)
            {
                match past.iter_mut().find(|past| past.index == loser) {
                    Some(past) => past.until = until,
                    None => past.push(Past { index: loser, until }),
                }
            }
            if !past.is_empty() {
                self.past.insert(number as u32, past);
            }
        }
        if self.past.is_empty() {
            self.physical = wanted;
        }
    }

    fn now(&self, number: usize) -> Option<u16> {
        match self.current.len() {
            0 => None,
            length => Some(self.current[number & (length - 1)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(900);

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
            slots.assign(current.to_vec(), at(*second), at(*second) + DRAIN, |_| true);
        }
        slots
    }

    fn kernel(slots: &Slots) -> Vec<Slot> {
        (0..slots.len()).map(|number| slots.slot(number, |_| true)).collect()
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
        slots.assign(vec![1, 3], at(1), at(901), |index| index != 2);
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
        slots.assign(vec![1, 2], at(901), at(1801), |_| true);
        assert_eq!(kernel(&slots), [clean(1), clean(2)]);
    }

    #[test]
    fn an_adopted_table_is_read_back_as_it_was() {
        let slots = kernel(&history(&[(0, &[1, 2, 4, 5]), (1, &[2, 2, 4, 5]), (2, &[2, 1, 4, 5])]));
        assert_eq!(kernel(&Slots::adopt(&slots, at(900))), slots);
    }
}
