//! Who takes a key that nobody living holds.
//!
//! A pure function, the same on every node for the same input, and the same for both back ends. It
//! must never move a claim that a living session holds: a returning node takes nothing back by
//! itself, however much it is preferred. A preferred node gets a key only when the key is placed
//! anyway, because it is new, its holder died or its holder gives it away; otherwise a preferred
//! node that flaps would take its VIPs along each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Claim, ClaimKey, NodeName, Wanted};

/// Chooses a holder for every wanted key without a living one.
///
/// `living` maps every node with an open session to its epoch; `candidates` are those of them that
/// may take something (not draining, and lately heard). Keys are handed out in order, each to the
/// most preferred of its eligible candidates, among equals to the one with the fewest VIPs so far;
/// what is equal still is told apart by a hash of key and node, so that ties do not all fall to the
/// same node. A key without an eligible candidate is left out.
pub fn place(
    wanted: &Wanted,
    claims: &BTreeMap<ClaimKey, Claim>,
    living: &BTreeMap<NodeName, u64>,
    candidates: &BTreeSet<NodeName>,
) -> Vec<(ClaimKey, NodeName)> {
    let holder = |key: &ClaimKey| {
        let (node, epoch) = claims.get(key)?.holder.as_ref()?;
        (living.get(node) == Some(epoch)).then_some(node)
    };
    let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for key in claims.keys().filter(|key| matches!(key, ClaimKey::Vip(_))) {
        if let Some(node) = holder(key) {
            *load.entry(node).or_default() += 1;
        }
    }
    let mut placed = Vec::new();
    for (key, eligible) in &wanted.claims {
        if holder(key).is_some() {
            continue;
        }
        let takers = eligible.nodes().filter(|node| candidates.contains(*node));
        let chosen = takers.min_by_key(|node| {
            let load = load.get(node).copied().unwrap_or(0);
            (Reverse(eligible.preference(node)), load, affinity(key, node), *node)
        });
        let Some(node) = chosen else { continue };
        if matches!(key, ClaimKey::Vip(_)) {
            *load.entry(node).or_default() += 1;
        }
        placed.push((*key, node.clone()));
    }
    placed
}

/// A fixed number for a pair of key and node; smaller wins.
fn affinity(key: &ClaimKey, node: &NodeName) -> u64 {
    let mixed = fnv1a(key.to_string().bytes().chain([0]).chain(node.as_str().bytes()));
    // FNV's low bits differ little for inputs that differ in the last byte; fold the high ones in.
    mixed ^ (mixed >> 29)
}

