//! Nodes with an interface in each of two networks, both served: a VIP is answered for on the one
//! that its advertisement names and nowhere else, in XDP and by the speaker alike, also while the
//! advertisement changes.

use std::net::IpAddr;

use anyhow::Context;
use herald_announcer::MacAddr;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, number};
use herald_testbed::lab::backbone;
use herald_testbed::resolve::{who_has, who_has_on_backbone};
use herald_testbed::scenario::{MANIFESTS, PATIENCE, Scenario};

/// How often an interface is asked that must be silent.
const QUESTIONS: u64 = 3;

#[test]
fn a_vip_is_answered_for_on_the_interface_of_its_policy_alone() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.lab.add_backbone()?;
        scenario.lab.join_backbone()?;
        scenario.start_all(&["--interface", "eth0", "--interface", "eth1"])?;
        scenario.put_all_manifests()?;
        advertise_on(scenario, "eth0")?;
        for (vip, holder) in scenario.served()? {
            let host = host(&holder).context("not of the lab")?;
            let modes = scenario.status(&holder)?.datapath;
            assert!(modes.len() == 2 && modes.iter().all(|row| row.mode != "off"), "{modes:?}");
            let lan = |scenario: &Scenario| who_has(&scenario.lab, vip);
            let backbone =
                |scenario: &Scenario| who_has_on_backbone(&scenario.lab, vip, number(host));

            answers(scenario, "eth0", host.mac(), lan)?;
            silent(scenario, &holder, vip, backbone)?;
            // What kept it silent was the policy: named there, the same node answers there.
            advertise_on(scenario, "eth1")?;
            answers(scenario, "eth1", backbone::mac(number(host)), backbone)?;
            silent(scenario, &holder, vip, lan)?;
            advertise_on(scenario, "eth0")?;
            answers(scenario, "eth0", host.mac(), lan)?;
            silent(scenario, &holder, vip, backbone)?;
        }
        Ok(())
    })
}

fn advertise_on(scenario: &Scenario, interface: &str) -> anyhow::Result<()> {
    let (name, text) = MANIFESTS[2];
    scenario.put_manifest(name, &format!("{text}  interfaces: [{interface}]\n"))
}

/// Waits until the holder has followed the policy to this interface.
fn answers(
    scenario: &mut Scenario,
    interface: &str,
    mac: MacAddr,
    ask: impl Fn(&Scenario) -> anyhow::Result<Vec<MacAddr>>,
) -> anyhow::Result<()> {
    scenario.wait(&format!("the holder alone answers on {interface}"), PATIENCE, |scenario| {
        Ok((ask(scenario)? == [mac]).then_some(()))
    })
}

/// The holder hears the questions, passes them on, and nobody answers.
fn silent(
    scenario: &Scenario,
    holder: &str,
    vip: IpAddr,
    ask: impl Fn(&Scenario) -> anyhow::Result<Vec<MacAddr>>,
) -> anyhow::Result<()> {
    let passed = |scenario: &Scenario| -> anyhow::Result<u64> {
        let reason = if vip.is_ipv4() { "xdp_arp_passed" } else { "xdp_ns_passed" };
        Ok(scenario.status(holder)?.counters.get(reason).copied().unwrap_or_default())
    };
    let before = passed(scenario)?;
    for _ in 0..QUESTIONS {
        assert_eq!(ask(scenario)?, [], "somebody answers for {vip}");
    }
    let counted = passed(scenario)? - before;
    assert!(counted >= QUESTIONS, "{counted} of {QUESTIONS} questions for {vip} were counted");
    Ok(())
}
