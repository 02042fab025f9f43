//! What a decision means for the API server (edge): Service status and reports while this node is
//! the allocator, ServiceL2Status and ConfigurationState about this node always.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use herald_announcer::Conflict;
use herald_leader_election::BootTime;
use herald_leader_election::pace::Pace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::kubernetes::report::{self, Component, Foreign, Held, Verdict};
use crate::kubernetes::writer::{self, Tally, Wanted};
use crate::source::Snapshot;
use crate::speaker::decide::Decision;

/// The writer's customer.
pub(crate) struct Cluster {
    /// The namespace of Herald's own objects.
    namespace: String,
    node: String,
    wanted: watch::Sender<Arc<Wanted>>,
    tally: Tally,
    /// ServiceL2Status objects that an earlier process left.
    known: BTreeSet<String>,
    since: BTreeMap<IpAddr, String>,
    verdict: Verdict,
    /// How many Services had addresses when last seen.
    given: Option<usize>,
    pace: Pace,
}

/// In a burst of changes the API server is told at least this often. Telling it costs more than
/// what clients wait for: ten thousand writes are made up and compared with those that wait
/// already.
const MOST: Duration = Duration::from_secs(3);

/// A client for the cluster that `kubeconfig` names, or for the one this process runs in.
///
/// # Errors
///
/// If the file cannot be read, or there is neither a file nor a cluster around us.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("this is no pod of a cluster; give --source DIR, or --kubeconfig FILE")?,
    };
    Client::try_from(config).context("cannot make a client for the API server")
}

impl Cluster {
    /// Starts the writer.
    pub(crate) async fn start(
        client: Client,
        namespace: &str,
        node: &str,
        deadline: watch::Receiver<Option<BootTime>>,
    ) -> (Self, JoinHandle<()>) {
        // Unreadable now, they are found stale by the next process.
        let known = match writer::left_behind(client.clone(), namespace, node).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "cannot read what an earlier speaker reported");
                BTreeSet::new()
            }
        };
        // Until the first decision nobody can say whether the configuration is good.
        let verdict = Verdict::unknown(&writer::now_text());
        let state = report::configuration(Component::Speaker(node), namespace, &verdict);
        let first = Wanted { node: vec![state], ..Wanted::default() };
        let (wanted, receiver) = watch::channel(Arc::new(first));
        let tally = Tally::default();
        let task = writer::start(client, receiver, deadline, tally.clone());
        let (namespace, node) = (namespace.to_owned(), node.to_owned());
        (
            Self {
                namespace,
                node,
                wanted,
                tally,
                known,
                since: BTreeMap::new(),
                verdict,
                given: None,
                pace: Pace::waiting_at_most(MOST),
            },
            task,
        )
    }

    /// For the report's counters.
    pub(crate) fn counters(&self) -> [(String, u64); 2] {
        let Self { tally, .. } = self;
        [("api_updates", tally.updates()), ("api_update_errors", tally.errors())]
            .map(|(name, count)| (name.to_owned(), count))
    }

    /// How long the next decision need not be told; zero when it should be.
    pub(crate) fn rest(&self, now: BootTime) -> Duration {
        self.pace.wait(now)
    }

    /// Whether writes of an allocator are on their way, which this node was when last told.
    pub(crate) fn allocates(&self) -> bool {
        !self.wanted.borrow().allocator.is_empty()
    }

    /// A decision that was told took so long, with all that led to it.
    pub(crate) fn spend(&mut self, took: Duration, now: BootTime) {
        self.pace.spend(took, now);
    }

    /// Hands the writer what follows from a decision.
    pub(crate) fn follow(
        &mut self,
        snapshot: &Snapshot,
        decision: &Decision,
        conflicts: &BTreeMap<IpAddr, Conflict>,
    ) {
        let now = writer::now_text();
        self.verdict = self.verdict.next(&snapshot.problems, &now);
        let observed = &snapshot.observed;
        let mut allocator = Vec::new();
        if let Some(plan) = &decision.plan {
            allocator = report::writes(observed, plan, &now);
            allocator.extend(report::policies(observed, &snapshot.problems, &now));
            allocator.extend(report::faults(observed, &snapshot.problems));
            allocator.extend(report::unannounced(observed, &decision.vips));
            let controller = Component::Controller;
            allocator.push(report::configuration(controller, &self.namespace, &self.verdict));
        }
        let held = self.held(decision, &now);
        let mut node = report::announced(&self.node, &self.namespace, observed, &held, &self.known);
        let foreign = conflicts.iter().map(|(vip, found)| (*vip, foreign(found))).collect();
        node.extend(report::conflicts(&self.node, observed, &decision.vips, &foreign));
        let speaker = Component::Speaker(&self.node);
        node.push(report::configuration(speaker, &self.namespace, &self.verdict));
        // Addresses are being given, here or by another speaker.
        let has_given = decision.current.len() > self.given.unwrap_or(usize::MAX);
        self.given = Some(decision.current.len());
        let changes = decision.plan.iter().flat_map(|plan| &plan.changes);
        let is_busy = has_given || changes.into_iter().any(|change| change.to.is_some());
        self.wanted.send_replace(Arc::new(Wanted { allocator, node, is_busy }));
    }

    fn held(&mut self, decision: &Decision, now: &str) -> BTreeMap<IpAddr, Held> {
        let announced = &decision.announced.vips;
        self.since.retain(|vip, _| announced.contains_key(vip));
        let mut held = BTreeMap::new();
        for (vip, interfaces) in announced {
            let since = self.since.entry(*vip).or_insert_with(|| now.to_owned()).clone();
            let mac = |name: &String| {
                let ours = decision.facts.interfaces.iter().find(|ours| ours.name == *name);
                (name.clone(), ours.map(|ours| ours.mac.clone()))
            };
            let wanted = decision.vips.get(vip);
            let services = wanted.map(|wanted| wanted.services.clone()).unwrap_or_default();
            let interfaces = interfaces.iter().map(mac).collect();
            held.insert(*vip, Held { services, interfaces, since });
        }
        held
    }
}

fn foreign(found: &Conflict) -> Foreign {
    Foreign {
        mac: found.mac.to_string(),
        interface: found.interface.clone(),
        state: found.state.label(),
    }
}
