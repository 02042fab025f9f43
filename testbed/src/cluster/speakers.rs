//! Herald on the cluster's nodes (edge): the manifests applied as a person would, and a speaker in
//! each node's namespace with the token of its ServiceAccount, never as administrator.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::Change;
use super::control_plane::{ControlPlane, HOST, PORT, keys, tail};
use crate::lab::Lab;
use crate::lab::confinement::Confinement;
use crate::lab::process::{Process, built};
use crate::sandbox::{self, SCRATCH};
use crate::status::Status;

/// The namespace that the manifests make.
const NAMESPACE: &str = "herald-system";
/// The ServiceAccount in it.
const SERVICE_ACCOUNT: &str = "herald";
/// The DaemonSet in it.
const DAEMON_SET: &str = "herald";

/// The speakers that run.
#[derive(Debug)]
pub struct Speakers {
    manifests: PathBuf,
    logs: PathBuf,
    nodes: Vec<String>,
    running: BTreeMap<String, Process>,
}

impl Speakers {
    /// None yet.
    pub fn new(manifests: &Path, logs: &Path, nodes: &[String]) -> Self {
        let (manifests, logs) = (manifests.to_owned(), logs.to_owned());
        Self { manifests, logs, nodes: nodes.to_owned(), running: BTreeMap::new() }
    }

    /// Does as told; speakers are started with the DaemonSet's own arguments.
    ///
    /// # Errors
    ///
    /// If the manifests are refused, or a speaker does not start or end.
    pub fn change(
        &mut self,
        change: Change,
        lab: &Lab,
        cluster: &ControlPlane,
    ) -> anyhow::Result<()> {
        if change != Change::Start {
            self.stop()?;
        }
        if change != Change::Stop {
            let kubeconfig = self.install(cluster)?;
            let container = Container::of(cluster)?;
            let flags: Vec<&str> = container.flags.iter().map(String::as_str).collect();
            self.start_on_all(&flags, &kubeconfig, &container, lab)?;
        }
        Ok(())
    }

    /// Applies the manifests and writes the kubeconfig of their ServiceAccount.
    ///
    /// # Errors
    ///
    /// If the manifests are refused.
    pub fn install(&self, cluster: &ControlPlane) -> anyhow::Result<PathBuf> {
        install(&self.manifests, cluster)
    }

    /// Applies the manifests and starts a speaker with further flags on each node that has none.
    ///
    /// # Errors
    ///
    /// If the manifests are refused, or a speaker does not start.
    pub fn start(
        &mut self,
        flags: &[&str],
        lab: &Lab,
        cluster: &ControlPlane,
    ) -> anyhow::Result<()> {
        let kubeconfig = self.install(cluster)?;
        self.start_on_all(flags, &kubeconfig, &Container::of(cluster)?, lab)
    }

    fn start_on_all(
        &mut self,
        flags: &[&str],
        kubeconfig: &Path,
        container: &Container,
        lab: &Lab,
    ) -> anyhow::Result<()> {
        for node in self.nodes.clone() {
            if let Some(speaker) = self.running.get_mut(&node)
                && speaker.status()?.is_none()
            {
                continue;
            }
            let command = command(&node, &node, flags, kubeconfig)?;
            let speaker = self.spawn(&node, command, container, lab)?;
            self.running.insert(node, speaker);
        }
        Ok(())
    }

    /// A speaker in its node's namespace, with no more capabilities than the DaemonSet gives it.
    fn spawn(
        &self,
        node: &str,
        command: Command,
        container: &Container,
        lab: &Lab,
    ) -> anyhow::Result<Process> {
        let (name, log) = (format!("herald on {node}"), self.log_file(node));
        let confinement = Some(container.confinement.clone());
        Process::start_confined(&name, command, lab.netns(node)?, &log, confinement)
    }

    /// Starts a speaker on a node that has none; it calls itself `name`.
    ///
    /// # Errors
    ///
    /// If the manifests are refused, or it does not start.
    pub fn start_as(
        &mut self,
        name: &str,
        node: &str,
        flags: &[&str],
        lab: &Lab,
        cluster: &ControlPlane,
    ) -> anyhow::Result<()> {
        let kubeconfig = self.install(cluster)?;
        let command = command(name, node, flags, &kubeconfig)?;
        let speaker = self.spawn(node, command, &Container::of(cluster)?, lab)?;
        self.running.insert(node.to_owned(), speaker);
        Ok(())
    }

    fn log_file(&self, node: &str) -> PathBuf {
        self.logs.join(format!("herald-{node}.log"))
    }

    /// A node's speaker.
    ///
    /// # Errors
    ///
    /// If none runs there.
    pub fn on(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.running.get_mut(node).with_context(|| format!("no speaker runs on {node}"))
    }

