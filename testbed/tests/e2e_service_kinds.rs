//! What Services ask for, each in one lab beside the others: traffic that stays local, clients that
//! may not ask, pods that terminate, two protocols or two Services on one port, a pod in its node's
//! own network, ports without any; all of it over both families. And what is no request: echoes,
//! datagrams in pieces, and a router's word that a packet is too large.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
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
/// One whose only endpoint is not ready.
const ILL: u16 = 82;

const READY: &str = "ready: true, serving: true";
const NOT_READY: &str = "ready: false, serving: false, terminating: false";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// An endpoint: its node, its IPv4 address and its conditions.
type Endpoint = (&'static str, [u8; 4], &'static str);

/// A Service with TCP and UDP on one port, served at one port of its endpoints.
struct Kind {
    name: &'static str,
    number: u8,
    /// Further lines of its spec.
    spec: &'static str,
    target: u16,
    endpoints: Vec<Endpoint>,
}

const POD: Endpoint = ("n1", [10, 244, 1, 2], READY);

fn kinds() -> Vec<Kind> {
    let kind = |name, number, endpoints| Kind { name, number, spec: "", target: 8080, endpoints };
    let second = ("n2", [10, 244, 2, 2], READY);
    let everywhere = vec![POD, second, ("n3", [10, 244, 3, 2], READY)];
    vec![
        Kind {
            spec: "  externalTrafficPolicy: Local\n",
            ..kind("local", LOCAL, vec![second, ("n2", [10, 244, 2, 3], READY)])
        },
        kind("both", BOTH, everywhere.clone()),
        Kind {
            spec: "  loadBalancerSourceRanges: [10.9.0.0/24, \"fd00:9::/64\"]\n",
            ..kind("ranges", RANGES, everywhere.clone())
        },
        Kind { target: 9090, ..kind("host", HOST, vec![("n3", [192, 168, 1, 13], READY)]) },
        kind("one", ONE, vec![POD]),
        kind("two", TWO, vec![POD]),
        Kind { target: 9000, ..kind("ending", ENDING, everywhere) },
    ]
}

const LOCAL: u8 = 0xf1;
const BOTH: u8 = 0xf2;
const RANGES: u8 = 0xf3;
const HOST: u8 = 0xf4;
const ONE: u8 = 0xf5;
const TWO: u8 = 0xf6;
const ENDING: u8 = 0xf7;

/// A Service's VIPs by its number: 192.168.1.241 and fd00:1::f1, for one.
fn vips(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into());
    [Ipv4Addr::new(192, 168, 1, number).into(), v6.into()]
}

/// The address of a pod or node in the other family, in which people write the same digits.
fn like(vip: IpAddr, [a, b, c, d]: [u8; 4]) -> String {
    match (vip, a) {
        (IpAddr::V4(_), _) => Ipv4Addr::from([a, b, c, d]).to_string(),
        (IpAddr::V6(_), 10) => format!("fd00:{b}:{c}::{d}"),
        (IpAddr::V6(_), _) => format!("fd00:{c}::{d}"),
    }
}

impl Kind {
    fn manifest(&self) -> String {
        let Self { name, number, spec, target, endpoints } = self;
        let vips = vips(*number);
        let mut text = format!(
            "apiVersion: v1\nkind: Service\n\
             metadata:\n  name: {name}\n  namespace: default\n  \
             annotations: {{metallb.io/loadBalancerIPs: \"{},{}\"}}\n\
             spec:\n  type: LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  \
             ipFamilies: [IPv4, IPv6]\n{spec}  ports:\n",
            vips[0], vips[1]
        );
        for (port, names) in [(PORT, ""), (UNSERVED, "no-"), (ILL, "ill-")] {
            let _ = write!(
                text,
                "  - {{name: {names}tcp, protocol: TCP, port: {port}, targetPort: {target}}}\n  \
                 - {{name: {names}udp, protocol: UDP, port: {port}, targetPort: {target}}}\n"
            );
        }
        for vip in vips {
            text += &self.slice(vip, "", endpoints);
            text += &self.slice(vip, "ill-", &[("n3", [10, 244, 3, 3], NOT_READY)]);
        }
        text
    }

