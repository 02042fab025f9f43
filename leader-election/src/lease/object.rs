//! What stands in the API server: one object for each node's session, one for each claim.
//!
//! Plain values; the edge turns them into `coordination.k8s.io/v1` Lease objects and back. A
//! [`Version`] is opaque (Kubernetes' resourceVersion): it may only be compared for equality, and
//! handed back with a write, which then happens only if the object still has it.

use std::fmt;
use std::sync::Arc;

use crate::model::{ClaimKey, NodeName, SessionState};

/// Which writing of an object this is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub Arc<str>);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The session of a node.
    Session(NodeName),
    /// The claim on a key.
    Claim(ClaimKey),
}

/// A node's session, as it stands in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionObject {
    /// Grows with every process of the node and every return after a revocation.
    pub epoch: u64,
    /// The first epoch since the session last ended: claims of any epoch from here on are alive
    /// while the session is open, so that a process that restarts in time keeps what it held.
    pub since: u64,
    /// Open, or how it ended.
    pub state: SessionState,
    /// Where its process and its fence are ([`super::LeaseConfig::place`]); empty if it does not
    /// say.
    pub place: Arc<str>,
    /// Number of the renewal, by which its sender recognises it.
    pub renewal: u64,
    /// The node gives everything away and takes nothing.
    pub draining: bool,
    /// Somebody wants the node to hold nothing.
    pub drained: bool,
    /// What the node publishes.
    pub facts: Arc<[u8]>,
}

/// A claim, as it stands in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimObject {
    /// The session that holds it: node and epoch.
    pub holder: Option<(NodeName, u64)>,
    /// Fencing number; grows by one with every new holder.
    pub term: u64,
    /// The node the holder is asked to hand it over to.
    pub move_to: Option<NodeName>,
    /// The one record that goes with a claim, by its name. It stays when the holder changes.
    pub record: Option<(String, Arc<[u8]>)>,
}

/// The content of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A node's session.
    Session(SessionObject),
    /// A claim.
    Claim(ClaimObject),
}

/// One write, to be done only if nobody else has written since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Ties the answer to it.
    pub id: u64,
    /// Which object.
    pub key: ObjectKey,
    /// The version it must have; `None`: it must not exist yet.
    pub expected: Option<Version>,
    /// What it is to be.
    pub object: Object,
}

/// What the API server said to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done; the object's version now.
    Written(Version),
    /// Somebody else wrote before, or the object exists (HTTP 409). What it is now comes by the
    /// watch, or with a read that the edge does at once.
    Conflict,
    /// No answer, or one that says neither: the write may have happened, or may still happen.
    Unknown,
}
