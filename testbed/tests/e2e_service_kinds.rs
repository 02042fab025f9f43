//! What Services ask for, each in one lab beside the others: traffic that stays local, clients that
//! may not ask, pods that terminate, two protocols or two Services on one port, a pod in its node's
//! own network, a port without any; and what is no request: echoes, and datagrams in pieces.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::flows::{self, Flows};
use herald_testbed::lab::addresses::{CLIENTS, client_address, nodes};
use herald_testbed::lab::process::{Process, built};
use herald_testbed::ping::ping;
use herald_testbed::pod::Answer;
use herald_testbed::scenario::{PATIENCE, Scenario, directory, service};

/// The Services' port.
const PORT: u16 = 80;
/// Another port of theirs, which no endpoint serves.
const UNSERVED: u16 = 81;

const READY: &str = "ready: true, serving: true";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// An endpoint: its node, its address and its conditions.
type Endpoint = (&'static str, &'static str, &'static str);

/// A Service with TCP and UDP on one port, served at one port of its endpoints.
struct Kind {
    name: &'static str,
    vip: Ipv4Addr,
    /// Further lines of its spec.
    spec: &'static str,
    target: u16,
    endpoints: Vec<Endpoint>,
}

const POD: Endpoint = ("n1", "10.244.1.2", READY);

fn kinds() -> Vec<Kind> {
    let kind = |name, vip, endpoints| Kind { name, vip, spec: "", target: 8080, endpoints };
    let everywhere = vec![POD, ("n2", "10.244.2.2", READY), ("n3", "10.244.3.2", READY)];
    vec![
        Kind {
            spec: "  externalTrafficPolicy: Local\n",
            ..kind("local", LOCAL, vec![("n2", "10.244.2.2", READY), ("n2", "10.244.2.3", READY)])
        },
        kind("both", BOTH, everywhere.clone()),
        Kind {
            spec: "  loadBalancerSourceRanges: [10.9.0.0/24]\n",
            ..kind("ranges", RANGES, everywhere.clone())
        },
        Kind { target: 9090, ..kind("host", HOST, vec![("n3", "192.168.1.13", READY)]) },
        kind("one", ONE, vec![POD]),
        kind("two", TWO, vec![POD]),
        Kind { target: 9000, ..kind("ending", ENDING, everywhere) },
    ]
}

const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 241);
const BOTH: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 242);
const RANGES: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 243);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 244);
const ONE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 245);
const TWO: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 246);
const ENDING: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 247);

impl Kind {
    fn manifest(&self) -> String {
        let Self { name, vip, spec, target, endpoints } = self;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  type: LoadBalancer\n  loadBalancerIP: {vip}\n{spec}  ports:\n  \
             - {{name: tcp, protocol: TCP, port: {PORT}, targetPort: {target}}}\n  \
             - {{name: udp, protocol: UDP, port: {PORT}, targetPort: {target}}}\n  \
             - {{name: no-tcp, protocol: TCP, port: {UNSERVED}, targetPort: {UNSERVED}}}\n  \
             - {{name: no-udp, protocol: UDP, port: {UNSERVED}, targetPort: {UNSERVED}}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  name: {name}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports:\n\
             - {{name: tcp, protocol: TCP, port: {target}}}\n\
             - {{name: udp, protocol: UDP, port: {target}}}\nendpoints:\n"
        );
        for (node, address, conditions) in endpoints {
            let _ = writeln!(
                text,
                "- {{addresses: [{address}], nodeName: {node}, conditions: {{{conditions}}}}}"
            );
        }
        text
    }
}

#[test]
fn services_of_every_kind_are_served_as_they_ask() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let _flows = flows::servers(&scenario.lab, 9000..=9000)?;
        let _host = host_network(scenario)?;
        for kind in kinds() {
            scenario.put_manifest(&format!("kind-{}.yaml", kind.name), &kind.manifest())?;
        }
        announced(scenario)?;

        stays_local(scenario)?;
        both_protocols_reach_pods(scenario, BOTH)?;
        refuses_other_clients(scenario)?;
        both_protocols_reach_pods(scenario, HOST)?;
        shares_a_pod_and_port(scenario)?;
        turns_away_at_once(scenario)?;
        lets_flows_end(scenario)?;
        for (vip, _) in served {
            answers_echoes_and_large_datagrams(scenario, vip)?;
        }
        Ok(())
    })
}

