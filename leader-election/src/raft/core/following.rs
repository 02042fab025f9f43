//! Leadership goes to where the VIPs are.
//!
//! A leader's death costs its followers' promise and an election, a follower's death a ttl, because
//! its grant must outlast such an election. So it is best when whoever holds VIPs leads: with one
//! holder, as in small clusters and where all prefer one node, every failover is the shorter one. A
//! leader that holds a VIP itself stays, so leadership is not passed around. It must only hand on
//! while nobody waits for a decision, and it has no voice to lose: the holder it asks is silent
//! from its election to its quorum's first answer, two round trips later, once.

use super::{Core, Out};
use crate::model::{ClaimKey, NodeName};

impl Core {
    /// Once per heartbeat of a leader.
    pub(super) fn lead_where_vips_are(&mut self, out: &mut Out) {
        let Some(leading) = self.leading.as_ref().filter(|_| self.member.closing.is_none()) else {
            return;
        };
        if leading.forfeited() {
            // Nobody is granted anything until another node leads.
            self.raft.raft.abort_leader_transfer();
            self.hand_leadership_on(true, out);
            return;
        }
        // Nothing was decided for a while, so nobody is in the middle of something.
        let quiet = self.now >= leading.last_change() + self.timing.ttl;
        if quiet
            && leading.confirmed(self.now)
            && let Some(next) = self.better_leader()
        {
            self.ask_to_lead(next, out);
        }
    }

    /// The voter with most of the VIPs, if this leader has none.
    fn better_leader(&self) -> Option<u64> {
        let last = self.raft.raft.raft_log.last_index();
        if last != self.machine.applied || self.vips_of(&self.me) > 0 {
            return None;
        }
        let ready = |node: &NodeName| {
            let id = self.machine.id_of(node)?;
            let progress = self.raft.raft.prs().get(id)?;
            let votes = self.machine.voters().any(|voter| voter == id);
            (votes && progress.matched == last).then_some(id)
        };
        let candidates = self.candidates();
        let holders = candidates.iter().map(|node| (self.vips_of(node), node));
        let holders = holders.filter(|(count, _)| *count > 0);
        holders.filter_map(|(count, node)| Some((count, ready(node)?))).max().map(|(_, id)| id)
    }

    fn vips_of(&self, node: &NodeName) -> usize {
        let vips = self.machine.claims.values().filter(|claim| {
            matches!(claim.key, ClaimKey::Vip(_))
                && claim.holder.as_ref().is_some_and(|(holder, _)| holder == node)
        });
        vips.count()
    }
}
