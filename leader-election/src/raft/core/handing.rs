//! How a claim gets from one living node to another: the next holder is named by the command that
//! ends the present one's claim, so that a key is nobody's at no time.
//!
//! A holder that gives a claim up (its link went down, it was asked to, it drains or closes) has
//! silenced it and asks for its release. The leader, which knows who else could have it, puts the
//! handover into the log in place of the release. It must never hand over what the holder has not
//! given up: a move that somebody asks for is only a wish to the holder, which shows in its view
//! ([`crate::View::handovers`]), and is withdrawn when it is not fulfilled in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Core;
use super::leading::Moving;
use crate::model::{BootTime, Claim, ClaimKey, NodeName, Wanted};
use crate::placement;
use crate::raft::command::Command;

/// A holder has this many ttl, and no less than [`LEAST_PATIENCE`], to hand over what it was asked
/// to.
const PATIENCE_TTLS: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

impl Core {
    /// Puts into the log what a node asks for; what it gives up goes straight to the next holder.
    pub(super) fn propose_for(&mut self, command: Command) {
        match &command {
            Command::Release { key, node, epoch, term } => {
                let known = self.machine.claims.get(key).is_some_and(|claim| {
                    claim.term == *term
                        && claim.holder.as_ref().is_some_and(|(n, e)| n == node && e == epoch)
                });
                let under_way = self
                    .leading
                    .as_ref()
                    .and_then(|leading| leading.claiming.get(key))
                    .is_some_and(|claim| claim.term > *term);
                if !known || under_way {
                    return;
                }
                if self.hand_over([*key].into(), node, *epoch) == 0 {
                    self.propose(&command);
                }
            }
            Command::Drain { node, epoch } | Command::CloseSession { node, epoch } => {
                let held = self.machine.claims.values().filter(|claim| {
                    claim.holder.as_ref().is_some_and(|(n, e)| n == node && e == epoch)
                });
                let keys = held.map(|claim| claim.key).collect();
                self.hand_over(keys, node, *epoch);
                self.propose(&command);
            }
            _ => {
                self.propose(&command);
            }
        }
    }

    /// Hands over what this session holds of `keys`, as far as anybody can have it.
    fn hand_over(&mut self, keys: BTreeSet<ClaimKey>, node: &NodeName, epoch: u64) -> usize {
        let living = self.living();
        let mut handed = 0;
        for (key, to) in self.successors(&keys, node) {
            let Some(&to_epoch) = living.get(&to) else { continue };
            let term = self.machine.claims.get(&key).map_or(0, |claim| claim.term);
            let next = Claim { key, holder: Some((to.clone(), to_epoch)), term: term + 1 };
            let node = node.clone();
            let command = Command::HandOver { key, node, epoch, term, to, to_epoch };
            if self.propose(&command) {
                handed += 1;
                if let Some(leading) = &mut self.leading {
                    leading.claiming.insert(key, next);
                }
            }
        }
        handed
    }

    /// Who should have these keys after `giver`: whoever they were asked to move to, else as
    /// placed.
    fn successors(&self, keys: &BTreeSet<ClaimKey>, giver: &NodeName) -> Vec<(ClaimKey, NodeName)> {
        let mut candidates = self.candidates();
        candidates.remove(giver);
        let mut claims = self.claims_ahead().into_owned();
        let mut wanted = Wanted::default();
        for key in keys {
            let asked = self.machine.moves.get(key).filter(|(to, _)| candidates.contains(to));
            let placed = self.wanted.as_ref().and_then(|wanted| wanted.claims.get(key));
            let eligible = match asked {
                Some((to, _)) => Some([to.clone()].into()),
                None => placed.cloned(),
            };
            wanted.claims.extend(eligible.map(|eligible| (*key, eligible)));
            claims.remove(key);
        }
        placement::place(&wanted, &claims, &self.living(), &candidates)
    }

    /// Asks drained nodes to hand over what they hold, and withdraws moves that get nowhere.
    pub(super) fn move_along(&mut self) {
        let patience = (self.timing.ttl * PATIENCE_TTLS).max(LEAST_PATIENCE);
        let now = self.now;
        let Some(leading) = &mut self.leading else { return };
        leading.moving.retain(|key, moving| {
            let asked = self.machine.moves.get(key);
            moving.proposed || asked.is_some_and(|(_, term)| *term == moving.term)
        });
        let mut withdrawn = Vec::new();
        for (key, (to, term)) in &self.machine.moves {
            let known = Moving { term: *term, since: now, proposed: false };
            let since = leading.moving.entry(*key).or_insert(known).since;
            let eligible = self.wanted.as_ref().and_then(|wanted| wanted.claims.get(key));
            let in_vain = eligible.is_some_and(|eligible| !eligible.contains(to));
            if in_vain || now >= since + patience {
                withdrawn.push(Command::CancelMove { key: *key, term: *term });
            }
        }
        for command in withdrawn {
            self.propose(&command);
        }
        for node in self.machine.drained.clone() {
            self.empty(&node, now);
        }
    }

    /// Asks a node for whatever it holds that others could have. What nobody else can, it keeps.
    fn empty(&mut self, node: &NodeName, now: BootTime) {
        let Some(leading) = &self.leading else { return };
        let held: BTreeMap<ClaimKey, u64> = self
            .machine
            .claims
            .values()
            .filter(|claim| claim.holder.as_ref().is_some_and(|(holder, _)| holder == node))
            .filter(|claim| !leading.moving.contains_key(&claim.key))
            .filter(|claim| !leading.claiming.contains_key(&claim.key))
            .map(|claim| (claim.key, claim.term))
            .collect();
        if held.is_empty() {
            return;
        }
        let keys = held.keys().copied().collect();
        for (key, to) in self.successors(&keys, node) {
            let Some(&term) = held.get(&key) else { continue };
            let by = self.me.clone();
            if self.propose(&Command::Move { key, to, term, by })
                && let Some(leading) = &mut self.leading
            {
                leading.moving.insert(key, Moving { term, since: now, proposed: true });
            }
        }
    }
}