    /// The endpoints of the ports whose names begin so, in the family of the VIP.
    fn slice(&self, vip: IpAddr, names: &str, endpoints: &[Endpoint]) -> String {
        let Self { name, target, .. } = self;
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut text = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  name: {names}{name}-{}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\nports:\n\
             - {{name: {names}tcp, protocol: TCP, port: {target}}}\n\
             - {{name: {names}udp, protocol: UDP, port: {target}}}\nendpoints:\n",
            family.to_lowercase()
        );
        for (node, address, conditions) in endpoints {
            let address = like(vip, *address);
            let _ = writeln!(
                text,
                "- {{addresses: [\"{address}\"], nodeName: {node}, conditions: {{{conditions}}}}}"
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
        for (vip, _) in &served {
            answers_echoes_and_large_datagrams(scenario, *vip)?;
        }
        // Narrower than the client knows, as behind somebody's tunnel.
        scenario.lab.netns("r1")?.ip("link set eth1 mtu 1400\n")?;
        for (vip, holder) in served {
            hears_that_a_packet_is_too_large(scenario, vip, &holder)?;
        }
        Ok(())
    })
}

/// Waits until every VIP has a holder that announces it, and every node has all endpoints.
fn announced(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.wait("all Services are announced", PATIENCE, |scenario| {
        let mut announcing = BTreeSet::new();
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            let spoken = status.vips.iter().filter(|vip| vip.announcing);
            announcing.extend(spoken.map(|vip| (node.clone(), vip.address)));
        }
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            for (kind, address) in kinds().iter().flat_map(|it| vips(it.number).map(|ip| (it, ip)))
            {
                let Some(vip) = status.vip(address) else { return Ok(None) };
                let Some(holder) = &vip.holder else { return Ok(None) };
                let is_announced = announcing.contains(&(holder.clone(), address));
                // Each endpoint is one over TCP and one over UDP; and there is the ill one.
                if !is_announced || vip.backends.len() != 2 * (kind.endpoints.len() + 1) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    })
}

/// A server in the third node's own network.
fn host_network(scenario: &Scenario) -> anyhow::Result<Process> {
    let mut command = Command::new(built("herald-lab")?);
    command.args(["pod", "--name", "n3-host", "--node", "n3", "--port", "9090"]);
    let log = directory("logs/n3-host.log");
    Process::start("n3-host", command, scenario.lab.netns("n3")?, &log)
}

/// `externalTrafficPolicy: Local`: the one node with pods holds the VIPs and serves them.
fn stays_local(scenario: &Scenario) -> anyhow::Result<()> {
    let status = scenario.status("n1")?;
    for vip in vips(LOCAL) {
        let vip = status.vip(vip).context("no such VIP")?;
        assert_eq!(vip.holder.as_deref(), Some("n2"));
        let mut without: Vec<_> = vip.ineligible.iter().map(|it| it.node.as_str()).collect();
        without.sort_unstable();
        assert_eq!(without, ["n1", "n3"], "{:?}", vip.ineligible);
    }
    both_protocols_reach_pods(scenario, LOCAL)
}

/// Over both families, from every client, who is seen under its own address.
fn both_protocols_reach_pods(scenario: &Scenario, number: u8) -> anyhow::Result<()> {
    for (client, vip) in CLIENTS.iter().flat_map(|it| vips(number).map(|vip| (*it, vip))) {
        for transport in [Transport::Tcp, Transport::Udp] {
            for _ in 0..5 {
                let netns = scenario.lab.netns(client)?;
                let reply = netns.inside(|| client::who(transport, (vip, PORT).into()))?;
                let real = client_address(client, vip);
                assert_eq!(Some(reply.answer.client), real, "{client} to {vip}");
                let Answer { pod, node, .. } = reply.answer;
                assert!(number != LOCAL || node == "n2", "{node}");
                assert!(number != HOST || pod == "n3-host", "{pod}");
            }
        }
    }
    Ok(())
}

/// How often all nodes together counted a reason.
fn counted(scenario: &Scenario, reason: &str) -> anyhow::Result<u64> {
    let of = |node: String| {
        anyhow::Ok(scenario.status(&node)?.counters.get(reason).copied().unwrap_or(0))
    };
    nodes().map(of).sum()
}

/// `loadBalancerSourceRanges`: the client behind the router may ask, the one on the LAN may not.
fn refuses_other_clients(scenario: &Scenario) -> anyhow::Result<()> {
    let before = counted(scenario, "xdp_drop_source_not_allowed")?;
    for (vip, transport) in
        vips(RANGES).into_iter().flat_map(|vip| [(vip, Transport::Tcp), (vip, Transport::Udp)])
    {
        let [on_lan, behind_router] = CLIENTS;
        let asked = |client: &str| {
            scenario.lab.netns(client)?.inside(|| client::who(transport, (vip, PORT).into()))
        };
        asked(behind_router)?;
        assert!(asked(on_lan).is_err(), "{on_lan} may not ask {vip} over {transport}");
    }
    let refused = counted(scenario, "xdp_drop_source_not_allowed")? - before;
    assert!(refused >= 4, "each is counted: {refused}");
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
        for vip in [ONE, TWO, ONE].into_iter().flat_map(vips) {
            client::who_udp(&client::udp((vip, PORT).into(), 40_500)?, "who")?;
        }
        Ok(())
    })
}

