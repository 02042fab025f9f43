//! Speakers are killed, frozen and replaced, and a whole node is frozen: one voice at every instant,
//! seen at every bridge port, and the clients are served again.

use std::time::Duration;

use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::trial::{Trial, other, rejoined};
use herald_testbed::watch::PACE;

/// Longer than any ttl: whoever believes its old clock then would speak.
const FROZEN: Duration = Duration::from_secs(10);

#[test]
fn killed_and_restarted() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &[])?;
        // Dead for longer than its session lasts.
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.kill(&old)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.served(scenario)?;
        scenario.start(&old, &[])?;
        rejoined(scenario, &witness, &old)?;
        // Dead for a moment only: it may or may not keep its VIPs.
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        scenario.speaker(&old)?.kill()?;
        scenario.start(&old, &[])?;
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
        scenario.start(&old, &[])?;
        rejoined(scenario, &witness, &old)?;
        trial.served(scenario)?;
        trial.end(scenario, &witness).map(drop)
    })
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

/// A whole machine stands still while its boot clock goes on, as in a suspended one: no process runs
/// and no frame comes or goes. What runs first when it goes on is the kernel, which answers while the
/// speaker does not know yet.
///
/// A hypervisor that pauses a virtual machine may stop that clock too (QEMU gives the guest the clock
/// back as it was). Such a machine has its last deadline still ahead of it when it goes on: up to a ttl
/// of answers beside the new holder's, which no lease by a node's own clock can prevent.
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
