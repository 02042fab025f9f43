//! Herald on the cluster's nodes (edge): the manifests applied as a person would, and a speaker in
//! each node's namespace with the token of its ServiceAccount, never as administrator.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::Change;
use super::control_plane::{ControlPlane, HOST, PORT, keys};
use crate::lab::Lab;
use crate::lab::process::{Process, built};
use crate::sandbox::{self, SCRATCH};

/// The namespace that the manifests make.
const NAMESPACE: &str = "herald-system";
/// The ServiceAccount in it.
const SERVICE_ACCOUNT: &str = "herald";

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

    /// Does as told.
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
        match change {
            Change::Start => self.start(lab, cluster),
            Change::Stop => self.stop(),
            Change::Restart => {
                self.stop()?;
                self.start(lab, cluster)
            }
        }
    }

    fn start(&mut self, lab: &Lab, cluster: &ControlPlane) -> anyhow::Result<()> {
        let kubeconfig = install(&self.manifests, cluster)?;
        for node in self.nodes.clone() {
            if let Some(speaker) = self.running.get_mut(&node)
                && speaker.status()?.is_none()
            {
                continue;
            }
            let speaker = self.speaker(&node, &kubeconfig, lab)?;
            self.running.insert(node, speaker);
        }
        Ok(())
    }

    fn speaker(&self, node: &str, kubeconfig: &Path, lab: &Lab) -> anyhow::Result<Process> {
        let herald = match std::env::var_os("HERALD_BIN") {
            Some(path) => PathBuf::from(path),
            None => built("herald")?,
        };
        let directory = Path::new(SCRATCH).join(node);
        let pins = directory.join("bpf");
        if !pins.is_dir() {
            sandbox::mount_bpf(&pins)?;
        }
        let mut command = Command::new(herald);
        command.args(["speaker", "--node-name", node]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(["--voters", &self.nodes.join(",")]);
        command.arg("--state-dir").arg(directory.join("state"));
        command.arg("--run-dir").arg(directory.join("run"));
        command.arg("--pin-dir").arg(pins);
        let log = self.logs.join(format!("herald-{node}.log"));
        Process::start(&format!("herald on {node}"), command, lab.netns(node)?, &log)
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

/// JSON is YAML, so any reader of kubeconfigs takes it.
fn write_kubeconfig(token: &str) -> anyhow::Result<PathBuf> {
    let server = format!("https://{}:{PORT}", HOST.v4());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "herald",
        "clusters": [{"name": "testbed", "cluster": {
            "server": server, "certificate-authority": keys().join("ca.crt"),
        }}],
        "users": [{"name": "herald", "user": {"token": token}}],
        "contexts": [{"name": "herald", "context": {"cluster": "testbed", "user": "herald"}}],
    });
    let path = keys().join("herald.kubeconfig");
    fs::write(&path, kubeconfig.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A day, as long as the cluster's own keys last.
const DURATION: &str = "--duration=24h";
/// How long a speaker may take to give its VIPs away.
const LIMIT: Duration = Duration::from_secs(10);
