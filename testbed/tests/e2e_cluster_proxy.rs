//! Beside Kubernetes' own kube-proxy, which has rules for the same VIPs on every node: the LAN is
//! served by Herald, with the client's address, in either of kube-proxy's modes and while it
//! changes from one to the other. Policies and filters of a node see the client and its whole flow.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::beside::proxy::{self, Mode};
use herald_testbed::beside::rules;
use herald_testbed::client::{self, Transport};
use herald_testbed::cluster::objects::{ECHO, POOL};
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::flows::{self, Flows};
use herald_testbed::lab::addresses::{CLIENTS, client_address, nodes};
use herald_testbed::lab::process::{Process, built};
use herald_testbed::sandbox::SCRATCH;
use herald_testbed::scenario::service;
use herald_testbed::{clock, e2e};

/// The server of many connections listens there in each pod.
const FLOWS_PORT: u16 = 9000;
const FLOWS: usize = 200;
/// Enough flows for each of six pods to get one but by a chance of one in a million.
const REQUESTS: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_lan_is_served_through_herald_beside_kube_proxy_in_both_modes() -> anyhow::Result<()> {
    let kubernetes = e2e::kubernetes()?;
    e2e::in_cluster("manifests", |cluster| {
        cluster.start(&["--voters", "n1,n2,n3"])?;
        cluster.wait("pools can be made", LIMIT, |cluster| Ok(cluster.apply(POOL).ok()))?;
        let _servers = flows::servers(&cluster.lab, FLOWS_PORT..=FLOWS_PORT)?;
        cluster.apply(ECHO)?;
        let vips = addresses(cluster, "echo", 2)?;
        cluster.apply(&flows::manifests("many", &flows::on_all_pods(FLOWS_PORT..=FLOWS_PORT)))?;
        let many = addresses(cluster, "many", 1)?[0];
        for node in nodes() {
            rules::load(cluster.lab.netns(&node)?, rules::NOTHING_INVALID)?;
        }
        let kubeconfig = proxy::account(cluster)?;
        let start = |cluster: &mut Cluster, mode| -> anyhow::Result<Vec<Process>> {
            let started =
                nodes().map(|node| proxy::start(cluster, &kubernetes, &kubeconfig, &node, mode));
            let mut proxies = started.collect::<anyhow::Result<Vec<_>>>()?;
            has_rules(cluster, &mut proxies, mode, &vips)?;
            Ok(proxies)
        };

        let mut proxies = start(cluster, Mode::Iptables)?;
        is_served(cluster, &vips)?;
        a_policy_bites(cluster, &vips)?;
        for proxy in &mut proxies {
            proxy.terminate(LIMIT)?;
        }
        let mut proxies = start(cluster, Mode::Nftables)?;
        is_served(cluster, &vips)?;
        a_policy_bites(cluster, &vips)?;
        flows_outlive_a_move(cluster, many)?;
        for proxy in &mut proxies {
            ensure!(proxy.status()?.is_none(), "a kube-proxy ended: {}", proxy.output());
        }
        Ok(())
    })
}

/// Waits until kube-proxy has rules for the VIPs on each node, with all a request would meet.
fn has_rules(
    cluster: &mut Cluster,
    proxies: &mut [Process],
    mode: Mode,
    vips: &[IpAddr],
) -> anyhow::Result<()> {
    for node in nodes() {
        let what = format!("kube-proxy's rules of {} on {node} are there", mode.label());
        cluster.wait(&what, LIMIT, |cluster| {
            for proxy in &mut *proxies {
                ensure!(proxy.status()?.is_none(), "a kube-proxy ended: {}", proxy.output());
            }
            let rules = rules_of(cluster, &node, mode)?;
            let has_vips = vips.iter().all(|vip| rules.contains(&vip.to_string()));
            Ok((has_vips && rules.to_lowercase().contains("masquerade")).then_some(()))
        })?;
    }
    Ok(())
}

fn rules_of(cluster: &Cluster, node: &str, mode: Mode) -> anyhow::Result<String> {
    let netns = cluster.lab.netns(node)?;
    if mode == Mode::Nftables {
        let rules = rules::list(netns)?;
        return Ok(rules.split("\ntable ").filter(|table| table.contains("kube-proxy")).collect());
    }
    netns.inside(|| {
        let mut rules = String::new();
        for program in ["iptables-save", "ip6tables-save"] {
            let output = Command::new(program).output();
            let output = output.with_context(|| format!("cannot run {program}"))?;
            rules += &String::from_utf8_lossy(&output.stdout);
        }
        Ok(rules)
    })
}

