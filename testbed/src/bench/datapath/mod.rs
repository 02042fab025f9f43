//! What a packet costs in the data plane, in the same run as what it costs without one, in
//! nftables and in iptables.
//!
//! Three kinds of measurement: [`hot`] runs the loaded programs on packets of their own
//! (`BPF_PROG_TEST_RUN`), [`live`] sends frames through veths, [`control`] times the writing of
//! maps and weighs them, [`decided`] times it with all that a speaker does before. All happen in
//! private namespaces on one CPU. Values are compared with what is aimed at in [`aims`].
//!
//! It must never measure a thing without checking that the thing was done: a program under test
//! that passes what it should forward is an error, not a fast program.

pub mod aims;
pub mod connections;
pub mod conntrack;
pub mod control;
pub mod decided;
pub mod harness;
pub mod hot;
pub mod live;
pub mod pictures;
pub mod processor;
pub mod rows;
pub mod rules;
pub mod template;
pub mod wire;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use self::rows::Row;
use crate::sandbox;

/// Where the programs and maps of the runs are pinned.
const PINS: &str = "/run/lab/bpf";

/// Measure the data plane. Needs root, nftables and iptables; touches only namespaces of its own.
#[derive(Clone, Debug, Args)]
pub struct DatapathArgs {
    /// Write the rows to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to measure.
    #[command(flatten)]
    scope: Scope,
}

/// What to measure, and how thoroughly.
#[derive(Clone, Debug, Args)]
pub struct Scope {
    /// Only cases whose names begin with this; may be repeated.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Fewer and shorter samples: shows that everything runs, says little about cost.
    #[arg(long)]
    quick: bool,
}

/// The arguments of the inner process.
#[derive(Clone, Debug, Args)]
pub struct InsideArgs {
    #[command(flatten)]
    scope: Scope,
    report: i32,
}

impl Scope {
    /// Whether a case was asked for.
    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| case.starts_with(name.as_str()))
    }

    /// Samples of each value; odd, so that one of them is the median.
    pub const fn samples(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// As many as given, a tenth of it in a quick run.
    pub const fn repeat(&self, full: u32) -> u32 {
        if self.quick { full / 10 } else { full }
    }
}

/// Runs the measurements in private namespaces, prints them beside their aims, writes them down.
///
/// # Errors
///
/// What could not be measured, or written.
pub fn run(args: &DatapathArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.json {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new("."));
        ensure!(directory.is_dir(), "cannot write {}: no such directory", path.display());
    }
    let mut arguments: Vec<OsString> = vec!["bench".into(), "datapath-inside".into()];
    if args.scope.quick {
        arguments.push("--quick".into());
    }
    for case in &args.scope.cases {
        arguments.extend(["--case".into(), case.into()]);
    }
    let (code, report) = sandbox::run(&arguments)?;
    if let Some(path) = args.json.as_ref().filter(|_| !report.is_empty()) {
        std::fs::write(path, report).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::from(code))
}

/// The same, inside.
///
/// # Errors
///
/// As [`run`].
pub fn run_inside(args: InsideArgs) -> anyhow::Result<ExitCode> {
    sandbox::enter_as_first_process()?;
    // SAFETY: the outer process opened it for this one, and nothing else here uses it.
    let mut report = unsafe { File::from_raw_fd(args.report) };
    sandbox::mount_bpf(Path::new(PINS))?;
    processor::limit()?;
    let mut rows = Vec::new();
    let scope = &args.scope;
    hot::measure(scope, &mut rows).context("cannot measure the programs")?;
    live::measure(scope, &mut rows).context("cannot measure live traffic")?;
    connections::measure(scope, &mut rows).context("cannot measure connections")?;
    control::measure(scope, &mut rows).context("cannot measure the writing of maps")?;
    decided::measure(scope, &mut rows).context("cannot measure a speaker's round")?;
    ensure!(!rows.is_empty(), "no case has such a name");
    let judged = aims::judge(&rows);
    print!("\n{}\n{}", rows::table(&rows), aims::table(&judged));
    let mut json = serde_json::to_string_pretty(&rows)?;
    json.push('\n');
    report.write_all(json.as_bytes()).context("cannot hand over the rows")?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps a row and shows it at once.
fn keep(rows: &mut Vec<Row>, row: Row) {
    println!("{}", rows::line(&row));
    rows.push(row);
}
