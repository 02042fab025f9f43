//! The processes of the control plane and the stand-ins for kubelets (edge): each a real component
//! of Kubernetes with the flags a dual-stack cluster needs, on a host of its own on the lab's LAN.
//!
//! Who may do what is as in any cluster: nobody but `kubectl` here is an administrator.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::objects::pods;
use crate::clock;
use crate::lab::addresses::{self, Host, PODS, number, pod_addresses, pod_name};
use crate::lab::netns::{self, Netns};
use crate::lab::process::Process;
use crate::sandbox::SCRATCH;

/// The control plane's host on the LAN.
pub const HOST: Host = Host { name: "cp", digits: 10 };
/// The API server's port there.
pub const PORT: u16 = 6443;
/// The first addresses of the two service ranges belong to the API server.
const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/108";

/// What a control plane is asked to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What one deals with by hand, for as long as one likes.
    Usual,
    /// A test: the same for some minutes, with a record ([`audit_log`]) of what Herald asks of the
    /// API server.
    Test,
    /// Thousands of Services at once: with the record, and controllers that ask the API server as
    /// often as they want to.
    Benchmark,
}

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its host.
    pub netns: Netns,
    extent: Extent,
    programs: PathBuf,
    logs: PathBuf,
    processes: Vec<(String, Process)>,
}

