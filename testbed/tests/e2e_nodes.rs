//! What is said about nodes and endpoints changes while VIPs are held: a holder that is labelled
//! out or no longer selected gives its VIPs away before it is silent; when all endpoints or all
//! nodes turn not ready at once, it is the control plane that fails, and everything stays. Nobody
//! loses a packet.

use std::net::IpAddr;

use anyhow::Context;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::nodes;
use herald_testbed::scenario::{MANIFESTS, PATIENCE, Scenario};
use herald_testbed::status::{Ineligible, Status};
use herald_testbed::trial::{Trial, other};
use herald_testbed::unbroken::without_loss;

/// With longer times than usual: no VIP may move because a machine is busy.
const CALM: [&str; 2] = ["--profile", "calm"];
/// A label of each node, and what an announcement selects by it.
const ON_LAN: &str = "lan: 'yes'";
const SELECTOR: &str = "  nodeSelectors: [{matchLabels: {lan: 'yes'}}]\n";

#[test]
fn a_holder_that_is_labelled_out_or_not_selected_hands_over_without_loss() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &CALM)?;
        put_nodes(scenario, |_| ON_LAN)?;
        scenario.put_manifest(MANIFESTS[2].0, &(MANIFESTS[2].1.to_owned() + SELECTOR))?;
        let vip = vips[0];
        for (label, reason) in [
            (
                "lan: 'yes', node.kubernetes.io/exclude-from-external-load-balancers: ''",
                "node_excluded_by_label",
            ),
            ("lan: 'no'", "node_not_selected"),
        ] {
            let old = trial.holder(vip)?.to_owned();
            let witness = other(&[&old])?;
            let session = scenario.status(&witness)?.open_session(&old).map(|it| it.epoch);
            without_loss(scenario, &[vip], &old, |scenario| {
                put_nodes(scenario, |node| if node == old { label } else { ON_LAN })?;
                trial.held(scenario, &witness, |holder| holder != old)
            })?;
            let status = scenario.status(&witness)?;
            let why = &status.vip(vip).context("the VIP is gone")?.ineligible;
            assert_eq!(*why, [Ineligible { node: old.clone(), reason: reason.to_owned() }]);
            // It was no failover: the old holder lives and was asked.
            assert_eq!(status.open_session(&old).map(|it| it.epoch), session);

            let new = trial.holder(vip)?.to_owned();
            put_nodes(scenario, |_| ON_LAN)?;
            scenario.wait("the node may hold the VIP again", PATIENCE, |scenario| {
                let status = scenario.status(&new)?;
                let vip = status.vip(vip).context("the VIP is gone")?;
                Ok(vip.ineligible.is_empty().then_some(()))
            })?;
            assert_eq!(scenario.holder(&witness, vip), Some(new), "it takes nothing back");
        }
        trial.end(scenario, "n1").map(drop)
    })
}

#[test]
fn all_endpoints_or_all_nodes_not_ready_at_once_change_nothing() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (trial, vips) = Trial::of_demo(scenario, &CALM)?;
        let holder = trial.holder(vips[0])?.to_owned();
        let before = claims(&scenario.status("n1")?);
        let nodes_fail = |scenario: &Scenario| {
            let failed = "status:\n  conditions: [{type: Ready, status: Unknown}]\n";
            scenario.put_manifest("nodes.yaml", &MANIFESTS[0].1.replace("status:\n", failed))
        };
        without_loss(scenario, &vips[..1], &holder, |scenario| {
            // All endpoints together.
            put_endpoints(scenario, |_| true)?;
            is_kept(scenario, &before, true)?;
            put_endpoints(scenario, |_| false)?;
            is_kept(scenario, &before, false)?;

            // All nodes, and then their endpoints one after another, as the control plane says it.
            nodes_fail(scenario)?;
            for count in 1..=nodes().count() {
                put_endpoints(scenario, |node| nodes().take(count).any(|failed| failed == node))?;
                is_kept(scenario, &before, true)?;
            }
            scenario.put_manifest("nodes.yaml", MANIFESTS[0].1)?;
            put_endpoints(scenario, |_| false)?;
            is_kept(scenario, &before, false)
        })?;
        trial.end(scenario, "n1").map(drop)
    })
}

/// The Nodes with these labels.
fn put_nodes<'a>(scenario: &Scenario, labels: impl Fn(&str) -> &'a str) -> anyhow::Result<()> {
    let labelled = nodes().fold(MANIFESTS[0].1.to_owned(), |text, node| {
        let name = format!("  name: {node}\n");
        text.replace(&name, &format!("{name}  labels: {{{}}}\n", labels(&node)))
    });
    scenario.put_manifest(MANIFESTS[0].0, &labelled)
}

/// The EndpointSlices, the endpoints of some nodes being not ready.
fn put_endpoints(scenario: &Scenario, is_failed: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let (name, text) = MANIFESTS[4];
    let ready = "conditions:\n      ready: true\n      serving: true\n";
    let failed = nodes().filter(|node| is_failed(node)).fold(text.to_owned(), |text, node| {
        let of_node = format!("nodeName: {node}\n    ");
        text.replace(&(of_node.clone() + ready), &(of_node + &ready.replace("true", "false")))
    });
    scenario.put_manifest(name, &failed)
}

/// Waits until every node's status says that endpoints are kept, or that none are; nothing has
/// moved.
fn is_kept(
    scenario: &mut Scenario,
    before: &[(IpAddr, Option<String>, u64)],
    wanted: bool,
) -> anyhow::Result<()> {
    let what = format!("status says of kept endpoints: {wanted}");
    scenario.wait(&what, PATIENCE, |scenario| {
        for node in nodes() {
            let (_, said) = scenario.command(&node, &["status"])?;
            let kept = said.matches("all_not_ready_together").count();
            if kept != if wanted { before.len() } else { 0 } {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    for node in nodes() {
        let status = scenario.status(&node)?;
        assert_eq!(claims(&status), before, "as {node} sees it");
        for vip in &status.vips {
            assert_eq!(vip.announcing, vip.holder.as_ref() == Some(&node), "{node}: {vip:?}");
            assert!(vip.backends.iter().all(|backend| backend.used), "{node}: {vip:?}");
        }
    }
    Ok(())
}

/// Who holds what in which term.
fn claims(status: &Status) -> Vec<(IpAddr, Option<String>, u64)> {
    status.vips.iter().map(|vip| (vip.address, vip.holder.clone(), vip.term)).collect()
}
