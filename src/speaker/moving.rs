//! What a view asks of this node that clients wait for (pure): VIPs taken over from another node,
//! and VIPs to be handed over.
//!
//! A VIP that nobody ever held is not among them: in a burst of new Services each would ask for a
//! round of its own.

use std::collections::BTreeSet;

use herald_leader_election::{ClaimKey, NodeName, View};

/// The claims that move to or from this node, with their terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moving(BTreeSet<(ClaimKey, u64)>);

impl Moving {
    /// As one view shows them.
    pub(crate) fn of(me: &NodeName, view: &View) -> Self {
        let claims = view.claims.values();
        let mine = claims.filter(|claim| claim.holder.as_ref().is_some_and(|(it, _)| it == me));
        let taken = mine.filter(|claim| claim.term > 1 && matches!(claim.key, ClaimKey::Vip(_)));
        // One that is to be handed over is as if it were held in no term.
        let given = view.handovers.keys().map(|key| (*key, 0));
        Self(taken.map(|claim| (claim.key, claim.term)).chain(given).collect())
    }

    /// Whether there is something that was not there before.
    #[must_use]
    pub(crate) fn is_more_than(&self, before: &Self) -> bool {
        !self.0.is_subset(&before.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use herald_leader_election::Claim;

    use super::*;
    use crate::fixture::view;

    const VIP: ClaimKey = ClaimKey::Vip(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 240)));

    fn held(term: u64, holder: &str) -> View {
        let holder = Some((NodeName::from(holder), 1));
        let claim = Claim { key: VIP, holder, term };
        View { claims: [(VIP, claim)].into(), ..view(1) }
    }

    fn of(view: &View) -> Moving {
        Moving::of(&"n1".into(), view)
    }

    #[test]
    fn a_takeover_is_more_but_a_new_vip_or_anothers_is_not() {
        let nothing = Moving::default();
        assert!(of(&held(2, "n1")).is_more_than(&nothing));
        assert!(!of(&held(1, "n1")).is_more_than(&nothing));
        assert!(!of(&held(2, "n2")).is_more_than(&nothing));
    }

    #[test]
    fn what_was_seen_before_is_not_more_and_another_term_is() {
        let before = of(&held(2, "n1"));
        assert!(!of(&held(2, "n1")).is_more_than(&before));
        assert!(!of(&held(3, "n2")).is_more_than(&before));
        assert!(of(&held(4, "n1")).is_more_than(&before));
    }

    #[test]
    fn a_vip_to_be_handed_over_is_more() {
        let before = held(2, "n1");
        let mut asked = before.clone();
        asked.handovers.insert(VIP, "n2".into());
        assert!(of(&asked).is_more_than(&of(&before)));
    }
}
