//! What goes into a core and what comes out of it.
//!
//! Plain values. Read [`super::Core::handle`] for what the order of actions means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{BootTime, ClaimKey, Guard, NodeName, View, Wanted};
use crate::raft::frame::{Frame, LogEntry};
use crate::raft::sanity::Refusal;
use crate::raft::store::{Hard, Image};

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A peer said something.
    Frame(NodeName, Frame),
    /// What should be held has changed.
    Wanted(Wanted),
    /// The nodes of the source have changed, or where they are reached.
    Nodes(BTreeMap<NodeName, SocketAddr>),
    /// What this node publishes has changed.
    Facts(Vec<u8>),
    /// Write or remove a record, once; the caller repeats.
    Put {
        /// The record's name.
        name: String,
        /// Its value; `None` removes it.
        value: Option<Vec<u8>>,
        /// What this node must hold.
        guard: Guard,
    },
    /// Have the holder of a claim hand it over to this node.
    Move(ClaimKey, NodeName),
    /// Have a node hold nothing, or let it again.
    SetDrained(NodeName, bool),
    /// Give up one claim, to whoever should have it next. The caller has silenced it.
    Release(ClaimKey),
    /// Give up all claims and take none. The caller has silenced them.
    Drain,
    /// Say goodbye, hand leadership on, stop.
    Close,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the fence; `None` is silence at once. Must have taken effect before the next action.
    SetDeadline(Option<BootTime>),
    /// Append to the log on disk. Must be durable before the next action.
    Persist(Batch),
    /// Replace the log on disk. Must be durable before the next action.
    Rewrite(Image),
    /// Say something to a peer; may get lost.
    Send(NodeName, Frame),
    /// The view has changed.
    Publish(Arc<View>),
    /// Something from this node was refused.
    Refused(NodeName, Refusal),
    /// Nothing more will be done; the task may end.
    Stopped,
}

/// What one append to the log on disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Entries; they replace any from the first one's position on.
    pub entries: Vec<LogEntry>,
    /// Raft's numbers, if they changed.
    pub hard: Option<Hard>,
    /// The epoch of this node's session, if it changed.
    pub epoch: Option<u64>,
}
