//! A node disappears from the LAN without notice: its VIPs are taken over soon, the two never speak
//! at the same time, and the node that returns takes nothing back.

use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, node_of, nodes};
use herald_testbed::probe::Probe;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::service;
use herald_testbed::tap::Tap;
use herald_testbed::trial::rejoined;

/// The demo asks for less than a second; this leaves room for a busy machine.
const LONGEST_OUTAGE: Duration = Duration::from_secs(2);

#[test]
fn takes_over_when_holder_is_cut_and_returns_sticky() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vip, old) = scenario.served()?.remove(0);
        let witness = nodes().find(|node| *node != old).unwrap();
        let term = scenario.status(&witness)?.vip(vip).unwrap().term;
        let server = service(vip, Transport::Udp);
        let client = scenario.lab.netns("c1")?.clone();
        let port = scenario.port_to("c1", vip, |node| node != old)?;

        let tap = Tap::at("c1", &[])?;
        let probe = Probe::start(&client, server, port)?;
        answered(&probe, 300)?;
        scenario.lab.cut(&old)?;
        let new = scenario.wait("another node holds the VIP", 15, |scenario| {
            Ok(scenario.holder(&witness, vip).filter(|holder| *holder != old))
        })?;
        answered(&probe, probe.last_answer() + 300)?;
        let outage = probe.finish()?.outage();
        assert!(outage > Duration::ZERO, "the cut was not noticed, so nothing was measured");
        assert!(outage < LONGEST_OUTAGE, "{outage:?}");
        let silent = scenario.status(&old)?;
        assert!(!silent.vip(vip).is_some_and(|vip| vip.announcing), "{old} believes it may speak");

        scenario.lab.heal(&old)?;
        let healed = clock::now();
        rejoined(scenario, &new, &old)?;
        clock::pause(Duration::from_secs(2));
        for node in nodes() {
            let status = scenario.status(&node)?;
            let vip = status.vip(vip).unwrap();
            assert_eq!(vip.holder.as_ref(), Some(&new), "as {node} sees it");
            assert_eq!(vip.term, term + 1, "as {node} sees it");
        }
        assert_eq!(who_has(&scenario.lab, vip)?, [host(&new).unwrap().mac()]);

        let capture = tap.finish()?;
        let of = |node: &str| {
            let voices = capture.voices_for(vip).filter(move |v| node_of(v.mac) == Some(node));
            voices.map(|voice| voice.at).collect::<Vec<_>>()
        };
        let begin = *of(&new).first().with_context(|| format!("{new} never announced itself"))?;
        for node in nodes().filter(|node| *node != new) {
            let second: Vec<_> = of(&node).into_iter().filter(|at| *at > begin).collect();
            let since_heal: Vec<_> = second.iter().map(|at| *at - healed).collect();
            assert!(
                second.is_empty(),
                "{node} spoke too, so long after it came back: {since_heal:?}"
            );
        }
        Ok(())
    })
}

/// Waits until the datagram of this number, or a later one, is answered.
fn answered(probe: &Probe, number: u64) -> anyhow::Result<()> {
    clock::await_for("the probe is answered", Duration::from_secs(10), || {
        Ok((probe.last_answer() >= number).then_some(()))
    })
}
