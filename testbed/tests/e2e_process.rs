//! Speakers end: killed at any moment, or asked to. Neither loses what was promised.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::probe::Probe;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{PATIENCE, Scenario, directory, service};
use herald_testbed::trial::{gather, rejoined};
use herald_testbed::watch::PACE;

/// How many times a holder is asked to end.
const ROUNDS: usize = 4;

/// The election's log in a state directory.
const LOG: &str = "herald.raft";
/// Thirty renewals of each node.
const QUIET: Duration = Duration::from_secs(3);

/// Sorts before `default/echo`, so an allocation that begins anew would give it echo's addresses.
const EARLIER_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: alpha, namespace: default}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports: [{name: tcp, protocol: TCP, port: 80}]
";

#[test]
fn kill9_and_restart_keeps_assignments() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        nothing_is_written_while_nothing_happens(scenario)?;
        let vip = served[0].0;
        scenario.request("c1", vip, Transport::Udp)?;
        for node in nodes() {
            scenario.kill(&node)?;
        }
        // Nobody speaks for the VIP now; who knows the way is carried on by the kernel.
        for _ in 0..20 {
            scenario.request("c1", vip, Transport::Udp)?;
        }
        scenario.put_manifest("alpha.yaml", EARLIER_SERVICE)?;
        scenario.start_all(&[])?;
        let status = scenario.wait("both Services have addresses", 15, |scenario| {
            let status = scenario.status("n1")?;
            let complete = status.services.iter().filter(|s| s.addresses.len() == 2).count() == 2;
            Ok(complete.then_some(status))
        })?;
        let echo = status.services.iter().find(|service| service.name == "default/echo").unwrap();
        let before: Vec<_> = served.iter().map(|(vip, _)| *vip).collect();
        assert_eq!(echo.addresses, before);
        scenario.wait("the VIP is answered for again", 15, |scenario| {
            Ok(scenario.request("c2", vip, Transport::Tcp).ok())
        })?;
        Ok(())
    })
}

/// Renewals come ten times a second; the log on no node's disk grows or is touched by them. That it
/// is quiet for long enough once is what is asked: a busy machine may cost a node its session, and
/// that is written.
fn nothing_is_written_while_nothing_happens(scenario: &mut Scenario) -> anyhow::Result<()> {
    let logs = || -> anyhow::Result<Vec<_>> {
        let log = |node: String| {
            let log = fs::metadata(directory(&node).join("state").join(LOG))?;
            Ok((log.len(), log.modified()?))
        };
        nodes().map(log).collect()
    };
    let (mut before, mut since) = (logs()?, clock::now());
    scenario.wait("nothing is written for 3 s", PATIENCE, |_| {
        let now = logs()?;
        if now != before {
            (before, since) = (now, clock::now());
        }
        Ok((clock::now() - since >= QUIET).then_some(()))
    })
}

/// As in an upgrade of all nodes, one after another, each while it holds the VIPs.
#[test]
fn sigterm_gives_claims_away_before_exit() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let vips: Vec<_> = served.iter().map(|(vip, _)| *vip).collect();
        let mut old = served[0].1.clone();
        let judge = Judge::begin(&scenario.lab, &vips, PACE)?;
        for _ in 0..ROUNDS {
            gather(scenario, &vips, &old)?;
            let witness = nodes().find(|node| *node != old).unwrap();
            let client = scenario.lab.netns("c1")?.clone();
            let mut probes = Vec::new();
            for vip in &vips {
                let port = scenario.port_to("c1", *vip, |node| node != old)?;
                probes.push((*vip, Probe::start(&client, service(*vip, Transport::Udp), port)?));
            }
            let answered = |more: u64| {
                let last = probes.iter().map(|(_, probe)| probe.last_answer()).max();
                let wanted = last.unwrap_or_default() + more;
                clock::await_for("the probes are answered", Duration::from_secs(20), || {
                    Ok(probes.iter().all(|(_, probe)| probe.last_answer() >= wanted).then_some(()))
                })
            };
            answered(100)?;
            let begin = clock::now();
            let ended = scenario.speaker(&old)?.terminate(Duration::from_secs(10))?;
            assert!(ended.success(), "{ended}");
            // After 5 s a speaker gives up and goes; giving its claims away takes no such time.
            let took = clock::now() - begin;
            assert!(took < Duration::from_secs(3), "{old} took {took:?} to end");
            let status = scenario.status(&witness)?;
            assert!(status.open_session(&old).is_none(), "{:?}", status.election.sessions);
            let mut new = String::new();
            for vip in &vips {
                let given = status.vip(*vip).unwrap();
                new = given
                    .holder
                    .clone()
                    .filter(|new| *new != old)
                    .with_context(|| format!("not given away: {given:?}"))?;
                assert_eq!(who_has(&scenario.lab, *vip)?, [host(&new).unwrap().mac()], "{vip}");
                scenario.request("c2", *vip, Transport::Tcp)?;
            }
            answered(300)?;
            for (vip, probe) in probes {
                let outcome = probe.finish()?;
                assert_eq!(outcome.lost(), 0, "of {} to {vip} when {old} ended", outcome.sent());
            }
            scenario.start(&old, &[])?;
            rejoined(scenario, &witness, &old)?;
            old = new;
        }
        judge.end(|| scenario.status(&old)).map(drop)
    })
}
