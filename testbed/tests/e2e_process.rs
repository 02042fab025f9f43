//! Speakers end: killed at any moment, or asked to. Neither loses what was promised.

use std::time::Duration;

use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::nodes;
use herald_testbed::probe::Probe;
use herald_testbed::scenario::service;

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
        let vip = served[0].0;
        scenario.request("c1", vip, Transport::Udp)?;
        for node in nodes() {
            scenario.speaker(&node)?.kill()?;
            scenario.forget(&node);
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

#[test]
fn sigterm_gives_claims_away_before_exit() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let (vip, old) = scenario.served()?.remove(0);
        let witness = nodes().find(|node| *node != old).unwrap();
        let server = service(vip, Transport::Udp);
        let client = scenario.lab.netns("c1")?.clone();
        let port = client.inside(|| {
            let mut ports = 40_000..41_000;
            let port = ports.find(|port| {
                let asked = client::udp(server, *port).and_then(|s| client::who_udp(&s, "where"));
                asked.is_ok_and(|reply| reply.answer.node != old)
            });
            Ok(port.unwrap())
        })?;
        let probe = Probe::start(&client, server, port)?;
        let ended = scenario.speaker(&old)?.terminate(Duration::from_secs(10))?;
        assert!(ended.success(), "{ended}");
        let status = scenario.status(&witness)?;
        let given = status.vip(vip).unwrap();
        assert!(given.holder.as_ref().is_some_and(|new| *new != old), "{given:?}");
        assert!(status.open_session(&old).is_none(), "{:?}", status.election.sessions);
        scenario.forget(&old);
        scenario.request("c2", vip, Transport::Tcp)?;
        let outcome = probe.finish()?;
        // A takeover needs a whole ttl (600 ms) of silence first; giving away needs none.
        assert!(outcome.outage() < Duration::from_millis(300), "{:?}", outcome.outage());
        Ok(())
    })
}
