//! Starts the election (edge): checks what was asked for, waits for what it needs to know, then
//! hands over to the back end.
//!
//! It must not decide who holds what; that is `herald_leader_election`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use herald_leader_election::{Error, Handle, Key, NodeName, RaftConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fence::Fences;
use super::{Config, End};
use crate::observed::Observed;
use crate::source::Snapshot;

/// How often a wait for the first manifests is logged.
const REMINDER: Duration = Duration::from_secs(10);

/// The nodes that elect, with their addresses.
pub(super) type Electorate = BTreeMap<NodeName, SocketAddr>;

/// Refuses what cannot work before anything is started.
///
/// # Errors
///
/// The reason.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    config.timing.check()?;
    if !config.voters.contains(&config.node) {
        bail!("node {} is not among --voters {}", config.node, config.voters.join(","));
    }
    Ok(())
}

/// Starts raft; claims may be won at once.
///
/// # Errors
///
/// If the key or the log cannot be read, or the port is taken.
pub(super) fn start(
    config: &Config,
    voters: Electorate,
    facts: Vec<u8>,
    fences: Fences,
) -> anyhow::Result<(Handle, JoinHandle<Result<(), Error>>)> {
    let me = NodeName(config.node.clone());
    let raft = RaftConfig {
        // Speakers of another cluster on the same network have other voters.
        cluster: config.voters.join(","),
        listen: voters[&me],
        node: me,
        voters,
        state_dir: config.state_dir.clone(),
        timing: config.timing,
        facts,
    };
    let key = config.key_file.as_deref().map(Key::read).transpose()?;
    herald_leader_election::start_with_key(raft, key, Box::new(fences))
        .context("cannot start the election")
}

/// The voters' addresses, once all their Node objects are there; `None` if asked to end before.
///
/// # Errors
///
/// If the source's watch ends.
pub(super) async fn prepare(
    config: &Config,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    end: &mut End,
) -> anyhow::Result<Option<Electorate>> {
    loop {
        let missing = match resolve(config, &snapshots.borrow_and_update().observed) {
            Ok(voters) => return Ok(Some(voters)),
            Err(missing) => missing,
        };
        tracing::info!(missing = missing.join(","), "waiting for the voters' Nodes");
        tokio::select! {
            changed = snapshots.changed() => changed.context("the source's watch ended")?,
            () = tokio::time::sleep(REMINDER) => {}
            () = end.asked() => return Ok(None),
        }
    }
}

/// All voters with their addresses, or the names of those without.
fn resolve(config: &Config, observed: &Observed) -> Result<Electorate, Vec<String>> {
    let address = |name: &String| -> Option<IpAddr> {
        observed.nodes.get(name).and_then(|node| node.addresses.first().copied())
    };
    let missing: Vec<String> =
        config.voters.iter().filter(|name| address(name).is_none()).cloned().collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let voter = |name: &String| {
        Some((NodeName(name.clone()), SocketAddr::new(address(name)?, config.raft_port)))
    };
    Ok(config.voters.iter().filter_map(voter).collect())
}
