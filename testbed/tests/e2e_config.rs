//! What people get wrong: a manifest with a mistake, an interface that does not exist.

use std::time::Duration;

use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::scenario::MANIFESTS;

const REVERSED_POOL: &str = "\
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec:
  addresses:
    - 192.168.1.250-192.168.1.240
";

const SECOND_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: second, namespace: default}
spec:
  type: LoadBalancer
  ports: [{name: tcp, protocol: TCP, port: 80}]
";

#[test]
fn bad_manifest_keeps_last_good() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;

        scenario.put_manifest("pool.yaml", REVERSED_POOL)?;
        let mistake = scenario.wait("the mistake is reported", 10, |scenario| {
            let problems = scenario.status("n2")?.problems;
            Ok(problems.into_iter().find(|problem| problem["level"] == "error"))
        })?;
        let file = mistake["location"]["file"].as_str().unwrap_or_default();
        assert!(file.ends_with("pool.yaml"), "{mistake}");
        assert_eq!(mistake["location"]["line"], 6, "{mistake}");
        assert!(mistake["message"].as_str().is_some_and(|m| m.contains("reversed")), "{mistake}");

        scenario.put_manifest("second.yaml", SECOND_SERVICE)?;
        let second = scenario.wait("the other file applies", 10, |scenario| {
            let status = scenario.status("n3")?;
            let second =
                status.services.into_iter().find(|service| service.name == "default/second");
            Ok(second.filter(|service| !service.addresses.is_empty()))
        })?;
        assert_eq!(second.addresses, ["192.168.1.241".parse::<std::net::IpAddr>()?]);
        let holders = scenario.status("n1")?.holders();
        for (vip, holder) in &served {
            assert_eq!(holders.get(vip), Some(holder), "{vip}");
            scenario.request("c1", *vip, Transport::Tcp)?;
        }

        let (name, good) = MANIFESTS[1];
        scenario.put_manifest(name, good)?;
        scenario.wait("the problem is gone", 10, |scenario| {
            Ok(scenario.status("n2")?.problems.is_empty().then_some(()))
        })
    })
}

#[test]
fn missing_interface_is_one_clear_sentence() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start("n1", &["--interface", "eth9"])?;
        let speaker = scenario.speaker("n1")?;
        let ended = speaker.ended_within(Duration::from_secs(10))?;
        assert_eq!(ended.code(), Some(1));
        let output = speaker.output();
        let said: Vec<&str> = output.lines().filter(|line| line.starts_with("herald: ")).collect();
        assert_eq!(said.len(), 1, "{output}");
        assert!(said[0].contains("eth9"), "{output}");
        assert!(!output.contains("panicked"), "{output}");
        Ok(())
    })
}
