//! A speaker goes for good: its programs are taken off its node, and the others carry on.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use herald_ebpf::common::PIN_FORMAT;
use herald_testbed::beside::interface;
use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::flows::{self, Flows, manifests, on_all_pods};
use herald_testbed::lab::addresses::nodes;
use herald_testbed::probe::Probe;
use herald_testbed::scenario::{Scenario, directory, service};

const PORT: u16 = 9001;
const LIMIT: u64 = 30;

/// What is pinned on a node.
fn pinned(node: &str) -> anyhow::Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory(node).join("bpf"))?.collect::<Result<Vec<_>, _>>()?;
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // The kernel puts files of its own into each BPF filesystem.
    Ok(names.filter(|name| name.starts_with('v')).collect())
}

fn detach(scenario: &Scenario, node: &str) -> anyhow::Result<(bool, String)> {
    let pins = directory(node).join("bpf");
    scenario.command(node, &["detach", "--pin-dir", &pins.to_string_lossy()])
}

/// A node that does not hold the VIP is freed of its programs, and gets them back with a speaker: a
/// flow to a pod on another node loses no packet.
fn loses_nothing_of_others(
    scenario: &mut Scenario,
    vip: IpAddr,
    holder: &str,
) -> anyhow::Result<()> {
    let node = nodes().find(|node| node != holder).context("there are three nodes")?;
    let port = scenario.port_to("c1", vip, |to| to != node)?;
    let probe = Probe::start(scenario.lab.netns("c1")?, service(vip, Transport::Udp), port)?;
    let goes_on = |scenario: &mut Scenario, when: &str| {
        let now = probe.last_answer();
        let what = format!("answers come {when}");
        scenario.wait(&what, LIMIT, |_| Ok((probe.last_answer() > now + 100).then_some(())))
    };
    goes_on(scenario, "before")?;
    scenario.speaker(&node)?.terminate(Duration::from_secs(20))?;
    scenario.forget(&node);
    let (is_done, told) = detach(scenario, &node)?;
    assert!(is_done && told.contains("eth0: xdp-native detached"), "{told}");
    goes_on(scenario, "after its programs were taken off")?;
    scenario.start(&node, &[])?;
    scenario.all_have_sessions()?;
    goes_on(scenario, "after they were put back")?;
    let outcome = probe.finish()?;
    assert_eq!(outcome.lost(), 0, "of {} datagrams", outcome.sent());
    Ok(())
}

#[test]
fn a_node_without_a_speaker_is_freed_of_its_programs_and_others_carry_on() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let others = scenario.served()?;
        let (vip, holder) = &others[0];
        loses_nothing_of_others(scenario, *vip, holder)?;

        let others: Vec<IpAddr> = others.into_iter().map(|(vip, _)| vip).collect();
        let _servers = flows::servers(&scenario.lab, PORT..=PORT)?;
        let many = manifests("many", &on_all_pods(PORT..=PORT));
        scenario.put_manifest("many.yaml", &many)?;
        let (vip, holder) = scenario.wait("the VIP is announced", LIMIT, |scenario| {
            let Ok(status) = scenario.status("n1") else { return Ok(None) };
            let mut holders = status.holders();
            holders.retain(|vip, _| !others.contains(vip));
            let Some((vip, holder)) = holders.pop_first() else { return Ok(None) };
            let Ok(status) = scenario.status(&holder) else { return Ok(None) };
            let is_announced = status.vip(vip).is_some_and(|vip| vip.announcing);
            Ok(is_announced.then_some((vip, holder)))
        })?;
        let vip = SocketAddr::new(vip, 80);
        let mut flows = Flows::open(scenario.lab.netns("c1")?, vip, 100)?;

        let (is_done, told) = detach(scenario, &holder)?;
        assert!(!is_done && told.contains("a speaker listens at"), "{told}");
        assert_ne!(interface::program(&scenario.lab, &holder)?, "");

        scenario.speaker(&holder)?.terminate(Duration::from_secs(20))?;
        scenario.forget(&holder);
        assert_ne!(interface::program(&scenario.lab, &holder)?, "", "it forwards on");
        let (is_done, told) = detach(scenario, &holder)?;
        let lines: Vec<_> = told.lines().collect();
        assert!(is_done && lines.len() == 3, "{told}");
        assert_eq!(lines[..2], ["eth0: xdp-native detached", "eth0: egress detached"]);
        assert!(lines[2].contains(" maps and programs removed from "), "{told}");
        assert_eq!(interface::program(&scenario.lab, &holder)?, "");
        assert_eq!(pinned(&holder)?, BTreeSet::new());
        let (is_done, told) = detach(scenario, &holder)?;
        assert!(is_done && told.starts_with("nothing is attached or pinned"), "{told}");

        let here = format!("{holder}-");
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(pod, _)| !pod.starts_with(&here)).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows to pods elsewhere");

        // A speaker that serves another interface than the one before it.
        for (served, left) in [("eth0", "lo"), ("lo", "eth0")] {
            scenario.start(&holder, &["--interface", served])?;
            scenario.wait(&format!("{served} is served"), 100, |scenario| {
                let Ok(status) = scenario.status(&holder) else { return Ok(None) };
                Ok(status.datapath.iter().any(|it| it.interface == served).then_some(()))
            })?;
            let is_there = |interface: &str| {
                let names = fs::read_dir(directory(&holder).join("bpf").join(PIN_FORMAT))?;
                let names = names.collect::<Result<Vec<_>, _>>()?;
                let egress = format!("egress-{interface}");
                anyhow::Ok(names.iter().any(|name| *name.file_name() == *egress))
            };
            assert_eq!((is_there(served)?, is_there(left)?), (true, false));
            scenario.speaker(&holder)?.kill()?;
            scenario.forget(&holder);
        }
        assert_eq!(interface::program(&scenario.lab, &holder)?, "", "eth0 is served no more");
        Ok(())
    })
}