/// Where nothing serves a port, or nothing that is ready: an error instead of silence, over both
/// protocols, from the data plane.
fn turns_away_at_once(scenario: &Scenario) -> anyhow::Result<()> {
    let before = counted(scenario, "xdp_rejected_no_backend")?;
    let turned = |vip: IpAddr, port: u16| {
        // A silent drop would end in a timeout, which is another kind of error.
        let tcp = TcpStream::connect_timeout(&(vip, port).into(), Duration::from_secs(10));
        let refused = Some(ErrorKind::ConnectionRefused);
        assert_eq!(tcp.err().map(|error| error.kind()), refused, "{vip}, TCP port {port}");
        let udp = client::udp((vip, port).into(), 0)?;
        udp.set_read_timeout(Some(Duration::from_secs(10)))?;
        udp.send(b"who")?;
        let error = udp.recv(&mut [0; 16]).err().map(|error| error.kind());
        assert_eq!(error, refused, "{vip}, UDP port {port}");
        anyhow::Ok(())
    };
    scenario.lab.netns("c1")?.inside(|| {
        for vip in vips(BOTH) {
            turned(vip, UNSERVED)?;
            turned(vip, ILL)?;
        }
        Ok(())
    })?;
    let rejected = counted(scenario, "xdp_rejected_no_backend")? - before;
    assert!(rejected >= 8, "each is counted: {rejected}");
    Ok(())
}

/// A pod that terminates keeps its flows and gets no new ones.
fn lets_flows_end(scenario: &mut Scenario) -> anyhow::Result<()> {
    let open = |scenario: &Scenario| {
        let netns = scenario.lab.netns("c1")?;
        let open = vips(ENDING).map(|vip| Flows::open(netns, (vip, PORT).into(), 100));
        open.into_iter().collect::<anyhow::Result<Vec<_>>>()
    };
    let is_used = |flows: &Flows| flows.backends().contains_key("n3-p1:9000");
    let mut flows = open(scenario)?;
    assert!(flows.iter().all(is_used), "the pod has flows over both families");
    let mut kinds = kinds();
    let ending = kinds.last_mut().context("there are kinds")?;
    ending.endpoints[2].2 = TERMINATING;
    scenario.put_manifest("kind-ending.yaml", &ending.manifest())?;
    scenario.wait("no node gives the terminating pod new flows", PATIENCE, |scenario| {
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            for vip in vips(ENDING) {
                let Some(vip) = status.vip(vip) else { return Ok(None) };
                if vip.backends.iter().filter(|it| it.used).count() != 2 * 2 {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    })?;
    let mut ask = |when: &str| flows.iter_mut().for_each(|it| assert_eq!(it.ask(), [], "{when}"));
    ask("established flows");
    assert!(!open(scenario)?.iter().any(is_used), "new flows");
    ask("established flows after new ones");
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

/// A client behind a link that is narrower than it knows: the router's error reaches the pod, be it
/// here or on another node, or the transfer would stand still.
fn hears_that_a_packet_is_too_large(
    scenario: &Scenario,
    vip: IpAddr,
    holder: &str,
) -> anyhow::Result<()> {
    let [_, behind_router] = CLIENTS;
    let errors = || -> anyhow::Result<_> {
        let delivered = counted(scenario, "xdp_icmp_error_delivered")?;
        Ok((counted(scenario, "xdp_icmp_error_forwarded")?, delivered))
    };
    for is_here in [true, false] {
        let before = errors()?;
        // A pod that was never told: it remembers the narrow way for minutes.
        let is_wanted = |answer: &Answer| (answer.node == holder) == is_here;
        scenario
            .lab
            .netns(behind_router)?
            .inside(|| client::download_from(service(vip, Transport::Tcp), 5_000_000, is_wanted))?;
        let (forwarded, delivered) = errors()?;
        assert!(delivered > before.1, "{vip}, on the holder: {is_here}");
        assert_eq!(forwarded > before.0, !is_here, "{vip}, on the holder: {is_here}");
    }
    Ok(())
}
