//! Debian's keepalived under measurement (edge): VRRPv3 on each node, sticky (`nopreempt`), the
//! VIPs bound to the nodes' interfaces as it does it, and a server for them on each node.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::event::Profile;
use super::product::{Name, Product};
use crate::client::{self, Transport};
use crate::clock;
use crate::lab::Lab;
use crate::lab::addresses::{node_of, nodes};
use crate::lab::fault::Fault;
use crate::lab::process::{Process, built};
use crate::resolve::who_has;
use crate::sandbox::SCRATCH;
use crate::scenario::{Scenario, UDP_PORT};
use crate::services::vip;

/// The running product.
#[derive(Debug)]
pub struct Keepalived<'s> {
    scenario: &'s Scenario,
    vips: Vec<IpAddr>,
    daemons: BTreeMap<String, Process>,
    _servers: Vec<Process>,
    fault: Option<Fault>,
    /// A daemon was killed: it leaves its addresses behind, and with them two nodes answer for
    /// ever.
    must_restart: bool,
}

impl<'s> Keepalived<'s> {
    /// Starts the daemons.
    ///
    /// # Errors
    ///
    /// If keepalived is not installed.
    pub fn start(scenario: &'s Scenario, profile: Profile, count: u16) -> anyhow::Result<Self> {
        let vips: Vec<IpAddr> = (0..count).map(vip).collect();
        let mut servers = Vec::new();
        for (node, number) in nodes().zip(1..) {
            let netns = scenario.lab.netns(&node)?;
            // The server is there before the address is.
            netns.sysctl(&[("ipv4/ip_nonlocal_bind", "1")])?;
            let mut command = Command::new(built("herald-lab")?);
            command.args(["pod", "--name", &node, "--node", &node, "--address"]);
            command.args([&vips[0].to_string(), "--port", &UDP_PORT.to_string()]);
            let log = directory(&node)?.join("server.log");
            servers.push(Process::start(&node, command, netns, &log)?);
            let configuration = configuration(&node, number, profile, &vips);
            fs::write(directory(&node)?.join("keepalived.conf"), configuration)?;
        }
        let daemons = BTreeMap::new();
        let (fault, must_restart) = (None, false);
        let mut product = Self { scenario, vips, daemons, _servers: servers, fault, must_restart };
        product.start_all()?;
        Ok(product)
    }

    /// Ends the daemons and takes away the addresses.
    ///
    /// # Errors
    ///
    /// What could not be done.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end_all()
    }

    fn end_all(&mut self) -> anyhow::Result<()> {
        for node in nodes() {
            if self.daemons.contains_key(&node) {
                self.kill_daemon(&node)?;
            }
            self.unbind(&node)?;
        }
        Ok(())
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        self.must_restart = false;
        nodes().try_for_each(|node| self.start_daemon(&node))
    }

    /// The process that speaks VRRP is a child of the one that was started.
    fn child(&self, node: &str) -> anyhow::Result<i32> {
        let path = directory(node)?.join("vrrp.pid");
        // Written a moment after the daemon was started.
        let text = clock::await_for("keepalived speaks VRRP", Duration::from_secs(10), || {
            Ok(fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
        })?;
        let pid: i32 = text.trim().parse().context("no process number")?;
        ensure!(pid > 1, "{pid} is not keepalived's");
        Ok(pid)
    }

    fn signal_child(&self, node: &str, signal: i32) -> anyhow::Result<()> {
        let pid = self.child(node)?;
        // SAFETY: takes two numbers; the process is in this process namespace, which is ours.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {pid}");
        Ok(())
    }

    fn daemon(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.daemons.get_mut(node).with_context(|| format!("no keepalived on {node}"))
    }

    /// What is left by a daemon that was killed, and would confuse the next one's start.
    fn unbind(&self, node: &str) -> anyhow::Result<()> {
        let netns = self.scenario.lab.netns(node)?;
        for vip in &self.vips {
            // Mostly there is none.
            let _ = netns.ip(&format!("addr del {vip}/32 dev eth0\n"));
        }
        Ok(())
    }
}

