//! Weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights: Schindelhauer and
//! Schomaker, 2005): each slot goes to the candidate with the lowest cost -ln(h) / weight. The
//! table is a function of the candidates alone, so every node builds the same one whatever its
//! history, and a candidate's coming, going or new weight moves only the slots it must.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use herald_ebpf_common::SLOTS;
use herald_ebpf_common::flow::fmix32;

/// Slots at most: a slot's share of 4,096 backends is then 1 in 16.
pub const MOST_SLOTS: usize = 65_536;

/// Who may win a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    address: SocketAddr,
    weight: u32,
    /// The address as 32 mixed bits.
    key: u32,
}

impl Candidate {
    /// A candidate of a weight above zero.
    pub fn new(address: SocketAddr, weight: u32) -> Self {
        Self { address, weight: weight.max(1), key: identity(&address) }
    }

    /// Its address, which tells candidates apart.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How many slots a table for so many candidates has: about a hundred each, in steps of four, so
/// that growth seldom changes it.
pub const fn size(candidates: usize) -> usize {
    let mut size = SLOTS;
    while size < MOST_SLOTS && size < candidates * 100 {
        size *= 4;
    }
    size
}

/// For each of `size` slots, the position in `candidates` of its winner; empty without any.
///
/// Takes `size * candidates.len()` hashes. Fastest with candidates of one weight side by side.
pub fn slots(size: usize, candidates: &[Candidate]) -> Vec<usize> {
    let all = if candidates.is_empty() { 0 } else { size };
    (0..all).filter_map(|slot| winner(slot, candidates)).collect()
}

/// The position of a slot's winner.
///
/// Of candidates of one weight the greatest hash wins. Logarithms, which cost ten times a hash, are
/// taken of the winners of different weights alone.
pub fn winner(slot: usize, candidates: &[Candidate]) -> Option<usize> {
    let slot = slot_key(slot);
    let wins = |(a, a_hash): (usize, u32), (b, b_hash): (usize, u32)| {
        order((&candidates[a], a_hash), (&candidates[b], b_hash)).is_gt()
    };
    let better = |best: Option<(usize, u32)>, other: (usize, u32)| match best {
        Some(best) if !wins(other, best) => best,
        _ => other,
    };
    let mut best = None;
    let mut of_weight: Option<(usize, u32)> = None;
    for (position, candidate) in candidates.iter().enumerate() {
        let challenger = (position, fmix32(slot ^ candidate.key));
        of_weight = match of_weight {
            Some(incumbent) if candidates[incumbent.0].weight == candidate.weight => {
                Some(better(Some(incumbent), challenger))
            }
            other_weight => {
                best = other_weight.map(|it| better(best, it)).or(best);
                Some(challenger)
            }
        };
    }
    of_weight.map(|it| better(best, it).0)
}

/// Whether `challenger` takes a slot from `incumbent`.
pub fn beats(slot: usize, challenger: &Candidate, incumbent: &Candidate) -> bool {
    let slot = slot_key(slot);
    let hash = |candidate: &Candidate| fmix32(slot ^ candidate.key);
    order((challenger, hash(challenger)), (incumbent, hash(incumbent))).is_gt()
}

/// The greater wins. Equal scores are settled by the address, or two nodes' tables would differ.
fn order(a: (&Candidate, u32), b: (&Candidate, u32)) -> Ordering {
    let by_score = match a.0.weight == b.0.weight {
        true => a.1.cmp(&b.1),
        // The lower cost wins.
        false => cost(b.1, b.0.weight).total_cmp(&cost(a.1, a.0.weight)),
    };
    by_score.then_with(|| a.0.address.cmp(&b.0.address))
}

fn slot_key(slot: usize) -> u32 {
    fmix32(slot as u32 ^ 0x5bd1_e995)
}

/// -ln of the hash as a fraction of its range, over the weight.
fn cost(hash: u32, weight: u32) -> f64 {
    -ln((f64::from(hash) + 0.5) / 4_294_967_296.0) / f64::from(weight)
}

/// The natural logarithm of a normal positive number, from the four basic operations alone: IEEE
/// 754 fixes those to the last bit, while the C library's `ln` may differ from node to node.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) as i32 - 1023) as f64;
    // The fraction in [1, 2): ln m = 2 artanh((m - 1) / (m + 1)).
    let m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 1023 << 52);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    // Terms 1/1 to 1/21; the next is below 1e-12, a twentieth of the step between two hashes.
    let series = (0..11_u32).rev().fold(0.0, |sum, i| sum * square + 1.0 / f64::from(2 * i + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

/// A backend's identity as 32 mixed bits.
pub fn identity(backend: &SocketAddr) -> u32 {
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

    fn address(i: u16) -> SocketAddr {
        SocketAddr::from(([10, 244, (i >> 8) as u8, i as u8], 8080))
    }

    fn candidate(i: u16) -> Candidate {
        Candidate::new(address(i), 1)
    }

    fn choose(set: &[Candidate]) -> Vec<SocketAddr> {
        slots(SLOTS, set).into_iter().map(|position| set[position].address).collect()
    }

    fn counts(set: &[Candidate], size: usize) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for position in slots(size, set) {
            *counts.entry(set[position].address).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn spreads_over_all_backends_about_evenly() {
        let set: Vec<_> = (0..6).map(candidate).collect();
        let counts = counts(&set, SLOTS);
        // 171 each on average; a binomial tail beyond 4 sigma is 1 in 15,000, and this set is
        // fixed.
        assert!(counts.len() == 6 && counts.values().all(|n| (120..225).contains(n)), "{counts:?}");
    }

    #[test]
    fn spreads_by_weight() {
        let set: Vec<_> = (0..4).map(|i| Candidate::new(address(i), u32::from(i) + 1)).collect();
        let counts = counts(&set, 16_384);
        for (i, (_, count)) in counts.into_iter().enumerate() {
            let expected = 16_384.0 * (i + 1) as f64 / 10.0;
            // 4 sigma of the largest share is 250.
            assert!((count as f64 - expected).abs() < 250.0, "weight {}: {count}", i + 1);
        }
    }

    #[test]
    fn grows_with_the_backends() {
        let sizes = [1, 10, 11, 40, 41, 164, 4096].map(size);
        assert_eq!(sizes, [1024, 1024, 4096, 4096, 16_384, 65_536, 65_536]);
    }

    #[test]
    fn takes_logarithms_as_the_c_library_does() {
        for hash in [0, 1, 2, 77, 0x7fff_ffff, 0x8000_0000, 0xaaaa_aaaa, u32::MAX] {
            let x = (f64::from(hash) + 0.5) / 4_294_967_296.0;
            assert!((ln(x) - x.ln()).abs() < 2e-11, "{hash}: {} {}", ln(x), x.ln());
        }
    }

    /// As the definition has it: every candidate against the best so far.
    fn plainly(slot: usize, candidates: &[Candidate]) -> Option<usize> {
        let all = 0..candidates.len();
        all.reduce(|a, b| if beats(slot, &candidates[b], &candidates[a]) { b } else { a })
    }

    proptest! {
        #[test]
        fn finds_the_winner_weight_by_weight(weights in prop::collection::vec(1u32..4, 1..40)) {
            let set: Vec<_> =
                (0..).zip(&weights).map(|(i, weight)| Candidate::new(address(i), *weight)).collect();
            for slot in 0..SLOTS / 8 {
                prop_assert_eq!(winner(slot, &set), plainly(slot, &set));
            }
        }

        #[test]
        fn does_not_depend_on_the_order(mut ids in prop::collection::btree_set(0u16..999, 1..20)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle()) {
            let weighted = |i: u16| Candidate::new(address(i), u32::from(i % 3) + 1);
            let shuffled: Vec<_> = ids.iter().copied().map(weighted).collect();
            ids.sort_unstable();
            let sorted: Vec<_> = ids.into_iter().map(weighted).collect();
            prop_assert_eq!(choose(&shuffled), choose(&sorted));
        }

        #[test]
        fn a_backend_that_leaves_moves_only_its_own_slots(count in 2u16..30, gone in 0u16..30) {
            let gone = address(gone % count);
            let before: Vec<_> = (0..count).map(candidate).collect();
            let after: Vec<_> = before.iter().copied().filter(|b| b.address != gone).collect();
            for (old, new) in choose(&before).into_iter().zip(choose(&after)) {
                prop_assert!(old == gone || old == new);
            }
        }

        #[test]
        fn a_higher_weight_only_takes_slots(count in 2u16..20, which in 0u16..20, weight in 2u32..9) {
            let which = address(which % count);
            let before: Vec<_> = (0..count).map(candidate).collect();
            let mut after = before.clone();
            for candidate in after.iter_mut().filter(|c| c.address == which) {
                candidate.weight = weight;
            }
            for (old, new) in choose(&before).into_iter().zip(choose(&after)) {
                prop_assert!(old == new || new == which);
            }
        }
    }
}
