//! What a speaker may find when it starts, or while it runs, that it must not trust: a full or a
//! spoilt disk, the state or the name of another node, another cluster, another key. Each ends with
//! a clear refusal or a safe repair, and never with a voice that should be silent. The node it
//! happens to holds the VIPs, and its kernel still speaks for them when the next process comes: all
//! of it is watched at every bridge port.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::scenario::{PATIENCE, Scenario, directory, log, secret};
use herald_testbed::status::Status;
use herald_testbed::trial::{Trial, rejoined};

const VOTERS: [&str; 2] = ["--voters", "n1,n2,n3"];
const LIMIT: Duration = Duration::from_secs(PATIENCE);
/// The election's log in a state directory.
const LOG: &str = "herald.raft";

#[test]
fn a_disk_that_is_full_and_a_log_that_is_torn_or_damaged() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let state = directory("n1").join("state");
        mount_small_disk(&state)?;
        let (mut trial, _) = Trial::of_demo(scenario, &[])?;
        give(&mut trial, scenario, "n1")?;

        // It ends at the first write that has no room, before anything rests on it, and does not
        // come back before there is some.
        fill(&state)?;
        write_until_it_ends(scenario, "n1")?;
        refused(scenario, "n1", "No space left on device")?;
        scenario.wait("n3 may hold something again", PATIENCE, |scenario| {
            Ok(scenario.command("n2", &["undrain", "n3"])?.0.then_some(()))
        })?;
        trial.held(scenario, "n2", |holder| holder != "n1")?;
        trial.served(scenario)?;
        scenario.start("n1", &[])?;
        refused(scenario, "n1", "No space left on device")?;
        fs::remove_file(state.join("ballast"))?;
        scenario.start("n1", &[])?;
        rejoined(scenario, "n2", "n1")?;

        // The beginning of a record of 64 octets that was never written to its end is cut off.
        give(&mut trial, scenario, "n1")?;
        scenario.kill("n1")?;
        let mut file = OpenOptions::new().append(true).open(state.join(LOG))?;
        file.write_all(&[0, 0, 0, 64, 1, 2, 3])?;
        scenario.start("n1", &[])?;
        rejoined(scenario, "n2", "n1")?;
        assert!(fs::read_to_string(log("n1"))?.contains("cut the torn end of the raft log"));

        // Damage with good records behind it is no torn end: a vote may be missing.
        give(&mut trial, scenario, "n1")?;
        scenario.kill("n1")?;
        let mut bytes = fs::read(state.join(LOG))?;
        bytes[10] ^= 1;
        fs::write(state.join(LOG), bytes)?;
        scenario.start("n1", &[])?;
        refused(scenario, "n1", "remove the state directory to join afresh")?;
        trial.held(scenario, "n2", |holder| holder != "n1")?;
        fs::remove_file(state.join(LOG))?;
        scenario.start("n1", &[])?;
        rejoined(scenario, "n2", "n1")?;
        give(&mut trial, scenario, "n1")?;
        trial.served(scenario)?;
        trial.end(scenario, "n2").map(drop)
    })
}

