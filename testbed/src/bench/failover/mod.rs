//! Failover, measured from outside: a client that sends a datagram each millisecond, a newcomer
//! that asks for the VIP every few milliseconds, and a tap on every bridge port; keepalived and
//! Herald one after the other in the same lab, with the same beat.
//!
//! The parts: `event` (what happens), `product` (to whom), `plan` (in which order), `measure` (the
//! runs of one event), `row` (what comes of them, and the aims), `steady` (what a new Service and
//! an idle speaker cost), `series` (all of it, one after another).

mod event;
mod herald;
mod keepalived;
mod measure;
mod plan;
mod product;
mod row;
mod series;
mod steady;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::event::{Event, Profile};
use self::product::Name;
use self::row::Row;
use self::series::Series;
use self::steady::Steady;
use crate::bench::report::{self, Machine};
use crate::sandbox;
use crate::scenario::Scenario;

/// How it is run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald-lab bench failover --json failover.json
  herald-lab bench failover --json f.json --runs 20 --events cut,kill --products herald --vips 100
  herald-lab bench failover --json f.json --runs 3 --settle 3 --products keepalived,herald

herald-lease needs Kubernetes: testbed/bench builds it the first time (about ten minutes), and not at
all where --products leaves herald-lease out. Its sessions last 5 s and are renewed each 1.5 s; it is
measured with --profiles default only.

A row takes runs times about 9 s (14 s with herald-lease), and once the time to settle, which its runs
share; keepalived's kill and restart settle after each run. All of it takes about 80 minutes,
herald alone about 30. What is left is told with each row. Interrupted, or after a failure, the
file has the rows so far and says \"complete\": false; a row that fails is left out, the others are
measured.")]
pub struct FailoverArgs {
    /// Write the values to this file.
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    #[command(flatten)]
    what: What,
}

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct What {
    /// How often each event is measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many VIPs there are, all with the holder that fails [default: 1, and for cut also 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    vips: Option<u16>,
    /// Which events.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST", default_values_t = Event::ALL)]
    events: Vec<Event>,
    /// Whose.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST", default_values_t = Name::ALL)]
    products: Vec<Name>,
    /// Which beats.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST", default_values_t = Profile::ALL)]
    profiles: Vec<Profile>,
    /// For how many seconds after healing a second voice is listened for.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    settle: u16,
    /// Leave out the new Service and the idle speaker.
    #[arg(long)]
    no_steady: bool,
    /// For herald-lease: directory with herald-kubernetes and etcd, as testbed/lib/kubernetes.sh
    /// prints it.
    #[arg(long, value_name = "DIR", env = "HERALD_KUBERNETES")]
    kubernetes: Option<PathBuf>,
    /// For herald-lease: the directory whose kustomization installs Herald.
    #[arg(long, value_name = "DIR", env = "HERALD_MANIFESTS")]
    manifests: Option<PathBuf>,
}

/// The same, inside.
#[derive(Debug, Args)]
pub struct InsideArgs {
    #[command(flatten)]
    what: What,
    report: RawFd,
}

/// The values. The field names are fixed.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether everything that was asked for is there; else it was interrupted, or something
    /// failed.
    complete: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
    #[serde(flatten)]
    machine: Machine,
    /// How many runs a row should have.
    runs: u16,
    settle_s: u16,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steady: Option<Steady>,
}

/// Ends each report on its way out of the namespaces: the last whole one counts.
const END: u8 = 0;

/// Runs the benchmark in namespaces of its own.
///
/// # Errors
///
/// What could not be measured or written.
pub fn run(args: &FailoverArgs) -> anyhow::Result<ExitCode> {
    report::can_hold_a_file(&args.json)?;
    args.what.check()?;
    let mut arguments: Vec<OsString> = vec!["bench".into(), "failover-inside".into()];
    arguments.extend(args.what.repeated());
    let (code, values) = sandbox::run(&arguments)?;
    if let Some(report) = last_report(&values) {
        report::write_file(&args.json, report)?;
    }
    Ok(ExitCode::from(code))
}

/// What was handed over last, and to its end: an interruption may come at any moment.
fn last_report(values: &[u8]) -> Option<&[u8]> {
    let mut reports = values.rsplit(|byte| *byte == END);
    // Behind the last end is nothing, or a report that was cut off.
    reports.next();
    reports.next()
}

/// The second half of [`run`], inside.
///
/// # Errors
///
/// What could not be measured.
pub fn run_inside(args: &InsideArgs) -> anyhow::Result<ExitCode> {
    sandbox::enter_as_first_process()?;
    // SAFETY: the outer process opened it for this one, and nothing else here uses it.
    let mut output = unsafe { File::from_raw_fd(args.report) };
    let mut scenario = Scenario::build().context("cannot build the lab")?;
    let mut report = Report::of(&args.what)?;
    Series::new(&args.what, &mut report, &mut output).measure(&mut scenario)?;
    row::compare(&mut report.rows);
    report.complete = report.failures.is_empty();
    report.hand_over(&mut output)?;
    println!("\n{}", row::table(&report.rows));
    if let Some(steady) = &report.steady {
        println!("{}", steady.table());
    }
    if !report.complete {
        bail!("not everything could be measured:\n{}", report.failures.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

impl What {
    /// Refuses in one sentence what would fail after an hour.
    fn check(&self) -> anyhow::Result<()> {
        if !self.products.contains(&Name::HeraldLease) {
            return Ok(());
        }
        ensure!(
            self.kubernetes.is_some() && self.manifests.is_some(),
            "herald-lease needs --kubernetes and --manifests, which testbed/bench gives; \
             or leave it out: --products keepalived,herald"
        );
        ensure!(
            self.products.len() > 1 || self.profiles.contains(&Profile::Default),
            "herald-lease is measured with --profiles default only"
        );
        Ok(())
    }

    /// The same arguments once more, for the process inside.
    fn repeated(&self) -> Vec<OsString> {
        let list = |names: Vec<String>| names.join(",");
        let mut options = vec![
            ("--runs", self.runs.to_string()),
            ("--settle", self.settle.to_string()),
            ("--events", list(self.events.iter().map(ToString::to_string).collect())),
            ("--products", list(self.products.iter().map(ToString::to_string).collect())),
            ("--profiles", list(self.profiles.iter().map(ToString::to_string).collect())),
        ];
        options.extend(self.vips.map(|vips| ("--vips", vips.to_string())));
        let mut arguments = Vec::new();
        for (option, value) in options {
            arguments.extend([option.into(), value.into()]);
        }
        if self.no_steady {
            arguments.push("--no-steady".into());
        }
        for (option, path) in [("--kubernetes", &self.kubernetes), ("--manifests", &self.manifests)]
        {
            arguments.extend(path.iter().flat_map(|path| [option.into(), path.into()]));
        }
        arguments
    }
}

impl Report {
    fn of(what: &What) -> anyhow::Result<Self> {
        Ok(Self {
            complete: false,
            failures: Vec::new(),
            machine: Machine::here()?,
            runs: what.runs,
            settle_s: what.settle,
            rows: Vec::new(),
            steady: None,
        })
    }

    fn hand_over(&self, output: &mut File) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.extend([b'\n', END]);
        output.write_all(&json).context("cannot hand over the measured values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_report_counts() {
        assert_eq!(last_report(b""), None);
        assert_eq!(last_report(b"{cut o"), None);
        assert_eq!(last_report(b"{1}\n\0"), Some(&b"{1}\n"[..]));
        assert_eq!(last_report(b"{1}\n\0{2}\n\0{cut"), Some(&b"{2}\n"[..]));
    }
}
