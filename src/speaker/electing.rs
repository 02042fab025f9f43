//! Starts the election (edge): checks what was asked for, waits for what it needs to know, then
//! hands over to the back end.
//!
//! It must not decide who holds what; that is `herald_leader_election`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use herald_leader_election::lease::{self as by_leases, LeaseConfig, LeaseTiming};
use herald_leader_election::{BootTime, Error, Handle, Key, NodeName, RaftConfig};
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fence::Fences;
use super::{Config, End, Origin, members};
use crate::kubernetes::lease::gate::{Gate, Keeper};
use crate::kubernetes::lease::pulse::Pulse;
use crate::kubernetes::lease::{self as edge, mirror, names};
use crate::source::Snapshot;
use crate::status;

/// Random, made anew whenever the machine starts (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Its inode is the network namespace (namespaces(7)).
const NETWORK: &str = "/proc/self/ns/net";
/// How often a wait for the first manifests is logged.
const REMINDER: Duration = Duration::from_secs(10);

/// Who decides about claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The speakers among themselves.
    Raft,
    /// Leases in the API server.
    Lease(LeaseTiming),
}

/// The nodes that elect.
pub(super) enum Electorate {
    /// By raft: where the nodes are reached, and where this one listens.
    Raft(BTreeMap<NodeName, SocketAddr>, SocketAddr),
    /// By Leases: every node that has a speaker.
    Everybody,
}

/// The running election.
pub(super) struct Started {
    pub handle: Handle,
    pub task: JoinHandle<Result<(), Error>>,
    /// Whoever reads or writes Leases.
    pub leases_task: JoinHandle<()>,
    /// How the API server answers, where Leases decide.
    pub leases: Option<Leases>,
    /// Whether speakers that elect in another way keep this one silent.
    pub gate: watch::Receiver<Gate>,
}

/// What is known about an election by Leases besides its view.
pub(crate) struct Leases {
    namespace: String,
    timing: LeaseTiming,
    pulse: Pulse,
}

/// Refuses what cannot work before anything is started.
///
/// # Errors
///
/// The reason.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let node = &config.node;
    match config.election {
        Election::Raft => config.timing.check()?,
        Election::Lease(timing) => {
            timing.check().context("--lease-ttl and --lease-renew do not go together")?;
            if let Origin::Directory(directory) = &config.origin {
                bail!(
                    "--election lease needs an API server, and --source {} is none: elect by raft",
                    directory.display()
                );
            }
            ensure!(
                node.len() <= names::LONGEST_NODE,
                "node {node} has too long a name for a Lease of its own: elect by raft"
            );
        }
    }
    Ok(())
}

/// Starts the back end; claims may be won at once. `client` is that of the API server, if there is
/// one.
///
/// # Errors
///
/// If the key or the log cannot be read, or the port is taken.
pub(super) fn start(
    config: &Config,
    electorate: Electorate,
    client: Option<Client>,
    facts: Vec<u8>,
    fences: Fences,
) -> anyhow::Result<Started> {
    match (config.election, electorate) {
        (Election::Lease(timing), _) => start_leases(config, timing, client, facts, fences),
        (Election::Raft, Electorate::Raft(nodes, own)) => {
            start_raft(config, nodes, own, client, facts, fences)
        }
        (Election::Raft, Electorate::Everybody) => bail!("raft needs the nodes' addresses"),
    }
}

fn start_raft(
    config: &Config,
    nodes: BTreeMap<NodeName, SocketAddr>,
    own: SocketAddr,
    client: Option<Client>,
    facts: Vec<u8>,
    fences: Fences,
) -> anyhow::Result<Started> {
    let me = NodeName::from(config.node.clone());
    let voters = members::voters(&config.voters);
    let raft = RaftConfig {
        cluster: members::cluster(&voters),
        node: me.clone(),
        listen: own,
        nodes,
        voters,
        patience: config.patience,
        state_dir: config.state_dir.clone(),
        timing: config.timing,
        facts,
    };
    let key = config.key_file.as_deref().map(Key::read).transpose()?;
    let (handle, task) = herald_leader_election::start_with_key(raft, key, Box::new(fences))
        .context("cannot start the election")?;
    let (gate, leases_task) = match client {
        Some(client) => {
            let (keeper, gate) = Keeper::new(client.clone(), &config.namespace, me.clone());
            let mirror = mirror::start(client, &config.namespace, me, handle.view());
            let keeping = keeper.keep_for_raft(config.timing.ttl);
            (gate, tokio::spawn(either(mirror, keeping)))
        }
        // Where there is no API server, nobody elects by Leases.
        None => {
            let (open, gate) = watch::channel(Gate::Open);
            (gate, tokio::spawn(async move { open.closed().await }))
        }
    };
    Ok(Started { handle, task, leases_task, leases: None, gate })
}

