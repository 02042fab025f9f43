//! The demo's first half: a Service gets its VIPs, one node speaks for each, pods everywhere answer
//! and see who asks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;

use super::{Requests, Stage};
use crate::client::{self, Transport};
use crate::clock;
use crate::lab::addresses::{CLIENTS, client_address, node_of, nodes};
use crate::resolve::who_has;
use crate::scenario::service;
use crate::tap::{Direction, Tap};

/// Requests of each client to each VIP over each transport.
const EACH: u32 = 15;
/// Octets of each bulk transfer.
const BULK: usize = 20_000_000;

/// Runs it.
///
/// # Errors
///
/// If something could not even be tried.
pub fn show(stage: &mut Stage) -> anyhow::Result<()> {
    start(stage)?;
    assign(stage)?;
    voices(stage)?;
    let tap_holder = stage.report.holder.clone();
    // The holder of either VIP must not see replies of other nodes; both taps listen throughout.
    let holders = stage.scenario.status("n1")?.holders();
    let tapped: BTreeSet<String> = holders.values().cloned().chain([tap_holder]).collect();
    let taps: Vec<(String, Tap)> = tapped
        .into_iter()
        .map(|node| Ok((node.clone(), Tap::at(&node, &stage.vips)?)))
        .collect::<anyhow::Result<_>>()?;
    let flows = requests(stage)?;
    bulk(stage)?;
    for (node, tap) in taps {
        direct_return(stage, &node, tap, &flows)?;
    }
    Ok(())
}

fn start(stage: &mut Stage) -> anyhow::Result<()> {
    stage.teller.say("starting one `herald speaker` per node; they elect among themselves by raft");
    stage.scenario.start_all(&[])?;
    let mut modes = BTreeSet::new();
    for node in nodes() {
        for datapath in stage.scenario.status(&node)?.datapath {
            if let Some(reason) = datapath.reason {
                let name = &datapath.interface;
                stage.teller.say(&format!("{node} {name}: {} because {reason}", datapath.mode));
            }
            modes.insert(datapath.mode);
        }
    }
    stage.report.datapath = modes.into_iter().collect::<Vec<_>>().join(",");
    let line = format!("three sessions open, traffic is carried by {} XDP", stage.report.datapath);
    stage.teller.expect(stage.report.datapath == "native", &line);
    Ok(())
}

fn assign(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .teller
        .say("writing the manifests: IPAddressPool, L2Advertisement, Service, EndpointSlices");
    let begin = clock::now();
    stage.scenario.put_all_manifests()?;
    let served = stage.scenario.served()?;
    let took = clock::now() - begin;
    stage.report.assigned_ms = u64::try_from(took.as_millis())?;
    stage.vips = served.iter().map(|(vip, _)| *vip).collect();
    stage.report.vips.clone_from(&stage.vips);
    let (_, holder) = served.first().context("the Service has no VIP")?;
    stage.report.holder.clone_from(holder);
    let held: Vec<String> =
        served.iter().map(|(vip, holder)| format!("{vip} held by {holder}")).collect();
    let line = format!("default/echo has {} ({} ms)", held.join(", "), took.as_millis());
    stage.teller.expect(stage.vips[0].is_ipv4() && stage.vips[1].is_ipv6(), &line);
    Ok(())
}

/// Who answers for the VIPs on the LAN.
fn voices(stage: &mut Stage) -> anyhow::Result<()> {
    let holders = stage.scenario.status("n1")?.holders();
    for vip in stage.vips.clone() {
        let answers = who_has(&stage.scenario.lab, vip)?;
        let said: Vec<String> = answers
            .iter()
            .map(|mac| format!("{mac} ({})", node_of(*mac).unwrap_or("nobody we know")))
            .collect();
        let holder = holders.get(&vip).map_or("", String::as_str);
        let asked = if vip.is_ipv4() { "ARP: who has" } else { "neighbour solicitation for" };
        let line = format!("{asked} {vip}? answered by {}, once", or_nobody(&said));
        let alone = answers.len() == 1 && node_of(answers[0]) == Some(holder);
        stage.teller.expect(alone, &line);
    }
    Ok(())
}

fn or_nobody(said: &[String]) -> String {
    if said.is_empty() { "nobody".into() } else { said.join(" and ") }
}

/// The clients' ends of the flows that each node's pods answered.
type Flows = BTreeSet<(String, SocketAddr)>;

