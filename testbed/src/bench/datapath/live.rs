//! Frames through veths: packets a second on one CPU, everything on the way included, the
//! generator too. One hop is the holder's work alone, two hops also the pod's node's.
//!
//! All frames are for the Service in the middle of the rules. The rival does what kube-proxy makes
//! of externalTrafficPolicy Cluster: destination NAT and masquerading.

use anyhow::{Context, ensure};
use herald_ebpf::common::bench::{BATCH, Load};
use herald_ebpf::{Mode, Wanted};

use super::harness::{End, Harness};
use super::hot::Loaded;
use super::pictures::{CLIENT, OURS, PEER, PORT, Pods, picture, vip4};
use super::rows::{PER_SECOND, Program, Row, median};
use super::template::Template;
use super::wire::{Wire, feed};
use super::{Scope, conntrack, keep, processor, rules};
use crate::lab::bpf::index;

/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;
/// Established flows.
const FLOWS: u32 = 4_096;
/// Packets in a sample of established flows.
const REPEAT: u32 = 1_024_000;
/// New flows in a sample of a rival's: fewer than the connection table holds by default (262,144).
const NEW: u32 = 192_000;

struct Case {
    name: String,
    program: Program,
    services: u32,
    /// Flows; 0: all different.
    flows: u32,
    hops: u32,
}

/// Measures the cases that are wanted.
///
/// # Errors
///
/// What the kernel or a tool refused.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for case in cases().into_iter().filter(|case| scope.wants(&case.name)) {
        let row = run(scope, &case)
            .with_context(|| format!("{} of {}", case.name, case.program.label()))?;
        keep(rows, row);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    use Program::{Herald, Iptables, Nft, XdpTx};
    let case = |name: &str, program, services, flows, hops| Case {
        name: name.to_owned(),
        program,
        services,
        flows,
        hops,
    };
    let mut cases = vec![
        case("live_holder", XdpTx, 0, FLOWS, 1),
        case("live_holder", Herald, 1, FLOWS, 1),
        case("live_holder", Nft, 1, FLOWS, 1),
        case("live_both_hops", Herald, 1, FLOWS, 2),
        case("live_both_hops", Nft, 1, FLOWS, 2),
    ];
    for (label, services) in [("1", 1), ("1k", 1_000), ("10k", 10_000)] {
        cases.push(case(&format!("live_new_flows_{label}"), Herald, services, 0, 1));
        if services < 10_000 {
            cases.push(case(&format!("live_new_flows_{label}"), Nft, services, 0, 1));
            cases.push(case(&format!("live_new_flows_{label}"), Iptables, services, 0, 1));
        }
    }
    cases
}

fn run(scope: &Scope, case: &Case) -> anyhow::Result<Row> {
    let wire = Wire::lay("")?;
    let result = on(scope, case, &wire);
    for netns in [&wire.source, &wire.holder, &wire.node, &wire.pod] {
        // By name: the namespace goes with its last handle, a moment later.
        crate::lab::netns::ip(&format!("netns del {}\n", netns.name()))?;
    }
    result
}

fn on(scope: &Scope, case: &Case, wire: &Wire) -> anyhow::Result<Row> {
    let mut harness = Harness::load()?;
    let mut loaded = Vec::new();
    match case.program {
        Program::XdpTx => {
            wire.holder.inside(|| harness.attach(End::Back, "eth0"))?;
        }
        Program::Herald => {
            loaded.push(serve(case, wire, Pods::Elsewhere)?);
            if case.hops == 2 {
                loaded.push(serve(case, wire, Pods::Here)?);
            }
        }
        Program::Nft => {
            let text = rules::nftables(case.services, ENDPOINTS);
            wire.holder.inside(|| feed("nft", &["-f", "-"], &text))?;
        }
        Program::Iptables => {
            let text = rules::iptables(case.services, ENDPOINTS);
            wire.holder.inside(|| feed("iptables-legacy-restore", &["-w"], &text))?;
        }
    }
    if case.hops == 2 {
        // The pod's node has kube-proxy's rules whoever carries the Service.
        let text = rules::nftables(case.services, ENDPOINTS);
        wire.node.inside(|| feed("nft", &["-f", "-"], &text))?;
        wire.pod.inside(|| harness.attach(End::Sink, "eth0"))?;
    }
    let end = if case.hops == 2 { End::Switch } else { End::Sink };
    let generator = wire.source.inside(|| {
        harness.attach(end, "h0")?;
        harness.attach(End::Switch, "w0")?;
        harness.connect(PEER[5], index("w0")?)?;
        index("h0")
    })?;
    let vip = vip4(case.services / 2);
    let macs = (OURS, CLIENT);
    let load = Template { macs, other: (vip, PORT).into(), is_request: true }.load(case.flows);
    // Multiples of ten batches.
    let fills_a_table = case.flows == 0 && case.program != Program::Herald;
    let count = scope.repeat(if fills_a_table { NEW } else { REPEAT });
    let mut sample = || -> anyhow::Result<(f64, f64)> {
        if case.flows == 0 {
            wire.holder.inside(conntrack::flush)?;
        }
        wire.source.inside(|| rate(&mut harness, generator, &load, count))
    };
    sample()?;
    let (mut rates, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..scope.samples() {
        let (rate, share) = sample()?;
        rates.push(rate);
        lost.push(share);
    }
    let lost = Some(median(lost));
    Ok(Row { lost, ..Row::of(&case.name, case.program, PER_SECOND, rates) })
}

/// Puts the data plane on the holder, or on the pods' node.
fn serve(case: &Case, wire: &Wire, pods: Pods) -> anyhow::Result<Loaded> {
    let (netns, name, mac) = match pods {
        Pods::Elsewhere => (&wire.holder, "holder", OURS),
        Pods::Here => (&wire.node, "node", PEER),
    };
    let mut loaded = Loaded::new(&format!("{}-{name}", case.name))?;
    netns.inside(|| {
        let ifindex = index("eth0")?;
        let mut wanted = picture(ifindex, case.services, ENDPOINTS, pods);
        wanted.links.insert(ifindex, mac);
        if pods == Pods::Here {
            wanted.peers = [(OURS, (Some([192, 168, 1, 11].into()), None))].into();
        }
        loaded.datapath.apply(&wanted)?;
        loaded.datapath.attach("eth0", Wanted::Only(Mode::Native))?;
        Ok(())
    })?;
    Ok(loaded)
}

/// Frames a second that arrived, and the share that did not.
fn rate(
    harness: &mut Harness,
    generator: u32,
    load: &Load,
    count: u32,
) -> anyhow::Result<(f64, f64)> {
    let (sent_before, seen_before) = harness.counts()?;
    let time = processor::undisturbed(|| harness.generate(generator, load, count))?;
    let (sent, seen) = harness.counts()?;
    let (sent, seen) = (sent - sent_before, seen - seen_before);
    ensure!(seen * 2 > sent, "only {seen} of {sent} frames arrived");
    let lost = 1.0 - seen as f64 / sent as f64;
    // What was timed is all but the last batch.
    let share = 1.0 - BATCH as f64 / sent as f64;
    Ok((seen as f64 * share / time.as_secs_f64(), lost))
}
