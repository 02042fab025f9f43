//! The cluster of the testbed is a real one: Services get EndpointSlices from Kubernetes' own
//! controllers, and nothing of it is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::clock;
use herald_testbed::cluster::objects::{ECHO, POOL};
use serde_json::Value;

/// Left to the scheduler, which has one node to choose from.
const POD: &str = r#"{
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "later", "namespace": "default", "labels": {"app": "echo"}},
    "spec": {
        "nodeSelector": {"kubernetes.io/hostname": "n1"},
        "containers": [{"name": "echo", "image": "herald.invalid/lab-pod"}]
    }
}"#;

#[test]
fn a_service_gets_endpoint_slices_from_real_controllers() -> anyhow::Result<()> {
    let before = traces()?;
    let cluster = Cluster::up("slices", &["--nodes", "2"])?;
    let nodes = cluster.get(&["nodes"])?;
    let addresses = nodes["items"].as_array().context("no nodes")?.iter().map(|node| {
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        addresses.filter_map(|address| address["address"].as_str()).collect::<Vec<_>>().join(" ")
    });
    assert_eq!(
        addresses.collect::<Vec<_>>(),
        ["192.168.1.11 fd00:1::11 n1", "192.168.1.12 fd00:1::12 n2"]
    );

    cluster.kubectl(&["create", "-f", "-"], ECHO)?;
    cluster.wait_for_endpoints(&[
        "IPv4 10.244.1.2 n1 n1-p1",
        "IPv4 10.244.1.3 n1 n1-p2",
        "IPv4 10.244.2.2 n2 n2-p1",
        "IPv4 10.244.2.3 n2 n2-p2",
        "IPv6 fd00:244:1::2 n1 n1-p1",
        "IPv6 fd00:244:1::3 n1 n1-p2",
        "IPv6 fd00:244:2::2 n2 n2-p1",
        "IPv6 fd00:244:2::3 n2 n2-p2",
    ])?;

    cluster.kubectl(&["delete", "pod", "n1-p1", "n2-p1", "n2-p2", "--wait=false"], "")?;
    cluster.wait_for_endpoints(&["IPv4 10.244.1.3 n1 n1-p2", "IPv6 fd00:244:1::3 n1 n1-p2"])?;
    cluster.kubectl(&["create", "-f", "-"], POD)?;
    cluster.wait_for_endpoints(&[
        "IPv4 10.244.1.2 n1 later",
        "IPv4 10.244.1.3 n1 n1-p2",
        "IPv6 fd00:244:1::2 n1 later",
        "IPv6 fd00:244:1::3 n1 n1-p2",
    ])?;

    cluster.kubectl(&["annotate", "pod", "n1-p2", "testbed.herald/ready=false"], "")?;
    cluster.wait_for_endpoints(&["IPv4 10.244.1.2 n1 later", "IPv6 fd00:244:1::2 n1 later"])?;

    let second = cluster.lab(&["up", "--kubeconfig", "/dev/null"])?;
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"), "{second:?}");
    let running = processes(&cluster.runtime)?;
    for part in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "n2-p2"] {
        assert!(running.iter().any(|command| command.contains(part)), "{part}: {running:#?}");
    }
    cluster.down()?;
    assert_nothing_left(&cluster.runtime, &before)
}

#[test]
fn a_pool_of_metallb_gives_a_service_addresses_that_are_announced() -> anyhow::Result<()> {
    let cluster = Cluster::up("pool", &["--nodes", "3", "--speakers"])?;
    cluster.kubectl(&["create", "-f", "-"], POOL)?;
    cluster.kubectl(&["create", "-f", "-"], ECHO)?;
    let ingress = clock::await_for("the Service has addresses", LIMIT, || {
        let service = cluster.get(&["service", "echo"])?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned();
        Ok(ingress.filter(|ingress| !ingress.is_empty()))
    })?;
    let addresses: Vec<_> = ingress.iter().filter_map(|entry| entry["ip"].as_str()).collect();
    assert_eq!(addresses, ["192.168.1.240", "fd00:1::f0"]);
    clock::await_for("a node says that it announces them", LIMIT, || {
        let statuses = cluster.get(&["servicel2statuses", "-n", "herald-system"])?;
        let first = &statuses["items"][0]["status"];
        let is_ours = first["serviceName"] == "echo" && first["node"].is_string();
        Ok(is_ours.then_some(()))
    })?;
    for (change, running) in [("stop", 0), ("start", 3), ("restart", 3)] {
        let output = cluster.lab(&["speakers", change])?;
        assert!(output.status.success(), "{change}: {output:?}");
        let processes = processes(&cluster.runtime)?;
        let speakers = processes.iter().filter(|command| command.contains(" speaker --node-name "));
        assert_eq!(speakers.count(), running, "{change}: {processes:#?}");
    }
    let wrong = cluster.lab(&["speakers", "pause"])?;
    assert!(!wrong.status.success());
    cluster.down()
}

