//! The claims: given up, handed over, taken, moved.
//!
//! A claim is only ever taken when nobody may speak by it any more, and only given up by its
//! holder, which has silenced it. Every write demands the version the decision was made on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, LeaseCore};
use crate::lease::object::{ClaimObject, Object, ObjectKey, SessionObject, Write};
use crate::model::{Claim, ClaimKey, NodeName, SessionState, Wanted};
use crate::placement;

impl LeaseCore {
    /// Gives up what this node gives up, and takes what falls to it.
    pub(super) fn keep_claims(&mut self, writes: &mut Vec<Write>) {
        self.adopt(writes);
        // Thousands of keys are not copied for each input.
        let Some(wanted) = self.wanted.take() else { return };
        if let Some(epoch) = self.epoch {
            self.keep_wanted(&wanted, epoch, writes);
        }
        self.wanted = Some(wanted);
    }

    fn keep_wanted(&mut self, wanted: &Wanted, epoch: u64, writes: &mut Vec<Write>) {
        let living: BTreeMap<NodeName, u64> = self.living();
        let candidates: BTreeSet<NodeName> =
            self.sessions.keys().filter(|node| self.takes(node)).cloned().collect();
        self.releasing.retain(|key, term| {
            self.claims.get(key).is_some_and(|known| known.object.term == *term)
        });
        self.give_up(wanted, &living, &candidates, writes);
        let own_session = living.get(&self.me) == Some(&epoch) && self.alive_until().is_some();
        if self.draining || self.closing.is_some() || !own_session {
            return;
        }
        let claims = self.as_claims();
        let known_only = (self.now < self.settled_at).then(|| {
            let mut known = wanted.clone();
            known.claims.retain(|key, _| claims.contains_key(key));
            known
        });
        let wanted = known_only.as_ref().unwrap_or(wanted);
        for (key, node) in placement::place(wanted, &claims, &living, &candidates) {
            let known = self.claims.get(&key).cloned();
            let free = known.as_ref().is_none_or(|known| self.is_free(known));
            if node == self.me && free {
                let term = known.as_ref().map_or(0, |known| known.object.term) + 1;
                let holder = Some((node, epoch));
                let record = known.as_ref().and_then(|known| known.object.record.clone());
                let object = Object::Claim(ClaimObject { holder, term, move_to: None, record });
                let expected = known.map(|known| known.version);
                self.write(ObjectKey::Claim(key), expected, object, writes);
            }
        }
    }

    /// Makes the claims of the process before this one its own, by a write of each. That process
    /// may have given one up with a write that is still under way; it comes to nothing after this
    /// one.
    fn adopt(&mut self, writes: &mut Vec<Write>) {
        if self.draining || self.closing.is_some() || self.alive_until().is_none() {
            return;
        }
        let Some(epoch) = self.epoch else { return };
        for key in self.inherited() {
            let Some(known) = self.claims.get(&key).cloned() else { continue };
            let holder = Some((self.me.clone(), epoch));
            let object = Object::Claim(ClaimObject { holder, ..known.object });
            self.write(ObjectKey::Claim(key), Some(known.version), object, writes);
        }
    }

    /// Claims that a process before this one held, and that live.
    pub(super) fn inherited(&self) -> Vec<ClaimKey> {
        let mine = self.claims.iter().filter(|(_, known)| self.mine(known));
        let before = mine.filter(|(_, known)| {
            known.object.holder.as_ref().map(|(_, epoch)| *epoch) != self.epoch
        });
        before.map(|(key, _)| *key).collect()
    }

    fn give_up(
        &mut self,
        wanted: &Wanted,
        living: &BTreeMap<NodeName, u64>,
        candidates: &BTreeSet<NodeName>,
        writes: &mut Vec<Write>,
    ) {
        let leaves = self.draining || self.closing.is_some();
        let gives = |key: &ClaimKey, known: &Known<ClaimObject>| {
            leaves || self.releasing.get(key) == Some(&known.object.term)
        };
        let is_meant =
            |key: &ClaimKey, known: &Known<_>| gives(key, known) || known.object.move_to.is_some();
        let mine: Vec<(ClaimKey, Known<ClaimObject>)> = self
            .claims
            .iter()
            .filter(|(key, known)| is_meant(key, known) && self.mine(known))
            .map(|(key, known)| (*key, known.clone()))
            .collect();
        if mine.is_empty() {
            return;
        }
        let given: BTreeMap<ClaimKey, Known<ClaimObject>> =
            mine.iter().filter(|(key, known)| gives(key, known)).cloned().collect();
        let mut others = candidates.clone();
        others.remove(&self.me);
        let mut claims = self.as_claims();
        claims.retain(|key, _| !given.contains_key(key));
        let mut orphans = Wanted::default();
        let mut next: BTreeMap<ClaimKey, NodeName> = BTreeMap::new();
        for (key, known) in &given {
            if let Some(to) = known.object.move_to.clone().filter(|to| self.may_be_given(to)) {
                next.insert(*key, to);
            } else if let Some(eligible) = wanted.claims.get(key) {
                orphans.claims.insert(*key, eligible.clone());
            }
        }
        next.extend(placement::place(&orphans, &claims, living, &others));
        for (key, known) in &given {
            let holder = next.get(key).and_then(|node| Some((node.clone(), *living.get(node)?)));
            let term = known.object.term + u64::from(holder.is_some());
            let record = known.object.record.clone();
            let object = Object::Claim(ClaimObject { holder, term, move_to: None, record });
            self.write(ObjectKey::Claim(*key), Some(known.version.clone()), object, writes);
        }
        for (key, known) in mine {
            // Asked to hand over, and nothing came of it: forget it.
            let old = self.now >= known.since + self.timing.ttl * 2;
            if old && known.object.move_to.is_some() {
                let object = Object::Claim(ClaimObject { move_to: None, ..known.object });
                self.write(ObjectKey::Claim(key), Some(known.version), object, writes);
            }
        }
    }

