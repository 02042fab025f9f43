//! Speakers are killed, frozen and replaced, and a whole node is frozen: one voice at every
//! instant, seen at every bridge port, and the clients are served again.

use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::probe::Probe;
use herald_testbed::scenario::{PATIENCE, Scenario, service};
use herald_testbed::status::Vip;
use herald_testbed::tap::turns::speakers;
use herald_testbed::trial::{Trial, other, rejoined};
use herald_testbed::watch::PACE;

/// Longer than any ttl: whoever believes its old clock then would speak.
const FROZEN: Duration = Duration::from_secs(10);
const FAST: [&str; 2] = ["--profile", "fast"];
/// A beat at which nothing ends by itself in the time of a test.
const LASTING: [&str; 4] = ["--heartbeat", "1s", "--ttl", "40s"];

/// At the shortest times there are, at which a busy machine may end any session.
#[test]
fn killed_and_restarted() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &FAST)?;
        // Dead for longer than its session lasts.
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.kill(&old)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.served(scenario)?;
        scenario.start(&old, &FAST)?;
        rejoined(scenario, &witness, &old)?;
        // Dead for a moment only: it may or may not keep its VIPs.
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.speaker(&old)?.kill()?;
        scenario.start(&old, &FAST)?;
        rejoined(scenario, &witness, &old)?;
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        // Asked to end, and replaced, as in an upgrade.
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        let ended = scenario.speaker(&old)?.terminate(Duration::from_secs(10))?;
        assert!(ended.success(), "{ended}");
        scenario.forget(&old);
        trial.held(scenario, &witness, |holder| holder != old)?;
        scenario.start(&old, &FAST)?;
        rejoined(scenario, &witness, &old)?;
        trial.served(scenario)?;
        trial.end(scenario, &witness).map(drop)
    })
}

/// With so long a ttl that the slowest machine has a speaker running again within it.
#[test]
fn killed_and_restarted_within_its_ttl_moves_nothing() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &LASTING)?;
        let claims = |scenario: &Scenario, by: &str| -> anyhow::Result<Vec<_>> {
            let status = scenario.status(by)?;
            Ok(vips.iter().filter_map(|vip| status.vip(*vip).cloned()).collect())
        };
        let who_and_term = |vip: &Vip| (vip.address, vip.holder.clone(), vip.term);
        let before: Vec<_> = claims(scenario, "n1")?.iter().map(who_and_term).collect();
        let probes: Vec<Probe> = vips
            .iter()
            .zip(40_000..)
            .map(|(vip, port)| {
                let client = scenario.lab.netns("c1")?;
                Probe::start(client, service(*vip, Transport::Udp), port)
            })
            .collect::<anyhow::Result<_>>()?;
        // All of them in turn: the one that leads, those that follow, those that hold nothing.
        for node in nodes() {
            let witness = other(&[&node])?;
            let epoch = session(scenario, &witness, &node)?;
            scenario.speaker(&node)?.kill()?;
            scenario.start(&node, &LASTING)?;
            scenario.wait("the new process has the session", PATIENCE, |scenario| {
                let renewed = session(scenario, &witness, &node).is_ok_and(|now| now > epoch);
                let by = |by: &str| session(scenario, by, &node).ok();
                Ok((renewed && by(&witness) == by(&node)).then_some(()))
            })?;
            trial.held(scenario, &witness, |_| true)?;
            for by in nodes() {
                let now: Vec<_> = claims(scenario, &by)?.iter().map(who_and_term).collect();
                assert_eq!(now, before, "as {by} sees it after a new start on {node}");
            }
        }
        for probe in probes {
            let outcome = probe.finish()?;
            assert_eq!(outcome.lost(), 0, "of {}", outcome.sent());
        }
        let seen = trial.end(scenario, "n1")?;
        for vip in &vips {
            let unanswered = seen.asked(*vip)?.unanswered();
            println!("{vip}: {unanswered:?} without an answer");
            let (_, holder, _) = before.iter().find(|claim| claim.0 == *vip).context("no claim")?;
            let mac = host(holder.as_deref().unwrap_or_default()).context("no holder")?.mac();
            assert_eq!(speakers(&seen.heard.claims, *vip), [mac], "of {vip}");
        }
        seen.no_silence(&vips, Duration::from_secs(3))
    })
}

fn session(scenario: &Scenario, by: &str, node: &str) -> anyhow::Result<u64> {
    let status = scenario.status(by)?;
    Ok(status.open_session(node).context("no session")?.epoch)
}

#[test]
fn frozen_for_ten_seconds_and_thawed() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &[])?;
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.speaker(&old)?.signal(libc::SIGSTOP)?;
        let stopped = clock::now();
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.served(scenario)?;
        // Who still sends to the frozen node is forwarded by its kernel; it only must not speak.
        clock::pause(FROZEN.saturating_sub(clock::now() - stopped));
        scenario.speaker(&old)?.signal(libc::SIGCONT)?;
        rejoined(scenario, &witness, &old)?;
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        trial.end(scenario, &witness).map(drop)
    })
}

/// A whole machine stands still while its boot clock goes on, as in a suspended one: no process
/// runs and no frame comes or goes. What runs first when it goes on is the kernel, which answers
/// while the speaker does not know yet.
///
/// A hypervisor that pauses a virtual machine may stop that clock too (QEMU gives the guest the
/// clock back as it was). Such a machine has its last deadline still ahead of it when it goes on:
/// up to a ttl of answers beside the new holder's, which no lease by a node's own clock can
/// prevent.
#[test]
fn a_node_frozen_as_a_whole_and_thawed() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &[])?;
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.lab.cut(&old)?;
        scenario.speaker(&old)?.signal(libc::SIGSTOP)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.served(scenario)?;
        scenario.lab.heal(&old)?;
        // A hundred questions reach the thawed kernel first.
        clock::pause(PACE * 100);
        scenario.speaker(&old)?.signal(libc::SIGCONT)?;
        rejoined(scenario, &witness, &old)?;
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        trial.end(scenario, &witness).map(drop)
    })
}