#[test]
fn a_stranger_in_a_nodes_place_and_a_key_that_changes() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let old = secret("old-key", "0123456789abcdef0123")?;
        let new = secret("new-key", "fedcba9876543210fedc")?;
        let (old, new) = (["--key-file", &old], ["--key-file", &new]);
        let (mut trial, vips) = Trial::of_demo(scenario, &old)?;
        let place = |name: &str| directory("n1").join(name);

        // The state directory of another node.
        give(&mut trial, scenario, "n1")?;
        scenario.kill("n1")?;
        fs::create_dir(place("stolen"))?;
        fs::copy(directory("n3").join("state").join(LOG), place("stolen").join(LOG))?;
        let mut thief = scenario.speaker_command("n1", "n1", &place("stolen"));
        thief.args(VOTERS).args(old);
        scenario.start_command("n1", thief)?;
        refused(scenario, "n1", "is the log of node n3 in cluster \"n1,n2,n3\", not of n1")?;

        // The name of another node, however much the interface is insisted on.
        let mut double = scenario.speaker_command("n3", "n1", &place("double"));
        double.args(VOTERS).args(old).args(["--interface", "eth0"]);
        scenario.start_command("n1", double)?;
        refused(scenario, "n1", "does not have 192.168.1.13:7946, the address of node n3")?;
        trial.held(scenario, "n2", |holder| holder != "n1")?;

        // Another cluster: with voters of its own it elects itself, finds the VIPs in use, and
        // leaves them alone.
        let run = place("own-run");
        let mut foreign = scenario.stranger_command("n1", "n1", &place("own"), &run);
        foreign.args(["--voters", "n1"]).args(old);
        scenario.start_command("n1", foreign)?;
        scenario.wait("a cluster of its own finds the VIPs in use", PATIENCE, |scenario| {
            let Ok(status) = status_at(scenario, &run) else { return Ok(None) };
            let is_blocked = |vip: &IpAddr| {
                let found = status.vip(*vip).and_then(|vip| vip.conflict.as_ref());
                found.is_some_and(|found| found.state == "blocked")
            };
            Ok(vips.iter().all(is_blocked).then_some(()))
        })?;
        silent(&status_at(scenario, &run)?, &vips);
        told(scenario, "n2", "foreign_cluster")?;
        scenario.kill("n1")?;

        // As itself it is welcome.
        scenario.start("n1", &old)?;
        rejoined(scenario, "n2", "n1")?;

        // A new key, node by node. The first that has it is alone with it...
        give(&mut trial, scenario, "n2")?;
        scenario.kill("n2")?;
        scenario.start("n2", &new)?;
        told(scenario, "n1", "wrong_key")?;
        told(scenario, "n2", "wrong_key")?;
        trial.held(scenario, "n1", |holder| holder != "n2")?;
        silent(&scenario.status("n2")?, &vips);
        trial.served(scenario)?;
        // ...and in the end the last that has not is, although it held all VIPs.
        give(&mut trial, scenario, "n3")?;
        scenario.kill("n1")?;
        scenario.start("n1", &new)?;
        trial.held(scenario, "n1", |holder| holder != "n3")?;
        silent(&scenario.status("n3")?, &vips);
        trial.served(scenario)?;
        scenario.kill("n3")?;
        scenario.start("n3", &new)?;
        rejoined(scenario, "n1", "n3")?;
        trial.end(scenario, "n1").map(drop)
    })
}

/// A node that has just returned may not be known yet to be able to hold anything.
fn give(trial: &mut Trial, scenario: &mut Scenario, node: &str) -> anyhow::Result<()> {
    let what = format!("all VIPs move to {node}");
    clock::await_for(&what, LIMIT, || Ok(trial.give_all(scenario, node).ok()))
}

fn mount_small_disk(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(directory);
    ensure!(mount.status()?.success(), "cannot mount a small disk");
    Ok(())
}

/// Leaves no room at all.
fn fill(directory: &Path) -> anyhow::Result<()> {
    let mut file = fs::File::create(directory.join("ballast"))?;
    while file.write_all(&[0; 4096]).is_ok() {}
    Ok(())
}

/// Has something logged on all nodes again and again: the page that the log ends in may have room
/// for some of it.
fn write_until_it_ends(scenario: &mut Scenario, node: &str) -> anyhow::Result<()> {
    let mut commands = ["drain", "undrain"].into_iter().cycle();
    clock::await_for("the disk is too full to write", LIMIT, || {
        // Refused while there is no leader.
        let _ = scenario.command("n2", &[commands.next().unwrap_or_default(), "n3"])?;
        scenario.speaker(node)?.status()
    })
    .map(drop)
}

/// Waits until the speaker has ended by itself, with these words last.
fn refused(scenario: &mut Scenario, node: &str, words: &str) -> anyhow::Result<()> {
    let speaker = scenario.speaker(node)?;
    let ended = speaker.ended_within(LIMIT)?;
    let output = speaker.output();
    let said = output.lines().next_back().unwrap_or_default();
    println!("{said}");
    assert!(said.starts_with("herald: ") && said.contains(words), "{said}");
    assert_eq!(ended.code(), Some(1));
    scenario.forget(node);
    Ok(())
}

/// Waits until a speaker's status says that it refuses others for this reason.
fn told(scenario: &mut Scenario, node: &str, reason: &str) -> anyhow::Result<()> {
    scenario.wait(&format!("{node} says {reason}"), PATIENCE, |scenario| {
        let (_, status) = scenario.command(node, &["status"])?;
        let line = status.lines().find(|line| line.starts_with("refused so far"));
        Ok(line.is_some_and(|line| line.contains(reason)).then_some(()))
    })
}

fn silent(status: &Status, vips: &[IpAddr]) {
    for vip in vips {
        let announces = status.vip(*vip).is_some_and(|vip| vip.announcing);
        assert!(!announces, "{} announces {vip}", status.node);
    }
}

fn status_at(scenario: &Scenario, run: &Path) -> anyhow::Result<Status> {
    let run = run.display().to_string();
    let (_, text) = scenario.command("n1", &["status", "--output", "json", "--run-dir", &run])?;
    serde_json::from_str(&text).context("no status")
}
