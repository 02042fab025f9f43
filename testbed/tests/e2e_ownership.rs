//! VIPs change hands on request, and speakers end in every way, without a lost packet and with one
//! voice at a time; while nodes are drained, at every bridge port.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use herald_ebpf::common::PIN_FORMAT;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::host;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{Scenario, directory};
use herald_testbed::tap::Tap;
use herald_testbed::tap::turns::speakers;
use herald_testbed::trial::{gather, other, rejoined};
use herald_testbed::unbroken::without_loss;
use herald_testbed::watch::PACE;

/// Brings a VIP of each family to one node; returns them, IPv4 first, and the node.
fn gathered(scenario: &mut Scenario) -> anyhow::Result<([IpAddr; 2], String)> {
    let served = scenario.served()?;
    let old = served[0].1.clone();
    let vips = [served[0].0, served[1].0];
    gather(scenario, &vips, &old)?;
    Ok((vips, old))
}

/// Waits until a witness sees all VIPs with holders other than a node, and announced by them.
fn moved_off(
    scenario: &mut Scenario,
    witness: &str,
    vips: &[IpAddr],
    old: &str,
) -> anyhow::Result<Vec<String>> {
    scenario.wait("other nodes announce the VIPs", 20, |scenario| {
        let holder = |vip: &IpAddr| {
            let new = scenario.holder(witness, *vip).filter(|holder| holder != old)?;
            scenario.status(&new).ok()?.vip(*vip)?.announcing.then_some(new)
        };
        Ok(vips.iter().map(holder).collect())
    })
}

/// Asserts that the VIPs are answered for by these nodes, and by nobody else.
fn answer(scenario: &Scenario, vips: &[IpAddr], by: &[String]) -> anyhow::Result<()> {
    for (vip, node) in vips.iter().zip(by) {
        assert_eq!(
            who_has(&scenario.lab, *vip)?,
            [host(node).context("no such node")?.mac()],
            "{vip}"
        );
    }
    Ok(())
}

/// The pins of a node's programs.
fn programs(node: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut programs = BTreeSet::new();
    for entry in fs::read_dir(directory(node).join("bpf").join(PIN_FORMAT))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("program-") {
            programs.insert(entry.path());
        }
    }
    Ok(programs)
}

/// Makes a node's pinned programs those of another version; returns what they were called.
fn outdate(node: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let ours = programs(node)?;
    assert_eq!(ours.len(), 2, "{ours:?}");
    for pin in &ours {
        let text = pin.to_string_lossy();
        let (program, _version) = text.rsplit_once('-').context("a version is in the name")?;
        fs::rename(pin, format!("{program}-0123456789abcdef"))?;
    }
    Ok(ours)
}