/// Requests of both clients over everything. Returns who answered what.
fn requests(stage: &mut Stage) -> anyhow::Result<Flows> {
    let mut flows = Flows::new();
    let mut seen = BTreeSet::new();
    for client in CLIENTS {
        for vip in stage.vips.clone() {
            for transport in [Transport::Tcp, Transport::Udp] {
                ask(stage, client, vip, transport, &mut flows, &mut seen)?;
            }
        }
    }
    stage.report.client_ip_seen = match seen.len() {
        1 => seen.into_iter().next(),
        _ => None,
    };
    let Requests { sent, ok, per_node } = stage.report.requests.clone();
    let spread: Vec<String> =
        per_node.iter().map(|(node, count)| format!("{count} by pods on {node}")).collect();
    let line = format!("{ok} of {sent} requests answered: {}", spread.join(", "));
    stage.teller.expect(sent == ok && nodes().all(|node| per_node.contains_key(&node)), &line);
    Ok(flows)
}

fn ask(
    stage: &mut Stage,
    client: &str,
    vip: IpAddr,
    transport: Transport,
    flows: &mut Flows,
    seen: &mut BTreeSet<IpAddr>,
) -> anyhow::Result<()> {
    let real = client_address(client, vip).context("the lab has no such client")?;
    let mut answered = 0;
    let mut failure = None;
    for _ in 0..EACH {
        stage.report.requests.sent += 1;
        match stage.scenario.request(client, vip, transport) {
            Ok(reply) => {
                let answer = reply.answer;
                if client == "c1" && vip.is_ipv4() {
                    seen.insert(answer.client);
                }
                if answer.client == real {
                    answered += 1;
                    *stage.report.requests.per_node.entry(answer.node.clone()).or_default() += 1;
                } else {
                    failure = Some(format!("the pod saw {} instead", answer.client));
                }
                flows.insert((answer.node, SocketAddr::new(real, reply.from.port())));
            }
            Err(error) => failure = Some(format!("{error:#}")),
        }
    }
    stage.report.requests.ok += answered;
    let why = failure.map(|failure| format!("; {failure}")).unwrap_or_default();
    let line = format!(
        "{client} to {}: {answered} of {EACH} {transport} requests answered, the pods saw {real}{why}",
        service(vip, transport)
    );
    stage.teller.expect(answered == EACH, &line);
    Ok(())
}

/// Large transfers in both directions by both clients.
fn bulk(stage: &mut Stage) -> anyhow::Result<()> {
    stage.report.bulk_ok = true;
    for client in CLIENTS {
        for vip in stage.vips.clone() {
            let server = service(vip, Transport::Tcp);
            let netns = stage.scenario.lab.netns(client)?;
            let begin = clock::now();
            let result = netns.inside(|| {
                client::upload(server, BULK)?;
                client::download(server, BULK)
            });
            let took = (clock::now() - begin).as_secs_f32();
            stage.report.bulk_ok &= result.is_ok();
            let what = format!("{client}: 20 MB to {server} and 20 MB back");
            let line = match &result {
                Ok(()) => format!("{what}, checksums right, in {took:.1} s"),
                Err(error) => format!("{what}: {error:#}"),
            };
            stage.teller.expect(result.is_ok(), &line);
        }
    }
    Ok(())
}

/// At a holder's port: no reply goes to it, and none leaves it that is not of its own pods.
fn direct_return(stage: &mut Stage, node: &str, tap: Tap, flows: &Flows) -> anyhow::Result<()> {
    let capture = tap.finish()?;
    stage.teller.expect(capture.missed == 0, &format!("at the port of {node} no frame was missed"));
    let to = capture.clients(Direction::ToHost).count();
    // Bulk transfers are not among the flows by node; a reply in passing would have gone in first.
    let foreign = |client: &SocketAddr| {
        flows.iter().any(|(answered_by, end)| end == client && answered_by != node)
    };
    let through = capture.clients(Direction::FromHost).filter(foreign).count();
    let own = capture.clients(Direction::FromHost).count();
    stage.report.holder_saw_replies |= to + through > 0;
    let line = format!(
        "replies do not pass {node}: {} of other nodes' flows seen at its port, {own} of its own",
        to + through
    );
    stage.teller.expect(to + through == 0 && own > 0, &line);
    Ok(())
}
