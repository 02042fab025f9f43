//! Which member should come, vote, or go next: one change at a time, decided by the leader.
//!
//! Pure: a picture in, at most one change out. It must never propose what leaves fewer living
//! voters than a majority of those that are left, never touch the leader itself, and never change
//! one thing in answer to another one's delay alone: a voter is replaced only by a node that lives
//! and has caught up.

use std::collections::{BTreeMap, BTreeSet};

use super::command::Change;
use super::machine::Member;
use crate::model::NodeName;

/// Who votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voters {
    /// Exactly these nodes, which also found the cluster; all others take part without a vote.
    Exactly(BTreeSet<NodeName>),
    /// Three nodes, or five from five nodes on; fewer than three nodes have one voter.
    Automatic,
    /// As many as this and as there are nodes, but an odd number.
    AtMost(usize),
}

impl Voters {
    /// How many of so many nodes vote. Two voters would survive less than one: both are needed.
    fn count(&self, nodes: usize) -> usize {
        let most = match self {
            Self::Exactly(names) => return names.len(),
            Self::Automatic if nodes >= 5 => 5,
            Self::Automatic => 3,
            Self::AtMost(most) => *most,
        };
        let count = nodes.min(most);
        if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
    }

    /// Whether which nodes vote is left to the leader.
    pub(crate) fn any_node(&self) -> bool {
        !matches!(self, Self::Exactly(_))
    }

    /// Who founds a cluster of these nodes: all that should vote, or the first by name.
    pub(crate) fn founders(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        match self {
            Self::Exactly(names) => names.clone(),
            Self::Automatic | Self::AtMost(_) => {
                let count = self.count(nodes.len()).min(MOST_FOUNDERS);
                nodes.iter().take(count).cloned().collect()
            }
        }
    }
}

/// All founders must be up at once for the first time; the other voters come afterwards.
const MOST_FOUNDERS: usize = 3;

/// What a leader knows when it looks after the members.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    /// The leader's raft id.
    pub me: u64,
    pub members: &'a BTreeMap<u64, Member>,
    pub voters: &'a Voters,
    /// Nodes of the source.
    pub listed: &'a BTreeSet<NodeName>,
    /// Members heard within a ttl, the leader included.
    pub living: &'a BTreeSet<u64>,
    /// Members whose log is all but complete.
    pub caught_up: &'a BTreeSet<u64>,
    /// Members that have been silent for so long that another node should vote in their place.
    pub dead: &'a BTreeSet<u64>,
    /// Members whose node has been gone from the source for long, and which have no session.
    pub forgotten: &'a BTreeSet<u64>,
    /// Nodes that ask to join and whose session, if they ever had one, has ended.
    pub knocking: &'a BTreeMap<NodeName, u64>,
}

/// The next change, if anything is to be changed.
#[must_use]
pub(crate) fn next_change(now: &Picture<'_>) -> Option<(u64, NodeName, Change)> {
    now.welcome()
        .or_else(|| now.replace_lost_disk())
        .or_else(|| now.fill_up())
        .or_else(|| now.thin_out())
        .or_else(|| now.replace_dead())
        .or_else(|| now.forget())
}

