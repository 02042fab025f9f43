//! The demo's second half: the holder's node is cut off the LAN without noticing, another takes
//! over while a probe runs each millisecond, and the old one comes back and takes nothing back.
//!
//! Two flows are probed. One goes to a pod on a node that lives on: its outage is how long the
//! VIP was silent, and that is the number reported. The other goes to a pod on the node that is cut
//! off: that pod is lost with its node whatever a load balancer does, and its flow is back when
//! Herald sends it to another pod. The second is told too, since clients feel it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Stage;
use crate::client::{self, Transport};
use crate::clock;
use crate::lab::addresses::{CLIENTS, node_of, nodes};
use crate::probe::Probe;
use crate::resolve::who_has;
use crate::scenario::{Scenario, service};
use crate::tap::{Kind, Tap};

/// A longer outage fails the demo: the design promises "well under a second".
const LONGEST_OUTAGE: Duration = Duration::from_secs(1);
/// Datagrams answered in a row after which service counts as back.
const STEADY: u64 = 300;
/// How long the returned node is watched.
const WATCH: Duration = Duration::from_secs(3);
/// The source ports of probes are looked for from here on.
const FIRST_PORT: u16 = 40_000;

/// Runs it.
///
/// # Errors
///
/// If something could not even be tried.
pub fn show(stage: &mut Stage) -> anyhow::Result<()> {
    let vip = *stage.vips.first().context("there is no VIP to fail over")?;
    let old = stage.report.holder.clone();
    let new = cut(stage, vip, &old)?;
    after(stage, vip, &old, &new)?;
    give_back(stage, vip, &old, &new)
}

/// Cuts the holder off and measures. Returns the new holder.
fn cut(stage: &mut Stage, vip: IpAddr, old: &str) -> anyhow::Result<String> {
    let witness = nodes().find(|node| node != old).context("there is only one node")?;
    let surviving = port(&stage.scenario, vip, |node| node != old)?;
    let dying = port(&stage.scenario, vip, |node| node == old)?;
    let client = stage.scenario.lab.netns("c1")?;
    let tap = Tap::at("c1", &[])?;
    let survivor = Probe::start(client, service(vip, Transport::Udp), surviving)?;
    let casualty = Probe::start(client, service(vip, Transport::Udp), dying)?;
    clock::pause(Duration::from_millis(500));
    stage.teller.say(&format!("probing each millisecond; cutting {old} off the LAN now"));
    stage.scenario.lab.cut(old)?;
    let cut_at = clock::now();
    let new = stage.scenario.wait("another node holds the VIP", 15, |scenario| {
        let status = scenario.status(&witness)?;
        let holder = status.vip(vip).and_then(|vip| vip.holder.clone());
        Ok(holder.filter(|holder| holder != old))
    })?;
    for probe in [&survivor, &casualty] {
        let begin = probe.last_answer();
        let steady = begin + STEADY;
        clock::await_for("the probes are answered again", Duration::from_secs(15), || {
            Ok((probe.last_answer() > steady).then_some(()))
        })?;
    }
    let (survivor, casualty, capture) = (survivor.finish()?, casualty.finish()?, tap.finish()?);
    let announced = capture.voices_for(vip).find(|voice| {
        voice.at > cut_at && voice.kind == Kind::Announcement && node_of(voice.mac) == Some(&new)
    });
    let line = match announced {
        Some(voice) => {
            format!("{new} announced itself {} ms after the cut", (voice.at - cut_at).as_millis())
        }
        None => format!("{new} announced itself on the LAN"),
    };
    stage.teller.expect(announced.is_some(), &line);
    let outage = survivor.outage();
    stage.report.failover.outage_ms = Some(u64::try_from(outage.as_millis())?);
    stage.report.failover.new_holder = Some(new.clone());
    let line = format!(
        "{} ms without service ({} of {} probes lost) on a flow whose pod survived (on {})",
        outage.as_millis(),
        survivor.lost(),
        survivor.sent(),
        survivor.nodes().join(", then "),
    );
    stage.teller.expect(outage > Duration::ZERO && outage < LONGEST_OUTAGE, &line);
    let line = format!(
        "{} ms on a flow whose pod was on {old} and is lost with it; then pods on {} answered",
        casualty.outage().as_millis(),
        casualty.nodes().split_first().map_or(String::new(), |(_, rest)| rest.join(", ")),
    );
    stage.teller.expect(casualty.nodes().len() > 1, &line);
    Ok(new)
}

/// The LAN after the takeover.
fn after(stage: &mut Stage, vip: IpAddr, old: &str, new: &str) -> anyhow::Result<()> {
    let answers = who_has(&stage.scenario.lab, vip)?;
    let alone = answers.len() == 1 && node_of(answers[0]) == Some(new);
    stage.teller.expect(alone, &format!("{new} alone answers for {vip} now"));
    let (mut sent, mut ok) = (0, 0);
    for client in CLIENTS {
        for vip in &stage.vips {
            for transport in [Transport::Tcp, Transport::Udp] {
                sent += 1;
                let reply = stage.scenario.request(client, *vip, transport);
                ok += u32::from(reply.is_ok_and(|reply| reply.answer.node != old));
            }
        }
    }
    let line = format!("{ok} of {sent} requests of both clients answered without {old}");
    stage.teller.expect(ok == sent, &line);
    Ok(())
}

/// The old holder comes back.
fn give_back(stage: &mut Stage, vip: IpAddr, old: &str, new: &str) -> anyhow::Result<()> {
    let before = stage.scenario.status(new)?.holders();
    stage.scenario.lab.heal(old)?;
    stage.teller.say(&format!("{old} is back on the LAN; watching it for 3 s"));
    let epoch = |scenario: &Scenario, node: &str| -> Option<u64> {
        Some(scenario.status(node).ok()?.open_session(old)?.epoch)
    };
    stage.scenario.wait("the returned node has a session again", 15, |scenario| {
        let told = (epoch(scenario, new), epoch(scenario, old));
        Ok((told.0.is_some() && told.0 == told.1).then_some(()))
    })?;
    clock::pause(WATCH);
    let status = stage.scenario.status(old)?;
    let took: Vec<String> = status
        .vips
        .iter()
        .filter(|vip| vip.holder.as_deref() == Some(old) || vip.announcing)
        .map(|vip| vip.address.to_string())
        .collect();
    let moved = stage.scenario.status(new)?.holders() != before;
    let answers = who_has(&stage.scenario.lab, vip)?;
    let still = answers.len() == 1 && node_of(answers[0]) == Some(new);
    stage.report.returned_took_back = !took.is_empty() || moved || !still;
    let line = format!("{old} has a session again and took nothing back{}", list(&took));
    stage.teller.expect(!stage.report.returned_took_back, &line);
    Ok(())
}

fn list(took: &[String]) -> String {
    if took.is_empty() { String::new() } else { format!(" (it holds {})", took.join(", ")) }
}

/// A source port of c1 from which datagrams to the VIP reach a pod on the wanted kind of node.
fn port(
    scenario: &Scenario,
    vip: IpAddr,
    wanted: impl Fn(&str) -> bool + Sync,
) -> anyhow::Result<u16> {
    scenario.lab.netns("c1")?.inside(|| {
        for port in FIRST_PORT..FIRST_PORT + 100 {
            let socket = client::udp(service(vip, Transport::Udp), port)?;
            if wanted(&client::who_udp(&socket, "where")?.answer.node) {
                return Ok(port);
            }
        }
        bail!("a hundred flows reached no pod of the wanted kind")
    })
}
