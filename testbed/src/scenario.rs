//! Herald in the lab (edge): one speaker per node, reading one directory of manifests, and the
//! questions that the demo and the tests ask about them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::client::{self, Transport};
use crate::clock;
use crate::lab::addresses::{POD_PORT, nodes};
use crate::lab::process::{Process, built};
use crate::lab::{Lab, addresses};
use crate::sandbox::{self, SCRATCH};
use crate::status::Status;

/// The demo's manifests, as they lie in `manifests/examples/demo`.
pub const MANIFESTS: [(&str, &str); 5] = [
    ("nodes.yaml", include_str!("../../manifests/examples/demo/nodes.yaml")),
    ("pool.yaml", include_str!("../../manifests/examples/demo/pool.yaml")),
    ("l2advertisement.yaml", include_str!("../../manifests/examples/demo/l2advertisement.yaml")),
    ("service.yaml", include_str!("../../manifests/examples/demo/service.yaml")),
    ("endpointslices.yaml", include_str!("../../manifests/examples/demo/endpointslices.yaml")),
];

/// The Service's TCP port.
pub const TCP_PORT: u16 = 80;
/// The Service's UDP port.
pub const UDP_PORT: u16 = 5353;

/// The lab with its speakers.
#[derive(Debug)]
pub struct Scenario {
    /// The network.
    pub lab: Lab,
    herald: PathBuf,
    speakers: BTreeMap<String, Process>,
}

impl Scenario {
    /// Builds the lab in the calling thread's private namespaces; the manifest directory holds the
    /// Nodes, no speaker runs.
    ///
    /// # Errors
    ///
    /// What could not be made.
    pub fn build() -> anyhow::Result<Self> {
        let herald = match std::env::var_os("HERALD_BIN") {
            Some(path) => PathBuf::from(path),
            None => built("herald")?,
        };
        let scratch = Path::new(SCRATCH);
        for directory in ["logs", "manifests"] {
            let directory = scratch.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let lab = Lab::build(&scratch.join("logs"))?;
        for node in nodes() {
            sandbox::mount_bpf(&directory(&node).join("bpf"))?;
        }
        let scenario = Self { lab, herald, speakers: BTreeMap::new() };
        scenario.pods_answer()?;
        scenario.put_manifest(MANIFESTS[0].0, MANIFESTS[0].1)?;
        Ok(scenario)
    }

    /// Starts a node's speaker with further flags.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start(&mut self, node: &str, flags: &[&str]) -> anyhow::Result<()> {
        let voters = nodes().collect::<Vec<_>>().join(",");
        let mut command = self.speaker_command(node, node, &directory(node).join("state"));
        command.args(["--voters", &voters]).args(flags);
        self.start_command(node, command)
    }

    /// The command of a speaker that calls itself `name`, on the machine of `node`, without
    /// `--voters`.
    pub fn speaker_command(&self, name: &str, node: &str, state: &Path) -> Command {
        self.stranger_command(name, node, state, &directory(node).join("run"))
    }

    /// The same for one that may be told to read an API server.
    pub fn speaker_command_without_source(&self, name: &str, node: &str, state: &Path) -> Command {
        self.bare_command(name, node, state, &directory(node).join("run"))
    }

    /// As [`Self::speaker_command`], with its status socket in `run`: what it reports is no part of
    /// the nodes' history.
    pub fn stranger_command(&self, name: &str, node: &str, state: &Path, run: &Path) -> Command {
        let mut command = self.bare_command(name, node, state, run);
        command.arg("--source").arg(manifests());
        command
    }

    fn bare_command(&self, name: &str, node: &str, state: &Path, run: &Path) -> Command {
        let mut command = Command::new(&self.herald);
        command.args(["speaker", "--node-name", name]);
        command.arg("--state-dir").arg(state);
        command.arg("--run-dir").arg(run);
        command.arg("--pin-dir").arg(directory(node).join("bpf"));
        command
    }

