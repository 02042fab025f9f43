//! Who a core is, with whom it decides, and how the raft library is set up for it.
//!
//! Everything follows from names and [`Timing`]; nothing else may be configured, so that no node's
//! library runs on other terms than the argument in [`crate::raft`] assumes.

use std::collections::BTreeSet;
use std::time::Duration;

use ::raft::Config;

use crate::error::Error;
use crate::model::{MAX_FACTS, MAX_NODE_NAME, NodeName};
use crate::raft::frame::MAX_VOTERS;
use crate::raft::membership::Voters;
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
    /// All nodes of the source, this one included.
    pub nodes: BTreeSet<NodeName>,
    /// Which of them vote.
    pub voters: Voters,
    /// Heartbeat and ttl.
    pub timing: Timing,
    /// When a member is given up.
    pub patience: Patience,
    /// What this node publishes.
    pub facts: Vec<u8>,
    /// Source of this node's random numbers; never the same twice.
    pub seed: u64,
}

/// When a member is given up. Long: a node that reboots or is repaired for a moment changes
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A voter silent for so long is replaced by a node that lives, if the voters are automatic.
    pub replace_after: Duration,
    /// A node that has been missing from the source for so long, and has no session, is removed.
    pub forget_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let minutes = Duration::from_secs(300);
        Self { replace_after: minutes, forget_after: minutes }
    }
}

impl CoreConfig {
    /// Refuses what cannot work, before anything is touched.
    ///
    /// # Errors
    /// The first reason found.
    pub fn check(&self) -> Result<(), Error> {
        self.timing.check()?;
        if !self.nodes.contains(&self.node) {
            return Err(Error::UnknownNode { node: self.node.clone() });
        }
        if let Voters::Exactly(names) = &self.voters {
            if names.is_empty() {
                return Err(Error::NoVoters);
            }
            if names.len() > MAX_VOTERS {
                return Err(Error::TooManyVoters { count: names.len(), most: MAX_VOTERS });
            }
        }
        if let Voters::AtMost(most) = self.voters
            && !(1..=MAX_VOTERS).contains(&most)
        {
            return Err(Error::TooManyVoters { count: most, most: MAX_VOTERS });
        }
        if self.facts.len() > MAX_FACTS {
            return Err(Error::FactsTooLarge { size: self.facts.len() });
        }
        let named = match &self.voters {
            Voters::Exactly(names) => names.clone(),
            Voters::Automatic | Voters::AtMost(_) => BTreeSet::new(),
        };
        let bad =
            |node: &&NodeName| node.as_str().is_empty() || node.as_str().len() > MAX_NODE_NAME;
        match self.nodes.iter().chain(&named).find(bad) {
            Some(node) => Err(Error::BadName { name: node.to_string() }),
            None => Ok(()),
        }
    }
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
