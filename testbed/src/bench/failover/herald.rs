//! Herald under measurement (edge): a speaker on each node, the demo's pods, and as many Services
//! as VIPs were asked for, all moved to one holder before each run. The speakers elect by raft and
//! read a directory, or elect by Leases and read a real API server, on the same LAN.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::event::Profile;
use super::product::{Name, Product};
use crate::client::Transport;
use crate::cluster::control_plane::ControlPlane;
use crate::cluster::speakers;
use crate::cluster::whole::Plan;
use crate::lab::Lab;
use crate::lab::addresses::nodes;
use crate::lab::fault::Fault;
use crate::scenario::{MANIFESTS, Scenario, directory, service};
use crate::services::{POOL, manifests, vip};

/// The running product.
#[derive(Debug)]
pub struct Herald<'s> {
    scenario: &'s mut Scenario,
    vips: Vec<IpAddr>,
    election: Election<'s>,
    fault: Option<Fault>,
    /// It stays drained when its speaker is started again.
    drained: Option<String>,
}

/// Who decides, and so where the speakers read.
#[derive(Debug)]
enum Election<'s> {
    /// The speakers themselves, with these flags; from the directory of manifests.
    Raft(Vec<String>),
    /// Leases; from the API server.
    Leases(&'s mut Kubernetes),
}

/// A control plane on the lab's LAN, with Herald's manifests applied.
#[derive(Debug)]
pub struct Kubernetes {
    plane: ControlPlane,
    /// Of the speakers' ServiceAccount.
    kubeconfig: PathBuf,
}

impl Kubernetes {
    /// Starts it and waits until all Nodes are ready.
    ///
    /// # Errors
    ///
    /// What could not be started.
    pub fn start(lab: &Lab, plan: &Plan) -> anyhow::Result<Self> {
        let plane = plan.control_plane(lab)?;
        let kubeconfig = speakers::install(&plan.manifests, &plane)?;
        Ok(Self { plane, kubeconfig })
    }

    /// The last lines of each log.
    pub fn logs(&self) -> String {
        self.plane.logs()
    }

    fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        self.plane.kubectl(&["apply", "-f", "-"], Some(manifests)).map(drop)
    }
}

impl<'s> Herald<'s> {
    /// Starts speakers that elect by raft.
    ///
    /// # Errors
    ///
    /// If they cannot be started.
    pub fn start(scenario: &'s mut Scenario, profile: Profile, count: u16) -> anyhow::Result<Self> {
        let vips: Vec<IpAddr> = (0..count).map(vip).collect();
        scenario.put_manifest("pool.yaml", POOL)?;
        scenario.put_manifest(MANIFESTS[2].0, MANIFESTS[2].1)?;
        scenario.put_manifest("services.yaml", &manifests("echo", &vips))?;
        let flags = vec![
            "--heartbeat".into(),
            format!("{}ms", profile.beat().as_millis()),
            "--ttl".into(),
            format!("{}ms", profile.ttl().as_millis()),
        ];
        Self::new(scenario, vips, Election::Raft(flags))
    }

    /// Starts speakers that elect by Leases, as the DaemonSet's do.
    ///
    /// # Errors
    ///
    /// If they cannot be started, or the API server refuses the Services.
    pub fn start_by_leases(
        scenario: &'s mut Scenario,
        kubernetes: &'s mut Kubernetes,
        count: u16,
    ) -> anyhow::Result<Self> {
        let vips: Vec<IpAddr> = (0..count).map(vip).collect();
        for text in [POOL, MANIFESTS[2].1, &manifests("echo", &vips)] {
            kubernetes.apply(text)?;
        }
        Self::new(scenario, vips, Election::Leases(kubernetes))
    }

    fn new(
        scenario: &'s mut Scenario,
        vips: Vec<IpAddr>,
        election: Election<'s>,
    ) -> anyhow::Result<Self> {
        let mut product = Self { scenario, vips, election, fault: None, drained: None };
        product.start_all()?;
        Ok(product)
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        nodes().try_for_each(|node| self.start_daemon(&node))
    }

