//! Many Services at once on a real API server: how long until all of them have addresses, against a
//! bare client with Herald's own rights that writes as many statuses, as many at a time; then what
//! the speakers cost while nothing happens.
//!
//! Everything runs in private namespaces. Each round has the floor without any speaker, then
//! Herald, so that neither disturbs the other; a ratio is taken within its round, and the median of
//! the rounds counts, because a machine is not equally fast at all times. The VIPs are announced,
//! as a user's are.

mod idle;
mod load;

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use self::idle::{Cost, Requests};
use self::load::{FLOOR, HERALD, Kind, Load};
use super::report::{self, Machine, Row};
use crate::cluster::Change;
use crate::cluster::audit::Audit;
use crate::cluster::control_plane::Extent;
use crate::cluster::whole::{Cluster, Plan};
use crate::{clock, sandbox};

/// How it is run.
#[derive(Debug, Args)]
pub struct AllocationArgs {
    /// Write the values to this file.
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    #[command(flatten)]
    size: Size,
}

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct Size {
    /// How many Services.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    services: u16,
    /// How often floor and Herald are measured, one after the other.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    rounds: u8,
    /// How many seconds of idleness, after the last round's pool was applied.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    idle: u16,
    /// Allocate only: no L2Advertisement, so no node claims or announces anything.
    #[arg(long)]
    unannounced: bool,
    /// Directory with herald-kubernetes and etcd, as testbed/lib/kubernetes.sh prints it.
    #[arg(long, value_name = "DIR", env = "HERALD_KUBERNETES")]
    kubernetes: PathBuf,
    /// The directory whose kustomization installs Herald.
    #[arg(long, value_name = "DIR", env = "HERALD_MANIFESTS")]
    manifests: PathBuf,
}

/// The same, inside.
#[derive(Debug, Args)]
pub struct InsideArgs {
    #[command(flatten)]
    size: Size,
    report: RawFd,
}

/// The values. The field names are fixed.
#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: Machine,
    services: u16,
    announced: bool,
    rounds: Vec<Round>,
    /// The medians.
    #[serde(flatten)]
    typical: Round,
    /// Of each speaker, with this many Services and nothing going on.
    speakers: Vec<Cost>,
    /// Of all speakers together, a second, with nothing going on.
    idle_requests: Requests,
    rows: Vec<Row>,
}

/// What one round took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Round {
    /// A bare client creates the Services and writes a status for each.
    floor_created_and_written_s: f64,
    /// A bare client writes a status for each Service that is there.
    floor_written_s: f64,
    /// From the pool's being applied to all waiting Services' having addresses.
    pool_applied_s: f64,
    pool_applied_ratio: f64,
    /// From the first Service's being created to all having addresses.
    created_at_once_s: f64,
    created_at_once_ratio: f64,
}

/// Runs the benchmark in namespaces of its own.
///
/// # Errors
///
/// What could not be measured or written.
pub fn run(args: &AllocationArgs) -> anyhow::Result<ExitCode> {
    report::can_hold_a_file(&args.json)?;
    let Size { services, rounds, idle, unannounced, kubernetes, manifests } = &args.size;
    let mut arguments = vec!["bench".into(), "allocation-inside".into()];
    arguments.extend(["--services".into(), services.to_string().into()]);
    arguments.extend(["--rounds".into(), rounds.to_string().into()]);
    arguments.extend(["--idle".into(), idle.to_string().into()]);
    arguments.extend(["--kubernetes".into(), kubernetes.into()]);
    arguments.extend(["--manifests".into(), manifests.into()]);
    if *unannounced {
        arguments.push("--unannounced".into());
    }
    let (code, values) = sandbox::run(&arguments)?;
    if !values.is_empty() {
        report::write_file(&args.json, &values)?;
    }
    Ok(ExitCode::from(code))
}

/// The second half of [`run`], inside.
///
/// # Errors
///
/// What could not be measured.
pub fn run_inside(args: InsideArgs) -> anyhow::Result<ExitCode> {
    // SAFETY: the outer process opened it for this one, and nothing else here uses it.
    let mut output = unsafe { File::from_raw_fd(args.report) };
    sandbox::enter_as_first_process()?;
    let report = Bench::new(args.size)?.measure()?;
    print!("\n{}", report::table(&report.rows));
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    output.write_all(json.as_bytes()).context("cannot hand over the measured values")?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    begin: Instant,
    size: Size,
    cluster: Cluster,
}