/// FNV-1a, 64 bits (the IETF draft by Fowler, Noll and Vo): stable across builds and machines.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::model::Eligible;

    fn vip(last: u8) -> ClaimKey {
        ClaimKey::Vip(IpAddr::V4(Ipv4Addr::new(192, 168, 1, last)))
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|name| NodeName::from(*name)).collect()
    }

    fn living(names: &[&str]) -> BTreeMap<NodeName, u64> {
        names.iter().map(|name| (NodeName::from(*name), 1)).collect()
    }

    fn wanted(keys: impl IntoIterator<Item = ClaimKey>, on: &[&str]) -> Wanted {
        Wanted { claims: keys.into_iter().map(|key| (key, nodes(on).into())).collect() }
    }

    fn held(key: ClaimKey, node: &str, epoch: u64) -> (ClaimKey, Claim) {
        (key, Claim { key, holder: Some((NodeName::from(node), epoch)), term: 1 })
    }

    #[test]
    fn spreads_vips_evenly() {
        let all = ["a", "b", "c"];
        let wanted = wanted((0..30).map(vip), &all);
        let placed = place(&wanted, &BTreeMap::new(), &living(&all), &nodes(&all));
        for name in all {
            let count = placed.iter().filter(|(_, node)| node.as_str() == name).count();
            assert_eq!(count, 10, "{name}");
        }
    }

    #[test]
    fn fills_up_the_node_that_returned_but_moves_nothing_to_it() {
        let claims = [held(vip(1), "a", 1), held(vip(2), "a", 1), held(vip(3), "b", 1)].into();
        let all = ["a", "b", "c"];
        let wanted = wanted([vip(1), vip(2), vip(3), vip(4)], &all);
        let placed = place(&wanted, &claims, &living(&all), &nodes(&all));
        assert_eq!(placed, [(vip(4), NodeName::from("c"))]);
    }

    #[test]
    fn takes_from_a_session_that_ended_and_from_an_older_epoch() {
        let claims = [held(vip(1), "gone", 1), held(vip(2), "a", 0)].into();
        let wanted = wanted([vip(1), vip(2)], &["a", "gone"]);
        let placed = place(&wanted, &claims, &living(&["a"]), &nodes(&["a"]));
        assert_eq!(placed, [(vip(1), NodeName::from("a")), (vip(2), NodeName::from("a"))]);
    }

    #[test]
    fn a_draining_holder_keeps_what_it_has_but_is_given_nothing() {
        let claims = [held(vip(1), "a", 1)].into();
        let wanted = wanted([vip(1), vip(2)], &["a", "b"]);
        let placed = place(&wanted, &claims, &living(&["a", "b"]), &nodes(&["b"]));
        assert_eq!(placed, [(vip(2), NodeName::from("b"))]);
    }

    fn preferring(key: ClaimKey, nodes: &[(&str, u32)]) -> (ClaimKey, Eligible) {
        (key, nodes.iter().map(|(node, preference)| ((*node).into(), *preference)).collect())
    }

    #[test]
    fn the_most_preferred_candidate_wins_then_the_least_loaded() {
        let all = ["a", "b", "c"];
        // Whoever has more already: b has two, c has one, a has none.
        let claims = [held(vip(1), "b", 1), held(vip(2), "b", 1), held(vip(3), "c", 1)].into();
        let chosen = |preferred: &[(&str, u32)], candidates: &[&str]| {
            let wanted = Wanted { claims: [preferring(vip(9), preferred)].into() };
            let placed = place(&wanted, &claims, &living(&all), &nodes(candidates));
            placed.into_iter().map(|(_, node)| node.to_string()).collect::<String>()
        };
        assert_eq!(chosen(&[("a", 10), ("b", 30), ("c", 30)], &all), "c");
        assert_eq!(chosen(&[("a", 10), ("b", 31), ("c", 30)], &all), "b");
        assert_eq!(chosen(&[("a", 10), ("b", 31), ("c", 30)], &["a", "c"]), "c");
        assert_eq!(chosen(&[("a", 10), ("b", 31)], &["a", "c"]), "a");
        assert_eq!(chosen(&[("a", 0), ("b", 0), ("c", 0)], &["a", "b"]), "a");
    }

    #[test]
    fn a_preferred_node_that_returns_takes_nothing_from_a_living_holder() {
        let all = ["a", "b"];
        let wanted = Wanted { claims: [preferring(vip(1), &[("a", 100), ("b", 0)])].into() };
        let on_b = [held(vip(1), "b", 1)].into();
        assert_eq!(place(&wanted, &on_b, &living(&all), &nodes(&all)), []);
        let b_died = place(&wanted, &on_b, &living(&["a"]), &nodes(&["a"]));
        assert_eq!(b_died, [(vip(1), "a".into())]);
    }

    #[test]
    fn only_eligible_nodes_are_chosen() {
        let all = ["a", "b"];
        let only_b = wanted([vip(1), vip(2)], &["b"]);
        let placed = place(&only_b, &BTreeMap::new(), &living(&all), &nodes(&all));
        assert!(placed.iter().all(|(_, node)| node.as_str() == "b"));
        assert_eq!(place(&only_b, &BTreeMap::new(), &living(&["a"]), &nodes(&["a"])), []);
    }

    #[test]
    fn the_allocator_claim_weighs_nothing() {
        let claims = [held(ClaimKey::Allocator, "a", 1), held(vip(1), "b", 1)].into();
        let wanted = wanted([vip(2)], &["a", "b"]);
        let placed = place(&wanted, &claims, &living(&["a", "b"]), &nodes(&["a", "b"]));
        assert_eq!(placed, [(vip(2), NodeName::from("a"))]);
    }

    #[test]
    fn ties_do_not_all_fall_to_one_node() {
        let all = ["a", "b", "c"];
        let firsts: BTreeSet<NodeName> = (0..20)
            .flat_map(|last| {
                place(&wanted([vip(last)], &all), &BTreeMap::new(), &living(&all), &nodes(&all))
            })
            .map(|(_, node)| node)
            .collect();
        assert_eq!(firsts, nodes(&all));
    }
}
