//! What goes into a lease core and what comes out of it. Plain values.

use std::sync::Arc;

use crate::lease::object::{Answer, Object, ObjectKey, Version, Write};
use crate::lease::timing::LeaseTiming;
use crate::model::{BootTime, ClaimKey, Guard, NodeName, View, Wanted};

/// Who this node is.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// This node.
    pub node: NodeName,
    /// Where this process and its fence are: the same for a process that starts again in their
    /// reach, another one on any other machine and after the machine has started again. It tells
    /// this node from a second one of its name.
    pub place: String,
    /// How often, how long.
    pub timing: LeaseTiming,
    /// What this node publishes.
    pub facts: Vec<u8>,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum LeaseInput {
    /// Time has passed.
    Tick,
    /// An object as a watch, a list or a read shows it. In any order, and as often as it likes.
    Seen(ObjectKey, Object, Version),
    /// The list is complete: what was not seen by now does not exist.
    Listed,
    /// An object is gone: somebody deleted it.
    Gone(ObjectKey),
    /// What came of a write.
    Answered(u64, Answer),
    /// What should be held has changed.
    Wanted(Wanted),
    /// What this node publishes has changed.
    Facts(Vec<u8>),
    /// Have the holder of a claim hand it over to this node.
    Move(ClaimKey, NodeName),
    /// Have a node hold nothing, or let it again.
    SetDrained(NodeName, bool),
    /// Write or remove a record, while this node holds the guard's claim in its term. A claim has
    /// room for one.
    Put {
        /// Name of the record.
        name: String,
        /// Its value; `None` removes it.
        value: Option<Arc<[u8]>>,
        /// The condition.
        guard: Guard,
    },
    /// Give up one claim, to whoever should have it next. The caller has silenced it.
    Release(ClaimKey),
    /// Give up all claims and take none. The caller has silenced them.
    Drain,
    /// Say goodbye and stop.
    Close,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// Tell people that a speaker elsewhere has this node's name, and this one waits; once for each
    /// such wait.
    Doubled,
    /// Set the fence; `None` is silence at once. Must have taken effect before the next action.
    SetDeadline(Option<BootTime>),
    /// Write an object, if it still is what is expected.
    Write(Write),
    /// Read an object: this node's picture of it proved stale.
    Read(ObjectKey),
    /// The view has changed.
    Publish(Arc<View>),
    /// Nothing more will be done.
    Stopped,
}
