//! Failover, measured from outside: a client that sends a datagram each millisecond, a newcomer that
//! asks for the VIP every few milliseconds, and a tap on every bridge port; keepalived and Herald
//! one after the other in the same lab, with the same beat.
//!
//! The parts: `event` (what happens), `product` (to whom), `measure` (one run), `row` (what comes of
//! several, and the aims), `steady` (what a new Service and an idle speaker cost).

mod event;
mod herald;
mod keepalived;
mod measure;
mod product;
mod row;
mod steady;

use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use self::event::{Event, Profile};
use self::herald::Herald;
use self::keepalived::Keepalived;
use self::product::{Name, Product};
use self::row::Row;
use self::steady::Steady;
use crate::sandbox;
use crate::scenario::Scenario;

/// How it is run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald-lab bench failover --json failover.json
  herald-lab bench failover --json f.json --runs 20 --events cut,kill --products herald --vips 100

A run of one event takes about five seconds and the time to settle. Interrupted, or after a
failure, the file has the rows so far and says \"complete\": false.")]
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
    /// How many VIPs there are, all with the holder that fails.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    vips: u16,
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
    /// Whether everything that was asked for is there; else it was interrupted, or failed.
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    processor: String,
    cpus: usize,
    kernel: String,
    vips: u16,
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
    let parent = args.json.parent().filter(|parent| !parent.as_os_str().is_empty());
    ensure!(
        parent.is_none_or(|parent| parent.is_dir()) && !args.json.is_dir(),
        "cannot write {}",
        args.json.display()
    );
    let list = |names: Vec<String>| names.join(",");
    let What { runs, vips, events, products, profiles, settle, no_steady } = &args.what;
    let mut arguments = vec!["bench".into(), "failover-inside".into()];
    let options = [
        ("--runs", runs.to_string()),
        ("--vips", vips.to_string()),
        ("--settle", settle.to_string()),
        ("--events", list(events.iter().map(ToString::to_string).collect())),
        ("--products", list(products.iter().map(ToString::to_string).collect())),
        ("--profiles", list(profiles.iter().map(ToString::to_string).collect())),
    ];
    for (option, value) in options {
        arguments.extend([option.into(), value.into()]);
    }
    if *no_steady {
        arguments.push("--no-steady".into());
    }
    let (code, values) = sandbox::run(&arguments)?;
    if let Some(report) = last_report(&values) {
        // Whole or not at all.
        let new = args.json.with_extension("json.new");
        std::fs::write(&new, report)
            .and_then(|()| std::fs::rename(&new, &args.json))
            .with_context(|| format!("cannot write {}", args.json.display()))?;
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
    let measured = measure_all(&mut scenario, &args.what, &mut report, &mut output);
    row::compare(&mut report.rows);
    match &measured {
        Ok(()) => report.complete = true,
        Err(error) => {
            eprintln!("{}", scenario.logs());
            report.failure = Some(format!("{error:#}"));
        }
    }
    report.hand_over(&mut output)?;
    println!("\n{}", row::table(&report.rows));
    if let Some(steady) = &report.steady {
        println!("{}", steady.table());
    }
    measured.map(|()| ExitCode::SUCCESS)
}

impl Report {
    fn of(what: &What) -> anyhow::Result<Self> {
        let (processor, kernel) = machine()?;
        Ok(Self {
            complete: false,
            failure: None,
            processor,
            cpus: std::thread::available_parallelism()?.get(),
            kernel,
            vips: what.vips,
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

/// keepalived first: Herald's programs stay in the kernel when its speakers have gone. After each row
/// all rows so far are handed over.
fn measure_all(
    scenario: &mut Scenario,
    what: &What,
    report: &mut Report,
    output: &mut File,
) -> anyhow::Result<()> {
    if what.products.contains(&Name::Keepalived) {
        for profile in &what.profiles {
            let mut product = Keepalived::start(scenario, *profile, what.vips)?;
            measure_product(&mut product, *profile, what, report, output)?;
            product.stop()?;
        }
    }
    if what.products.contains(&Name::Herald) {
        for profile in &what.profiles {
            let mut product = Herald::start(scenario, *profile, what.vips)?;
            measure_product(&mut product, *profile, what, report, output)?;
            product.stop()?;
        }
        if !what.no_steady {
            report.steady = Some(steady::measure(scenario, what.runs)?);
        }
    }
    Ok(())
}

fn measure_product(
    product: &mut impl Product,
    profile: Profile,
    what: &What,
    report: &mut Report,
    output: &mut File,
) -> anyhow::Result<()> {
    let settle = Duration::from_secs(what.settle.into());
    let events: Vec<Event> = what.events.iter().copied().filter(|e| product.has(*e)).collect();
    for event in events {
        let mut samples = Vec::new();
        for run in 1..=what.runs {
            let sample = measure::once(product, event, settle)
                .with_context(|| format!("{} {profile} {event}, run {run}", product.name()))?;
            println!("{} {profile} {event}, run {run} of {}: {sample}", product.name(), what.runs);
            samples.push(sample);
        }
        report.rows.push(Row::of(product.name(), event, profile, what.vips, &samples));
        report.hand_over(output)?;
    }
    Ok(())
}

fn machine() -> anyhow::Result<(String, String)> {
    let processors = std::fs::read_to_string("/proc/cpuinfo").context("no /proc/cpuinfo")?;
    let mut fields = processors.lines().filter_map(|line| line.split_once(':'));
    let model = fields.find(|(name, _)| name.trim() == "model name");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("no osrelease")?;
    let model = model.map_or("unknown", |(_, model)| model.trim());
    Ok((model.to_owned(), kernel.trim().to_owned()))
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