#[test]
fn an_interrupted_start_leaves_nothing() -> anyhow::Result<()> {
    let before = traces()?;
    let cluster = Cluster::prepare("interrupt")?;
    let mut command = cluster.command(&["up", "--kubeconfig"]);
    command.arg(cluster.kubeconfig()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = command.process_group(0).spawn()?;
    let group = i32::try_from(up.id())?;
    let log = cluster.runtime.join("herald-testbed/logs/kube-apiserver.log");
    clock::await_for("the API server is being started", LIMIT, || Ok(log.exists().then_some(())))?;
    assert!(Command::new("kill").args(["-INT", "--", &format!("-{group}")]).status()?.success());
    up.wait()?;
    clock::await_for("the keeper has ended", LIMIT, || {
        Ok(processes(&cluster.runtime)?.is_empty().then_some(()))
    })?;
    assert_nothing_left(&cluster.runtime, &before)
}

/// A cluster that ends with the value.
struct Cluster {
    runtime: PathBuf,
    kubernetes: PathBuf,
}

impl Cluster {
    fn prepare(name: &str) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib/kubernetes.sh");
        ensure!(Command::new(&script).status()?.success(), "Kubernetes could not be built");
        let output = Command::new(&script).arg("--directory").output()?;
        let kubernetes = String::from_utf8(output.stdout)?.trim().into();
        let unique = format!("herald-cluster-{name}-{}", std::process::id());
        let runtime = std::env::temp_dir().join(unique);
        fs::create_dir_all(&runtime)?;
        Ok(Self { runtime, kubernetes })
    }

    fn up(name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let cluster = Self::prepare(name)?;
        let kubeconfig = cluster.kubeconfig();
        let kubeconfig = kubeconfig.to_str().context("a strange path")?;
        let output = cluster.lab(&[&["up", "--kubeconfig", kubeconfig], flags].concat())?;
        let (said, failed) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{failed}");
        let said = String::from_utf8_lossy(said);
        ensure!(said.contains(" nodes, up in "), "{said}");
        println!("{said}");
        Ok(cluster)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald-lab"));
        command.arg("cluster").args(arguments).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", &self.runtime);
        command.env("HERALD_KUBERNETES", &self.kubernetes);
        command.env("HERALD_MANIFESTS", concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests"));
        command
    }

    fn lab(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("cannot run herald-lab")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.runtime.join("kubeconfig")
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(self.kubernetes.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.env("KUBECACHEDIR", self.runtime.join("herald-testbed/cache"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn get(&self, what: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], what].concat(), "")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until the Service's slices have exactly these ready endpoints.
    fn wait_for_endpoints(&self, wanted: &[&str]) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        let reached = clock::await_for("the endpoints are as wanted", LIMIT, || {
            seen = endpoints(&self.get(&["endpointslices", "-l", SELECTOR])?);
            Ok((seen == wanted).then_some(()))
        });
        reached.with_context(|| format!("last seen: {seen:#?}"))
    }

    fn down(&self) -> anyhow::Result<()> {
        let output = self.lab(&["down"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a test that went well there is nothing to end any more.
        let _ = self.lab(&["down"]);
        let _ = fs::remove_dir_all(&self.runtime);
    }
}

const SELECTOR: &str = "kubernetes.io/service-name=echo";
const LIMIT: Duration = Duration::from_secs(30);

/// `family address node pod` of each ready endpoint, sorted.
fn endpoints(slices: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == true {
                let words = [
                    &slice["addressType"],
                    &endpoint["addresses"][0],
                    &endpoint["nodeName"],
                    &endpoint["targetRef"]["name"],
                ];
                found.push(words.map(|word| word.as_str().unwrap_or("?")).join(" "));
            }
        }
    }
    found.sort();
    found
}

/// All mounts and interfaces of this machine itself.
fn traces() -> anyhow::Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let interfaces = fs::read_dir("/sys/class/net")?.flatten();
    let interfaces = interfaces.map(|entry| entry.path().display().to_string());
    Ok(mounts.lines().map(str::to_owned).chain(interfaces).collect())
}

/// All processes that a cluster has started, known by the environment they inherited. A namespace
/// lives by a process, by a mount, or not at all.
fn processes(runtime: &Path) -> anyhow::Result<Vec<String>> {
    let mark = format!("XDG_RUNTIME_DIR={}", runtime.display()).into_bytes();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    Ok(found)
}

fn assert_nothing_left(runtime: &Path, before: &BTreeSet<String>) -> anyhow::Result<()> {
    assert_eq!(processes(runtime)?, Vec::<String>::new());
    assert_eq!(traces()?, *before);
    let files: Vec<_> = fs::read_dir(runtime)?.flatten().map(|entry| entry.path()).collect();
    assert_eq!(files, Vec::<PathBuf>::new());
    Ok(())
}