fn start_leases(
    config: &Config,
    timing: LeaseTiming,
    client: Option<Client>,
    facts: Vec<u8>,
    fences: Fences,
) -> anyhow::Result<Started> {
    let client = client.context("Leases need an API server")?;
    let node = NodeName::from(config.node.clone());
    let namespace = config.namespace.clone();
    let served = edge::Config { namespace: namespace.clone(), node: node.clone(), timing };
    let (keeper, gate) = Keeper::new(client.clone(), &namespace, node.clone());
    let (channels, pulse, edge_task) = edge::start(client, &served);
    let (handle, task) = by_leases::start(
        LeaseConfig { node, place: place()?, timing, facts },
        channels,
        Box::new(fences),
    )
    .context("cannot start the election")?;
    let keeping = keeper.keep_for_leases(handle.view());
    let leases_task = tokio::spawn(either(edge_task, keeping));
    let leases = Some(Leases { namespace, timing, pulse });
    Ok(Started { handle, task, leases_task, leases, gate })
}

/// Where this process speaks: a network namespace of one run of one machine. Pinned programs that
/// speak for an earlier process are there too.
fn place() -> anyhow::Result<String> {
    let boot =
        std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
    let network =
        std::fs::metadata(NETWORK).with_context(|| format!("cannot look at {NETWORK}"))?;
    Ok(format!("{}/{}", boot.trim(), network.ino()))
}

/// Ends when either does.
async fn either(task: JoinHandle<()>, other: impl Future<Output = ()>) {
    tokio::select! {
        ended = task => if let Err(error) = ended {
            tracing::error!(%error, "a task for Leases crashed");
        },
        () = other => {}
    }
}

impl Leases {
    /// For the report.
    pub(crate) fn status(&self, now: BootTime) -> status::Lease {
        let beat = self.pulse.beat();
        status::Lease {
            namespace: self.namespace.clone(),
            ttl_ms: milliseconds(self.timing.ttl),
            renewed_ms: beat.renewed.map(|renewed| milliseconds(now.since(renewed))),
            silent_ms: beat.outage.as_ref().map(|it| milliseconds(now.since(it.since))),
            silent_why: beat.outage.map(|outage| outage.why),
        }
    }

    /// For the report's counters.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (String, u64)> + use<> {
        let beat = self.pulse.beat();
        let counters = [
            ("lease_requests", beat.requests),
            ("lease_writes", beat.writes),
            ("lease_conflicts", beat.conflicts),
            ("lease_failures", beat.failures),
        ];
        counters.into_iter().map(|(name, count)| (name.to_owned(), count))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Who elects: for raft the nodes that can be reached, once this one's Node object is there; `None`
/// if asked to end before.
///
/// # Errors
///
/// If the source's watch ends.
pub(super) async fn prepare(
    config: &Config,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    end: &mut End,
) -> anyhow::Result<Option<Electorate>> {
    if config.election != Election::Raft {
        return Ok(Some(Electorate::Everybody));
    }
    let me = NodeName::from(config.node.clone());
    loop {
        let nodes = members::reachable(&snapshots.borrow_and_update().observed, config.raft_port);
        if let Some(own) = nodes.get(&me).copied() {
            return Ok(Some(Electorate::Raft(nodes, own)));
        }
        tracing::info!(node = %me, "waiting for the address of this node's Node");
        tokio::select! {
            changed = snapshots.changed() => changed.context("the source's watch ended")?,
            () = tokio::time::sleep(REMINDER) => {}
            () = end.asked() => return Ok(None),
        }
    }
}