impl ControlPlane {
    /// Puts the control plane's host on the LAN and makes all keys; starts nothing yet. `outside`
    /// is where the administrator's kubeconfig finds the API server.
    ///
    /// # Errors
    ///
    /// If the host or the keys cannot be made.
    pub fn prepare(
        programs: &Path,
        logs: &Path,
        nodes: &[String],
        outside: SocketAddr,
        extent: Extent,
    ) -> anyhow::Result<Self> {
        let Host { name, .. } = HOST;
        let netns = Netns::create(name)?;
        let (port, mac, v4, v6) = (HOST.port(), HOST.mac(), HOST.v4(), HOST.v6());
        netns::ip(&format!(
            "link add {port} type veth peer name eth0 address {mac} netns {name}\n\
             link set {port} master br0 up\n"
        ))?;
        netns.ip(&format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add default via 192.168.1.1\n"
        ))?;
        fs::create_dir_all(keys()).context("cannot make the directory of keys")?;
        let program = programs.join("herald-kubernetes");
        let mut command = Command::new(&program);
        command.arg("certs").arg("--directory").arg(keys());
        command.args(["--server", &format!("https://{v4}:{PORT}")]);
        command.args(["--outside", &format!("https://{outside}")]);
        for address in ["127.0.0.1", "10.96.0.1", "fd00:96::1"] {
            command.args(["--address", address]);
        }
        command.args(["--address", &v4.to_string(), "--address", &v6.to_string()]);
        for node in nodes {
            command.args(["--node", node]);
        }
        let output =
            command.output().with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(output.status.success(), "no keys: {}", String::from_utf8_lossy(&output.stderr));
        let (programs, logs) = (programs.to_owned(), logs.to_owned());
        Ok(Self { netns, extent, programs, logs, processes: Vec::new() })
    }

    /// Starts etcd and the API server and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If one of them ends or is not ready in time.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        self.start_etcd()?;
        self.start_api_server()?;
        let address = SocketAddr::new(HOST.v4().into(), PORT);
        self.wait("the API server listens", LIMIT, |cluster| {
            let connect = || Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
            Ok(cluster.netns.inside(connect).ok())
        })?;
        self.wait("the API server is ready", LIMIT, |cluster| {
            Ok(cluster.kubectl(&["get", "--raw", "/readyz"], None).ok())
        })?;
        Ok(())
    }

    fn start_etcd(&mut self) -> anyhow::Result<()> {
        let mut etcd = Command::new(self.programs.join("etcd"));
        etcd.args(["--name", "testbed", "--logger", "zap", "--log-level", "warn"]);
        etcd.arg("--data-dir").arg(Path::new(SCRATCH).join("etcd"));
        etcd.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        etcd.args(["--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER]);
        etcd.args(["--initial-cluster", &format!("testbed={ETCD_PEER}")]);
        self.start("etcd", etcd)
    }

    fn start_api_server(&mut self) -> anyhow::Result<()> {
        let mut server = self.call("kube-apiserver");
        let key = |name: &str| keys().join(name).display().to_string();
        let flags = [
            ("etcd-servers", ETCD.to_owned()),
            ("advertise-address", HOST.v4().to_string()),
            ("secure-port", PORT.to_string()),
            ("service-cluster-ip-range", SERVICE_RANGES.to_owned()),
            ("tls-cert-file", key("apiserver.crt")),
            ("tls-private-key-file", key("apiserver.key")),
            ("client-ca-file", key("ca.crt")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", key("service-account.pub")),
            ("service-account-signing-key-file", key("service-account.key")),
            // Nobody has a certificate of this name; without the flags the others' logs complain.
            ("requestheader-client-ca-file", key("ca.crt")),
            ("requestheader-allowed-names", "front-proxy".to_owned()),
            ("requestheader-username-headers", "X-Remote-User".to_owned()),
            ("requestheader-group-headers", "X-Remote-Group".to_owned()),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            ("allow-privileged", "true".to_owned()),
        ];
        server.args(flags.map(|(name, value)| format!("--{name}={value}")));
        if self.extent != Extent::Usual {
            let policy = keys().join("audit-policy.yaml");
            fs::write(&policy, AUDIT_POLICY).context("cannot write the audit policy")?;
            server.arg("--audit-policy-file").arg(policy);
            server.arg("--audit-log-path").arg(audit_log());
        }
        self.start("kube-apiserver", server)
    }

    /// Kills the API server and etcd, as a failed node of the control plane does; what they have
    /// stored stays. [`ControlPlane::start_server`] starts them again.
    ///
    /// # Errors
    ///
    /// If one has ended already.
    pub fn kill_server(&mut self) -> anyhow::Result<()> {
        for name in ["kube-apiserver", "etcd"] {
            let position = self.processes.iter().position(|(it, _)| it == name);
            let position = position.with_context(|| format!("{name} does not run"))?;
            self.processes.remove(position).1.kill()?;
        }
        Ok(())
    }

    /// Starts the controller manager and the scheduler.
    ///
    /// # Errors
    ///
    /// If one cannot be started.
    pub fn start_controllers(&mut self) -> anyhow::Result<()> {
        let key = |name: &str| keys().join(name).display().to_string();
        let mut manager = self.call("kube-controller-manager");
        let flags = [
            ("kubeconfig", key("controller-manager.kubeconfig")),
            ("authentication-kubeconfig", key("controller-manager.kubeconfig")),
            ("authorization-kubeconfig", key("controller-manager.kubeconfig")),
            ("service-account-private-key-file", key("service-account.key")),
            ("root-ca-file", key("ca.crt")),
            ("cluster-signing-cert-file", key("ca.crt")),
            ("cluster-signing-key-file", key("ca.key")),
            ("use-service-account-credentials", "true".to_owned()),
            ("leader-elect", "false".to_owned()),
        ];
        manager.args(flags.map(|(name, value)| format!("--{name}={value}")));
        if self.extent == Extent::Benchmark {
            // The usual 20 requests a second would make slices the slowest part of it all.
            manager.args(["--kube-api-qps=1000", "--kube-api-burst=2000"]);
        }
        self.start("kube-controller-manager", manager)?;

        let mut scheduler = self.call("kube-scheduler");
        let flags = [
            ("kubeconfig", key("scheduler.kubeconfig")),
            ("authentication-kubeconfig", key("scheduler.kubeconfig")),
            ("authorization-kubeconfig", key("scheduler.kubeconfig")),
            ("leader-elect", "false".to_owned()),
        ];
        scheduler.args(flags.map(|(name, value)| format!("--{name}={value}")));
        self.start("kube-scheduler", scheduler)
    }

    /// Starts the stand-in for a kubelet in a node's own namespace, so that a node that is cut off
    /// is found dead by the controllers as a real one would be.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_node(&mut self, node: &str, netns: &Netns) -> anyhow::Result<()> {
        let host = addresses::host(node).with_context(|| format!("the lab has no {node}"))?;
        let number = number(host);
        let mut command = self.call("node");
        command.args(["--name", node, "--kubeconfig"]);
        command.arg(keys().join(format!("{node}.kubeconfig")));
        command.args(["--address", &host.v4().to_string(), "--address", &host.v6().to_string()]);
        command.args(["--pod-cidr", &format!("10.244.{number}.0/24")]);
        command.args(["--pod-cidr", &format!("fd00:244:{number}::/64")]);
        for pod in 1..=PODS {
            let [v4, v6] = pod_addresses(number, pod);
            command.args(["--pod", &format!("{}={v4}+{v6}", pod_name(number, pod))]);
        }
        let name = format!("node-{node}");
        let process = Process::start(&name, command, netns, &self.log(&name))?;
        self.processes.push((name, process));
        Ok(())
    }

    /// Writes a Pod for each pod of the nodes; the nodes' own stand-ins say that they run.
    ///
    /// # Errors
    ///
    /// If the API server refuses.
    pub fn put_pods(&self, nodes: &[String]) -> anyhow::Result<()> {
        self.kubectl(&["create", "-f", "-"], Some(&pods(nodes).to_string()))?;
        Ok(())
    }

    /// Waits until all Nodes and their Pods are ready.
    ///
    /// # Errors
    ///
    /// If they are not in time.
    pub fn wait_for_nodes(&mut self, nodes: &[String]) -> anyhow::Result<()> {
        let wanted = nodes.len();
        self.wait("all Nodes are Ready", LIMIT, |cluster| {
            let ready = cluster.kubectl(&["get", "nodes", "-o", READY], None)?;
            Ok((ready.matches("True").count() == wanted).then_some(()))
        })?;
        let wanted = nodes.len() * usize::from(PODS);
        self.wait("all Pods are Ready", LIMIT, |cluster| {
            let ready = cluster.kubectl(&["get", "pods", "-n", "default", "-o", READY], None)?;
            Ok((ready.matches("True").count() == wanted).then_some(()))
        })
    }

    /// Runs kubectl as administrator on the control plane's host and returns what it printed.
    ///
    /// # Errors
    ///
    /// What kubectl said.
    pub fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.netns.inside(|| {
            let mut child = command.spawn().context("cannot run kubectl")?;
            if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
                std::io::Write::write_all(&mut stdin, text.as_bytes())?;
            }
            let output = child.wait_with_output().context("cannot wait for kubectl")?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("kubectl {} failed: {}", arguments.join(" "), said.trim());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.call("kubectl");
        command.arg("--kubeconfig").arg(keys().join("bootstrap.kubeconfig")).args(arguments);
        // The machine's own kubectl has a cache in $HOME; this cluster is none of its business.
        command.env("KUBECACHEDIR", Path::new(SCRATCH).join("kubectl"));
        command
    }

    /// Sends a signal to one of its programs, `kube-apiserver` or `etcd`: SIGSTOP makes it a server
    /// that takes connections and never answers, SIGCONT lets it answer all it was asked meanwhile.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&mut self, program: &str, signal: i32) -> anyhow::Result<()> {
        let process = self.processes.iter_mut().find(|(name, _)| name == program);
        process.with_context(|| format!("{program} was not started"))?.1.signal(signal)
    }

    /// Fails if a process of the control plane has ended.
    ///
    /// # Errors
    ///
    /// Which one, and how.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for (name, process) in &mut self.processes {
            if let Some(status) = process.status()? {
                let tail = tail(&process.output());
                bail!("{name} has ended: {status}; its last words:\n{tail}");
            }
        }
        Ok(())
    }

    /// The last lines of each log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, process) in &self.processes {
            text += &format!("--- {name}:\n{}\n", tail(&process.output()));
        }
        text
    }

    fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        clock::await_for(what, limit, || {
            self.check()?;
            ask(self)
        })
    }

    fn call(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join("herald-kubernetes"));
        command.arg(name);
        command
    }

    fn start(&mut self, name: &str, command: Command) -> anyhow::Result<()> {
        let process = Process::start(name, command, &self.netns, &self.log(name))?;
        self.processes.push((name.to_owned(), process));
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// Where keys and kubeconfigs are.
pub fn keys() -> PathBuf {
    Path::new(SCRATCH).join("keys")
}

/// A line of JSON for each request of Herald's ServiceAccount, where it is recorded.
pub fn audit_log() -> PathBuf {
    Path::new(SCRATCH).join("audit.log")
}

/// The last lines of a log.
pub(super) fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

const AUDIT_POLICY: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "users": ["system:serviceaccount:herald-system:herald"]},
        {"level": "None"}
    ]
}"#;
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
/// Prints `True` for each object that is ready.
const READY: &str = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
/// An API server has written its first roles to etcd before it is ready, on whatever disk there is.
const LIMIT: Duration = Duration::from_secs(150);
/// How much of a log is shown when its process has ended.
const LOG_LINES: usize = 30;