    /// Starts a command as a node's speaker.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn start_command(&mut self, node: &str, command: Command) -> anyhow::Result<()> {
        let speaker = Process::start(
            &format!("herald on {node}"),
            command,
            self.lab.netns(node)?,
            &log(node),
        )?;
        self.speakers.insert(node.to_owned(), speaker);
        Ok(())
    }

    /// Starts all speakers and waits until each has an open session.
    ///
    /// # Errors
    ///
    /// If one ends, or they do not agree in time.
    pub fn start_all(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        for node in nodes() {
            self.start(&node, flags)?;
        }
        self.all_have_sessions()
    }

    /// Waits until each speaker sees an open session of every node.
    ///
    /// # Errors
    ///
    /// If one ends, or they do not agree in time.
    pub fn all_have_sessions(&mut self) -> anyhow::Result<()> {
        self.wait("all speakers have a session", COLD_START, |scenario| {
            let agreed = nodes().all(|node| {
                let status = scenario.status(&node).ok();
                status.is_some_and(|status| status.open_sessions() == usize::from(addresses::NODES))
            });
            Ok(agreed.then_some(()))
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

    /// Writes a manifest into the directory, whole at once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn put_manifest(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let hidden = manifests().join(format!(".{name}.new"));
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, manifests().join(name)))
            .with_context(|| format!("cannot write the manifest {name}"))
    }

    /// Writes all the demo's manifests.
    ///
    /// # Errors
    ///
    /// If one cannot be written.
    pub fn put_all_manifests(&self) -> anyhow::Result<()> {
        MANIFESTS.iter().try_for_each(|(name, text)| self.put_manifest(name, text))
    }

    /// What a node's speaker says about itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn status(&self, node: &str) -> anyhow::Result<Status> {
        let output = Command::new(&self.herald)
            .args(["status", "--output", "json", "--run-dir"])
            .arg(directory(node).join("run"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run herald status")?;
        if !output.status.success() {
            bail!("no status of {node}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("cannot read the status of {node}"))
    }

    /// Who holds a VIP, as a node's speaker sees it; none as well if it does not answer.
    pub fn holder(&self, asked: &str, vip: IpAddr) -> Option<String> {
        self.status(asked).ok()?.vip(vip)?.holder.clone()
    }

    /// Runs another `herald` command on a node, as an administrator would: its exit status and all
    /// it printed.
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub fn command(&self, node: &str, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let output = Command::new(&self.herald)
            .args(arguments)
            .env("HERALD_RUN_DIR", directory(node).join("run"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run herald")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// A port of a client's from which datagrams to the VIP reach a pod on one of these nodes.
    ///
    /// # Errors
    ///
    /// If a thousand ports do not.
    pub fn port_to(
        &self,
        client: &str,
        vip: IpAddr,
        is_wanted: impl Fn(&str) -> bool + Sync,
    ) -> anyhow::Result<u16> {
        let server = service(vip, Transport::Udp);
        let reaches = |port: &u16| {
            let asked = client::udp(server, *port).and_then(|s| client::who_udp(&s, "where"));
            asked.is_ok_and(|reply| is_wanted(&reply.answer.node))
        };
        let found = self.lab.netns(client)?.inside(|| Ok((40_000..41_000).find(reaches)))?;
        found.context("no flow reaches a pod on the wanted nodes")
    }

    /// Waits until the demo's Service has a VIP of each family, each with a holder that announces
    /// it, and returns them, IPv4 first, with their holders.
    ///
    /// # Errors
    ///
    /// If that does not happen in time.
    pub fn served(&mut self) -> anyhow::Result<Vec<(IpAddr, String)>> {
        self.wait("the Service has VIPs with holders that announce them", PATIENCE, |scenario| {
            let Ok(status) = scenario.status("n1") else { return Ok(None) };
            let mut served: Vec<(IpAddr, String)> = status.holders().into_iter().collect();
            served.sort_by_key(|(address, _)| address.is_ipv6());
            let announced = served.iter().all(|(address, holder)| {
                let status = scenario.status(holder).ok();
                status.is_some_and(|status| status.vip(*address).is_some_and(|vip| vip.announcing))
            });
            Ok((served.len() == 2 && announced).then_some(served))
        })
    }

    /// Waits for something, but no longer than the speakers run.
    ///
    /// # Errors
    ///
    /// If it does not happen within so many seconds, or a speaker has ended by itself.
    pub fn wait<T>(
        &mut self,
        what: &str,
        seconds: u64,
        mut ask: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        clock::await_for(what, Duration::from_secs(seconds), || {
            for (node, speaker) in &mut self.speakers {
                // One that was killed or ended on purpose is taken out of the list by `forget`.
                if let Some(status) = speaker.status()? {
                    bail!("the speaker on {node} ended while {what} was waited for: {status}");
                }
            }
            ask(self)
        })
    }

    /// Kills a node's speaker, which leaves its programs and their last deadline behind.
    ///
    /// # Errors
    ///
    /// If none was started, or the kernel refuses.
    pub fn kill(&mut self, node: &str) -> anyhow::Result<()> {
        self.speaker(node)?.kill()?;
        self.forget(node);
        Ok(())
    }

    /// Takes a speaker that is meant to be gone out of the list.
    pub fn forget(&mut self, node: &str) {
        self.speakers.remove(node);
    }

    /// A request by a client to a VIP of the demo's Service.
    ///
    /// # Errors
    ///
    /// If it was not answered.
    pub fn request(
        &self,
        client: &str,
        vip: IpAddr,
        transport: Transport,
    ) -> anyhow::Result<client::Reply> {
        self.lab.netns(client)?.inside(|| client::who(transport, service(vip, transport)))
    }

    /// The last lines of every speaker's log, for a person who looks for what went wrong.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in nodes() {
            let Ok(log) = fs::read_to_string(log(&node)) else { continue };
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            text += &format!("--- the speaker on {node}, last {} lines:\n", tail.len());
            text += &tail.join("\n");
            text.push('\n');
        }
        text
    }

    /// Each pod is asked from its own node, once it listens.
    fn pods_answer(&self) -> anyhow::Result<()> {
        for node in 1..=addresses::NODES {
            for pod in 1..=addresses::PODS {
                let server = SocketAddr::new(addresses::pod_addresses(node, pod)[0], POD_PORT);
                let netns = self.lab.netns(&format!("n{node}"))?;
                let what = format!("the pod at {server} answers");
                clock::await_for(&what, Duration::from_secs(5), || {
                    Ok(netns.inside(|| client::who(Transport::Tcp, server)).ok())
                })?;
            }
        }
        Ok(())
    }
}

/// The VIP with the Service's port.
pub fn service(vip: IpAddr, transport: Transport) -> SocketAddr {
    let port = match transport {
        Transport::Tcp => TCP_PORT,
        Transport::Udp => UDP_PORT,
    };
    SocketAddr::new(vip, port)
}

/// The manifest directory.
pub fn manifests() -> PathBuf {
    Path::new(SCRATCH).join("manifests")
}

/// Writes a secret that speakers share, for `--key-file`; returns where it is.
///
/// # Errors
///
/// If it cannot be written.
pub fn secret(name: &str, text: &str) -> anyhow::Result<String> {
    let path = Path::new(SCRATCH).join(name);
    fs::write(&path, text).with_context(|| format!("cannot write the secret {name}"))?;
    Ok(path.display().to_string())
}

/// A node's own directory.
pub fn directory(node: &str) -> PathBuf {
    Path::new(SCRATCH).join(node)
}

/// A node's speaker's log, of all its processes.
pub fn log(node: &str) -> PathBuf {
    Path::new(SCRATCH).join(format!("logs/herald-{node}.log"))
}

/// Seconds for a cold start. A speaker first has its programs verified: 0.8 s of a quiet CPU, but
/// three of them on two CPUs with twenty other runnable tasks took more than 15 s (measured).
const COLD_START: u64 = 100;
/// Seconds for what takes one or two on a machine that does nothing else: three speakers start at
/// once, and the kernel's verifier alone takes seconds of a processor for each.
pub const PATIENCE: u64 = 60;
/// How much of a log is shown when something failed.
const LOG_LINES: usize = 30;
