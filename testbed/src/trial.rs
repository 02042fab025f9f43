//! Herald serving the demo's Service under watch while faults come and go (edge). At the end it
//! asks of every bridge port that nobody spoke out of turn, in the order of the holders that the
//! speakers themselves reported.
//!
//! A busy machine may cost a node its session without any fault of ours, and its VIPs move once
//! more than the test meant. That is no violation: it is in the order like any other turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::client::Transport;
use crate::judge::Judge;
use crate::lab::addresses::{CLIENTS, nodes};
use crate::scenario::{PATIENCE, Scenario};
use crate::watch::{PACE, Seen};

/// What happened so far.
#[derive(Debug)]
pub struct Trial {
    holders: BTreeMap<IpAddr, String>,
    judge: Judge,
}

impl Trial {
    /// Begins with VIPs that have a holder each, asking for each once in so much time.
    ///
    /// # Errors
    ///
    /// If one has none, or they cannot be watched.
    pub fn begin(scenario: &Scenario, vips: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        let judge = Judge::begin(&scenario.lab, vips, pace)?;
        let status = scenario.status("n1")?;
        let holder = |address: &IpAddr| {
            let vip = status.vip(*address).with_context(|| format!("{address} is unknown"))?;
            let holder = vip.holder.clone().with_context(|| format!("{address} has no holder"))?;
            Ok((*address, holder))
        };
        Ok(Self { holders: vips.iter().map(holder).collect::<anyhow::Result<_>>()?, judge })
    }

    /// Starts all speakers with these flags and the demo's Service, and begins with its VIPs, IPv4
    /// first.
    ///
    /// # Errors
    ///
    /// If they do not come up, or as [`Trial::begin`].
    pub fn of_demo(scenario: &mut Scenario, flags: &[&str]) -> anyhow::Result<(Self, Vec<IpAddr>)> {
        scenario.start_all(flags)?;
        scenario.put_all_manifests()?;
        let vips: Vec<IpAddr> = scenario.served()?.into_iter().map(|(vip, _)| vip).collect();
        Ok((Self::begin(scenario, &vips, PACE)?, vips))
    }

    /// Moves all VIPs to a node, by request on another one, and waits until it announces them.
    ///
    /// # Errors
    ///
    /// If the request is refused, or does not help in time.
    pub fn give_all(&mut self, scenario: &mut Scenario, node: &str) -> anyhow::Result<()> {
        let vips: Vec<IpAddr> = self.holders.keys().copied().collect();
        gather(scenario, &vips, node)?;
        self.held(scenario, &other(&[node])?, |holder| holder == node)
    }

    /// Who was last known to hold a VIP.
    ///
    /// # Errors
    ///
    /// If it is not watched.
    pub fn holder(&self, vip: IpAddr) -> anyhow::Result<&str> {
        self.holders.get(&vip).map(String::as_str).with_context(|| format!("{vip} is not watched"))
    }

    /// Waits until every VIP is held by a node for which this is true, and that node says that it
    /// announces it; notes who that is.
    ///
    /// # Errors
    ///
    /// If it does not happen in time.
    pub fn held(
        &mut self,
        scenario: &mut Scenario,
        witness: &str,
        is_right: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let vips: Vec<IpAddr> = self.holders.keys().copied().collect();
        self.holders = scenario.wait("every VIP has a right holder", PATIENCE, |scenario| {
            let Ok(status) = scenario.status(witness) else { return Ok(None) };
            let mut holders = status.holders();
            holders.retain(|vip, holder| vips.contains(vip) && is_right(holder));
            let announced = nodes().filter(|node| holders.values().any(|holder| holder == node));
            let announced =
                announced.filter_map(|node| Some((node.clone(), scenario.status(&node).ok()?)));
            let reports: BTreeMap<_, _> = announced.collect();
            let all = vips.iter().all(|vip| {
                let own = holders.get(vip).and_then(|holder| reports.get(holder)?.vip(*vip));
                own.is_some_and(|own| own.announcing)
            });
            Ok(all.then_some(holders))
        })?;
        Ok(())
    }

    /// Waits until both clients are served at every VIP.
    ///
    /// # Errors
    ///
    /// If they are not in time.
    pub fn served(&self, scenario: &mut Scenario) -> anyhow::Result<()> {
        for vip in self.holders.keys() {
            for client in CLIENTS {
                let what = format!("{client} is served at {vip}");
                scenario.wait(&what, PATIENCE, |scenario| {
                    Ok(scenario.request(client, *vip, Transport::Udp).ok())
                })?;
            }
        }
        Ok(())
    }

    /// Ends and judges: each VIP had one voice, its holder's in that very term.
    ///
    /// # Errors
    ///
    /// If there was a second one; every frame of it is told.
    pub fn end(self, scenario: &Scenario, witness: &str) -> anyhow::Result<Seen> {
        self.judge.end(|| scenario.status(witness))
    }
}

/// Moves VIPs to a node, by request on another one, and waits until it announces them.
///
/// # Errors
///
/// If the request is refused, or does not help in time.
pub fn gather(scenario: &mut Scenario, vips: &[IpAddr], node: &str) -> anyhow::Result<()> {
    let witness = other(&[node])?;
    for vip in vips {
        let (is_done, said) = scenario.command(&witness, &["move", &vip.to_string(), node])?;
        ensure!(is_done || said.contains("already_there"), "{said}");
    }
    scenario.wait(&format!("{node} announces the VIPs"), PATIENCE, |scenario| {
        let Ok(status) = scenario.status(node) else { return Ok(None) };
        let announced = |vip: &IpAddr| status.vip(*vip).is_some_and(|vip| vip.announcing);
        Ok(vips.iter().all(announced).then_some(()))
    })
}

/// Waits until a node has a session again, as it and a witness see it.
///
/// # Errors
///
/// If it does not get one in time.
pub fn rejoined(scenario: &mut Scenario, witness: &str, node: &str) -> anyhow::Result<()> {
    scenario.wait(&format!("{node} has a session again"), PATIENCE, |scenario| {
        let seen = |by: &str| Some(scenario.status(by).ok()?.open_session(node)?.epoch);
        let (others, own) = (seen(witness), seen(node));
        Ok((others.is_some() && others == own).then_some(()))
    })
}

/// A node that is none of these.
///
/// # Errors
///
/// If there is none.
pub fn other(than: &[&str]) -> anyhow::Result<String> {
    let mut others = nodes().filter(|node| !than.contains(&node.as_str()));
    others.next().context("there is no other node")
}
