//! Herald serving the demo's Service under watch while faults come and go (edge). It keeps the list
//! of who held each VIP in turn, and at the end asks of every bridge port that nobody spoke twice.
//!
//! A busy machine may cost a node its session without any fault of ours, and its VIPs move once
//! more than the test meant. That is no violation: terms count the changes, so when there were
//! more than were noted, the voices may have changed as often, and no oftener.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::client::Transport;
use crate::clock;
use crate::lab::addresses::{CLIENTS, nodes};
use crate::scenario::Scenario;
use crate::tap::turns::speakers;
use crate::watch::{Seen, Watch};

/// What happened so far.
#[derive(Debug)]
pub struct Trial {
    vips: BTreeMap<IpAddr, Turns>,
    watch: Watch,
}

#[derive(Debug)]
struct Turns {
    first_term: u64,
    order: Vec<String>,
}

impl Trial {
    /// Begins with VIPs that have a holder each, asking for each once in so much time.
    ///
    /// # Errors
    ///
    /// If one has none, or they cannot be watched.
    pub fn begin(scenario: &Scenario, vips: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        let watch = Watch::start(&scenario.lab, vips, pace)?;
        let status = scenario.status("n1")?;
        let turns = |address: &IpAddr| {
            let vip = status.vip(*address).with_context(|| format!("{address} is unknown"))?;
            let holder = vip.holder.clone().with_context(|| format!("{address} has no holder"))?;
            Ok((*address, Turns { first_term: vip.term, order: vec![holder] }))
        };
        Ok(Self { vips: vips.iter().map(turns).collect::<anyhow::Result<_>>()?, watch })
    }

    /// Who was last known to hold a VIP.
    ///
    /// # Errors
    ///
    /// If it is not watched.
    pub fn holder(&self, vip: IpAddr) -> anyhow::Result<&str> {
        let turns = self.vips.get(&vip).with_context(|| format!("{vip} is not watched"))?;
        turns.order.last().map(String::as_str).with_context(|| format!("{vip} has no holder"))
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
        let vips: Vec<IpAddr> = self.vips.keys().copied().collect();
        let holders = scenario.wait("every VIP has a right holder", 20, |scenario| {
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
        for (vip, holder) in holders {
            if let Some(turns) = self.vips.get_mut(&vip)
                && turns.order.last() != Some(&holder)
            {
                turns.order.push(holder);
            }
        }
        Ok(())
    }

    /// Waits until both clients are served at every VIP.
    ///
    /// # Errors
    ///
    /// If they are not in time.
    pub fn served(&self, scenario: &mut Scenario) -> anyhow::Result<()> {
        for vip in self.vips.keys() {
            for client in CLIENTS {
                let what = format!("{client} is served at {vip}");
                scenario.wait(&what, 20, |scenario| {
                    Ok(scenario.request(client, *vip, Transport::Udp).ok())
                })?;
            }
        }
        Ok(())
    }

    /// Ends and judges: one voice for each VIP.
    ///
    /// # Errors
    ///
    /// If there was a second one; every frame of it is told.
    pub fn end(self, scenario: &Scenario, witness: &str) -> anyhow::Result<Seen> {
        // What an old holder might still say is to be heard.
        clock::pause(Duration::from_millis(500));
        let status = scenario.status(witness)?;
        let seen = self.watch.finish()?;
        for (vip, turns) in &self.vips {
            let now = status.vip(*vip).with_context(|| format!("{vip} is unknown"))?;
            let changes = usize::try_from(now.term.saturating_sub(turns.first_term))?;
            let spoke = speakers(&seen.heard.claims, *vip);
            ensure!(!spoke.is_empty(), "nobody ever spoke for {vip}: nothing was watched");
            if changes < turns.order.len() {
                seen.heard.one_voice(*vip, &turns.order)?;
            }
            ensure!(
                spoke.len() <= changes + 1,
                "{vip} changed hands {changes} times, its voice {} times: {spoke:?}; noted: {:?}",
                spoke.len() - 1,
                turns.order
            );
        }
        Ok(seen)
    }
}

/// Waits until a node has a session again, as it and a witness see it.
///
/// # Errors
///
/// If it does not get one in time.
pub fn rejoined(scenario: &mut Scenario, witness: &str, node: &str) -> anyhow::Result<()> {
    scenario.wait(&format!("{node} has a session again"), 20, |scenario| {
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
