//! Who takes part in raft, as far as the log has decided it.
//!
//! A node is known to raft by the id of its state directory; one that lost it comes back under the
//! same name with another id, and for a while both are members. What is written here is what the
//! raft library is told to go by (`core::ready`), and nothing else: the two must never differ. At
//! most one voter comes or goes with each command, and the last one never goes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Machine, Outcome};
use crate::model::{NodeName, SessionState};
use crate::raft::codec::{CodecError, Reader, Writer};
use crate::raft::command::Change;
use crate::raft::frame::{Founders, MAX_MEMBERS};

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: NodeName,
    /// Whether it votes.
    pub voter: bool,
    /// Position in the log at which it came; zero for a founder.
    pub since: u64,
}

impl Machine {
    /// The state of a cluster before anything is decided.
    pub fn founded(founders: &Founders) -> Self {
        let member = |node: &NodeName| Member { node: node.clone(), voter: true, since: 0 };
        let members = founders.iter().map(|(node, id)| (*id, member(node))).collect();
        Self { members, ..Self::default() }
    }

    /// The raft id under which a node takes part: its latest.
    pub fn id_of(&self, node: &NodeName) -> Option<u64> {
        let its = self.members.iter().filter(|(_, member)| member.node == *node);
        its.max_by_key(|(_, member)| member.since).map(|(id, _)| *id)
    }

    /// The nodes that take part, and whether each votes under its latest id: what was lost with a
    /// directory casts no vote any more, though it counts until it is replaced.
    pub fn votes(&self) -> BTreeMap<NodeName, bool> {
        let mut latest: BTreeMap<&NodeName, &Member> = BTreeMap::new();
        for member in self.members.values() {
            let known = latest.entry(&member.node).or_insert(member);
            if known.since < member.since {
                *known = member;
            }
        }
        latest.into_iter().map(|(node, member)| (node.clone(), member.voter)).collect()
    }

    /// Raft ids of the voters.
    pub fn voters(&self) -> impl Iterator<Item = u64> {
        self.members.iter().filter(|(_, member)| member.voter).map(|(id, _)| *id)
    }

    /// Raft ids of the members without a vote.
    pub fn learners(&self) -> impl Iterator<Item = u64> {
        self.members.iter().filter(|(_, member)| !member.voter).map(|(id, _)| *id)
    }

    /// Names of the members.
    pub fn member_names(&self) -> BTreeSet<&NodeName> {
        self.members.values().map(|member| &member.node).collect()
    }

    pub(super) fn change_member(&mut self, id: u64, node: &NodeName, change: Change) -> Outcome {
        let voters = self.voters().count();
        if change == Change::Learn {
            return self.learn(id, node);
        }
        let known = self.members.get_mut(&id).filter(|member| member.node == *node);
        match (change, known) {
            (Change::Vote, Some(member)) if !member.voter => {
                member.voter = true;
                Outcome::Applied
            }
            (Change::Demote, Some(member)) if member.voter && voters > 1 => {
                member.voter = false;
                Outcome::Applied
            }
            (Change::Remove, Some(member)) if !member.voter || voters > 1 => {
                self.members.remove(&id);
                if self.id_of(node).is_none() {
                    self.forget_node(node);
                }
                Outcome::Applied
            }
            _ => Outcome::Stale,
        }
    }

    fn learn(&mut self, id: u64, node: &NodeName) -> Outcome {
        // With an open session, this is the same name elsewhere, or the same node before its lost
        // session has ended: what the next session of the name would take over may still be spoken
        // for.
        if id == 0 || self.members.contains_key(&id) || self.living().contains_key(node) {
            return Outcome::Stale;
        }
        if self.members.len() >= MAX_MEMBERS {
            return Outcome::Full;
        }
        let member = Member { node: node.clone(), voter: false, since: self.applied };
        self.members.insert(id, member);
        Outcome::Applied
    }

    /// Makes room: a node that is gone for good leaves nothing but the terms of what it held.
    fn forget_node(&mut self, node: &NodeName) {
        if self.sessions.get(node).is_some_and(|session| session.state == SessionState::Open) {
            return;
        }
        self.sessions.remove(node);
        self.drained.remove(node);
        self.moves.retain(|_, (to, _)| to != node);
        for claim in self.claims.values_mut() {
            claim.holder.take_if(|(holder, _)| holder == node);
        }
    }

    pub(super) fn write_members(&self, to: &mut Writer) {
        to.count(self.members.len());
        for (id, member) in &self.members {
            to.u64(*id).node(&member.node).flag(member.voter).u64(member.since);
        }
    }

    pub(super) fn read_members(&mut self, from: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..from.count(MAX_MEMBERS)? {
            let id = from.u64()?;
            let member = Member { node: from.node()?, voter: from.flag()?, since: from.u64()? };
            // Zero is raft's "nobody".
            if id == 0 || self.members.insert(id, member).is_some() {
                return Err(CodecError::Impossible);
            }
        }
        Ok(())
    }
}