impl Product for Keepalived<'_> {
    fn name(&self) -> Name {
        Name::Keepalived
    }

    fn lab(&self) -> &Lab {
        &self.scenario.lab
    }

    fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.vips[0], UDP_PORT)
    }

    /// One answer, the same for a second and a half, which is longer than any election here.
    fn ready(&mut self) -> anyhow::Result<String> {
        if self.must_restart {
            self.start_anew()?;
        }
        let client = self.scenario.lab.netns("c1")?;
        let vip = self.vips[0];
        clock::await_for("one node has the VIP", Duration::from_secs(60), || {
            let mut answers = Vec::new();
            for _ in 0..5 {
                answers.push(who_has(&self.scenario.lab, vip)?);
            }
            let is_steady = answers.iter().all(|a| a.len() == 1 && a == &answers[0]);
            let holder = answers[0].first().and_then(|mac| node_of(*mac));
            let server = SocketAddr::new(vip, UDP_PORT);
            let is_served = client.inside(|| client::who(Transport::Udp, server)).is_ok();
            Ok(holder.filter(|_| is_steady && is_served).map(str::to_owned))
        })
    }

    /// Whoever holds the VIP serves it.
    fn port(&self, _: &str) -> anyhow::Result<u16> {
        Ok(40_000)
    }

    fn start_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        let directory = directory(node)?;
        let mut command = Command::new("keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--use-file"]);
        command.arg(directory.join("keepalived.conf"));
        command.arg("--pid").arg(directory.join("pid"));
        command.arg("--vrrp_pid").arg(directory.join("vrrp.pid"));
        let netns = self.scenario.lab.netns(node)?;
        let log = directory.join("keepalived.log");
        let name = format!("keepalived on {node}");
        let daemon =
            Process::start(&name, command, netns, &log).context("is keepalived installed?")?;
        self.daemons.insert(node.to_owned(), daemon);
        Ok(())
    }

    /// Both processes; the first is stopped before, so that it does not start the second again.
    fn kill_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.must_restart = true;
        // One that was stopped before it has a child never gets one.
        self.child(node)?;
        self.daemon(node)?.signal(libc::SIGSTOP)?;
        self.signal_child(node, libc::SIGKILL)?;
        self.daemon(node)?.kill()?;
        self.daemons.remove(node);
        let directory = directory(node)?;
        for file in ["pid", "vrrp.pid"] {
            // A number that nobody has any more.
            let _ = fs::remove_file(directory.join(file));
        }
        Ok(())
    }

    fn end_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.daemon(node)?.terminate(Duration::from_secs(5))?;
        self.daemons.remove(node);
        Ok(())
    }

    fn freeze_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.daemon(node)?.signal(libc::SIGSTOP)?;
        self.signal_child(node, libc::SIGSTOP)
    }

    fn thaw_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.signal_child(node, libc::SIGCONT)?;
        self.daemon(node)?.signal(libc::SIGCONT)
    }

    // What it does not have is never asked of it: `Name::has`.
    fn move_from(&mut self, _: &str) -> anyhow::Result<()> {
        bail!("keepalived moves nothing on request")
    }

    fn drain(&mut self, _: &str) -> anyhow::Result<()> {
        bail!("keepalived drains no node")
    }

    fn undrain(&mut self, _: &str) -> anyhow::Result<()> {
        bail!("keepalived drains no node")
    }

    fn fault(&mut self) -> &mut Option<Fault> {
        &mut self.fault
    }

    fn start_anew(&mut self) -> anyhow::Result<()> {
        self.end_all()?;
        self.start_all()
    }
}

/// A node's own.
fn directory(node: &str) -> anyhow::Result<PathBuf> {
    let directory = Path::new(SCRATCH).join("keepalived").join(node);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// `number` counts the nodes from 1.
fn configuration(node: &str, number: u8, profile: Profile, vips: &[IpAddr]) -> String {
    let beat = profile.beat().as_secs_f64();
    let priority = 160 - 10 * u32::from(number);
    // An advertisement carries up to twenty, the others go with it (keepalived.conf(5)).
    let line = |vip: &IpAddr| format!("        {vip}/32 dev eth0\n");
    let (first, rest) = vips.split_at(vips.len().min(20));
    let excluded = match rest.is_empty() {
        true => String::new(),
        false => format!(
            "    virtual_ipaddress_excluded {{\n{}    }}\n",
            rest.iter().map(line).collect::<String>()
        ),
    };
    format!(
        "global_defs {{
    router_id {node}
    vrrp_version 3
}}
vrrp_instance lab {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {beat}
    virtual_ipaddress {{
{}    }}
{excluded}}}
",
        first.iter().map(line).collect::<String>()
    )
}