    /// Ends the speakers.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end_all()
    }

    fn end_all(&mut self) -> anyhow::Result<()> {
        for node in nodes() {
            // After a failure one may be missing.
            if self.scenario.speaker(&node).is_ok() {
                self.scenario.kill(&node)?;
            }
        }
        Ok(())
    }

    fn ask(&self, node: &str, what: &str) -> anyhow::Result<()> {
        let (is_done, said) = self.scenario.command(node, &[what])?;
        ensure!(is_done, "herald {what}: {said}");
        Ok(())
    }

    fn move_all(&mut self, target: &str) -> anyhow::Result<()> {
        for vip in &self.vips {
            if self.scenario.holder(target, *vip).as_deref() == Some(target) {
                continue;
            }
            let (is_done, said) =
                self.scenario.command(target, &["move", &vip.to_string(), target])?;
            ensure!(is_done, "herald move: {said}");
        }
        Ok(())
    }
}

impl Product for Herald<'_> {
    fn name(&self) -> Name {
        match self.election {
            Election::Raft(_) => Name::Herald,
            Election::Leases(_) => Name::HeraldLease,
        }
    }

    fn lab(&self) -> &Lab {
        &self.scenario.lab
    }

    fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    fn server(&self) -> SocketAddr {
        service(self.vips[0], Transport::Udp)
    }

    fn ready(&mut self) -> anyhow::Result<String> {
        if let Election::Leases(kubernetes) = &mut self.election {
            kubernetes.plane.check()?;
        }
        let vips = self.vips.clone();
        let first =
            self.scenario.wait("all speakers are back and all VIPs held", 60, |scenario| {
                let mut holder = None;
                for node in nodes() {
                    let Ok(status) = scenario.status(&node) else { return Ok(None) };
                    let holders = status.holders();
                    let is_complete = vips.iter().all(|vip| holders.contains_key(vip));
                    if status.open_sessions() != 3 || !is_complete {
                        return Ok(None);
                    }
                    holder = holders.get(&vips[0]).cloned();
                }
                Ok(holder)
            })?;
        // Nothing is measured yet: a busy API server gets another chance.
        if self.name() == Name::HeraldLease && self.move_all(&first).is_err() {
            eprintln!("not all VIPs were moved to {first}; once more");
        }
        self.move_all(&first)?;
        self.scenario.wait("the client is served", 20, |scenario| {
            Ok(scenario.request("c1", vips[0], Transport::Udp).ok())
        })?;
        if self.name() == Name::Herald {
            // It goes where the VIPs are once nothing has changed for a ttl, and an event must find
            // all as it is from then on: whoever leads is missed sooner, and may be back later.
            self.scenario.wait("the holder leads", 20, |scenario| {
                let Ok(status) = scenario.status(&first) else { return Ok(None) };
                Ok((status.election.leader.as_deref() == Some(&first)).then_some(()))
            })?;
        }
        Ok(first)
    }

    fn port(&self, holder: &str) -> anyhow::Result<u16> {
        self.scenario.port_to("c1", self.vips[0], |node| node != holder)
    }

    fn start_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        match &self.election {
            Election::Raft(flags) => {
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                self.scenario.start(node, &flags)
            }
            Election::Leases(kubernetes) => {
                // Raft's log is no business of theirs.
                let state = directory(node).join("state-of-leases");
                let mut command = self.scenario.speaker_command_without_source(node, node, &state);
                command.arg("--kubeconfig").arg(&kubernetes.kubeconfig);
                self.scenario.start_command(node, command)
            }
        }
    }

    fn kill_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.scenario.kill(node)
    }

    fn end_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        let limit = self.name().lasts();
        self.scenario.speaker(node)?.terminate(limit)?;
        self.scenario.forget(node);
        Ok(())
    }

    fn freeze_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.scenario.speaker(node)?.signal(libc::SIGSTOP)
    }

    fn thaw_daemon(&mut self, node: &str) -> anyhow::Result<()> {
        self.scenario.speaker(node)?.signal(libc::SIGCONT)
    }

    fn move_from(&mut self, holder: &str) -> anyhow::Result<()> {
        let target = nodes().find(|node| node != holder).context("no other node")?;
        self.move_all(&target)
    }

    fn drain(&mut self, node: &str) -> anyhow::Result<()> {
        self.drained = Some(node.to_owned());
        self.ask(node, "drain")
    }

    fn undrain(&mut self, node: &str) -> anyhow::Result<()> {
        self.ask(node, "undrain")?;
        self.drained = None;
        Ok(())
    }

    fn fault(&mut self) -> &mut Option<Fault> {
        &mut self.fault
    }

    fn start_anew(&mut self) -> anyhow::Result<()> {
        self.end_all()?;
        self.start_all()?;
        if let Some(node) = self.drained.take() {
            self.scenario.all_have_sessions()?;
            self.ask(&node, "undrain")?;
        }
        Ok(())
    }
}
