//! The speaker: the process on a node. Starts the parts, then loops: something changed, decide
//! anew, do what the decision says (`driver`).
//!
//! It must not forward or answer anything by itself; the kernel does, and goes on while this
//! process is away. The order of starting matters: interfaces, source, data plane, then the
//! election, because a claim may be won within milliseconds of it.
//!
//! Read [`decide`] for what is done when.

pub mod carriers;
mod cluster;
pub mod decide;
mod driver;
mod electing;
mod ended;
mod fence;
mod flows;
mod members;
mod moving;
pub mod records;
mod report;
mod slack;
pub mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use herald_announcer::{Announcer, Answering, Links};
use herald_leader_election::{NodeName, Patience, Timing};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::allocator;
use crate::facts::Facts;
use crate::kubernetes::lease::gate;
use crate::metrics;
use crate::source;
use crate::speaker::carriers::{Carriers, Choice};
use crate::speaker::cluster::Cluster;
use crate::speaker::driver::{Driver, Parts, Tasks};
pub use crate::speaker::electing::Election;
use crate::speaker::fence::Fences;
use crate::speaker::flows::Flows;

/// How a speaker is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node, as its Node object is named.
    pub node: String,
    /// Where the cluster is read from.
    pub origin: Origin,
    /// Who decides about claims.
    pub election: Election,
    /// The namespace of Herald's own objects in the API server.
    pub namespace: String,
    /// With raft: the nodes that vote, or how many; the same on each of them. Nothing: as many as
    /// are good.
    pub voters: Vec<String>,
    /// Where raft keeps its log.
    pub state_dir: PathBuf,
    /// Where the status socket is.
    pub run_dir: PathBuf,
    /// Where programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Interfaces to serve; empty: those with the node's addresses.
    pub interfaces: Vec<String>,
    /// The data plane's mode.
    pub datapath: Choice,
    /// How long flows that are open are remembered where a Service's backends changed.
    pub drain: Duration,
    /// One packet of so many is sampled; none with zero.
    pub flow_samples: u32,
    /// Which Services are ours.
    pub allocator: allocator::Config,
    /// Heartbeat and ttl.
    pub timing: Timing,
    /// When raft gives a member up.
    pub patience: Patience,
    /// The key the speakers share; none: they talk in plain text.
    pub key_file: Option<PathBuf>,
    /// The port on which speakers talk to each other.
    pub raft_port: u16,
    /// Where metrics and probes are served.
    pub metrics_listen: Option<SocketAddr>,
    /// What of the cluster is read, and how.
    pub reading: source::kubernetes::Config,
}

/// Where the cluster is read from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A directory of manifests.
    Directory(PathBuf),
    /// The API server that a kubeconfig names, or the one of the cluster around this process.
    Kubernetes(Option<PathBuf>),
}

/// Runs until SIGTERM or SIGINT, which give all claims away first.
///
/// # Errors
///
/// What is missing to start, in one sentence; or the part that failed while running.
pub async fn run(config: Config) -> anyhow::Result<()> {
    electing::check(&config)?;
    let mut end = End::listen()?;
    let (links, links_task) =
        herald_announcer::links::watch().await.context("cannot watch the network interfaces")?;
    let (mut snapshots, source_task, client) = match &config.origin {
        Origin::Directory(directory) => {
            let (snapshots, task) = source::watch_with(directory, config.reading.options).await?;
            (snapshots, task, None)
        }
        Origin::Kubernetes(kubeconfig) => {
            let client = cluster::client(kubeconfig.as_deref()).await?;
            let watch = source::kubernetes::watch(client.clone(), config.reading.clone());
            tokio::select! {
                watched = watch => {
                    let (snapshots, task) = watched?;
                    (snapshots, task, Some(client))
                }
                () = end.asked() => return Ok(()),
            }
        }
    };
    let Some(electorate) = electing::prepare(&config, &mut snapshots, &mut end).await? else {
        return Ok(());
    };
    let observed = snapshots.borrow().observed.clone();
    let node = observed.nodes.get(&config.node);
    let addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
    let first_links: Arc<Links> = links.borrow().clone();
    let interfaces = carriers::choose(&config.interfaces, &config.node, &addresses, &first_links)?;
    let (mut carriers, kernel) =
        Carriers::open(config.datapath, &config.pin_dir, config.drain, &interfaces, &first_links)?;
    let userspace = Arc::new(AtomicU64::new(0));
    let (announcer, announcer_task) =
        Announcer::start(links.clone(), Answering::Userspace, Arc::clone(&userspace));
    let (roll_call, roll_call_task) = herald_announcer::roll_caller::start(links.clone());
    let listener = socket::listen(&config.run_dir)
        .with_context(|| format!("cannot listen at {}", socket::path(&config.run_dir).display()))?;
    let me = NodeName::from(config.node.clone());
    let facts = Facts::of(&first_links, &carriers.carriers()).encode();
    let fences = Fences::new(userspace, kernel);
    let elected = electing::start(&config, electorate, client.clone(), facts, fences.clone())?;
    let election = elected.handle;
    fences.follow(election.view());
    let (requests, report_requests) = mpsc::channel(4);
    let metrics = metrics::server::bind(config.metrics_listen).await?;
    let status_task = tokio::spawn(async move {
        tokio::select! {
            () = socket::serve(listener, requests.clone()) => {}
            () = metrics::server::serve(metrics, requests.clone()) => {}
        }
    });
    tracing::info!(node = %me, interfaces = interfaces.join(","), "speaking");
    let marked = client.clone();
    let (cluster, writer_task) = match client {
        Some(client) => {
            let (cluster, task) =
                Cluster::start(client, &config.namespace, &config.node, election.deadline()).await;
            (Some(cluster), task)
        }
        None => (None, tokio::spawn(std::future::pending())),
    };
    let tasks = Tasks {
        writer_task,
        leases_task: elected.leases_task,
        links_task,
        source_task,
        announcer_task,
        roll_call_task,
        election_task: elected.task,
        status_task,
    };
    let parts = Parts {
        me,
        allocator: config.allocator,
        links,
        snapshots,
        raft_port: config.raft_port,
        flows: Flows::open(carriers.datapath(), config.flow_samples),
        carriers,
        announcer,
        roll_call,
        election,
        fences,
        cluster,
        leases: elected.leases,
        gate: elected.gate,
    };
    let driver = Driver::new(parts);
    let result = driver.run(tasks, report_requests, end).await;
    if let (Election::Raft, Some(client), Ok(())) = (config.election, marked, &result) {
        gate::leave(client, &config.namespace, &NodeName::from(config.node)).await;
    }
    // The socket is ours: a later speaker must not find a file nobody listens on.
    let _ = std::fs::remove_file(socket::path(&config.run_dir));
    result
}

/// The signals that ask for an orderly end.
pub(crate) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
        })
    }

    /// Waits for one.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
