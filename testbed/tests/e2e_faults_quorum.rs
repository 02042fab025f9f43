//! The election loses its leader, its majority, a path or a fifth of its packets: one voice at
//! every instant, seen at every bridge port, silence without a majority, and the clients are served
//! again.

use std::time::Duration;

use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{PATIENCE, Scenario};
use herald_testbed::trial::{Trial, other, rejoined};

/// The speakers' port for each other.
const PEERS: u16 = 7946;
/// Longer than a handover by request, and than a busy machine takes to answer a question.
const SILENCE: Duration = Duration::from_secs(1);
/// For how long packets are lost.
const LOSSY: Duration = Duration::from_secs(8);

fn leader(scenario: &mut Scenario, witness: &str) -> anyhow::Result<String> {
    scenario.wait("there is a leader", PATIENCE, |scenario| {
        Ok(scenario.status(witness).ok().and_then(|status| status.election.leader))
    })
}

/// With longer times than usual: that a living holder keeps its voice while a new leader is elected
/// must not depend on how busy this machine is.
#[test]
fn a_lost_leader_silences_nobody_else() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &["--heartbeat", "500ms", "--ttl", "4s"])?;
        let lost = leader(scenario, "n1")?;
        let keeper = other(&[&lost])?;
        trial.give_all(scenario, &keeper)?;
        let term = |scenario: &Scenario| -> anyhow::Result<Vec<u64>> {
            let status = scenario.status(&keeper)?;
            Ok(vips.iter().filter_map(|vip| Some(status.vip(*vip)?.term)).collect())
        };
        let before = term(scenario)?;
        scenario.lab.cut(&lost)?;
        scenario.wait("there is another leader", PATIENCE, |scenario| {
            let now = scenario.status(&keeper)?.election.leader;
            Ok(now.filter(|now| *now != lost))
        })?;
        trial.served(scenario)?;
        trial.held(scenario, &keeper, |holder| holder == keeper)?;
        assert_eq!(term(scenario)?, before, "the VIPs of a living node were taken");
        scenario.lab.heal(&lost)?;
        rejoined(scenario, &keeper, &lost)?;
        trial.held(scenario, &keeper, |holder| holder == keeper)?;
        let seen = trial.end(scenario, &keeper)?;
        seen.no_silence(&vips, SILENCE)
    })
}

#[test]
fn without_a_majority_everybody_is_silent() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &[])?;
        let alone = trial.holder(vips[0])?.to_owned();
        let lost: Vec<String> = nodes().filter(|node| *node != alone).collect();
        for node in &lost {
            scenario.lab.cut(node)?;
        }
        for vip in &vips {
            scenario.wait("nobody answers any more", PATIENCE, |scenario| {
                Ok(who_has(&scenario.lab, *vip)?.is_empty().then_some(()))
            })?;
        }
        let status = scenario.status(&alone)?;
        assert!(status.vips.iter().all(|vip| !vip.announcing), "{alone} believes it may speak");
        for _ in 0..3 {
            for vip in &vips {
                assert_eq!(who_has(&scenario.lab, *vip)?, [], "{vip} without a majority");
            }
        }
        // One comes back, which makes two of three.
        scenario.lab.heal(&lost[0])?;
        trial.held(scenario, &alone, |holder| holder != lost[1])?;
        trial.served(scenario)?;
        scenario.lab.heal(&lost[1])?;
        rejoined(scenario, &alone, &lost[1])?;
        trial.held(scenario, &alone, |_| true)?;
        trial.end(scenario, &alone).map(drop)
    })
}

/// The path between the leader and the holder: the holder hears all questions, but nobody who could
/// renew its session.
#[test]
fn peers_that_cannot_talk_to_each_other() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, _) = Trial::of_demo(scenario, &[])?;
        let leader = leader(scenario, "n1")?;
        let holder = other(&[&leader])?;
        let witness = other(&[&holder, &leader])?;
        trial.give_all(scenario, &holder)?;
        let fault = scenario.lab.filter(&holder, &leader, PEERS)?;
        // Long enough for every session that rests on this path to end.
        clock::pause(Duration::from_secs(3));
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        drop(fault);
        for node in nodes().filter(|node| *node != witness) {
            rejoined(scenario, &witness, &node)?;
        }
        trial.held(scenario, &witness, |_| true)?;
        trial.served(scenario)?;
        trial.end(scenario, &witness).map(drop)
    })
}

#[test]
fn a_fifth_of_all_packets_lost() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let (mut trial, vips) = Trial::of_demo(scenario, &[])?;
        // From node to node each frame passes two of them: 1 - 0.9 * 0.9.
        let faults: Vec<_> =
            nodes().map(|node| scenario.lab.lose(&node, 10)).collect::<anyhow::Result<_>>()?;
        clock::pause(LOSSY);
        drop(faults);
        for node in nodes().skip(1) {
            rejoined(scenario, "n1", &node)?;
        }
        trial.held(scenario, "n1", |_| true)?;
        trial.served(scenario)?;
        for vip in &vips {
            let alone = host(trial.holder(*vip)?).map(|host| vec![host.mac()]);
            assert_eq!(Some(who_has(&scenario.lab, *vip)?), alone);
        }
        trial.end(scenario, "n1").map(drop)
    })
}