impl Bench {
    fn new(size: Size) -> anyhow::Result<Self> {
        let begin = clock::now();
        say(begin, "starting etcd, the API server and three nodes");
        let mut plan = Plan::private(&size.kubernetes, &size.manifests, 3)?;
        plan.extent = Extent::Benchmark;
        let cluster = Cluster::build(&plan)?;
        for (number, node) in (1..).zip(&cluster.nodes) {
            // A network with room for the VIPs beside the lab's own.
            cluster.lab.netns(node)?.ip(&format!("addr add 172.20.0.{number}/16 dev eth0\n"))?;
        }
        Ok(Self { begin, size, cluster })
    }

    fn measure(mut self) -> anyhow::Result<Report> {
        let measured = self.phases();
        if measured.is_err() {
            eprintln!("{}", self.cluster.logs());
        }
        measured
    }

    fn phases(&mut self) -> anyhow::Result<Report> {
        self.cluster.speakers.install(&self.cluster.plane)?;
        self.cluster.apply(NAMESPACES)?;
        if !self.size.unannounced {
            self.cluster.apply(ADVERTISEMENT)?;
        }
        let (mut rounds, mut idle) = (Vec::new(), None);
        for number in 1..=self.size.rounds {
            self.say(&format!("round {number} of {}", self.size.rounds));
            let (written, created) = self.floor()?;
            // As in the DaemonSet: Leases decide.
            self.cluster.start(&[])?;
            let is_last = number == self.size.rounds;
            let applied = self.pool_applied()?;
            if is_last {
                idle = Some(self.idle()?);
            }
            let at_once = self.created_at_once()?;
            if !is_last {
                self.clear()?;
            }
            rounds.push(Round::new(created, written, applied, at_once));
        }
        let (speakers, idle_requests) = idle.context("no round")?;
        let mut report = Report {
            machine: Machine::here()?,
            services: self.size.services,
            announced: !self.size.unannounced,
            typical: Round::typical(&rounds),
            rounds,
            speakers,
            idle_requests,
            rows: Vec::new(),
        };
        report.rows = report.rows();
        Ok(report)
    }

    /// Without speakers: how long a bare client writes, and how long it creates and writes.
    fn floor(&self) -> anyhow::Result<(Duration, Duration)> {
        let count = self.size.services;
        self.say("floor: a bare client creates the Services and writes their statuses");
        let created = self.load(FLOOR, async |load| load.create_and_write(count).await)?;
        self.say(&format!("floor: {:.2} s; now the statuses alone", created.as_secs_f64()));
        self.load(FLOOR, async |load| load.wait_for_slices(count).await)?;
        let written = self.load(FLOOR, async |load| load.write_again(count).await)?;
        self.say(&format!("floor: {:.2} s; removing them", written.as_secs_f64()));
        self.load(FLOOR, async |load| load.remove_all(count).await)?;
        Ok((written, created))
    }

    /// Services that are there, and a pool that comes.
    fn pool_applied(&self) -> anyhow::Result<Duration> {
        let count = self.size.services;
        self.say("Herald: three speakers, Services that wait for a pool");
        self.load(HERALD, async |load| load.create(count).await)?;
        self.load(HERALD, async |load| load.wait_for_slices(count).await)?;
        self.settle()?;
        let applied = self.load(HERALD, async |load| load.serve_from_pool(count).await)?;
        self.say(&format!("{:.2} s from the pool to {count} addresses", applied.as_secs_f64()));
        Ok(applied)
    }

    /// A pool that is there, and Services that come.
    fn created_at_once(&self) -> anyhow::Result<Duration> {
        let count = self.size.services;
        self.say("removing the Services");
        self.settle()?;
        self.load(HERALD, async |load| load.remove_all(count).await)?;
        self.settle()?;
        self.say("creating them again, with the pool in place");
        let mut log = Audit::from_now()?;
        let times = self.load(HERALD, async |load| load.create_and_wait(count).await)?;
        self.say(&format!(
            "{:.2} s from the first Service to {count} addresses, of it {:.2} s for creating them; \
             {} writes of Herald's",
            times.all.as_secs_f64(),
            times.created.as_secs_f64(),
            log.count()?.writes,
        ));
        Ok(times.all)
    }

