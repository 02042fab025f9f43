//! Who holds a VIP follows the cluster: cordoned nodes are emptied to the node that is preferred,
//! without a lost packet and with one voice at every bridge port, and endpoints that all turn not
//! ready together change nothing.

use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::probe::Probe;
use herald_testbed::scenario::{MANIFESTS, Scenario, service};
use herald_testbed::tap::turns::speakers;
use herald_testbed::trial::gather;
use herald_testbed::watch::PACE;

const LIMIT: u64 = 20;

/// One of the demo's manifests.
fn manifest(name: &str) -> anyhow::Result<&'static str> {
    let found = MANIFESTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).with_context(|| format!("no manifest {name}"))
}

/// Waits until `herald status` on every node has this in it.
fn told(scenario: &mut Scenario, text: &str) -> anyhow::Result<()> {
    for node in nodes() {
        scenario.wait(&format!("{node} says {text}"), LIMIT, |scenario| {
            let (_, said) = scenario.command(&node, &["status", "--output", "json"])?;
            Ok(said.contains(text).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_cordoned_node_hands_over_to_the_preferred_node_without_loss() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let vips: Vec<_> = served.iter().map(|(vip, _)| *vip).collect();
        let old = served[0].1.clone();
        gather(scenario, &vips, &old)?;
        let judge = Judge::begin(&scenario.lab, &vips, PACE)?;
        let others: Vec<String> = nodes().filter(|node| *node != old).collect();
        let [witness, preferred] = &others[..] else {
            anyhow::bail!("not three nodes: {others:?}")
        };

        // Preferred is one thing, to take from a living holder another.
        let name = |node: &str| format!("  name: {node}\nstatus:");
        let labelled = format!("  name: {preferred}\n  labels: {{rather: here}}\nstatus:");
        let nodes = manifest("nodes.yaml")?.replace(&name(preferred), &labelled);
        scenario.put_manifest("nodes.yaml", &nodes)?;
        let advertisement = format!(
            "{}  preferredNodeSelectors:\n    - weight: 50\n      preference:\n        \
             matchLabels: {{rather: here}}\n",
            manifest("l2advertisement.yaml")?
        );
        scenario.put_manifest("l2advertisement.yaml", &advertisement)?;
        told(scenario, &format!("\"preference\":{{\"{preferred}\":50}}"))?;
        let held = |scenario: &Scenario| -> Vec<_> {
            vips.iter().map(|vip| scenario.holder(witness, *vip)).collect()
        };
        assert_eq!(held(scenario), vec![Some(old.clone()); 2], "nothing is taken");

        let client = scenario.lab.netns("c1")?.clone();
        let mut probes = Vec::new();
        for vip in &vips {
            let port = scenario.port_to("c1", *vip, |_| true)?;
            probes.push((vip, Probe::start(&client, service(*vip, Transport::Udp), port)?));
        }
        let answered = |more: u64| {
            let last = probes.iter().map(|(_, probe)| probe.last_answer()).max();
            let wanted = last.unwrap_or_default() + more;
            clock::await_for("the probes are answered", Duration::from_secs(LIMIT), || {
                Ok(probes.iter().all(|(_, probe)| probe.last_answer() >= wanted).then_some(()))
            })
        };
        answered(300)?;
        let cordoned = format!("  name: {old}\nspec:\n  unschedulable: true\nstatus:");
        scenario.put_manifest("nodes.yaml", &nodes.replace(&name(&old), &cordoned))?;
        scenario.wait("the preferred node holds the VIPs", LIMIT, |scenario| {
            Ok((held(scenario) == vec![Some(preferred.clone()); 2]).then_some(()))
        })?;
        answered(300)?;
        told(scenario, "node_cordoned")?;
        for (vip, probe) in probes {
            let outcome = probe.finish()?;
            assert_eq!(outcome.lost(), 0, "of {} to {vip}", outcome.sent());
        }
        let seen = judge.end(|| scenario.status(witness))?;
        for vip in vips {
            // Straight to the preferred node, and nowhere else in between.
            let expected = [&old, preferred].map(|node| host(node).map(|host| host.mac()));
            let spoke: Vec<_> = speakers(&seen.heard.claims, vip).into_iter().map(Some).collect();
            assert_eq!(spoke, expected, "{vip}");
        }
        Ok(())
    })
}

#[test]
fn endpoints_that_turn_not_ready_together_are_kept_and_deleted_ones_are_not() -> anyhow::Result<()>
{
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vip, old) = scenario.served()?.remove(0);
        let slices = manifest("endpointslices.yaml")?;
        let none_ready = slices
            .replace("ready: true", "ready: false")
            .replace("serving: true", "serving: false");
        scenario.put_manifest("endpointslices.yaml", &none_ready)?;
        told(scenario, "\"kept\":[\"default/echo\"]")?;
        let (_, said) = scenario.command(&old, &["status"])?;
        assert!(said.contains("all endpoints turned not ready together: kept"), "{said}");
        scenario.wait("it is announced as before", LIMIT, |scenario| {
            let status = scenario.status(&old)?;
            Ok(status.vip(vip).is_some_and(|vip| vip.announcing).then_some(()))
        })?;
        scenario.port_to("c1", vip, |_| true)?;

        let without: Vec<&str> =
            slices.lines().take_while(|line| !line.starts_with("endpoints:")).collect();
        let empty = format!("{}\nendpoints: []\n", without.join("\n"));
        scenario.put_manifest("endpointslices.yaml", &empty)?;
        told(scenario, "no_ready_endpoint")?;
        scenario.wait("nobody holds the VIP", LIMIT, |scenario| {
            Ok(scenario.holder(&old, vip).is_none().then_some(()))
        })?;
        scenario.put_manifest("endpointslices.yaml", slices)?;
        scenario.served().map(drop)
    })
}
