//! Somebody else's XDP program is on an interface already: it stays, status says whose it is, the
//! other nodes serve with their own pods, and when it goes Herald takes the interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_testbed::beside::interface;
use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{CLIENTS, client_address};
use herald_testbed::lab::pass::Pass;
use herald_testbed::scenario::{MANIFESTS, PATIENCE, Scenario};
use herald_testbed::status::Backend;

const NODE: &str = "n2";
const REQUESTS: usize = 30;

#[test]
fn a_foreign_program_stays_and_is_named_and_its_place_is_taken_when_it_goes() -> anyhow::Result<()>
{
    in_lab(|scenario| {
        let foreign = Pass::load()?;
        let foreign = scenario.lab.netns(NODE)?.inside(|| foreign.attach("eth0"))?;
        let before = interface::program(&scenario.lab, NODE)?;
        scenario.start_all(&[])?;
        let off = interface::served_by(scenario, NODE, "off")?;
        let reason = off.reason.unwrap_or_default();
        let wanted = "eth0 has another XDP program (XDP_PASS, program id ";
        assert!(reason.starts_with(wanted) && reason.contains(", native)"), "{reason}");
        let (_, said) = scenario.command(NODE, &["status"])?;
        assert!(said.contains(&format!("datapath on eth0: off ({reason})")), "{said}");
        let after = interface::program(&scenario.lab, NODE)?;
        assert_eq!(after, before, "the foreign program is where it was");
        assert!(before.contains("xdp"), "{before}");
        for other in ["n1", "n3"] {
            let modes = scenario.status(other)?.datapath;
            assert!(modes.iter().all(|it| it.mode == "native"), "{modes:?}");
        }

        // Its pods are left out: nothing there would deliver what a holder sends by its MAC. That
        // it holds nothing itself is not the point: then kube-proxy would serve, and there is none
        // here.
        scenario.put_manifest(MANIFESTS[0].0, &cordoned(NODE))?;
        for (name, text) in &MANIFESTS[1..] {
            scenario.put_manifest(name, text)?;
        }
        let served = scenario.served()?;
        for (vip, holder) in &served {
            assert_ne!(holder, NODE);
            leaves_its_pods_out(scenario, *vip)?;
            assert_eq!(serving(scenario, *vip)?, ["n1", "n3"]);
        }

        drop(foreign);
        let native = interface::served_by(scenario, NODE, "native")?;
        assert_eq!(native.reason, None);
        for (vip, holder) in served {
            scenario.wait("the holder uses all pods", PATIENCE, |scenario| {
                let status = scenario.status(&holder)?;
                let backends = status.vip(vip).map(|vip| &vip.backends[..]).unwrap_or_default();
                Ok(backends.iter().all(|it| it.used).then_some(()))
            })?;
            assert_eq!(serving(scenario, vip)?, ["n1", "n2", "n3"]);
        }
        Ok(())
    })
}

/// The demo's Nodes, one of them cordoned.
fn cordoned(node: &str) -> String {
    let name = format!("  name: {node}\n");
    MANIFESTS[0].1.replacen(&name, &format!("{name}spec: {{unschedulable: true}}\n"), 1)
}

/// Waits until the other nodes say of the pods on `NODE`, and of no others, that they get nothing.
fn leaves_its_pods_out(scenario: &mut Scenario, vip: IpAddr) -> anyhow::Result<()> {
    scenario.wait("the pods of a node without programs get nothing", PATIENCE, |scenario| {
        for node in ["n1", "n3"] {
            let status = scenario.status(node)?;
            let backends = status.vip(vip).map(|vip| &vip.backends[..]).unwrap_or_default();
            let is_right = |it: &Backend| {
                let why_not = (it.node.as_deref() == Some(NODE)).then_some("node_without_xdp");
                it.reason.as_deref() == why_not && it.used == why_not.is_none()
            };
            if backends.is_empty() || !backends.iter().all(is_right) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// The nodes whose pods answer, none of which sees anybody but the client.
fn serving(scenario: &Scenario, vip: IpAddr) -> anyhow::Result<Vec<String>> {
    let mut nodes = BTreeSet::new();
    for client in CLIENTS {
        for transport in [Transport::Tcp, Transport::Udp] {
            for _ in 0..REQUESTS {
                let answer = scenario.request(client, vip, transport)?.answer;
                assert_eq!(Some(answer.client), client_address(client, vip));
                nodes.insert(answer.node);
            }
        }
    }
    Ok(Vec::from_iter(nodes))
}
