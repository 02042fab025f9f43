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
/// New flows in a sample: fewer than the connection table holds by default (262,144).
const NEW: u32 = 192_000;

struct Case {
    name: String,
    /// The first one is [`Program::XdpTx`].
    programs: Vec<Program>,
    services: u32,
    /// Flows; 0: all different.
    flows: u32,
    hops: u32,
    /// Whether the pod's node has kube-proxy's rules although Herald carries the Service.
    is_beside: bool,
}

/// Measures the cases that are wanted. The programs of a case take turns, so that a machine that
/// grows slower does so for all of them.
///
/// # Errors
///
/// What the kernel or a tool refused.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for case in cases().into_iter().filter(|case| scope.wants(&case.name)) {
        let mut rigs = Vec::new();
        for program in &case.programs {
            let what = || format!("{} of {}", case.name, program.label());
            rigs.push(Rig::lay(&case, *program).with_context(what)?);
        }
        let measured = turns(scope, &case, &mut rigs).with_context(|| case.name.clone());
        for rig in &rigs {
            rig.remove()?;
        }
        measured?.into_iter().for_each(|row| keep(rows, row));
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    use Program::{Herald, Iptables, Nft, XdpTx};
    let case = |name: &str, programs: &[Program], services, flows, hops| Case {
        name: name.to_owned(),
        programs: programs.to_vec(),
        services,
        flows,
        hops,
        is_beside: hops == 2,
    };
    let mut cases = vec![
        case("live_holder", &[XdpTx, Herald, Nft], 1, FLOWS, 1),
        case("live_both_hops", &[XdpTx, Herald, Nft], 1, FLOWS, 2),
        Case {
            is_beside: false,
            ..case("live_both_hops_alone", &[XdpTx, Herald, Nft], 1, FLOWS, 2)
        },
    ];
    for (label, services) in [("1", 1), ("1k", 1_000), ("10k", 10_000)] {
        let programs = &[XdpTx, Herald, Nft, Iptables];
        // The rivals' rules of 10,000 Services take minutes to load.
        let programs = if services < 10_000 { &programs[..] } else { &programs[..2] };
        cases.push(case(&format!("live_new_flows_{label}"), programs, services, 0, 1));
    }
    cases
}

/// One program on wires of its own.
struct Rig {
    program: Program,
    wire: Wire,
    harness: Harness,
    /// The interface that frames are sent from.
    generator: u32,
    _loaded: Vec<Loaded>,
}

/// Samples of one program, in the same order as the other programs'.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    lost: Vec<f64>,
}

fn turns(scope: &Scope, case: &Case, rigs: &mut [Rig]) -> anyhow::Result<Vec<Row>> {
    // Multiples of ten batches, the same for all programs.
    let count = scope.repeat(if case.flows == 0 { NEW } else { REPEAT });
    for rig in &mut *rigs {
        rig.sample(case, count)?;
    }
    let mut samples: Vec<Samples> = rigs.iter().map(|_| Samples::default()).collect();
    for _ in 0..scope.samples() {
        for (rig, samples) in rigs.iter_mut().zip(&mut samples) {
            let label = rig.program.label();
            let (rate, share) = rig.sample(case, count).context(label)?;
            samples.rates.push(rate);
            samples.lost.push(share);
        }
    }
    // The first one does nothing but send back.
    let base = samples[0].rates.clone();
    let row = |(rig, Samples { rates, lost }): (&Rig, Samples)| {
        let ratios = base.iter().zip(&rates).map(|(base, rate)| base / rate).collect();
        let ratio_to_xdp_tx = Some(median(ratios));
        let lost = Some(median(lost));
        Row { lost, ratio_to_xdp_tx, ..Row::of(&case.name, rig.program, PER_SECOND, rates) }
    };
    Ok(rigs.iter().zip(samples).map(row).collect())
}

impl Rig {
    fn lay(case: &Case, program: Program) -> anyhow::Result<Self> {
        let wire = Wire::lay(&format!("{}-", program.label()))?;
        let mut harness = Harness::load()?;
        let mut loaded = Vec::new();
        match program {
            Program::XdpTx => {
                wire.holder.inside(|| harness.attach(End::Back, "eth0"))?;
            }
            Program::Herald => {
                loaded.push(serve(case, &wire, Pods::Elsewhere)?);
                if case.hops == 2 {
                    loaded.push(serve(case, &wire, Pods::Here)?);
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
        // What only sends back does so at the first hop.
        let is_whole = case.hops == 2 && program != Program::XdpTx;
        if is_whole {
            // Where kube-proxy carries the Service, its rules are on every node.
            if case.is_beside || program == Program::Nft {
                let text = rules::nftables(case.services, ENDPOINTS);
                wire.node.inside(|| feed("nft", &["-f", "-"], &text))?;
            }
            wire.pod.inside(|| harness.attach(End::Sink, "eth0"))?;
        }
        let end = if is_whole { End::Switch } else { End::Sink };
        let generator = wire.source.inside(|| {
            harness.attach(end, "h0")?;
            harness.attach(End::Switch, "w0")?;
            harness.connect(PEER[5], index("w0")?)?;
            index("h0")
        })?;
        Ok(Self { program, wire, harness, generator, _loaded: loaded })
    }

    /// Frames a second that arrived, and the share that did not.
    fn sample(&mut self, case: &Case, count: u32) -> anyhow::Result<(f64, f64)> {
        let other = (vip4(case.services / 2), PORT).into();
        let load = Template { macs: (OURS, CLIENT), other, is_request: true }.load(case.flows);
        if case.flows == 0 {
            self.wire.holder.inside(conntrack::flush)?;
        }
        let (harness, generator) = (&mut self.harness, self.generator);
        self.wire.source.inside(|| rate(harness, generator, &load, count))
    }

    fn remove(&self) -> anyhow::Result<()> {
        let Wire { source, holder, node, pod } = &self.wire;
        for netns in [source, holder, node, pod] {
            // By name: the namespace goes with its last handle, a moment later.
            crate::lab::netns::ip(&format!("netns del {}\n", netns.name()))?;
        }
        Ok(())
    }
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