#[test]
fn vips_move_and_nodes_are_drained_without_loss() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vips, old) = gathered(scenario)?;
        let new = other(&[&old])?;
        let third = other(&[&old, &new])?;
        let judge = Judge::begin(&scenario.lab, &vips, PACE)?;

        // Asked on a third node, which has to pass it on.
        without_loss(scenario, &vips, &old, |scenario| {
            for vip in vips {
                let (ok, said) = scenario.command(&third, &["move", &vip.to_string(), &new])?;
                assert!(ok && said == format!("{vip} moved from {old} to {new}\n"), "{said}");
            }
            Ok(())
        })?;
        answer(scenario, &vips, &[new.clone(), new.clone()])?;
        let vip = vips[0];
        for (arguments, expected) in [
            (["move", &vip.to_string(), &new], "already_there"),
            (["move", &vip.to_string(), "n9"], "unknown_node"),
            (["move", "192.168.1.99", &old], "not_held"),
        ] {
            let (ok, said) = scenario.command(&third, &arguments)?;
            assert!(!ok && said.contains(expected), "{arguments:?}: {said}");
        }

        without_loss(scenario, &vips, &new, |scenario| {
            let (ok, said) = scenario.command(&new, &["drain"])?;
            assert!(ok && said.ends_with(&format!("{new} holds nothing\n")), "{said}");
            assert_eq!(scenario.status(&third)?.election.drained, [new.as_str()]);
            Ok(())
        })?;
        let after_drain = vips.map(|vip| scenario.holder(&third, vip).unwrap());
        assert!(!after_drain.contains(&new), "{after_drain:?}");
        let (ok, said) = scenario.command(&third, &["move", &vip.to_string(), &new])?;
        assert!(!ok && said.contains("drained"), "{said}");

        // A drained node stays drained when its speaker starts anew, and takes nothing back after.
        scenario.speaker(&new)?.terminate(Duration::from_secs(20))?;
        scenario.start(&new, &[])?;
        rejoined(scenario, &third, &new)?;
        assert_eq!(scenario.status(&third)?.election.drained, [new.as_str()]);
        let (ok, said) = scenario.command(&third, &["undrain", &new])?;
        assert!(ok, "{said}");
        clock::pause(Duration::from_secs(1));
        assert_eq!(vips.map(|vip| scenario.holder(&third, vip).unwrap()), after_drain);

        let seen = judge.end(|| scenario.status(&third))?;
        for (vip, last) in vips.into_iter().zip(&after_drain) {
            let expected = [&old, &new, last].map(|node| host(node).unwrap().mac());
            assert_eq!(speakers(&seen.heard.claims, vip), expected, "{vip}");
        }
        Ok(())
    })
}

#[test]
fn a_killed_speaker_loses_nothing_and_its_node_goes_on_delivering() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vips, old) = gathered(scenario)?;
        let tap = Tap::at("c1", &[])?;
        answer(scenario, &vips, &[old.clone(), old.clone()])?;
        let witness = other(&[&old])?;
        let mut new = Vec::new();
        without_loss(scenario, &vips, &old, |scenario| {
            scenario.kill(&old)?;
            new = moved_off(scenario, &witness, &vips, &old)?;
            // Longer than it takes to call the node gone, were it gone.
            clock::pause(Duration::from_secs(2));
            // The next one is of another version: it loads programs of its own and swaps them in.
            let ours = outdate(&old)?;
            scenario.start(&old, &[])?;
            rejoined(scenario, &witness, &old)?;
            assert_eq!(programs(&old)?, ours, "neither taken over nor left behind");
            Ok(())
        })?;
        answer(scenario, &vips, &new)?;

        // Now a speaker that holds nothing.
        without_loss(scenario, &vips, &old, |scenario| {
            scenario.kill(&old)?;
            clock::pause(Duration::from_secs(2));
            Ok(())
        })?;
        answer(scenario, &vips, &new)?;
        let capture = tap.finish()?;
        for (vip, new) in vips.into_iter().zip(&new) {
            assert_eq!(capture.turns(vip), [old.as_str(), new.as_str()], "{vip}");
        }
        Ok(())
    })
}

#[test]
fn a_speaker_that_hangs_loses_nothing_and_is_silent_when_it_goes_on() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vips, old) = gathered(scenario)?;
        let tap = Tap::at("c1", &[])?;
        answer(scenario, &vips, &[old.clone(), old.clone()])?;
        let witness = other(&[&old])?;
        let mut new = Vec::new();
        without_loss(scenario, &vips, &old, |scenario| {
            scenario.speaker(&old)?.signal(libc::SIGSTOP)?;
            new = moved_off(scenario, &witness, &vips, &old)?;
            clock::pause(Duration::from_secs(3));
            answer(scenario, &vips, &new)?;
            scenario.speaker(&old)?.signal(libc::SIGCONT)?;
            rejoined(scenario, &witness, &old)
        })?;
        for _ in 0..20 {
            answer(scenario, &vips, &new)?;
        }
        let capture = tap.finish()?;
        for (vip, new) in vips.into_iter().zip(&new) {
            assert_eq!(capture.turns(vip), [old.as_str(), new.as_str()], "{vip}");
        }
        Ok(())
    })
}
