//! Kubernetes' own kube-proxy in a node's namespace (edge), with the rights it has in any cluster:
//! those of a ServiceAccount bound to the role `system:node-proxier`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;

use crate::cluster::control_plane::{HOST, PORT, keys};
use crate::cluster::whole::Cluster;
use crate::lab::process::Process;
use crate::sandbox::SCRATCH;

/// What kube-proxy makes its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `iptables-restore`, whichever iptables the machine has.
    Iptables,
    /// `nft`.
    Nftables,
}

impl Mode {
    /// As the flag has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Makes kube-proxy's account in a cluster; returns its kubeconfig.
///
/// # Errors
///
/// If the API server refuses.
pub fn account(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.apply(ACCOUNT)?;
    let token = ["create", "token", "kube-proxy", "-n", "kube-system", "--duration=24h"];
    let token = cluster.kubectl(&token)?;
    let contents = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
        "clusters": [{"name": "testbed", "cluster": {
            "server": format!("https://{}:{PORT}", HOST.v4()),
            "certificate-authority": keys().join("ca.crt"),
        }}],
        "users": [{"name": "proxy", "user": {"token": token.trim()}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "testbed", "user": "proxy"}}],
    });
    let path = keys().join("kube-proxy.kubeconfig");
    fs::write(&path, contents.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Starts kube-proxy on a node; `kubernetes` is where the testbed's Kubernetes is.
///
/// # Errors
///
/// If it cannot be started.
pub fn start(
    cluster: &Cluster,
    kubernetes: &Path,
    kubeconfig: &Path,
    node: &str,
    mode: Mode,
) -> anyhow::Result<Process> {
    let mut command = Command::new(kubernetes.join("herald-kubernetes"));
    command.args(["kube-proxy", "--hostname-override", node, "--kubeconfig"]).arg(kubeconfig);
    command.args(["--proxy-mode", mode.label()]);
    command.args(["--cluster-cidr", "10.244.0.0/16,fd00:244::/32"]);
    // The size of conntrack's table is the machine's own business, which a namespace cannot change.
    command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
    let name = format!("kube-proxy-{node}");
    let log = Path::new(SCRATCH).join("logs").join(format!("{name}.log"));
    Process::start(&name, command, cluster.lab.netns(node)?, &log)
}

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: kube-proxy, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: testbed-kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{kind: ServiceAccount, name: kube-proxy, namespace: kube-system}]
";
