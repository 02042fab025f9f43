//! The packet source, loaded (edge): calls one program or another with a fresh packet each time.

use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use herald_ebpf::BENCH_OBJECT;
use herald_ebpf::common::bench::{BATCH, FRAME, Load};

use super::processor;

/// Which kind of program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// tc.
    Tc,
}

/// Entry of the program arrays: what is compared with.
pub const BASELINE: u32 = 0;
/// Entry of the program arrays: what is measured.
pub const UNDER_TEST: u32 = 1;

/// The loaded programs.
pub struct Harness {
    ebpf: Ebpf,
    load: Array<MapData, Load>,
    xdp: ProgramArray<MapData>,
    tc: ProgramArray<MapData>,
    seen: PerCpuArray<MapData, u64>,
    sent: PerCpuArray<MapData, u64>,
    times: PerCpuArray<MapData, [u64; 2]>,
    ports: Array<MapData, u32>,
}

impl Harness {
    /// Loads everything; the baselines are in their places.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn load() -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(BENCH_OBJECT).context("cannot load the source")?;
        for name in ["bench_source", "bench_transmit", "bench_generator", "bench_sink"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("cannot load {name}"))?;
        }
        xdp(&mut ebpf, "bench_switch")?.load().context("cannot load bench_switch")?;
        for name in ["bench_source_tc", "bench_nothing"] {
            tc(&mut ebpf, name)?.load().with_context(|| format!("cannot load {name}"))?;
        }
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let mut harness = Self {
            load: Array::try_from(map("BENCH_LOAD")?)?,
            xdp: ProgramArray::try_from(map("BENCH_XDP")?)?,
            tc: ProgramArray::try_from(map("BENCH_TC")?)?,
            seen: PerCpuArray::try_from(map("BENCH_SEEN")?)?,
            sent: PerCpuArray::try_from(map("BENCH_SENT")?)?,
            times: PerCpuArray::try_from(map("BENCH_TIMES")?)?,
            ports: Array::try_from(map("BENCH_PORTS")?)?,
            ebpf,
        };
        let transmit = xdp(&mut harness.ebpf, "bench_transmit")?.fd()?;
        harness.xdp.set(BASELINE, transmit, 0)?;
        let nothing = tc(&mut harness.ebpf, "bench_nothing")?.fd()?;
        harness.tc.set(BASELINE, nothing, 0)?;
        Ok(harness)
    }

    /// Puts a program under test.
    ///
    /// # Errors
    ///
    /// If it is of another kind.
    pub fn put(&mut self, hook: Hook, program: &ProgramFd) -> anyhow::Result<()> {
        let programs = match hook {
            Hook::Xdp => &mut self.xdp,
            Hook::Tc => &mut self.tc,
        };
        programs.set(UNDER_TEST, program, 0).context("cannot call the program")
    }

    /// Runs a program `repeat` times; the nanoseconds of one run, source included, and what the
    /// last run returned.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn sample(&mut self, hook: Hook, load: &Load, repeat: u32) -> anyhow::Result<(f64, u32)> {
        self.load.set(0, load, 0)?;
        let frame = [0; FRAME];
        let options = TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::new() };
        let ebpf = &mut self.ebpf;
        let (result, time) = processor::undisturbed(|| {
            let before = processor::used();
            let result = match hook {
                Hook::Xdp => xdp(ebpf, "bench_source")?.test_run(options)?,
                Hook::Tc => tc(ebpf, "bench_source_tc")?.test_run(options)?,
            };
            Ok((result, processor::used() - before))
        })?;
        Ok((time.as_secs_f64() * 1e9 / f64::from(repeat), result.return_value))
    }

    /// Sends `count` frames, a multiple of [`BATCH`], out of an interface of the calling thread's
    /// namespace. Returns the time in which all but the last batch were sent and arrived: setting
    /// up and tearing down the kernel's side of it takes as long as ten thousand frames.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn generate(&mut self, ifindex: u32, load: &Load, count: u32) -> anyhow::Result<Duration> {
        self.load.set(0, load, 0)?;
        let cpus = self.times.get(&0, 0)?.len();
        self.times.set(0, PerCpuValues::try_from(vec![[0; 2]; cpus])?, 0)?;
        let frame = [0; FRAME];
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let words = [0, FRAME as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH as u32),
            ..TestRunOptions::new()
        };
        xdp(&mut self.ebpf, "bench_generator")?.test_run(options).context("cannot send frames")?;
        let times = self.times.get(&0, 0)?;
        let nanoseconds = times.iter().map(|[first, last]| last - first).max().unwrap_or(0);
        ensure!(nanoseconds > 0, "no frame was sent");
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Makes one end of a wire count and drop, or hand on by MAC.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn attach(&mut self, program: End, interface: &str) -> anyhow::Result<()> {
        let name = match program {
            End::Sink => "bench_sink",
            End::Switch => "bench_switch",
            End::Back => "bench_transmit",
        };
        let flags = aya::programs::xdp::XdpMode::Driver;
        xdp(&mut self.ebpf, name)?
            .attach(interface, flags)
            .with_context(|| format!("cannot attach {name} to {interface}"))?;
        Ok(())
    }

    /// The interface behind which the switch finds a MAC's last octet.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn connect(&mut self, last_octet: u8, ifindex: u32) -> anyhow::Result<()> {
        Ok(self.ports.set(u32::from(last_octet), ifindex, 0)?)
    }

    /// Frames written and frames that arrived, since the beginning.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn counts(&self) -> anyhow::Result<(u64, u64)> {
        let total = |map: &PerCpuArray<MapData, u64>| -> anyhow::Result<u64> {
            Ok(map.get(&0, 0)?.iter().sum())
        };
        Ok((total(&self.sent)?, total(&self.seen)?))
    }
}

/// What the far end of a wire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Counts and drops.
    Sink,
    /// Hands on by MAC.
    Switch,
    /// Sends back.
    Back,
}

/// Checks what a program did with the last packet.
///
/// # Errors
///
/// If it is not what was meant to be measured.
pub fn expect(case: &str, returned: u32, wanted: u32) -> anyhow::Result<()> {
    ensure!(returned == wanted, "{case}: the program returned {returned}, not {wanted}");
    Ok(())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