    /// Fails if a speaker has ended by itself.
    ///
    /// # Errors
    ///
    /// Which one, and how.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (node, speaker) in &mut self.running {
            if let Some(status) = speaker.status()? {
                bail!("the speaker on {node} has ended: {status}");
            }
        }
        Ok(())
    }

    /// What a node's speaker reports.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn status(&self, node: &str) -> anyhow::Result<Status> {
        let text = self.ask(node, "json")?;
        serde_json::from_str(&text).with_context(|| format!("cannot read the status of {node}"))
    }

    /// The same for people.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn status_text(&self, node: &str) -> anyhow::Result<String> {
        self.ask(node, "table")
    }

    fn ask(&self, node: &str, output: &str) -> anyhow::Result<String> {
        let said = self.command(node, &["status", "--output", output]);
        said.with_context(|| format!("no status of {node}"))
    }

    /// Runs a `herald` command that asks a node's speaker, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn command(&self, node: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(herald()?);
        command.args(arguments).arg("--run-dir").arg(run_dir(node)).stdin(Stdio::null());
        let output =
            command.output().with_context(|| format!("cannot run herald {arguments:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "herald {arguments:?} failed: {}", said.trim());
        String::from_utf8(output.stdout).context("strange bytes were printed")
    }

    /// Asks a node's speaker to end and waits for that.
    ///
    /// # Errors
    ///
    /// If none runs there, or it does not end within `limit`.
    pub fn stop_on(&mut self, node: &str, limit: Duration) -> anyhow::Result<()> {
        self.on(node)?.terminate(limit)?;
        self.running.remove(node);
        Ok(())
    }

    /// All that a node's speakers have logged.
    pub fn log(&self, node: &str) -> String {
        fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// The last lines of each log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            text += &format!("--- the speaker on {node}:\n{}\n", tail(&self.log(node)));
        }
        text
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        while let Some((node, mut speaker)) = self.running.pop_first() {
            // One that has ended by itself needs no asking.
            if speaker.status()?.is_none()
                && let Err(error) = speaker.terminate(LIMIT)
            {
                failed.push(format!("{node}: {error:#}"));
            }
        }
        if !failed.is_empty() {
            bail!("not all speakers ended when asked to: {}", failed.join("; "));
        }
        Ok(())
    }
}

/// Applies the manifests as a person would; returns the kubeconfig of the speakers' ServiceAccount.
///
/// # Errors
///
/// If the API server refuses.
pub fn install(manifests: &Path, cluster: &ControlPlane) -> anyhow::Result<PathBuf> {
    kustomization(manifests)?;
    let manifests = manifests.display().to_string();
    cluster.kubectl(&["apply", "-k", &manifests], None)?;
    let token =
        cluster.kubectl(&["create", "token", SERVICE_ACCOUNT, "-n", NAMESPACE, DURATION], None)?;
    write_kubeconfig(token.trim())
}

/// Fails in one sentence where there is nothing to apply.
///
/// # Errors
///
/// If the directory holds no kustomization.
pub fn kustomization(manifests: &Path) -> anyhow::Result<()> {
    let file = manifests.join("kustomization.yaml");
    ensure!(file.is_file(), "speakers cannot be started yet: there is no {}", file.display());
    Ok(())
}

/// The program itself.
///
/// # Errors
///
/// If it is not built.
pub fn herald() -> anyhow::Result<PathBuf> {
    match std::env::var_os("HERALD_BIN") {
        Some(path) => Ok(path.into()),
        None => built("herald"),
    }
}

/// What the installed DaemonSet says about the speaker's process.
#[derive(Debug)]
pub struct Container {
    /// The speaker's flags.
    pub flags: Vec<String>,
    /// The capabilities that it has.
    pub confinement: Confinement,
}

impl Container {
    /// As the API server has it.
    ///
    /// # Errors
    ///
    /// If there is no DaemonSet, or it is none of Herald's.
    pub fn of(cluster: &ControlPlane) -> anyhow::Result<Self> {
        let what = ["get", "daemonset", DAEMON_SET, "-n", NAMESPACE, "-o", "json"];
        let daemon_set: Value = serde_json::from_str(&cluster.kubectl(&what, None)?)?;
        let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
        let texts = |list: &Value| -> Option<Vec<String>> {
            list.as_array()?.iter().map(|it| it.as_str().map(str::to_owned)).collect()
        };
        let mut flags = texts(&container["args"]).context("the DaemonSet gives no arguments")?;
        ensure!(flags.first().is_some_and(|it| it == "speaker"), "it runs no speaker: {flags:?}");
        flags.remove(0);
        let added = &container["securityContext"]["capabilities"]["add"];
        let added = texts(added).context("the DaemonSet lists no capabilities")?;
        let confinement = Confinement::to(added.iter().map(String::as_str))?;
        Ok(Self { flags, confinement })
    }
}

/// A speaker on the machine of `node` that calls itself `name`.
fn command(name: &str, node: &str, flags: &[&str], kubeconfig: &Path) -> anyhow::Result<Command> {
    let directory = Path::new(SCRATCH).join(node);
    let pins = directory.join("bpf");
    if !pins.is_dir() {
        sandbox::mount_bpf(&pins)?;
    }
    let mut command = Command::new(herald()?);
    command.args(["speaker", "--node-name", name]);
    command.arg("--kubeconfig").arg(kubeconfig);
    command.arg("--state-dir").arg(directory.join("state"));
    command.arg("--run-dir").arg(run_dir(node));
    command.arg("--pin-dir").arg(pins).args(flags);
    Ok(command)
}

fn run_dir(node: &str) -> PathBuf {
    Path::new(SCRATCH).join(node).join("run")
}

/// The kubeconfig of Herald's ServiceAccount, once speakers have been started.
pub fn kubeconfig() -> PathBuf {
    keys().join("herald.kubeconfig")
}

/// JSON is YAML, so any reader of kubeconfigs takes it.
fn write_kubeconfig(token: &str) -> anyhow::Result<PathBuf> {
    let server = format!("https://{}:{PORT}", HOST.v4());
    let contents = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "herald",
        "clusters": [{"name": "testbed", "cluster": {
            "server": server, "certificate-authority": keys().join("ca.crt"),
        }}],
        "users": [{"name": "herald", "user": {"token": token}}],
        "contexts": [{"name": "herald", "context": {"cluster": "testbed", "user": "herald"}}],
    });
    let path = kubeconfig();
    fs::write(&path, contents.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A day, as long as the cluster's own keys last.
const DURATION: &str = "--duration=24h";
/// How long a speaker may take to give its VIPs away.
const LIMIT: Duration = Duration::from_secs(10);
