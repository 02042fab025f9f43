//! Flows that go on while something happens (edge): what a planned change must not cost anybody.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;

use crate::client::Transport;
use crate::clock;
use crate::probe::Probe;
use crate::scenario::{Scenario, service};

/// A busy machine may leave the probes without an answer for some time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Probes two flows to each VIP, one to a pod on the node and one to a pod elsewhere, while
/// something happens; all must lose nothing and stay where they are.
///
/// # Errors
///
/// If one does not; or what happens fails.
pub fn without_loss(
    scenario: &mut Scenario,
    vips: &[IpAddr],
    node: &str,
    happens: impl FnOnce(&mut Scenario) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = scenario.lab.netns("c1")?.clone();
    let mut probes = Vec::new();
    for vip in vips {
        for place in ["on", "not on"] {
            let port = scenario.port_to("c1", *vip, |on| (on == node) == (place == "on"))?;
            let flow = format!("to {vip}, to a pod {place} {node}");
            probes.push((flow, Probe::start(&client, service(*vip, Transport::Udp), port)?));
        }
    }
    let answered = |count: u64| {
        clock::await_for("all probes are answered", PATIENCE, || {
            Ok(probes.iter().all(|(_, probe)| probe.last_answer() >= count).then_some(()))
        })
    };
    answered(100)?;
    happens(scenario)?;
    let so_far = probes.iter().map(|(_, probe)| probe.last_answer()).max().unwrap_or_default();
    answered(so_far + 500)?;
    for (flow, probe) in probes {
        let outcome = probe.finish()?;
        let (lost, sent) = (outcome.lost(), outcome.sent());
        ensure!(lost == 0, "{lost} of {sent} lost, {flow}");
        // Another pod would answer a datagram too; a connection would be broken.
        let nodes = outcome.nodes();
        ensure!(nodes.len() == 1, "{flow}: {nodes:?}");
    }
    Ok(())
}
