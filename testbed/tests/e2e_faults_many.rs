//! A hundred VIPs of both families at once: the node that holds them is cut off, the others take
//! all of them over, and no VIP has two voices at any instant, seen at every bridge port.

use std::net::IpAddr;
use std::time::Duration;

use herald_testbed::e2e::in_lab;
use herald_testbed::scenario::{MANIFESTS, PATIENCE};
use herald_testbed::services::{POOL, manifests, vip, vip6};
use herald_testbed::trial::{Trial, other, rejoined};

/// Each VIP is asked for ten times a second: a thousand questions a second in all.
const PACE: Duration = Duration::from_millis(100);

#[test]
fn a_hundred_vips_at_once() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let vips: Vec<IpAddr> = (0..50).flat_map(|index| [vip(index), vip6(index)]).collect();
        scenario.start_all(&[])?;
        scenario.put_manifest("pool.yaml", POOL)?;
        scenario.put_manifest(MANIFESTS[2].0, MANIFESTS[2].1)?;
        scenario.put_manifest("services.yaml", &manifests("echo", &vips))?;
        scenario.wait("all VIPs are held", PATIENCE, |scenario| {
            let holders = scenario.status("n1").map(|status| status.holders());
            Ok(holders.is_ok_and(|holders| holders.len() == vips.len()).then_some(()))
        })?;
        let mut trial = Trial::begin(scenario, &vips, PACE)?;
        trial.held(scenario, "n1", |_| true)?;
        let old = trial.holder(vips[0])?.to_owned();
        let held = vips.iter().filter(|vip| trial.holder(**vip).is_ok_and(|holder| holder == old));
        assert!(held.count() > 10, "the VIPs are not spread over the nodes");
        let witness = other(&[&old])?;
        scenario.lab.cut(&old)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        for vip in [vips[0], vips[99]] {
            scenario.wait("the client is served", PATIENCE, |scenario| {
                Ok(scenario.request("c1", vip, herald_testbed::client::Transport::Udp).ok())
            })?;
        }
        scenario.lab.heal(&old)?;
        rejoined(scenario, &witness, &old)?;
        trial.held(scenario, &witness, |holder| holder != old)?;
        trial.end(scenario, &witness).map(drop)
    })
}
