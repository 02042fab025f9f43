//! Living flows stay where they are: while backends come and go, and while the holder changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::flows::{self, Flows, manifests, on_all_pods};
use herald_testbed::lab::addresses::{NODES, nodes};
use herald_testbed::lab::process::Process;
use herald_testbed::scenario::{MANIFESTS, Scenario, service};

/// With six pods on each, 102 backends; two are left out to have a hundred.
const PORTS: std::ops::RangeInclusive<u16> = 9000..=9016;

type Backends = BTreeMap<u16, Vec<(String, String, String)>>;

/// A hundred backends, and servers for a few more.
fn hundred(scenario: &Scenario) -> anyhow::Result<(Backends, Vec<Process>)> {
    let servers = flows::servers(&scenario.lab, PORTS)?;
    let mut backends = on_all_pods(PORTS);
    backends.get_mut(PORTS.end()).context("no ports")?.truncate(4);
    Ok((backends, servers))
}

/// Puts the Service with these backends and waits until every node uses them all.
fn serve(scenario: &mut Scenario, backends: &Backends) -> anyhow::Result<IpAddr> {
    scenario.put_manifest("service.yaml", &manifests("many", backends))?;
    let wanted: usize = backends.values().map(Vec::len).sum();
    scenario.wait("every node uses all backends", 20, |scenario| {
        let mut vips = BTreeSet::new();
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            let [vip] = &status.vips[..] else { return Ok(None) };
            if vip.backends.iter().filter(|backend| backend.used).count() != wanted {
                return Ok(None);
            }
            let Some(holder) = &vip.holder else { return Ok(None) };
            let announced = scenario.status(holder)?.vip(vip.address).is_some_and(|v| v.announcing);
            vips.extend(announced.then_some(vip.address));
        }
        Ok(vips.first().copied())
    })
}

fn start(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.start_all(&[])?;
    for (name, text) in &MANIFESTS[1..3] {
        scenario.put_manifest(name, text)?;
    }
    Ok(())
}

#[test]
fn ten_thousand_flows_keep_their_backends_while_others_come_and_go() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (mut backends, _servers) = hundred(scenario)?;
        let vip = serve(scenario, &backends)?;
        let vip = SocketAddr::new(vip, 80);
        let mut flows = Flows::open(scenario.lab.netns("c1")?, vip, 10_000)?;
        let reached = flows.backends();
        assert_eq!(reached.len(), 100, "a hundred flows each, on average: {reached:?}");
        assert_eq!(flows.ask(), []);

        // One of a hundred is removed: its flows may break, no others.
        let removed = backends.get_mut(&9000).context("no such port")?.remove(0);
        let removed = format!("{}:9000", removed.0);
        serve(scenario, &backends)?;
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(backend, _)| *backend != removed).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows of surviving backends");
        let fresh = Flows::open(scenario.lab.netns("c1")?, vip, 1_000)?;
        assert!(!fresh.backends().contains_key(&removed), "a removed backend gets no new flows");

        // Two are added.
        let added = on_all_pods(PORTS).remove(PORTS.end()).context("no such port")?;
        backends.insert(*PORTS.end(), added);
        serve(scenario, &backends)?;
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(backend, _)| *backend != removed).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows of surviving backends");
        let fresh = Flows::open(scenario.lab.netns("c1")?, vip, 2_000)?.backends();
        for new in ["n3-p1:9016", "n3-p2:9016"] {
            assert!(fresh.contains_key(new), "{new} gets no flows: {fresh:?}");
        }
        Ok(())
    })
}

#[test]
fn a_thousand_flows_do_not_notice_that_the_holder_leaves() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (backends, _servers) = hundred(scenario)?;
        let address = serve(scenario, &backends)?;
        let vip = SocketAddr::new(address, 80);
        let mut flows = Flows::open(scenario.lab.netns("c1")?, vip, 1_000)?;
        for _ in 0..2 {
            let holder = scenario.status("n1")?.holders()[&address].clone();
            scenario.speaker(&holder)?.terminate(Duration::from_secs(20))?;
            scenario.forget(&holder);
            assert_eq!(flows.ask(), [], "right after {holder} left");
            scenario.start(&holder, &[])?;
            scenario.wait("another node holds the VIP, and all have sessions", 20, |scenario| {
                let Ok(status) = scenario.status("n1") else { return Ok(None) };
                let now = status.holders().get(&address).cloned();
                let moved = now.is_some_and(|now| now != holder);
                Ok((moved && status.open_sessions() == usize::from(NODES)).then_some(()))
            })?;
            assert_eq!(flows.ask(), [], "after {holder} returned");
        }
        Ok(())
    })
}

#[test]
fn two_hundred_megabytes_each_way_arrive_intact() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        for (vip, _) in &served {
            scenario.lab.netns("c1")?.inside(|| {
                client::upload(service(*vip, Transport::Tcp), 200_000_000)?;
                client::download(service(*vip, Transport::Tcp), 200_000_000)
            })?;
        }
        Ok(())
    })
}
