//! A whole cluster in the calling thread's private namespaces (edge): the lab, the control plane on
//! its LAN, and Herald's speakers when asked for. `testbed/cluster` keeps one for people; tests and
//! benchmarks build their own and have every part of it at hand.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::Change;
use super::control_plane::{ControlPlane, Extent};
use super::speakers::Speakers;
use crate::clock;
use crate::lab::Lab;
use crate::lab::addresses::nodes;
use crate::sandbox::SCRATCH;
use crate::status::Status;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where herald-kubernetes and etcd are.
    pub kubernetes: PathBuf,
    /// The directory whose kustomization installs Herald.
    pub manifests: PathBuf,
    /// Where the logs go.
    pub logs: PathBuf,
    /// How many of the lab's nodes are Nodes.
    pub nodes: u8,
    /// Where the administrator's kubeconfig finds the API server.
    pub outside: SocketAddr,
    /// What the control plane is asked to bear.
    pub extent: Extent,
}

/// The running cluster. It ends with the value.
#[derive(Debug)]
pub struct Cluster {
    /// The network.
    pub lab: Lab,
    /// Kubernetes.
    pub plane: ControlPlane,
    /// Herald.
    pub speakers: Speakers,
    /// The names of its Nodes.
    pub nodes: Vec<String>,
}

impl Plan {
    /// For a cluster that nobody outside talks to, with its logs in the lab's scratch directory.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub fn private(kubernetes: &Path, manifests: &Path, nodes: u8) -> anyhow::Result<Self> {
        let logs = Path::new(SCRATCH).join("logs");
        fs::create_dir_all(&logs).context("cannot make the directory of logs")?;
        let outside = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (kubernetes, manifests) = (kubernetes.to_owned(), manifests.to_owned());
        Ok(Self { kubernetes, manifests, logs, nodes, outside, extent: Extent::Usual })
    }

    /// Puts the control plane on a lab's LAN and waits until all Nodes and Pods are ready.
    ///
    /// # Errors
    ///
    /// What could not be made, or which part has ended.
    pub fn control_plane(&self, lab: &Lab) -> anyhow::Result<ControlPlane> {
        let nodes = self.nodes();
        let mut plane =
            ControlPlane::prepare(&self.kubernetes, &self.logs, &nodes, self.outside, self.extent)?;
        plane.start_server()?;
        plane.put_pods(&nodes)?;
        plane.start_controllers()?;
        for node in &nodes {
            plane.start_node(node, lab.netns(node)?)?;
        }
        plane.wait_for_nodes(&nodes)?;
        Ok(plane)
    }

    fn nodes(&self) -> Vec<String> {
        nodes().take(usize::from(self.nodes)).collect()
    }
}

impl Cluster {
    /// Builds it and waits until all Nodes and Pods are ready; no speaker runs.
    ///
    /// # Errors
    ///
    /// What could not be made, or which part has ended.
    pub fn build(plan: &Plan) -> anyhow::Result<Self> {
        let lab = Lab::build(&plan.logs)?;
        let nodes = plan.nodes();
        let plane = plan.control_plane(&lab)?;
        let speakers = Speakers::new(&plan.manifests, &plan.logs, &nodes);
        Ok(Self { lab, plane, speakers, nodes })
    }

    /// Starts, stops or restarts all speakers, with the DaemonSet's own arguments.
    ///
    /// # Errors
    ///
    /// If the manifests are refused, or a speaker does not start or end.
    pub fn change(&mut self, change: Change) -> anyhow::Result<()> {
        self.speakers.change(change, &self.lab, &self.plane)
    }

    /// Starts all speakers with these flags and waits until each sees a session of each.
    ///
    /// # Errors
    ///
    /// If one ends, or they are not there in time.
    pub fn start(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        self.speakers.start(flags, &self.lab, &self.plane)?;
        self.wait("all speakers have a session", Duration::from_secs(60), |cluster| {
            let sees_all = |node: &String| {
                let status = cluster.status(node);
                status.is_ok_and(|status| status.open_sessions() == cluster.nodes.len())
            };
            Ok(cluster.nodes.iter().all(sees_all).then_some(()))
        })
    }

    /// Runs kubectl as administrator.
    ///
    /// # Errors
    ///
    /// What kubectl said.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.plane.kubectl(arguments, None)
    }

    /// Applies manifests as a person does.
    ///
    /// # Errors
    ///
    /// What kubectl said.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.plane.kubectl(&["apply", "-f", "-"], Some(manifests))
    }

    /// Objects as kubectl gets them.
    ///
    /// # Errors
    ///
    /// What kubectl said.
    pub fn get(&self, what: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], what].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// What a node's speaker reports.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn status(&self, node: &str) -> anyhow::Result<Status> {
        self.speakers.status(node)
    }

    /// Waits until there are so many VIPs, each announced by the holder that all Nodes' speakers
    /// agree on, and returns the holders.
    ///
    /// # Errors
    ///
    /// As [`Cluster::wait`].
    pub fn announced(
        &mut self,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<BTreeMap<IpAddr, String>> {
        let what = format!("{count} VIPs are announced by their holders");
        self.wait(&what, limit, |cluster| {
            let mut statuses = BTreeMap::new();
            for node in &cluster.nodes {
                // One that is being started does not answer yet.
                let Ok(status) = cluster.status(node) else { return Ok(None) };
                statuses.insert(node.as_str(), status);
            }
            let Some(holders) = statuses.values().next().map(Status::holders) else {
                return Ok(None);
            };
            let agreed = statuses.values().all(|status| status.holders() == holders);
            let spoken = holders.iter().all(|(vip, holder)| {
                let own = statuses.get(holder.as_str()).and_then(|it| it.vip(*vip));
                own.is_some_and(|vip| vip.announcing)
            });
            Ok((holders.len() == count && agreed && spoken).then_some(holders))
        })
    }

    /// Waits, and fails at once when a part of the cluster ends meanwhile.
    ///
    /// # Errors
    ///
    /// What did not happen in time.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        clock::await_for(what, limit, || {
            self.plane.check()?;
            self.speakers.check()?;
            ask(self)
        })
    }

    /// The last lines of every log that says what Herald and the API server did.
    pub fn logs(&self) -> String {
        let mut text = self.speakers.logs();
        text += &self.plane.logs();
        text
    }
}
