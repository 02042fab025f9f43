//! The loaded programs on packets of their own: nanoseconds a packet, net of the harness.
//!
//! Samples of the program and of a bare `return XDP_TX`, called by the same source with the same
//! packets, alternate; the difference is the program's cost.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use herald_ebpf::common::bench::Load;
use herald_ebpf::common::sample::EVERY;
use herald_ebpf::common::{
    FlowKey, FragmentKey, PIN_FORMAT, Remembered, ReverseKey, ReverseKey4, ReverseValue,
    ReverseValue4,
};
use herald_ebpf::{Datapath, Picture, SessionFence};

use super::control::MANY;
use super::harness::{BASELINE, Harness, Hook, UNDER_TEST, expect};
use super::pictures::{self, CLIENT, OURS, POD_PORT, PORT, Pods, VIP6, picture, vip4};
use super::rows::{ENTRIES, NS, Program, Row, median};
use super::template::Template;
use super::{PINS, Scope, keep};

/// The interface of packets that `BPF_PROG_TEST_RUN` makes up: loopback.
const IFINDEX: u32 = 1;
/// Endpoints of the Service; one of them is a twentieth of the slots.
const ENDPOINTS: u32 = 20;
/// Packets in a sample.
const REPEAT: u32 = 1_000_000;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_PIPE: u32 = 3;

struct Case {
    name: &'static str,
    pictures: Vec<Picture>,
    load: Load,
    hook: Hook,
    returns: u32,
    /// Run before, so that replies have something to be restored from.
    requests: Option<Load>,
}

/// Measures the cases that are wanted.
///
/// # Errors
///
/// If a program does not load or does not do what is measured.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for case in cases() {
        if scope.wants(case.name) {
            run(scope, &case, rows).with_context(|| case.name.to_owned())?;
        }
    }
    if scope.wants(FLOOD) {
        flood(scope, rows).context(FLOOD)?;
    }
    Ok(())
}

/// A data plane whose pins go with it.
pub(super) struct Loaded {
    pub datapath: Datapath,
    _fence: SessionFence,
    directory: std::path::PathBuf,
}

impl Loaded {
    /// Loads the programs with pins of this name, and lets them speak.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let directory = Path::new(PINS).join(name);
        let (mut datapath, mut fence) = Datapath::open(&directory)?;
        fence.set(Duration::MAX)?;
        // As a speaker does by default; nobody reads them.
        let mut samples = datapath.samples().context("somebody else reads the samples")?;
        samples.set_every(EVERY)?;
        Ok(Self { datapath, _fence: fence, directory })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // In a private BPF filesystem: what cannot be removed goes with it.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn cases() -> Vec<Case> {
    let plain = || vec![picture(IFINDEX, 1, ENDPOINTS, Pods::Elsewhere)];
    let request = |ip: std::net::IpAddr| Template {
        macs: (OURS, CLIENT),
        other: (ip, PORT).into(),
        is_request: true,
    };
    let vip = request(vip4(0).into());
    let forwarded = |name, pictures, load| Case {
        name,
        pictures,
        load,
        hook: Hook::Xdp,
        returns: XDP_TX,
        requests: None,
    };
    let mut six = plain();
    six.iter_mut().for_each(|p| pictures::add_v6(p, IFINDEX, ENDPOINTS as u16, Pods::Elsewhere));
    // One endpoint of twenty is replaced: its slots are dirty.
    let mut changed = plain()[0].clone();
    pictures::replace(&mut changed, vip4(0).into(), 0, Pods::Elsewhere);
    let many = vec![picture(IFINDEX, 1, MANY, Pods::Elsewhere)];
    let here = || vec![picture(IFINDEX, 1, 1, Pods::Here)];
    let stranger = request(std::net::Ipv4Addr::new(192, 168, 1, 11).into());
    let pod = (pictures::pod4(0), POD_PORT).into();
    let reply = Template { macs: (CLIENT, OURS), other: pod, is_request: false };
    vec![
        forwarded("holder_tcp4_hit_4k", plain(), vip.load(4 << 10)),
        forwarded("holder_tcp4_hit_64k", plain(), vip.load(64 << 10)),
        forwarded("holder_tcp4_hit_512k", plain(), vip.load(512 << 10)),
        forwarded("holder_tcp4_4096_64k", many, vip.load(64 << 10)),
        forwarded("holder_tcp6_hit_64k", six, request(VIP6.into()).load(64 << 10)),
        forwarded(DIRTY, [plain(), vec![changed]].concat(), vip.load(64 << 10)),
        Case { returns: XDP_PASS, ..forwarded("holder_novip", plain(), stranger.load(64 << 10)) },
        Case { returns: XDP_PASS, ..forwarded("node_dnat_tcp4_64k", here(), vip.load(64 << 10)) },
        Case {
            hook: Hook::Tc,
            returns: TC_PIPE,
            requests: Some(vip.load(64 << 10)),
            ..forwarded("egress_restore_tcp4_64k", here(), reply.load(64 << 10))
        },
    ]
}

