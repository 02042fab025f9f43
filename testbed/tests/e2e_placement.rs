//! Who may hold a VIP changes while it is held: the holder's cable is pulled, or its interface is
//! taken down. The nodes hear each other on a network of their own, so nobody has to wait for a
//! session to end.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::lab::backbone;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{MANIFESTS, Scenario};
use herald_testbed::status::Ineligible;

/// Much longer than a handover may take on the busiest machine, so that the two are told apart.
const TTL: &str = "40s";
/// Half of it.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn an_interface_that_goes_down_hands_over_at_once() -> anyhow::Result<()> {
    in_lab(|scenario| {
        hands_over(scenario, |scenario, holder| {
            scenario.lab.netns(holder)?.ip("link set eth0 down\n")
        })?;
        Ok(())
    })
}

#[test]
fn a_pulled_cable_hands_over_at_once_and_its_return_takes_nothing_back() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (vip, old, new) = hands_over(scenario, |scenario, holder| scenario.lab.unplug(holder))?;
        scenario.lab.plug(&old)?;
        scenario.wait("the node may hold the VIP again", 30, |scenario| {
            let status = scenario.status(&new)?;
            let vip = status.vip(vip).context("the VIP is gone")?;
            Ok(vip.ineligible.iter().all(|why| why.node != old).then_some(()))
        })?;
        for node in nodes() {
            assert_eq!(scenario.holder(&node, vip).as_ref(), Some(&new), "as {node} sees it");
        }
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).context("not of the lab")?.mac()]);
        Ok(())
    })
}

/// Takes the holder's link away and returns the VIP, its old and its new holder, all sessions being
/// the same as before.
fn hands_over(
    scenario: &mut Scenario,
    take_down: impl FnOnce(&Scenario, &str) -> anyhow::Result<()>,
) -> anyhow::Result<(IpAddr, String, String)> {
    scenario.lab.add_backbone()?;
    scenario.put_manifest(MANIFESTS[0].0, &backbone::nodes_manifest())?;
    scenario.start_all(&["--interface", "eth0", "--ttl", TTL, "--heartbeat", "200ms"])?;
    for (name, text) in &MANIFESTS[1..] {
        scenario.put_manifest(name, text)?;
    }
    let (vip, old) = scenario.served()?.remove(0);
    scenario.request("c1", vip, Transport::Udp)?;
    let epoch = |scenario: &Scenario| -> anyhow::Result<Option<u64>> {
        Ok(scenario.status(&old)?.open_session(&old).map(|session| session.epoch))
    };
    let session = epoch(scenario)?;

    let begin = clock::now();
    take_down(scenario, &old)?;
    let new = scenario.wait("another node announces the VIP", 30, |scenario| {
        for node in nodes().filter(|node| *node != old) {
            if scenario.status(&node)?.vip(vip).is_some_and(|vip| vip.announcing) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })?;
    let took = clock::now() - begin;
    assert!(took < SOON, "{took:?}, of a ttl of {TTL}");
    assert!(session.is_some(), "{old} had no session");
    assert_eq!(epoch(scenario)?, session, "{old} was given up, it did not hand over");

    let status = scenario.status(&new)?;
    let why = status.vip(vip).context("the VIP is gone")?.ineligible.clone();
    assert_eq!(why, [Ineligible { node: old.clone(), reason: "no_usable_interface".to_owned() }]);
    assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).context("not of the lab")?.mac()]);
    // An announcement may still be on its way to the client.
    scenario.wait("the client has learned of the new holder", 15, |scenario| {
        Ok(scenario.request("c1", vip, Transport::Udp).ok().map(drop))
    })?;
    // The old holder's pods cannot be reached.
    for _ in 0..10 {
        let reply = scenario.request("c1", vip, Transport::Udp)?;
        assert_ne!(reply.answer.node, old);
    }
    Ok((vip, old, new))
}