/// Both clients reach pods on all nodes over TCP and UDP of both families, and are seen as who they
/// are; a pod reaches the VIPs too, by its own node's kube-proxy.
fn is_served(cluster: &mut Cluster, vips: &[IpAddr]) -> anyhow::Result<()> {
    let before = forwarded(cluster)?;
    let mut asked = 0;
    for client in CLIENTS {
        let mut seen = BTreeSet::new();
        for (vip, transport) in everything(vips) {
            for _ in 0..REQUESTS {
                let answer = answered(cluster, client, vip, transport)?.answer;
                let real = client_address(client, vip).context("a client without address")?;
                assert_eq!(answer.client, real, "{client} to {vip} over {transport}");
                seen.insert(answer.node);
                asked += 1;
            }
        }
        assert_eq!(Vec::from_iter(seen), ["n1", "n2", "n3"]);
        for vip in vips {
            cluster.lab.netns(client)?.inside(|| {
                client::upload(service(*vip, Transport::Tcp), 2_000_000)?;
                client::download(service(*vip, Transport::Tcp), 2_000_000)
            })?;
        }
    }
    assert!(forwarded(cluster)? >= before + asked, "not all requests went through XDP");
    for (vip, transport) in everything(vips) {
        answered(cluster, "n1-p1", vip, transport)?;
    }
    Ok(())
}

/// Where pods take nothing but from c1, c2 is refused: the rules see who asks, behind any hop.
fn a_policy_bites(cluster: &mut Cluster, vips: &[IpAddr]) -> anyhow::Result<()> {
    let put = |cluster: &Cluster, clients: &[&str]| -> anyhow::Result<()> {
        let mut allowed = Vec::new();
        for (client, vip) in
            clients.iter().flat_map(|client| vips.iter().map(move |it| (client, it)))
        {
            allowed.push(client_address(client, *vip).context("no such client")?);
        }
        let policy = rules::policy(&allowed);
        nodes().try_for_each(|node| rules::load(cluster.lab.netns(&node)?, &policy))
    };
    put(cluster, &["c1"])?;
    for (vip, transport) in everything(vips) {
        for _ in 0..REQUESTS {
            answered(cluster, "c1", vip, transport)?;
        }
        ask(cluster, "c2", vip, transport).err().context("c2 was answered")?;
    }
    let mut refused = 0;
    for node in nodes() {
        refused += rules::counted(cluster.lab.netns(&node)?, "netpol", "refused")?;
    }
    assert!(refused >= 4, "not the policy refused: {refused}");
    put(cluster, &CLIENTS)?;
    answered(cluster, "c2", vips[0], Transport::Udp)?;
    // Pods are refused as well.
    nodes().try_for_each(|node| rules::load(cluster.lab.netns(&node)?, rules::NO_POLICY))
}

/// Living flows do not notice that the VIP moves, and conntrack finds none of it invalid.
fn flows_outlive_a_move(cluster: &mut Cluster, vip: IpAddr) -> anyhow::Result<()> {
    let mut flows = Flows::open(cluster.lab.netns("c1")?, SocketAddr::new(vip, 80), FLOWS)?;
    assert_eq!(flows.backends().len(), 6, "flows to all pods");
    for _ in 0..2 {
        let holder = cluster.status("n1")?.holders().remove(&vip).context("no holder")?;
        let next = nodes().find(|node| *node != holder).context("no other node")?;
        let output = Command::new(built("herald")?)
            .args(["move", &vip.to_string(), &next])
            .env("HERALD_RUN_DIR", Path::new(SCRATCH).join("n1/run"))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(flows.ask(), [], "after the move from {holder} to {next}");
    }
    for node in nodes() {
        let invalid = rules::counted(cluster.lab.netns(&node)?, "strict", "invalid")?;
        assert_eq!(invalid, 0, "packets without a flow on {node}");
    }
    Ok(())
}

fn everything(vips: &[IpAddr]) -> impl Iterator<Item = (IpAddr, Transport)> {
    vips.iter().flat_map(|vip| [Transport::Tcp, Transport::Udp].map(|it| (*vip, it)))
}

fn ask(
    cluster: &Cluster,
    from: &str,
    vip: IpAddr,
    transport: Transport,
) -> anyhow::Result<client::Reply> {
    cluster.lab.netns(from)?.inside(|| client::who(transport, service(vip, transport)))
}

/// Asks until there is an answer: on a machine with much else to do, one may come too late.
fn answered(
    cluster: &Cluster,
    from: &str,
    vip: IpAddr,
    transport: Transport,
) -> anyhow::Result<client::Reply> {
    clock::await_for(&format!("{from} is answered by {vip} over {transport}"), LIMIT, || {
        Ok(ask(cluster, from, vip, transport).ok())
    })
}

/// Packets that all nodes' XDP programs gave to pods.
fn forwarded(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut packets = 0;
    for node in nodes() {
        let counters = cluster.status(&node)?.counters;
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        packets += of("xdp_delivered") + of("xdp_delivered_from_peer");
    }
    Ok(packets)
}

/// The addresses of a Service, IPv4 first, once a node announces each.
fn addresses(cluster: &mut Cluster, name: &str, count: usize) -> anyhow::Result<Vec<IpAddr>> {
    let what = format!("{name} has {count} addresses that are announced");
    cluster.wait(&what, LIMIT, |cluster| {
        let object = cluster.get(&["service", name])?;
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let found: Vec<IpAddr> = ingress
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
            .collect();
        let announces = |node: &String, vip: IpAddr| {
            let status = cluster.status(node).ok();
            status.is_some_and(|status| status.vip(vip).is_some_and(|vip| vip.announcing))
        };
        let all = found.iter().all(|vip| cluster.nodes.iter().any(|node| announces(node, *vip)));
        Ok((found.len() == count && all).then_some(found))
    })
}