/// Waits until every VIP has a holder that announces it, and every node has all endpoints.
fn announced(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.wait("all Services are announced", PATIENCE, |scenario| {
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            for kind in kinds() {
                let Some(vip) = status.vip(kind.vip.into()) else { return Ok(None) };
                let Some(holder) = &vip.holder else { return Ok(None) };
                let holder = scenario.status(holder)?;
                let is_announced = holder.vip(kind.vip.into()).is_some_and(|it| it.announcing);
                // Each endpoint is one over TCP and one over UDP.
                if !is_announced || vip.backends.len() != 2 * kind.endpoints.len() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    })
}

fn server(vip: Ipv4Addr) -> SocketAddr {
    (vip, PORT).into()
}

/// A server in the third node's own network.
fn host_network(scenario: &Scenario) -> anyhow::Result<Process> {
    let mut command = Command::new(built("herald-lab")?);
    command.args(["pod", "--name", "n3-host", "--node", "n3", "--port", "9090"]);
    let log = directory("logs/n3-host.log");
    Process::start("n3-host", command, scenario.lab.netns("n3")?, &log)
}

/// `externalTrafficPolicy: Local`: the one node with pods holds the VIP and serves it.
fn stays_local(scenario: &Scenario) -> anyhow::Result<()> {
    let status = scenario.status("n1")?;
    let vip = status.vip(LOCAL.into()).context("no such VIP")?;
    assert_eq!(vip.holder.as_deref(), Some("n2"));
    let mut without: Vec<_> = vip.ineligible.iter().map(|it| it.node.as_str()).collect();
    without.sort_unstable();
    assert_eq!(without, ["n1", "n3"], "{:?}", vip.ineligible);
    both_protocols_reach_pods(scenario, LOCAL)
}

/// From every client, who is seen under its own address.
fn both_protocols_reach_pods(scenario: &Scenario, vip: Ipv4Addr) -> anyhow::Result<()> {
    for client in CLIENTS {
        for transport in [Transport::Tcp, Transport::Udp] {
            for _ in 0..5 {
                let netns = scenario.lab.netns(client)?;
                let reply = netns.inside(|| client::who(transport, server(vip)))?;
                let real = client_address(client, vip.into());
                assert_eq!(Some(reply.answer.client), real, "{client} to {vip}");
                let Answer { pod, node, .. } = reply.answer;
                assert!(vip != LOCAL || node == "n2", "{node}");
                assert!(vip != HOST || pod == "n3-host", "{pod}");
            }
        }
    }
    Ok(())
}

/// `loadBalancerSourceRanges`: the client behind the router may ask, the one on the LAN may not.
fn refuses_other_clients(scenario: &Scenario) -> anyhow::Result<()> {
    let refused = || -> anyhow::Result<u64> {
        let counters = nodes().map(|node| {
            let counters = scenario.status(&node)?.counters;
            Ok(counters.get("xdp_drop_source_not_allowed").copied().unwrap_or(0))
        });
        counters.sum()
    };
    let before = refused()?;
    for transport in [Transport::Tcp, Transport::Udp] {
        let [on_lan, behind_router] = CLIENTS;
        let asked = |client: &str| {
            scenario.lab.netns(client)?.inside(|| client::who(transport, server(RANGES)))
        };
        asked(behind_router)?;
        assert!(asked(on_lan).is_err(), "{on_lan} may not ask over {transport}");
    }
    assert!(refused()? >= before + 2, "each is counted");
    Ok(())
}

/// Two Services on one pod and port: each answers under its own address, in turn on one client.
fn shares_a_pod_and_port(scenario: &Scenario) -> anyhow::Result<()> {
    for _ in 0..3 {
        both_protocols_reach_pods(scenario, ONE)?;
        both_protocols_reach_pods(scenario, TWO)?;
    }
    // From one port of the client's to both.
    scenario.lab.netns("c1")?.inside(|| {
        for vip in [ONE, TWO, ONE] {
            client::who_udp(&client::udp(server(vip), 40_500)?, "who")?;
        }
        Ok(())
    })
}

/// Where nothing serves a port: an error instead of silence, over both protocols.
fn turns_away_at_once(scenario: &Scenario) -> anyhow::Result<()> {
    scenario.lab.netns("c1")?.inside(|| {
        let unserved = (BOTH, UNSERVED).into();
        // A silent drop would end in a timeout, which is another kind of error.
        let tcp = TcpStream::connect_timeout(&unserved, Duration::from_secs(10));
        assert_eq!(tcp.err().map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));
        let udp = client::udp(unserved, 0)?;
        udp.set_read_timeout(Some(Duration::from_secs(10)))?;
        udp.send(b"who")?;
        let error = udp.recv(&mut [0; 16]).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::ConnectionRefused));
        Ok(())
    })
}

/// A pod that terminates keeps its flows and gets no new ones.
fn lets_flows_end(scenario: &mut Scenario) -> anyhow::Result<()> {
    let open = |scenario: &Scenario| Flows::open(scenario.lab.netns("c1")?, server(ENDING), 100);
    let mut flows = open(scenario)?;
    assert!(flows.backends().contains_key("n3-p1:9000"), "{:?}", flows.backends());
    let mut kinds = kinds();
    let ending = kinds.last_mut().context("there are kinds")?;
    ending.endpoints[2].2 = TERMINATING;
    scenario.put_manifest("kind-ending.yaml", &ending.manifest())?;
    scenario.wait("no node gives the terminating pod new flows", PATIENCE, |scenario| {
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            let Some(vip) = status.vip(ENDING.into()) else { return Ok(None) };
            if vip.backends.iter().filter(|it| it.used).count() != 2 * 2 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    assert_eq!(flows.ask(), [], "established flows");
    let fresh = open(scenario)?.backends();
    assert!(!fresh.contains_key("n3-p1:9000"), "{fresh:?}");
    assert_eq!(flows.ask(), [], "established flows after new ones");
    Ok(())
}

/// Echoes by the holder; a datagram of three fragments each way.
fn answers_echoes_and_large_datagrams(scenario: &Scenario, vip: IpAddr) -> anyhow::Result<()> {
    for client in CLIENTS {
        scenario.lab.netns(client)?.inside(|| {
            ping(vip)?;
            let socket = client::udp(service(vip, Transport::Udp), 0)?;
            client::who_udp(&socket, &"x".repeat(4_000)).map(drop)
        })?;
    }
    Ok(())
}
