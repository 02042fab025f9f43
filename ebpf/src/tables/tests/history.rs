//! A table is a function of the backends alone, or two nodes that heard of them in another order
//! would send one flow to two pods.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What happens to the backends of a Service.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Added, or given this weight.
    Weigh(u16, u32),
    Remove(u16),
    /// The next process takes over.
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    // Enough for tables of three sizes.
    let number = 1..40_u16;
    prop_oneof![
        6 => (number.clone(), 1..4_u32).prop_map(|(n, weight)| Change::Weigh(n, weight)),
        4 => number.prop_map(Change::Remove),
        1 => Just(Change::Restart),
    ]
}

fn wanted(weights: &BTreeMap<u16, u32>, affinity: Affinity) -> Picture {
    let numbers: Vec<u16> = weights.keys().copied().collect();
    let weights = weights.iter().map(|(n, weight)| (backend(*n).address, *weight)).collect();
    with(picture(&[(1, &numbers)]), 1, Policy { affinity, weights, ..Policy::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn once_drained_a_table_is_the_same_whatever_came_before(
        first in vec((1..40_u16, 1..4_u32), 1..30),
        steps in vec((change(), 0..2_000_u64), 1..12),
        sticks in any::<bool>(),
    ) {
        let affinity = match sticks {
            true => Affinity::Client { timeout: at(60) },
            false => Affinity::None,
        };
        let mut weights: BTreeMap<u16, u32> = first.into_iter().collect();
        let mut maps = Maps::default();
        let mut now = 0;
        maps.update(&wanted(&weights, affinity), at(now));
        for (change, later) in steps {
            now += later;
            match change {
                Change::Weigh(n, weight) => drop(weights.insert(n, weight)),
                Change::Remove(n) => drop(weights.remove(&n)),
                Change::Restart => maps.restart(at(now)),
            }
            maps.update(&wanted(&weights, affinity), at(now));
        }
        // Without any there would be no table to compare.
        weights.entry(1).or_insert(1);
        let wanted = wanted(&weights, affinity);
        maps.update(&wanted, at(now));
        while let Some(due) = maps.tables.as_ref().and_then(Tables::next_deadline) {
            prop_assert!(due <= at(now) + 2 * (DRAIN + at(60)), "it never becomes clean");
            maps.update(&wanted, due);
        }

        let mut fresh = Maps::default();
        fresh.update(&wanted, at(0));
        prop_assert_eq!(maps.slots(1), fresh.slots(1));
    }
}
