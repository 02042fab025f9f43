//! Who a core is, with whom it decides, and how the raft library is set up for it.
//!
//! Everything follows from names and [`Timing`]; nothing else may be configured, so that no node's
//! library runs on other terms than the argument in [`crate::raft`] assumes.

use std::collections::BTreeMap;

use ::raft::Config;

use crate::error::Error;
use crate::model::{MAX_FACTS, MAX_NODE_NAME, NodeName};
use crate::placement::fnv1a;
use crate::raft::frame::MAX_VOTERS;
use crate::timing::Timing;

/// Entries sent to a follower in one message, in bytes. The first entry always goes, so a message
/// stays within twice this or one largest command, far below a frame.
const MESSAGE_SIZE: u64 = 128 * 1024;
/// Entries a leader may have undecided, in bytes; more proposals are dropped and asked for again.
const UNDECIDED_SIZE: u64 = 4 * 1024 * 1024;

/// Who this core is and with whom it decides.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node.
    pub node: NodeName,
    /// All nodes that decide, this one included.
    pub voters: Vec<NodeName>,
    /// Heartbeat and ttl.
    pub timing: Timing,
    /// What this node publishes.
    pub facts: Vec<u8>,
    /// Source of the random part of election timeouts.
    pub seed: u64,
}

impl CoreConfig {
    /// Refuses what cannot work, before anything is touched.
    ///
    /// # Errors
    /// The first reason found.
    pub fn check(&self) -> Result<(), Error> {
        self.timing.check()?;
        if !self.voters.contains(&self.node) {
            let (node, voters) = (self.node.clone(), self.voters.clone());
            return Err(Error::NotAVoter { node, voters });
        }
        if self.voters.len() > MAX_VOTERS {
            return Err(Error::TooManyVoters { count: self.voters.len(), most: MAX_VOTERS });
        }
        if self.facts.len() > MAX_FACTS {
            return Err(Error::FactsTooLarge { size: self.facts.len() });
        }
        let mut taken: BTreeMap<u64, &NodeName> = BTreeMap::new();
        for node in &self.voters {
            if node.as_str().is_empty() || node.as_str().len() > MAX_NODE_NAME {
                return Err(Error::BadName { name: node.0.clone() });
            }
            if let Some(first) = taken.insert(raft_id(node), node).filter(|first| *first != node) {
                return Err(Error::SameId { first: first.clone(), second: node.clone() });
            }
        }
        Ok(())
    }
}

/// Raft's id of a node: a hash of its name, so that every node computes the same without being told.
pub(super) fn raft_id(node: &NodeName) -> u64 {
    // Zero is raft's "nobody".
    fnv1a(node.as_str().bytes()).max(1)
}

/// More ticks than ever pass: the library never stands for election by itself, see `standing`.
pub(super) const NEVER: usize = usize::MAX - 1;

pub(super) fn raft_config(id: u64, applied: u64, timing: &Timing) -> Config {
    Config {
        id,
        applied,
        // How often a leader looks whether it still has a quorum. Also a voter's promise by the
        // library's own count, which must never outlast the one that `Core::take_raft` keeps.
        election_tick: timing.promise_ticks(),
        min_election_tick: timing.promise_ticks(),
        max_election_tick: NEVER + 1,
        // The leader's reads by quorum are its heartbeats (one per heartbeat, see `leading`); the
        // library's own, as late as it allows, are only a backstop.
        heartbeat_tick: timing.promise_ticks() - 1,
        check_quorum: true,
        pre_vote: true,
        max_size_per_msg: MESSAGE_SIZE,
        max_inflight_msgs: 64,
        max_uncommitted_size: UNDECIDED_SIZE,
        ..Config::default()
    }
}
