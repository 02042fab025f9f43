//! A Kubernetes cluster in the lab: a real control plane, the lab's nodes as its Nodes, the lab's
//! pods as its Pods, and an API server that this machine reaches at a loopback address.
//!
//! Unlike the demo's, this lab stays when the command returns: a keeper process in a session of its
//! own holds the private namespaces, and whatever ends the keeper ends all of it. Nothing here may
//! add an interface, a mount or a rule to the machine itself; the one thing seen from outside is a
//! listening socket on 127.0.0.1 that the keeper's first process serves.
//!
//! A test that wants its hands on nodes and processes has all of it within its own process:
//! [`whole`].
//!
//! Read [`whole`] (what a cluster is), then [`outside`] (up, speakers, down, the keeper) and
//! [`inside`] (what the keeper holds).

pub mod audit;
pub mod control_plane;
pub mod inherited;
pub mod inside;
pub mod objects;
pub mod outside;
pub mod relay;
pub mod speakers;
pub mod state;
pub mod whole;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::lab::addresses::NODES;

/// A Kubernetes cluster in the lab.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a cluster and leave it running.
    Up(UpArgs),
    /// Start, stop or restart a speaker on each node.
    Speakers {
        /// What to do.
        #[arg(value_enum)]
        change: Change,
    },
    /// End the cluster and remove all of it.
    Down,
    /// What outlives `up`.
    #[command(hide = true)]
    Keep(inherited::KeepArgs),
    /// The cluster's first process.
    #[command(hide = true)]
    Inside(inherited::KeepArgs),
}

/// How a cluster is started.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Write the administrator's kubeconfig to this file.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// What the cluster is made of.
    #[command(flatten)]
    pub shape: Shape,
}

/// What a cluster is made of.
#[derive(Clone, Debug, Args)]
pub struct Shape {
    /// How many of the lab's nodes are Nodes.
    #[arg(long, value_name = "N", default_value_t = NODES, value_parser = node_count())]
    pub nodes: u8,
    /// Apply the manifests and start a speaker on each node.
    #[arg(long)]
    pub speakers: bool,
    /// Directory with herald-kubernetes and etcd, as testbed/lib/kubernetes.sh prints it.
    #[arg(long, value_name = "DIR", env = "HERALD_KUBERNETES")]
    pub kubernetes: PathBuf,
    /// The directory whose kustomization installs Herald.
    #[arg(long, value_name = "DIR", env = "HERALD_MANIFESTS")]
    pub manifests: PathBuf,
}

/// What happens to the speakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Change {
    /// Apply the manifests and start a speaker on each node that has none.
    Start,
    /// Ask all speakers to end and wait for that.
    Stop,
    /// Stop, then start.
    Restart,
}

fn node_count() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(NODES))
}

/// Runs the command.
///
/// # Errors
///
/// What could not be done, with the end of the log that tells why.
pub fn run(args: ClusterArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Up(args) => outside::up(&args),
        Action::Speakers { change } => outside::order(change),
        Action::Down => outside::down(),
        Action::Keep(args) => outside::keep(&args),
        Action::Inside(args) => inside::run(args),
    }
}
