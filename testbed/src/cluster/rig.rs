//! A cluster within the calling process (edge), for tests that cut nodes off, stop processes and
//! look at packets: the lab, a real control plane, speakers with the rights of their ServiceAccount.
//!
//! Everything is in private namespaces of the calling thread and ends with the value.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::control_plane::{ControlPlane, Extent, PORT};
use super::speakers;
use crate::clock;
use crate::lab::Lab;
use crate::lab::addresses::nodes;
use crate::lab::process::{Process, built};
use crate::sandbox::{self, SCRATCH};
use crate::status::Status;

/// The cluster.
#[derive(Debug)]
pub struct Rig {
    /// The network.
    pub lab: Lab,
    /// The control plane.
    pub cluster: ControlPlane,
    herald: PathBuf,
    kubeconfig: PathBuf,
    logs: PathBuf,
    speakers: BTreeMap<String, Process>,
}

/// Runs a test with a cluster of all the lab's nodes, the manifests applied and no speaker yet.
///
/// # Errors
///
/// What the test returns, or what could not be made. The ends of the logs are printed then, and
/// after a panic.
pub fn in_cluster(test: impl FnOnce(&mut Rig) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let kubernetes = kubernetes()?;
    sandbox::enter()?;
    let mut rig = Rig::build(&kubernetes)?;
    // Nothing is used after a panic but the logs.
    let result = catch_unwind(AssertUnwindSafe(|| test(&mut rig)));
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", rig.logs());
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Rig {
    fn build(kubernetes: &Path) -> anyhow::Result<Self> {
        let herald = match std::env::var_os("HERALD_BIN") {
            Some(path) => PathBuf::from(path),
            None => built("herald")?,
        };
        let logs = Path::new(SCRATCH).join("logs");
        fs::create_dir_all(&logs).context("cannot make the directory of logs")?;
        let lab = Lab::build(&logs)?;
        let nodes: Vec<String> = nodes().collect();
        // Nobody comes from outside.
        let outside = SocketAddr::from(([127, 0, 0, 1], PORT));
        let mut cluster = ControlPlane::prepare(kubernetes, &logs, &nodes, outside, Extent::Usual)?;
        cluster.start_server()?;
        cluster.put_pods(&nodes)?;
        cluster.start_controllers()?;
        for node in &nodes {
            cluster.start_node(node, lab.netns(node)?)?;
            sandbox::mount_bpf(&directory(node).join("bpf"))?;
        }
        cluster.wait_for_nodes(&nodes)?;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        let kubeconfig = speakers::install(&manifests, &cluster)?;
        Ok(Self { lab, cluster, herald, kubeconfig, logs, speakers: BTreeMap::new() })
    }

    /// Starts a node's speaker with further flags.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start(&mut self, node: &str, flags: &[&str]) -> anyhow::Result<()> {
        let directory = directory(node);
        let mut command = Command::new(&self.herald);
        command.args(["speaker", "--node-name", node]);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--state-dir").arg(directory.join("state"));
        command.arg("--run-dir").arg(directory.join("run"));
        command.arg("--pin-dir").arg(directory.join("bpf"));
        command.args(flags);
        let name = format!("herald on {node}");
        let log = self.logs.join(format!("herald-{node}.log"));
        let speaker = Process::start(&name, command, self.lab.netns(node)?, &log)?;
        self.speakers.insert(node.to_owned(), speaker);
        Ok(())
    }

    /// Starts all speakers with further flags and waits until each sees a session of each.
    ///
    /// # Errors
    ///
    /// If one ends, or they are not there in time.
    pub fn start_all(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        for node in nodes() {
            self.start(&node, flags)?;
        }
        self.wait("all speakers have a session", 60, |rig| {
            let all = nodes().all(|node| {
                rig.status(&node).is_ok_and(|status| status.open_sessions() == nodes().count())
            });
            Ok(all.then_some(()))
        })
    }

    /// A node's speaker.
    ///
    /// # Errors
    ///
    /// If none was started.
    pub fn speaker(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.speakers.get_mut(node).with_context(|| format!("no speaker was started on {node}"))
    }

    /// Asks a node's speaker to end and waits for that.
    ///
    /// # Errors
    ///
    /// If it does not within so many seconds.
    pub fn stop(&mut self, node: &str, seconds: u64) -> anyhow::Result<()> {
        self.speaker(node)?.terminate(Duration::from_secs(seconds))?;
        self.speakers.remove(node);
        Ok(())
    }

    /// What a node's speaker says about itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn status(&self, node: &str) -> anyhow::Result<Status> {
        let text = self.herald_status(node, "json")?;
        serde_json::from_str(&text).with_context(|| format!("cannot read the status of {node}"))
    }

    /// The same for people.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn status_text(&self, node: &str) -> anyhow::Result<String> {
        self.herald_status(node, "table")
    }

    fn herald_status(&self, node: &str, output: &str) -> anyhow::Result<String> {
        let mut command = Command::new(&self.herald);
        command.args(["status", "--output", output, "--run-dir"]);
        command.arg(directory(node).join("run")).stdin(Stdio::null());
        let output = command.output().context("cannot run herald status")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no status of {node}: {}", said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits for something, but no longer than all that was started runs.
    ///
    /// # Errors
    ///
    /// If it does not happen within so many seconds, or a process has ended by itself.
    pub fn wait<T>(
        &mut self,
        what: &str,
        seconds: u64,
        mut ask: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        clock::await_for(what, Duration::from_secs(seconds), || {
            self.cluster.check()?;
            for (node, speaker) in &mut self.speakers {
                if let Some(status) = speaker.status()? {
                    bail!("the speaker on {node} ended while {what} was waited for: {status}");
                }
            }
            ask(self)
        })
    }

    /// The last lines of every speaker's log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (node, speaker) in &self.speakers {
            let log = speaker.output();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            text += &format!("--- the speaker on {node}, last {} lines:\n", tail.len());
            text += &tail.join("\n");
            text.push('\n');
        }
        text
    }
}

fn directory(node: &str) -> PathBuf {
    Path::new(SCRATCH).join(node)
}

/// The programs of the control plane, built if need be.
fn kubernetes() -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("HERALD_KUBERNETES") {
        return Ok(directory.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib/kubernetes.sh");
    ensure!(Command::new(&script).status()?.success(), "Kubernetes could not be built");
    let output = Command::new(&script).arg("--directory").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// How much of a log is shown when something failed.
const LOG_LINES: usize = 40;