    /// As before the round.
    fn clear(&mut self) -> anyhow::Result<()> {
        let count = self.size.services;
        self.settle()?;
        self.load(HERALD, async |load| load.remove_all(count).await)?;
        self.load(HERALD, async |load| load.remove_pool().await)?;
        self.settle()?;
        self.cluster.change(Change::Stop)
    }

    /// Until the speakers have stopped asking for anything, then for as long as was asked for.
    fn idle(&mut self) -> anyhow::Result<(Vec<Cost>, Requests)> {
        self.settle()?;
        let time = Duration::from_secs(self.size.idle.into());
        self.say(&format!("idle for {} s", time.as_secs()));
        let mut processes = Vec::new();
        for node in self.cluster.nodes.clone() {
            let id = self.cluster.speakers.on(&node)?.id();
            processes.push((node, id));
        }
        idle::watch(&processes, time)
    }

    fn settle(&self) -> anyhow::Result<()> {
        self.say("waiting until the speakers have nothing left to write");
        // Reports are written one after the other, several for each Service.
        let limit = Duration::from_secs(300 + u64::from(self.size.services) / 5);
        idle::until_quiet(Duration::from_secs(5), limit)
    }

    fn load<T: Send>(
        &self,
        kind: Kind,
        work: impl AsyncFnOnce(&Load) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.cluster.plane.netns.inside(|| {
            // Threads are born into the namespace of the thread that starts them.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(async { work(&Load::new(kind).await?).await })
        })
    }

    fn say(&self, line: &str) {
        say(self.begin, line);
    }
}

impl Round {
    fn new(created: Duration, written: Duration, applied: Duration, at_once: Duration) -> Self {
        Self {
            floor_created_and_written_s: created.as_secs_f64(),
            floor_written_s: written.as_secs_f64(),
            pool_applied_s: applied.as_secs_f64(),
            pool_applied_ratio: applied.as_secs_f64() / written.as_secs_f64(),
            created_at_once_s: at_once.as_secs_f64(),
            created_at_once_ratio: at_once.as_secs_f64() / created.as_secs_f64(),
        }
    }

    /// The median of each value.
    fn typical(rounds: &[Self]) -> Self {
        let median = |value: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self {
            floor_created_and_written_s: median(|it| it.floor_created_and_written_s),
            floor_written_s: median(|it| it.floor_written_s),
            pool_applied_s: median(|it| it.pool_applied_s),
            pool_applied_ratio: median(|it| it.pool_applied_ratio),
            created_at_once_s: median(|it| it.created_at_once_s),
            created_at_once_ratio: median(|it| it.created_at_once_ratio),
        }
    }
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let memory = if self.services > 1000 { 150.0 } else { 60.0 };
        let typical = &self.typical;
        let mut rows = vec![
            Row::told("floor: create and write, s", typical.floor_created_and_written_s),
            Row::told("floor: write, s", typical.floor_written_s),
            Row::told("created at once: all have addresses, s", typical.created_at_once_s),
            Row::aimed("created at once: ratio to the floor", typical.created_at_once_ratio, 1.3),
            Row::told("pool applied: all have addresses, s", typical.pool_applied_s),
            Row::aimed("pool applied: ratio to the floor", typical.pool_applied_ratio, 1.3),
        ];
        for Cost { node, rss_mib, cpu_percent, .. } in &self.speakers {
            rows.push(Row::aimed(format!("speaker on {node}: memory, MiB"), *rss_mib, memory));
            rows.push(Row::told(format!("speaker on {node}: CPU when idle, %"), *cpu_percent));
        }
        let Requests { per_second, writes_per_second } = self.idle_requests;
        rows.push(Row::told("requests a second when idle, all speakers", per_second));
        rows.push(Row::aimed("writes a second when idle, all speakers", writes_per_second, 3.0));
        rows
    }
}

fn say(begin: Instant, line: &str) {
    println!("{:6.1} s  {line}", begin.elapsed().as_secs_f32());
}

const NAMESPACES: &str = r#"{
    "apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench-floor"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench-herald"}}
    ]
}"#;

const ADVERTISEMENT: &str = "
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: bench, namespace: metallb-system}
";