impl Picture<'_> {
    fn change(&self, id: u64, change: Change) -> Option<(u64, NodeName, Change)> {
        self.members.get(&id).map(|member| (id, member.node.clone(), change))
    }

    fn welcome(&self) -> Option<(u64, NodeName, Change)> {
        let (node, id) = self.knocking.iter().find(|(_, id)| !self.members.contains_key(id))?;
        Some((*id, node.clone(), Change::Learn))
    }

    /// The latest id of each node is the one that lives; what came before is a directory that is
    /// gone.
    fn replace_lost_disk(&self) -> Option<(u64, NodeName, Change)> {
        let newer = |old: &Member| {
            self.members.iter().find(|(_, m)| m.node == old.node && m.since > old.since)
        };
        self.members.iter().find_map(|(id, member)| {
            let (next, _) = newer(member)?;
            let ready = !member.voter || self.ready(*next);
            (*id != self.me && ready && self.safe_without(*id)).then_some(())?;
            self.change(*id, Change::Remove)
        })
    }

    fn fill_up(&self) -> Option<(u64, NodeName, Change)> {
        let voters = self.voter_ids();
        (voters.len() < self.target()).then_some(())?;
        let living = voters.iter().filter(|id| self.living.contains(id)).count();
        (living + 1 > voters.len().div_ceil(2)).then_some(())?;
        self.change(self.best_learner()?, Change::Vote)
    }

    fn thin_out(&self) -> Option<(u64, NodeName, Change)> {
        let voters = self.voter_ids();
        let unwanted = |id: &&u64| match self.voters {
            Voters::Exactly(names) => !names.contains(&self.members[id].node),
            Voters::Automatic | Voters::AtMost(_) => voters.len() > self.target(),
        };
        // Those that do not live first.
        let mut candidates: Vec<&u64> = voters.iter().filter(|id| **id != self.me).collect();
        candidates.sort_by_key(|id| (self.living.contains(id), **id));
        let id = candidates.into_iter().filter(unwanted).find(|id| self.safe_without(**id))?;
        self.change(*id, Change::Demote)
    }

    fn replace_dead(&self) -> Option<(u64, NodeName, Change)> {
        if !self.voters.any_node() {
            return None;
        }
        self.best_learner()?;
        let voters = self.voter_ids();
        let gone = |id: &&u64| self.dead.contains(id) && **id != self.me;
        let id = voters.iter().filter(gone).find(|id| self.safe_without(**id))?;
        self.change(*id, Change::Demote)
    }

    fn forget(&self) -> Option<(u64, NodeName, Change)> {
        let gone = self.members.iter().filter(|(id, _)| self.forgotten.contains(id));
        let mut safe = gone.filter(|(id, _)| **id != self.me && self.safe_without(**id));
        safe.next().and_then(|(id, _)| self.change(*id, Change::Remove))
    }

    fn voter_ids(&self) -> BTreeSet<u64> {
        self.members.iter().filter(|(_, member)| member.voter).map(|(id, _)| *id).collect()
    }

    fn target(&self) -> usize {
        match self.voters {
            Voters::Exactly(names) => names.len(),
            Voters::Automatic | Voters::AtMost(_) => {
                // A source that reads empty for a moment costs nobody its vote.
                let stays = self
                    .members
                    .iter()
                    .filter(|(id, _)| **id == self.me || !self.forgotten.contains(id));
                self.voters.count(stays.map(|(_, m)| &m.node).collect::<BTreeSet<_>>().len())
            }
        }
    }

    fn ready(&self, id: u64) -> bool {
        self.living.contains(&id) && self.caught_up.contains(&id)
    }

    /// The first by name that could vote.
    fn best_learner(&self) -> Option<u64> {
        let may_vote = |node: &NodeName| match self.voters {
            Voters::Exactly(names) => names.contains(node),
            Voters::Automatic | Voters::AtMost(_) => self.listed.contains(node),
        };
        // A node whose lost directory still votes has one vote already.
        let votes = |node: &NodeName| self.members.values().any(|m| m.voter && m.node == *node);
        let learners = self.members.iter().filter(|(id, member)| {
            !member.voter && self.ready(**id) && may_vote(&member.node) && !votes(&member.node)
        });
        learners.min_by_key(|(_, member)| &member.node).map(|(id, _)| *id)
    }

    /// Whether those that vote without this one still have a majority that lives.
    fn safe_without(&self, id: u64) -> bool {
        let mut voters = self.voter_ids();
        if !voters.remove(&id) {
            return true;
        }
        let living = voters.iter().filter(|id| self.living.contains(id)).count();
        living > voters.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small cluster: `n1` leads; every member lives and has caught up unless it is taken out.
    struct Town {
        members: BTreeMap<u64, Member>,
        voters: Voters,
        listed: BTreeSet<NodeName>,
        living: BTreeSet<u64>,
        dead: BTreeSet<u64>,
        forgotten: BTreeSet<u64>,
        knocking: BTreeMap<NodeName, u64>,
    }

    fn name(n: u64) -> NodeName {
        NodeName::from(format!("n{n}"))
    }

    fn town(voters: u64, learners: u64) -> Town {
        let member = |n| (n, Member { node: name(n), voter: n <= voters, since: 0 });
        let ids = 1..=voters + learners;
        Town {
            members: ids.clone().map(member).collect(),
            voters: Voters::Automatic,
            listed: ids.clone().map(name).collect(),
            living: ids.collect(),
            dead: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            knocking: BTreeMap::new(),
        }
    }

    impl Town {
        fn next(&self) -> Option<(u64, NodeName, Change)> {
            next_change(&Picture {
                me: 1,
                members: &self.members,
                voters: &self.voters,
                listed: &self.listed,
                living: &self.living,
                caught_up: &self.living,
                dead: &self.dead,
                forgotten: &self.forgotten,
                knocking: &self.knocking,
            })
        }

        fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
            change(&mut self);
            self
        }
    }

    #[test]
    fn as_many_vote_as_survive_the_most() {
        for (voters, learners, next) in [
            (1, 0, None),
            (1, 1, None),
            (1, 2, Some((2, name(2), Change::Vote))),
            (2, 1, Some((3, name(3), Change::Vote))),
            (3, 1, None),
            (3, 2, Some((4, name(4), Change::Vote))),
            (4, 1, Some((5, name(5), Change::Vote))),
            (5, 9, None),
            (4, 0, Some((2, name(2), Change::Demote))),
        ] {
            assert_eq!(town(voters, learners).next(), next, "{voters} + {learners}");
        }
    }

    #[test]
    fn a_number_is_rounded_down_to_an_odd_one() {
        let counts = |most| [1, 2, 3, 4, 5, 9].map(|nodes| Voters::AtMost(most).count(nodes));
        assert_eq!(counts(1), [1; 6]);
        assert_eq!(counts(4), [1, 1, 3, 3, 3, 3]);
        assert_eq!(counts(7), [1, 1, 3, 3, 5, 7]);
        let founders = Voters::Automatic.founders(&(1..=9).map(name).collect());
        assert_eq!(founders, (1..=3).map(name).collect());
    }

    #[test]
    fn whoever_knocks_comes_in_without_a_vote() {
        let knocked = town(3, 0).with(|town| {
            town.knocking.insert(name(9), 99);
        });
        assert_eq!(knocked.next(), Some((99, name(9), Change::Learn)));
    }

    #[test]
    fn a_lost_directory_goes_once_the_next_one_has_caught_up() {
        let lost = || {
            town(3, 0).with(|town| {
                town.members.insert(33, Member { node: name(3), voter: false, since: 7 });
                town.living = [1, 2].into();
            })
        };
        assert_eq!(lost().next(), None);
        let back = lost().with(|town| town.living = [1, 2, 33].into());
        assert_eq!(back.next(), Some((3, name(3), Change::Remove)));
        let removed = back.with(|town| {
            town.members.remove(&3);
        });
        assert_eq!(removed.next(), Some((33, name(3), Change::Vote)));
    }

    #[test]
    fn a_dead_voter_is_replaced_by_a_living_learner_and_only_by_one() {
        let dead = || {
            town(3, 1).with(|town| {
                town.living.remove(&2);
                town.dead.insert(2);
            })
        };
        assert_eq!(dead().next(), Some((2, name(2), Change::Demote)));
        let alone = dead().with(|town| {
            town.living.remove(&4);
        });
        assert_eq!(alone.next(), None);
        let silent_for_a_moment = dead().with(|town| town.dead.clear());
        assert_eq!(silent_for_a_moment.next(), None);
    }

    #[test]
    fn exactly_those_named_vote_dead_or_not() {
        let named = |voters: &[u64]| Voters::Exactly(voters.iter().copied().map(name).collect());
        let dead = town(3, 2).with(|town| {
            town.voters = named(&[1, 2, 3]);
            town.living.remove(&2);
            town.dead.insert(2);
        });
        assert_eq!(dead.next(), None);
        let another = town(3, 2).with(|town| town.voters = named(&[1, 2, 4]));
        assert_eq!(another.next(), Some((3, name(3), Change::Demote)));
    }

    #[test]
    fn a_node_gone_from_the_source_is_forgotten_but_never_the_leader() {
        let gone = town(3, 1).with(|town| {
            town.listed.remove(&name(4));
            town.forgotten = [1, 4].into();
        });
        assert_eq!(gone.next(), Some((4, name(4), Change::Remove)));
        let leader = town(3, 1).with(|town| town.forgotten = [1].into());
        assert_eq!(leader.next(), None);
    }

    /// Whatever the picture: no change leaves the voters without a living majority, if they have
    /// one, and none touches the leader.
    #[test]
    fn no_change_costs_the_majority() {
        for voters in 1..=5u64 {
            for alive in 0..1u64 << (voters - 1) {
                let living = |n: u64| n == 1 || alive >> (n - 2) & 1 == 1;
                let picture = town(voters, 2).with(|town| {
                    town.living.retain(|n| *n > voters || living(*n));
                    town.dead = (2..=voters).filter(|n| !living(*n)).collect();
                    town.forgotten = town.dead.clone();
                });
                let has =
                    |ids: &BTreeSet<u64>| ids.intersection(&picture.living).count() > ids.len() / 2;
                let mut ids: BTreeSet<u64> = (1..=voters).collect();
                let Some((id, _, change)) = picture.next().filter(|_| has(&ids)) else { continue };
                match change {
                    Change::Vote => _ = ids.insert(id),
                    _ => _ = ids.remove(&id),
                }
                assert!(id != 1 && has(&ids), "{voters} {alive:b} {id} {change:?}");
            }
        }
    }
}
