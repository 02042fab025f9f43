//! Somebody else's XDP program is on an interface already: it stays, status says whose it is, the
//! other nodes serve, and when it goes Herald takes the interface.

use std::collections::BTreeSet;

use herald_testbed::beside::interface;
use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::pass::Pass;

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

        drop(foreign);
        let native = interface::served_by(scenario, NODE, "native")?;
        assert_eq!(native.reason, None);
        scenario.put_all_manifests()?;
        for (vip, _) in scenario.served()? {
            let mut nodes = BTreeSet::new();
            for _ in 0..REQUESTS {
                nodes.insert(scenario.request("c1", vip, Transport::Tcp)?.answer.node);
            }
            assert_eq!(Vec::from_iter(nodes), ["n1", "n2", "n3"]);
        }
        Ok(())
    })
}
