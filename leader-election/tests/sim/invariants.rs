//! What holds at every instant of every run, each promise under its own name.
//!
//! Both worlds, raft's and that of API objects, ask here after every event, so that a run made for
//! one promise ends at a breach of any. Each has a file of its own with bad days of both back ends:
//! `one_voice`, `terms_grow`, `agreement`, `heals`. Nothing here may look into a core: kernels,
//! views and what was written are all that counts.

use std::collections::BTreeMap;

use herald_leader_election::{Claim, ClaimKey, NodeName, Session, View};

use super::{MS, Wall};

/// What a run has shown so far.
#[derive(Debug)]
pub struct Invariants {
    seed: u64,
    /// The term in which a key was last spoken for, and by whom.
    voices: BTreeMap<ClaimKey, (u64, NodeName)>,
    holders: BTreeMap<(ClaimKey, u64), NodeName>,
    /// The sessions after so many log entries.
    states: BTreeMap<u64, BTreeMap<NodeName, Session>>,
}

impl Invariants {
    pub fn new(seed: u64) -> Self {
        Self { seed, voices: BTreeMap::new(), holders: BTreeMap::new(), states: BTreeMap::new() }
    }

    /// One voice: at one instant, one kernel at most speaks for a key. `speakers` are named with
    /// what their processes know, if they live.
    pub fn one_voice(
        &mut self,
        key: &ClaimKey,
        at: Wall,
        speakers: &[(&NodeName, Option<&View>)],
        world: impl FnOnce() -> String,
    ) {
        let seed = self.seed;
        if speakers.len() > 1 {
            let names: Vec<&NodeName> = speakers.iter().map(|(name, _)| *name).collect();
            let at = at / MS;
            panic!("one voice: seed {seed}: {names:?} speak for {key} at {at} ms\n{}", world());
        }
        let Some((name, Some(view))) = speakers.first() else { return };
        // A process that starts anew reads of old terms first, and speaks by none of them.
        if let Some(claim) = view.held(name, key).filter(|_| view.is_settled()) {
            self.voice(*key, claim.term, name);
        }
    }

    /// Terms grow: whoever speaks does so in no smaller term than any voice before, and another
    /// node in a greater one.
    fn voice(&mut self, key: ClaimKey, term: u64, name: &NodeName) {
        let seed = self.seed;
        if let Some((last, by)) = self.voices.get(&key) {
            let grows = term > *last || (term == *last && by == name);
            assert!(
                grows,
                "terms grow: seed {seed}: {name} speaks for {key} in term {term}, {by} did in {last}"
            );
            if term == *last {
                return;
            }
        }
        self.voices.insert(key, (term, name.clone()));
    }

    /// Terms grow: what is written, or learned later, is never in a smaller term.
    pub fn terms_grow(&self, key: &ClaimKey, before: u64, now: u64) {
        assert!(now >= before, "terms grow: seed {}: {key}: {now} after {before}", self.seed);
    }

    /// Agreement: a key has one holder in a term, whoever says so.
    pub fn agreed_on_holders<'a>(&mut self, claims: impl Iterator<Item = &'a Claim>) {
        for claim in claims {
            let Some((holder, _)) = &claim.holder else { continue };
            let known = self.holders.entry((claim.key, claim.term)).or_insert(holder.clone());
            let (seed, key, term) = (self.seed, claim.key, claim.term);
            assert_eq!(known, holder, "agreement: seed {seed}: who holds {key} in term {term}");
        }
    }

    /// Agreement: whoever applied as much of the log knows the same sessions.
    pub fn agreed_on_sessions(&mut self, view: &View) {
        let known = self.states.entry(view.applied).or_insert(view.sessions.clone());
        let (seed, applied) = (self.seed, view.applied);
        assert_eq!(*known, view.sessions, "agreement: seed {seed}: sessions at {applied}");
    }

    /// Agreement: when all is well and has been for a while, all nodes know the same.
    pub fn all_know_the_same(&self, views: &[&View]) {
        for pair in views.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            let who = format!("agreement: seed {}: {} and {}", self.seed, one.me, other.me);
            assert_eq!(one.claims, other.claims, "{who}");
            assert_eq!(one.sessions, other.sessions, "{who}");
        }
    }

    /// Heals: when nothing is wrong any more, every key is spoken for after a bounded time.
    pub fn healed(&self, took: Option<Wall>, world: impl FnOnce() -> String) {
        if took.is_none() {
            panic!("heals: seed {}: not every key is spoken for\n{}", self.seed, world());
        }
    }
}
