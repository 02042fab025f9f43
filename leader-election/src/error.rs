//! Why the election could not start or had to stop.
//!
//! Every variant says what was attempted on what and keeps the cause. Nothing here is raised for
//! what a peer sends: bad frames are refused and counted, never fatal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::model::NodeName;
use crate::timing::TimingError;

/// Why the election could not start or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The durations do not go together.
    #[error("timing refused: {0}")]
    Timing(#[from] TimingError),
    /// The node is not among the nodes of the source.
    #[error("node {node} is not among the nodes that are known")]
    UnknownNode {
        /// This node.
        node: NodeName,
    },
    /// Nobody is to vote.
    #[error("no voters given")]
    NoVoters,
    /// More voters than the log and the frames are dimensioned for.
    #[error("{count} voters given, from 1 to {most} are supported")]
    TooManyVoters {
        /// How many were given.
        count: usize,
        /// How many are supported.
        most: usize,
    },
    /// A name that is empty or longer than a node's name can be.
    #[error("node name {name:?} is empty or longer than {most} bytes", most = crate::model::MAX_NODE_NAME)]
    BadName {
        /// The name.
        name: String,
    },
    /// A cluster name that is too long for a frame.
    #[error("cluster name {name:?} is longer than {most} bytes", most = crate::raft::frame::MAX_CLUSTER_NAME)]
    BadCluster {
        /// The name.
        name: String,
    },
    /// The facts are too large to publish.
    #[error("facts of {size} bytes, at most {most} can be published", most = crate::model::MAX_FACTS)]
    FactsTooLarge {
        /// Their size.
        size: usize,
    },
    /// The raft library refused to start.
    #[error("start raft from the log in the state directory: {0}")]
    Raft(#[source] ::raft::Error),
    /// The replicated state in the log's snapshot cannot be read.
    #[error("read the snapshot in the log: {0}")]
    Snapshot(#[source] crate::raft::CodecError),
    /// A file operation on the log failed.
    #[error("{attempt} {path}: {source}")]
    Wal {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log belongs to another node or cluster.
    #[error(
        "{path} is the log of node {found_node} in cluster {found_cluster:?}, not of {node} in \
         {cluster:?}: each node has a state directory of its own; give {node} its own, or an empty one \
         to join afresh"
    )]
    ForeignWal {
        /// The file.
        path: PathBuf,
        /// Whose log it is.
        found_node: NodeName,
        /// Of which cluster.
        found_cluster: String,
        /// This node.
        node: NodeName,
        /// This node's cluster.
        cluster: String,
    },
    /// The log is of another version of Herald.
    #[error(
        "{path} says {found:?}, this version reads {known:?}: remove the state directory to join \
         afresh"
    )]
    WalVersion {
        /// The file.
        path: PathBuf,
        /// What its first record says.
        found: String,
        /// What it would have to say.
        known: &'static str,
    },
    /// The log is damaged in a place that was once safely on disk.
    #[error(
        "{path} is damaged at byte {offset} ({reason}), with good records behind it; a vote or a \
         claim may be missing, so it is not used: remove the state directory to join afresh"
    )]
    DamagedWal {
        /// The file.
        path: PathBuf,
        /// Where the damage starts.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// Another process uses the state directory.
    #[error("{path} is locked: another speaker uses this state directory")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The address for peers cannot be listened on.
    #[error("listen for peers on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The node's address is not this machine's.
    #[error(
        "this machine does not have {address}, the address of node {node}: it is another node's name, \
         or an old address of this one"
    )]
    Elsewhere {
        /// The address.
        address: SocketAddr,
        /// Whose address that is.
        node: NodeName,
    },
    /// A task of the transport ended, which it never does by itself.
    #[error("the transport to the peers stopped: {0}")]
    Transport(String),
}
