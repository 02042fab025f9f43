//! What this node knows, as everybody else sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Known, LeaseAction, LeaseCore};
use crate::lease::object::{ClaimObject, SessionObject};
use crate::model::{Claim, ClaimKey, NodeName, Session, View};

impl LeaseCore {
    pub(super) fn as_claims(&self) -> BTreeMap<ClaimKey, Claim> {
        let claim = |(key, known): (&ClaimKey, &Known<ClaimObject>)| {
            let holder = known.object.holder.as_ref().filter(|_| !self.is_free(known));
            let holder = holder.map(|(node, epoch)| {
                let session = self.sessions.get(node).map_or(0, |known| known.object.epoch);
                // This node's own claims count as they stand: see `adopt`.
                let inherited = *node == self.me && Some(*epoch) != self.epoch;
                (node.clone(), if inherited { *epoch } else { session.max(*epoch) })
            });
            (*key, Claim { key: *key, holder, term: known.object.term })
        };
        self.claims.iter().map(claim).collect()
    }

    /// Everything this node knows now.
    pub fn view(&self) -> View {
        let mut claims = self.as_claims();
        // What a process elsewhere holds under this name is nobody's here.
        let leaves = self.draining || self.closing.is_some() || self.is_doubled();
        for claim in claims.values_mut() {
            let given_up = leaves || self.releasing.get(&claim.key) == Some(&claim.term);
            claim.holder.take_if(|(node, _)| *node == self.me && given_up);
        }
        let session = |(node, known): (&NodeName, &Known<SessionObject>)| {
            let SessionObject { epoch, state, draining, facts, .. } = known.object.clone();
            (node.clone(), Session { node: node.clone(), epoch, facts, draining, state })
        };
        let drained = self.sessions.iter().filter(|(_, known)| known.object.drained);
        let drained: BTreeSet<NodeName> = drained.map(|(node, _)| node.clone()).collect();
        let handovers = self.handovers(&claims, &drained);
        let mut sessions: BTreeMap<NodeName, Session> = self.sessions.iter().map(session).collect();
        // What the process before held is neither confirmed nor lost until it is adopted; till then
        // this one's session does not show, so that what is pinned in the kernel stays as it is.
        if let Some(own) = sessions.get_mut(&self.me).filter(|_| !self.is_settled()) {
            own.epoch = own.epoch.saturating_sub(1);
        }
        if self.is_doubled() {
            sessions.remove(&self.me);
        }
        View {
            me: self.me.clone(),
            epoch: self.epoch.unwrap_or(0),
            sessions,
            claims,
            handovers,
            drained,
            records: self.records(),
            leader: None,
            raft_term: 0,
            applied: self.changes,
        }
    }

    fn records(&self) -> BTreeMap<String, Vec<u8>> {
        let records = self.claims.values().filter_map(|known| known.object.record.clone());
        records.map(|(name, value)| (name, value.to_vec())).collect()
    }

    pub(super) fn publish(&mut self, actions: &mut Vec<LeaseAction>) {
        let mut view = self.view();
        // A renewal alone is no news.
        let applied = view.applied;
        view.applied = self.shown.as_ref().map_or(applied, |shown| shown.applied);
        if self.shown.as_deref() != Some(&view) {
            let view = Arc::new(View { applied, ..view });
            self.shown = Some(Arc::clone(&view));
            actions.push(LeaseAction::Publish(view));
        }
    }
}