fn run(scope: &Scope, case: &Case, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut loaded = Loaded::new(case.name)?;
    for picture in &case.pictures {
        loaded.datapath.apply(picture)?;
    }
    let mut harness = Harness::load()?;
    let repeat = scope.repeat(REPEAT);
    harness.put(Hook::Xdp, loaded.datapath.xdp_program()?.fd()?)?;
    if let Some(load) = &case.requests {
        // Every flow is met: ten times as many packets as flows leave out one in 20,000.
        let load = Load { program: UNDER_TEST, ..*load };
        harness.sample(Hook::Xdp, &load, REPEAT)?;
        harness.put(Hook::Tc, loaded.datapath.egress_program()?.fd()?)?;
    }
    // Caches, flow tables and branch predictors as in the middle of a day.
    let mut test =
        |program, repeat| harness.sample(case.hook, &Load { program, ..case.load }, repeat);
    let (_, returned) = test(UNDER_TEST, repeat)?;
    expect(case.name, returned, case.returns)?;
    let before = did(&loaded, case.name)?;
    let (mut net, mut baseline, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scope.samples() {
        let (base, _) = test(BASELINE, repeat)?;
        let (gross, returned) = test(UNDER_TEST, repeat)?;
        expect(case.name, returned, case.returns)?;
        net.push(gross - base);
        baseline.push(base);
        ratios.push(gross / base);
    }
    let packets = repeat as u64 * scope.samples() as u64;
    let done = did(&loaded, case.name)? - before;
    ensure!(done as f64 > packets as f64 * 0.99, "{done} of {packets} packets were handled so");
    if case.name == DIRTY {
        is_dirty(&loaded)?;
    }
    keep(rows, Row::of(case.name, Program::XdpTx, NS, baseline));
    let ratio_to_xdp_tx = Some(median(ratios));
    keep(rows, Row { ratio_to_xdp_tx, ..Row::of(case.name, Program::Herald, NS, net) });
    Ok(())
}

/// How many packets had the end that the case measures.
fn did(loaded: &Loaded, case: &str) -> anyhow::Result<u64> {
    let wanted: &[&str] = match case {
        "holder_novip" => &["pass_not_for_vip"],
        "node_dnat_tcp4_64k" => &["delivered"],
        "egress_restore_tcp4_64k" => &["restored", "restored_by_port"],
        _ => &["forwarded"],
    };
    let counters = loaded.datapath.counters()?;
    let counts = counters.iter().filter(|counter| wanted.contains(&counter.reason.label()));
    Ok(counts.map(|counter| counter.packets).sum())
}

/// Flows of which one in twenty is in a slot that changed.
const DIRTY: &str = "holder_tcp4_dirty5_64k";

/// That one in twenty flows was in a dirty slot: each of those is remembered, and no other. Within
/// a factor of two, for slots are given out by chance.
fn is_dirty(loaded: &Loaded) -> anyhow::Result<()> {
    let pins = loaded.directory.join(PIN_FORMAT);
    let found = entries::<FlowKey, Remembered>(&pins, "FLOWS")?;
    let expected = (64 << 10) / ENDPOINTS as usize;
    let is_right = (expected / 2..expected * 2).contains(&found);
    ensure!(is_right, "{found} flows are in dirty slots, where {expected} should be");
    Ok(())
}

const FLOOD: &str = "holder_syn_1m";
/// Established flows alone, measured in turn with the flood.
pub(super) const QUIET: &str = "holder_syn_1m_quiet";

/// Established flows while every second packet is a SYN from one of a million sources, in turn
/// with the same flows alone; and what the flood left in the maps. Those of flows are laid out
/// beforehand, so that their size could not tell.
fn flood(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut loaded = Loaded::new(FLOOD)?;
    loaded.datapath.apply(&picture(IFINDEX, 1, ENDPOINTS, Pods::Elsewhere))?;
    let mut harness = Harness::load()?;
    harness.put(Hook::Xdp, loaded.datapath.xdp_program()?.fd()?)?;
    let vip = Template { macs: (OURS, CLIENT), other: (vip4(0), PORT).into(), is_request: true };
    let quiet = vip.load(64 << 10);
    // Sixteen flows a source, see `bench::client`.
    let flooded = Load { flood: 16 << 20, ..quiet };
    let repeat = scope.repeat(REPEAT);
    let mut net = |load: Load| -> anyhow::Result<(f64, f64)> {
        let (base, _) = harness.sample(Hook::Xdp, &Load { program: BASELINE, ..load }, repeat)?;
        let load = Load { program: UNDER_TEST, ..load };
        let (gross, returned) = harness.sample(Hook::Xdp, &load, repeat)?;
        expect(FLOOD, returned, XDP_TX)?;
        Ok((gross - base, gross / base))
    };
    net(quiet)?;
    let (mut alone, mut together, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scope.samples() {
        alone.push(net(quiet)?.0);
        let (cost, ratio) = net(flooded)?;
        together.push(cost);
        ratios.push(ratio);
    }
    let left = remembered(&loaded.directory.join(PIN_FORMAT))?;
    keep(rows, Row::of(QUIET, Program::Herald, NS, alone));
    let ratio_to_xdp_tx = Some(median(ratios));
    keep(rows, Row { ratio_to_xdp_tx, ..Row::of(FLOOD, Program::Herald, NS, together) });
    keep(rows, Row::of("holder_syn_1m_entries", Program::Herald, ENTRIES, vec![left as f64]));
    Ok(())
}

/// How many flows and packets in pieces the maps hold.
fn remembered(pins: &Path) -> anyhow::Result<usize> {
    Ok(entries::<FlowKey, Remembered>(pins, "FLOWS")?
        + entries::<FlowKey, Remembered>(pins, "OPENING")?
        + entries::<FragmentKey, Remembered>(pins, "FRAGMENTS")?
        + entries::<ReverseKey, ReverseValue>(pins, "REVERSE")?
        + entries::<ReverseKey4, ReverseValue4>(pins, "REVERSE4")?)
}

fn entries<K: Pod, V: Pod>(pins: &Path, name: &str) -> anyhow::Result<usize> {
    let data = MapData::from_pin(pins.join(name)).with_context(|| format!("cannot open {name}"))?;
    let map: HashMap<_, K, V> = Map::LruHashMap(data).try_into()?;
    map.keys().try_fold(0, |count, key| Ok(key.map(|_| count + 1)?))
}
