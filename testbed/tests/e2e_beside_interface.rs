//! The interface itself: it disappears and another of its name comes, with an MTU at which native
//! XDP is impossible, which is then lowered; and a speaker finds what one of another pin format
//! left. Each time the programs are on it again, status says how, and the service answers.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, ensure};
use herald_testbed::beside::interface;
use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::NODES;
use herald_testbed::scenario::{Scenario, directory};

const NODE: &str = "n3";
const LIMIT: u64 = 30;
/// Enough for pods on each of three nodes, but by a chance of one in sixty thousand.
const REQUESTS: usize = 30;

#[test]
fn an_interface_that_returns_is_served_again_and_better_when_its_mtu_allows() -> anyhow::Result<()>
{
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let vip = scenario.served()?[0].0;
        taken(scenario, vip)?;
        all_pods_answer(scenario, vip)?;

        interface::remove(&scenario.lab, NODE)?;
        let gone = interface::served_by(scenario, NODE, "off")?;
        assert_eq!(gone.reason.as_deref(), Some("the interface does not exist"));
        scenario.wait("another node holds the VIP", LIMIT, |scenario| {
            let holder = scenario.status("n1")?.holders().remove(&vip);
            Ok(holder.filter(|holder| holder != NODE))
        })?;

        interface::put_back(&scenario.lab, NODE, 9000)?;
        let large = interface::served_by(scenario, NODE, "generic")?;
        let reason = large.reason.context("no reason for not being native")?;
        assert!(reason.contains("cannot attach herald_xdp to eth0"), "{reason}");
        taken(scenario, vip)?;
        all_pods_answer(scenario, vip)?;

        let _cable = interface::resize(&scenario.lab, NODE, 1500)?;
        let small = interface::served_by(scenario, NODE, "native")?;
        assert_eq!(small.reason, None);
        taken(scenario, vip)?;
        all_pods_answer(scenario, vip)?;

        // What a speaker of another release has left.
        scenario.kill(NODE)?;
        let pins = directory(NODE).join("bpf");
        let format = only_format(&pins)?;
        fs::rename(pins.join(&format), pins.join("v0"))?;
        scenario.start(NODE, &[])?;
        interface::served_by(scenario, NODE, "native")?;
        assert_eq!(only_format(&pins)?, format, "the old one is removed");
        taken(scenario, vip)?;
        all_pods_answer(scenario, vip)
    })
}

/// Has the node take the VIP, so that it forwards.
fn taken(scenario: &mut Scenario, vip: IpAddr) -> anyhow::Result<()> {
    scenario.wait("all have sessions", LIMIT, |scenario| {
        let Ok(status) = scenario.status("n1") else { return Ok(None) };
        Ok((status.open_sessions() == usize::from(NODES)).then_some(()))
    })?;
    scenario.wait("the node may take the VIP, and does", LIMIT, |scenario| {
        let is_there = |scenario: &Scenario| -> anyhow::Result<bool> {
            Ok(scenario.status("n1")?.holders().get(&vip).is_some_and(|holder| holder == NODE))
        };
        // To move it to where it is, is refused.
        let done =
            is_there(scenario)? || scenario.command("n1", &["move", &vip.to_string(), NODE])?.0;
        Ok(done.then_some(()))
    })?;
    scenario.wait("it announces it", LIMIT, |scenario| {
        let Ok(status) = scenario.status(NODE) else { return Ok(None) };
        Ok(status.vip(vip).filter(|vip| vip.announcing).map(drop))
    })
}

fn all_pods_answer(scenario: &mut Scenario, vip: IpAddr) -> anyhow::Result<()> {
    // The client's ARP entry may be that of the holder before for a moment.
    scenario.wait("the client is answered", LIMIT, |scenario| {
        Ok(scenario.request("c1", vip, Transport::Udp).ok())
    })?;
    let mut nodes = BTreeSet::new();
    for _ in 0..REQUESTS {
        nodes.insert(scenario.request("c1", vip, Transport::Tcp)?.answer.node);
    }
    assert_eq!(Vec::from_iter(nodes), ["n1", "n2", "n3"]);
    Ok(())
}

fn only_format(pins: &std::path::Path) -> anyhow::Result<String> {
    let entries = fs::read_dir(pins)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<_> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // The kernel puts files of its own into each BPF filesystem.
    names.retain(|name| name.starts_with('v'));
    ensure!(names.len() == 1, "{names:?}");
    Ok(names.remove(0))
}
