//! VIPs change hands on request, and speakers end in every way, without a lost packet and with one
//! voice at a time; while nodes are drained, at every bridge port.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use herald_ebpf::common::PIN_FORMAT;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::host;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::directory;
use herald_testbed::tap::Tap;
use herald_testbed::tap::turns::speakers;
use herald_testbed::trial::{other, rejoined};
use herald_testbed::unbroken::without_loss;
use herald_testbed::watch::PACE;

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
        let served = scenario.served()?;
        let vips: Vec<_> = served.iter().map(|(vip, _)| *vip).collect();
        let (vip, old) = served[0].clone();
        let new = other(&[&old])?;
        let third = other(&[&old, &new])?;
        // Both families: what is drained holds either.
        let judge = Judge::begin(&scenario.lab, &vips, PACE)?;
        let (v6, at) = &served[1];
        let to = other(&[at])?;
        let (ok, said) = scenario.command(&third, &["move", &v6.to_string(), &to])?;
        assert!(ok && said == format!("{v6} moved from {at} to {to}\n"), "{said}");
        assert_eq!(who_has(&scenario.lab, *v6)?, [host(&to).unwrap().mac()]);

        // Asked on a third node, which has to pass it on.
        without_loss(scenario, vip, &old, |scenario| {
            let (ok, said) = scenario.command(&third, &["move", &vip.to_string(), &new])?;
            assert!(ok, "{said}");
            assert_eq!(said, format!("{vip} moved from {old} to {new}\n"));
            Ok(())
        })?;
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);
        for (arguments, expected) in [
            (["move", &vip.to_string(), &new], "already_there"),
            (["move", &vip.to_string(), "n9"], "unknown_node"),
            (["move", "192.168.1.99", &old], "not_held"),
        ] {
            let (ok, said) = scenario.command(&third, &arguments)?;
            assert!(!ok && said.contains(expected), "{arguments:?}: {said}");
        }

        without_loss(scenario, vip, &new, |scenario| {
            let (ok, said) = scenario.command(&new, &["drain"])?;
            assert!(ok && said.ends_with(&format!("{new} holds nothing\n")), "{said}");
            assert_eq!(scenario.status(&third)?.election.drained, [new.as_str()]);
            Ok(())
        })?;
        let after_drain = scenario.holder(&third, vip).unwrap();
        assert_ne!(after_drain, new);
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
        assert_eq!(scenario.holder(&third, vip), Some(after_drain.clone()));

        let seen = judge.end(|| scenario.status(&third))?;
        let expected = [&old, &new, &after_drain].map(|node| host(node).unwrap().mac());
        assert_eq!(speakers(&seen.heard.claims, vip), expected);
        Ok(())
    })
}

#[test]
fn a_killed_speaker_loses_nothing_and_its_node_goes_on_delivering() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vip, old) = scenario.served()?.remove(0);
        let tap = Tap::at("c1", &[])?;
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&old).unwrap().mac()]);
        let witness = other(&[&old])?;
        let bystander = other(&[&old, &witness])?;
        let mut new = String::new();
        without_loss(scenario, vip, &old, |scenario| {
            scenario.kill(&old)?;
            new = scenario.wait("another node holds the VIP", 20, |scenario| {
                Ok(scenario.holder(&witness, vip).filter(|holder| *holder != old))
            })?;
            // Longer than it takes to call the node gone, were it gone.
            clock::pause(Duration::from_secs(2));
            // The next one is of another version: it loads programs of its own and swaps them in.
            let ours = outdate(&old)?;
            scenario.start(&old, &[])?;
            rejoined(scenario, &witness, &old)?;
            assert_eq!(programs(&old)?, ours, "neither taken over nor left behind");
            Ok(())
        })?;
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);

        // A speaker that holds nothing.
        let idle = if new == bystander { old.clone() } else { bystander };
        without_loss(scenario, vip, &idle, |scenario| {
            scenario.kill(&idle)?;
            clock::pause(Duration::from_secs(2));
            Ok(())
        })?;
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);
        assert_eq!(tap.finish()?.turns(vip), [old.as_str(), &new]);
        Ok(())
    })
}

#[test]
fn a_speaker_that_hangs_loses_nothing_and_is_silent_when_it_goes_on() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vip, old) = scenario.served()?.remove(0);
        let tap = Tap::at("c1", &[])?;
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&old).unwrap().mac()]);
        let witness = other(&[&old])?;
        let mut new = String::new();
        without_loss(scenario, vip, &old, |scenario| {
            scenario.speaker(&old)?.signal(libc::SIGSTOP)?;
            new = scenario.wait("another node holds the VIP", 20, |scenario| {
                Ok(scenario.holder(&witness, vip).filter(|holder| *holder != old))
            })?;
            clock::pause(Duration::from_secs(3));
            assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);
            scenario.speaker(&old)?.signal(libc::SIGCONT)?;
            rejoined(scenario, &witness, &old)
        })?;
        for _ in 0..20 {
            assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);
        }
        assert_eq!(tap.finish()?.turns(vip), [old.as_str(), &new]);
        Ok(())
    })
}