    /// Whether another node can have what it was asked to take. Its session may stand still for
    /// longer than for [`Self::takes`]: while the API server is away, everybody's does, and a move
    /// in the middle would go elsewhere. If it is dead after all, its session ends like any other.
    fn may_be_given(&self, node: &NodeName) -> bool {
        *node != self.me
            && self.sessions.get(node).is_some_and(|known| {
                let session = &known.object;
                session.state == SessionState::Open
                    && !session.draining
                    && !session.drained
                    && self.now < known.since + self.timing.patience()
            })
    }

    /// Writes down what somebody here asks of other nodes.
    pub(super) fn tell_others(&mut self, writes: &mut Vec<Write>) {
        for (key, (to, term)) in std::mem::take(&mut self.moving) {
            let known = self.claims.get(&key).filter(|known| known.object.term == term).cloned();
            let Some(known) = known.filter(|known| !self.is_free(known)) else { continue };
            if known.object.move_to.as_ref() == Some(&to) {
                continue;
            }
            let object = ClaimObject { move_to: Some(to.clone()), ..known.object };
            let object = Object::Claim(object);
            self.write(ObjectKey::Claim(key), Some(known.version), object, writes);
            // Until it is seen.
            self.moving.insert(key, (to, term));
        }
        for (node, drained) in std::mem::take(&mut self.emptying) {
            let known = self.sessions.get(&node).cloned();
            let Some(known) = known.filter(|known| known.object.drained != drained) else {
                continue;
            };
            let object = SessionObject { drained, ..known.object };
            let key = ObjectKey::Session(node.clone());
            // Not a renewal: the number stays, so it extends nothing. It does restart the wait for
            // a silent node, which is the safe side.
            self.write(key, Some(known.version), Object::Session(object), writes);
            self.emptying.insert(node, drained);
        }
    }

    /// Writes down the records that were put: with the claim they are guarded by, or, to remove
    /// one, with the claim it is found at. One that cannot be written now is put again by who wants
    /// it.
    pub(super) fn keep_records(&mut self, writes: &mut Vec<Write>) {
        for (name, (value, guard)) in std::mem::take(&mut self.putting) {
            let guarded = self.claims.get(&guard.key).filter(|known| {
                self.mine(known) && known.object.term == guard.term && self.alive_until().is_some()
            });
            let at = match (guarded, &value) {
                (None, _) => None,
                (Some(_), Some(_)) => Some(guard.key),
                (Some(_), None) => self.recorded(&name),
            };
            let Some((key, known)) = at.and_then(|key| Some((key, self.claims.get(&key)?.clone())))
            else {
                continue;
            };
            let record = value.map(|value| (name, value));
            if known.object.record != record {
                let object = Object::Claim(ClaimObject { record, ..known.object });
                self.write(ObjectKey::Claim(key), Some(known.version), object, writes);
            }
        }
    }

    fn recorded(&self, name: &str) -> Option<ClaimKey> {
        let is_it = |known: &Known<ClaimObject>| {
            known.object.record.as_ref().is_some_and(|(found, _)| found == name)
        };
        self.claims.iter().find(|(_, known)| is_it(known)).map(|(key, _)| *key)
    }

    /// What this node holds and should hand over: by somebody's wish, or because it is drained.
    pub(super) fn handovers(
        &self,
        claims: &BTreeMap<ClaimKey, Claim>,
        drained: &BTreeSet<NodeName>,
    ) -> BTreeMap<ClaimKey, NodeName> {
        let is_mine = |claim: &Claim| claim.holder.as_ref().is_some_and(|(it, _)| *it == self.me);
        let asked_for = |key: &ClaimKey| self.claims.get(key)?.object.move_to.clone();
        let is_drained = drained.contains(&self.me);
        let mine: BTreeSet<ClaimKey> = claims
            .values()
            .filter(|claim| is_mine(claim) && (is_drained || asked_for(&claim.key).is_some()))
            .map(|claim| claim.key)
            .collect();
        if mine.is_empty() {
            return BTreeMap::new();
        }
        let mut others: BTreeSet<NodeName> =
            self.sessions.keys().filter(|node| self.takes(node)).cloned().collect();
        others.remove(&self.me);
        let mut handovers = BTreeMap::new();
        if let Some(wanted) = self.wanted.as_ref().filter(|_| is_drained) {
            let mut orphans = wanted.clone();
            orphans.claims.retain(|key, _| mine.contains(key));
            let mut rest = claims.clone();
            rest.retain(|key, _| !mine.contains(key));
            handovers.extend(placement::place(&orphans, &rest, &self.living(), &others));
        }
        for key in mine {
            let asked = asked_for(&key);
            handovers.extend(asked.filter(|to| self.may_be_given(to)).map(|to| (key, to)));
        }
        handovers
    }
}
