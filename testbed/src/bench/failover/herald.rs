//! Herald under measurement (edge): a speaker on each node, the demo's pods, and as many Services as
//! VIPs were asked for, all moved to one holder before each run.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};

use super::event::{Event, Profile};
use super::product::{Name, Product};
use crate::client::Transport;
use crate::lab::Lab;
use crate::lab::addresses::nodes;
use crate::lab::fault::Fault;
use crate::scenario::{MANIFESTS, Scenario, service};
use crate::services::{POOL, manifests, vip};

/// The running product.
#[derive(Debug)]
pub struct Herald<'s> {
    scenario: &'s mut Scenario,
    vips: Vec<IpAddr>,
    flags: Vec<String>,
    fault: Option<Fault>,
}

impl<'s> Herald<'s> {
    /// Starts the speakers.
    ///
    /// # Errors
    ///
    /// If they do not come up.
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
        let mut herald = Self { scenario, vips, flags, fault: None };
        for node in nodes() {
            herald.start_speaker(&node)?;
        }
        Ok(herald)
    }

    /// Ends the speakers.
    ///
    /// # Errors
    ///
    /// If one has gone by itself.
    pub fn stop(self) -> anyhow::Result<()> {
        for node in nodes() {
            self.scenario.speaker(&node)?.kill()?;
            self.scenario.forget(&node);
        }
        Ok(())
    }

    fn start_speaker(&mut self, node: &str) -> anyhow::Result<()> {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.scenario.start(node, &flags)
    }

    fn kill_speaker(&mut self, node: &str) -> anyhow::Result<()> {
        self.scenario.speaker(node)?.kill()?;
        self.scenario.forget(node);
        Ok(())
    }

    /// Does not wait for its end: a client does not either.
    fn terminate(&mut self, node: &str) -> anyhow::Result<()> {
        self.scenario.speaker(node)?.terminate(super::measure::LASTS)?;
        self.scenario.forget(node);
        Ok(())
    }

    fn ask(&self, node: &str, what: &str) -> anyhow::Result<()> {
        let (is_done, said) = self.scenario.command(node, &[what])?;
        ensure!(is_done, "herald {what}: {said}");
        Ok(())
    }

    fn move_all(&mut self, target: &str) -> anyhow::Result<()> {
        for vip in &self.vips {
            let holder = |scenario: &Scenario| -> anyhow::Result<Option<String>> {
                Ok(scenario.status(target)?.vip(*vip).and_then(|vip| vip.holder.clone()))
            };
            if holder(self.scenario)?.as_deref() == Some(target) {
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
        Name::Herald
    }

    fn has(&self, _: Event) -> bool {
        true
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
        let vips = self.vips.clone();
        let first =
            self.scenario.wait("all speakers are back and all VIPs held", 30, |scenario| {
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
        self.move_all(&first)?;
        self.scenario.wait("the client is served", 20, |scenario| {
            Ok(scenario.request("c1", vips[0], Transport::Udp).ok())
        })?;
        Ok(first)
    }

    fn port(&self, holder: &str) -> anyhow::Result<u16> {
        self.scenario.port_to("c1", self.vips[0], |node| node != holder)
    }

    fn cause(&mut self, event: Event, holder: &str) -> anyhow::Result<()> {
        match event {
            Event::Cut | Event::Return => self.scenario.lab.cut(holder)?,
            Event::OneWayCut => self.fault = Some(self.scenario.lab.mute(holder)?),
            Event::Kill => self.kill_speaker(holder)?,
            Event::Restart => {
                self.kill_speaker(holder)?;
                self.start_speaker(holder)?;
            }
            Event::Stop => self.scenario.speaker(holder)?.signal(libc::SIGSTOP)?,
            Event::Term => self.terminate(holder)?,
            Event::Upgrade => {
                self.terminate(holder)?;
                self.start_speaker(holder)?;
            }
            Event::Move => {
                let target = nodes().find(|node| node != holder).context("no other node")?;
                self.move_all(&target)?;
            }
            Event::Drain => self.ask(holder, "drain")?,
        }
        Ok(())
    }

    fn heal(&mut self, event: Event, holder: &str) -> anyhow::Result<()> {
        match event {
            Event::Cut | Event::Return => self.scenario.lab.heal(holder)?,
            Event::OneWayCut => self.fault = None,
            Event::Kill | Event::Term => self.start_speaker(holder)?,
            Event::Stop => self.scenario.speaker(holder)?.signal(libc::SIGCONT)?,
            Event::Drain => self.ask(holder, "undrain")?,
            Event::Restart | Event::Upgrade | Event::Move => {}
        }
        Ok(())
    }
}
