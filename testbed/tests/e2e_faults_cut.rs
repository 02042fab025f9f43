//! A holder's link is cut, in both directions and in each, and heals: one voice at every instant,
//! seen at every bridge port, and the clients are served again. The speakers share a key, so that
//! all they say to each other is encrypted and every connection begins with a handshake.

use std::collections::BTreeMap;

use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::nodes;
use herald_testbed::scenario::{Scenario, secret};
use herald_testbed::trial::{Trial, other, rejoined};

/// Brings a fault upon the holder of the IPv4 VIP; its VIPs move; the fault goes; no VIP moves back
/// from a node that lives on. A busy machine may cost that node its session without any fault of
/// ours, and then its VIPs move.
fn takes_over_and_stays<F>(
    fault: impl FnOnce(&Scenario, &str) -> anyhow::Result<F>,
    heal: impl FnOnce(&Scenario, &str, F) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    in_lab(|scenario| {
        let key = secret("key", "correct horse battery staple")?;
        let (mut trial, vips) = Trial::of_demo(scenario, &["--key-file", &key])?;
        let old = trial.holder(vips[0])?.to_owned();
        let witness = other(&[&old])?;
        let fault = fault(scenario, &old)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.served(scenario)?;
        let epochs = |scenario: &Scenario| -> anyhow::Result<BTreeMap<String, u64>> {
            let status = scenario.status(&witness)?;
            let epoch = |node: String| Some((status.open_session(&node)?.epoch, node));
            Ok(nodes().filter_map(epoch).map(|(epoch, node)| (node, epoch)).collect())
        };
        let holders = |trial: &Trial| -> anyhow::Result<Vec<String>> {
            vips.iter().map(|vip| Ok(trial.holder(*vip)?.to_owned())).collect()
        };
        let (taken_by, before) = (holders(&trial)?, epochs(scenario)?);
        heal(scenario, &old, fault)?;
        rejoined(scenario, &witness, &old)?;
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        let (kept_by, after) = (holders(&trial)?, epochs(scenario)?);
        for (new, now) in taken_by.iter().zip(&kept_by) {
            let lives = before.contains_key(new) && before.get(new) == after.get(new);
            assert!(!lives || now == new, "a VIP of {new}, which lives on, went to {now}");
        }
        trial.end(scenario, &witness).map(drop)
    })
}

#[test]
fn power_cut() -> anyhow::Result<()> {
    takes_over_and_stays(
        |scenario, holder| scenario.lab.cut(holder),
        |scenario, holder, ()| scenario.lab.heal(holder),
    )
}

/// It hears everybody and nobody hears it.
#[test]
fn a_holder_that_is_not_heard() -> anyhow::Result<()> {
    takes_over_and_stays(
        |scenario, holder| scenario.lab.mute(holder),
        |_, _, fault| {
            drop(fault);
            Ok(())
        },
    )
}

/// Everybody hears it and it hears nobody.
#[test]
fn a_holder_that_hears_nobody() -> anyhow::Result<()> {
    takes_over_and_stays(
        |scenario, holder| scenario.lab.deafen(holder),
        |_, _, fault| {
            drop(fault);
            Ok(())
        },
    )
}
