//! Rendezvous hashing (Thaler and Ravishankar, 1998): each slot goes to the backend with the
//! highest score for it. The table is a function of the backend set alone, so every node builds
//! the same one whatever its history, and a backend's coming or going moves only its own slots.

use std::net::{IpAddr, SocketAddr};

use herald_ebpf_common::SLOTS;
use herald_ebpf_common::flow::fmix32;

/// For each slot, the position in `backends` of the backend it goes to.
///
/// Shapes: `backends` any number in any order; the result has [`SLOTS`] entries, or none if there
/// is no backend. Takes `SLOTS * backends.len()` hashes.
pub fn slots(backends: &[SocketAddr]) -> Vec<usize> {
    if backends.is_empty() {
        return Vec::new();
    }
    let keys: Vec<u32> = backends.iter().map(identity).collect();
    (0..SLOTS as u32).map(|slot| winner(slot, &keys, backends)).collect()
}

fn winner(slot: u32, keys: &[u32], backends: &[SocketAddr]) -> usize {
    let slot = fmix32(slot ^ 0x5bd1_e995);
    let score = |i: usize| (fmix32(slot ^ keys[i]), backends[i]);
    // Equal scores are settled by the address, or the tables of two nodes would differ.
    (1..keys.len()).fold(0, |best, i| if score(i) > score(best) { i } else { best })
}

/// A backend's identity as 32 mixed bits.
fn identity(backend: &SocketAddr) -> u32 {
    let octets = match backend.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (words, _) = octets.as_chunks::<4>();
    words
        .iter()
        .fold(fmix32(u32::from(backend.port())), |h, word| fmix32(h ^ u32::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn backend(i: u16) -> SocketAddr {
        SocketAddr::from(([10, 244, (i >> 8) as u8, i as u8], 8080))
    }

    #[test]
    fn spreads_over_all_backends_about_evenly() {
        let backends: Vec<_> = (0..6).map(backend).collect();
        let mut counts = BTreeMap::new();
        for position in slots(&backends) {
            *counts.entry(position).or_insert(0) += 1;
        }
        // 171 each on average; a binomial tail beyond 4 sigma is 1 in 15,000, and this set is
        // fixed.
        assert!(counts.len() == 6 && counts.values().all(|n| (120..225).contains(n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn does_not_depend_on_the_order(mut ids in prop::collection::btree_set(0u16..999, 1..20)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle()) {
            let shuffled: Vec<_> = ids.iter().copied().map(backend).collect();
            ids.sort_unstable();
            let sorted: Vec<_> = ids.into_iter().map(backend).collect();
            let choose = |set: &[SocketAddr]| -> Vec<_> {
                slots(set).into_iter().map(|position| set[position]).collect()
            };
            prop_assert_eq!(choose(&shuffled), choose(&sorted));
        }

        #[test]
        fn a_backend_that_leaves_moves_only_its_own_slots(count in 2u16..30, gone in 0u16..30) {
            let gone = backend(gone % count);
            let before: Vec<_> = (0..count).map(backend).collect();
            let after: Vec<_> = before.iter().copied().filter(|b| *b != gone).collect();
            for (old, new) in slots(&before).into_iter().zip(slots(&after)) {
                prop_assert!(before[old] == gone || before[old] == after[new]);
            }
        }
    }
}
