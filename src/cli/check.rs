//! `herald check`: what would these manifests do, and what is wrong with them?
//!
//! Offline unless asked: it reads the files, talks to nobody and changes nothing. It goes the same
//! way through `source` and `allocator` as a speaker does, so that what passes here takes effect
//! there. `--against-cluster` reads a cluster besides, and still changes nothing.

mod cluster;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::allocator::{self, Assignment, Change, Config, Refusal};
use crate::cli::{DefaultIpam, Output};
use crate::observed::ServiceName;
use crate::problem::{Level, Problem};
use crate::source::directory::{read_file, scan};
use crate::source::{Assembler, FileState};
pub use cluster::Deletion;

/// Validates manifests without a cluster and shows which addresses Services would get.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  herald check pools.yaml             one file
  herald check pools.yaml web.yaml    files that are used together
  herald check manifests/             all *.yaml, *.yml and *.json of a directory
  herald check --output json manifests/ | jq '.problems[].message'
  herald check --against-cluster pools.yaml     which Services would get another address
  herald check --against-cluster --delete IPAddressPool/first

Every problem is one line: file:line:column, the field, what was found and what was expected.
A file with an error has no effect at all, so that no edit is applied by half.
Addresses are what an empty cluster would assign; a running one keeps those it has assigned.

Exit status: 0 without errors (warnings and notices are none), 1 with errors or if a Service in the
cluster would get another address, 2 if the command itself was wrong.")]
pub struct CheckArgs {
    /// Manifest files, or directories of them.
    #[arg(required_unless_present = "delete", value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// How to print the result.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
    /// Also read the cluster of your kubeconfig, and say which Services would get another address
    /// if these manifests were applied to it, and why.
    #[arg(long)]
    pub against_cluster: bool,
    /// A pool that would be deleted besides, for example IPAddressPool/first; repeat for more.
    #[arg(long, value_name = "KIND/NAME", requires = "against_cluster")]
    pub delete: Vec<Deletion>,
    /// Namespaces whose IPAddressPools and L2Advertisements count in the cluster.
    #[arg(
        long = "pool-namespace",
        visible_alias = "pool-namespaces",
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "metallb-system,herald-system"
    )]
    pub pool_namespaces: Vec<String>,
    /// The only loadBalancerClass to serve; without it, Services that have no class, and the
    /// classes herald.io/herald, io.cilium/l2-announcer and io.cilium/bgp-control-plane.
    #[arg(long, value_name = "CLASS", visible_alias = "lb-class")]
    pub load_balancer_class: Option<String>,
    /// Who gives addresses to Services without a class, as Cilium's option of this name.
    #[arg(long, value_enum, default_value_t, conflicts_with = "load_balancer_class")]
    pub default_lb_service_ipam: DefaultIpam,
}

/// Checks the manifests and prints what is found.
pub fn run(args: &CheckArgs, out: &mut dyn Write) -> ExitCode {
    let report = match check(args) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("herald check: {error:#}");
            return ExitCode::from(2);
        }
    };
    let printed = match args.output {
        Output::Table => report.print_table(out),
        Output::Json => report.print_json(out),
    };
    match printed {
        // Whoever reads has read enough; the verdict stands.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("herald check: cannot print the result: {error}");
            ExitCode::from(2)
        }
        _ if report.errors > 0 || report.renumbers() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// What is found in a set of manifests.
#[derive(Debug, Serialize)]
struct Report {
    files: usize,
    objects: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
    assignments: BTreeMap<ServiceName, Assignment>,
    refusals: BTreeMap<ServiceName, Refusal>,
    /// With `--against-cluster`: Services that would get another address.
    #[serde(skip_serializing_if = "Option::is_none")]
    renumbered: Option<Vec<Change>>,
}

fn check(args: &CheckArgs) -> anyhow::Result<Report> {
    let mut files = BTreeMap::new();
    for path in &args.paths {
        files.extend(read(path)?);
    }
    let mut snapshot = Assembler::default().update(files);
    let config = Config {
        class: args.load_balancer_class.clone(),
        classless: args.default_lb_service_ipam.into(),
    };
    let mut renumbered = None;
    if args.against_cluster {
        let cluster = cluster::read(&args.pool_namespaces)?;
        let ignored = cluster::leave_out(&mut snapshot.observed, &args.pool_namespaces);
        snapshot.problems.extend(ignored);
        let rest = cluster::without(&cluster, &args.delete)?;
        let (changes, problems) = cluster::compare(&cluster, &rest, &snapshot.observed, &config);
        renumbered = Some(changes);
        snapshot.problems.extend(problems);
    }
    let plan = allocator::allocate(&snapshot.observed, &BTreeMap::new(), &config);
    let count = |level| snapshot.problems.iter().filter(|problem| problem.level == level).count();
    Ok(Report {
        files: snapshot.files,
        objects: snapshot.objects,
        errors: count(Level::Error),
        warnings: count(Level::Warning),
        problems: snapshot.problems,
        assignments: plan.assignments,
        refusals: plan.refusals,
        renumbered,
    })
}

/// A file, whatever its name, or all manifests of a directory, named so that an editor finds them.
fn read(path: &Path) -> anyhow::Result<BTreeMap<String, FileState>> {
    let name = |path: &Path| path.display().to_string();
    if path.is_dir() {
        let files =
            scan(path).with_context(|| format!("cannot read the directory {}", name(path)))?;
        return Ok(files
            .into_iter()
            .map(|(file, state)| (name(&path.join(file)), state))
            .collect());
    }
    let state = read_file(path)
        .with_context(|| format!("cannot read {}: there is no such file", name(path)))?;
    Ok(BTreeMap::from([(name(path), state)]))
}

impl Report {
    fn renumbers(&self) -> bool {
        self.renumbered.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    /// What would happen in the cluster, instead of what an empty one would do.
    fn print_renumbered(&self, changes: &[Change], out: &mut dyn Write) -> io::Result<()> {
        if changes.is_empty() {
            return writeln!(out, "No Service in the cluster would get another address.");
        }
        changes.iter().try_for_each(|change| writeln!(out, "{change}"))
    }

    fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    fn print_table(&self, out: &mut dyn Write) -> io::Result<()> {
        for problem in &self.problems {
            writeln!(out, "{problem}")?;
        }
        if let Some(changes) = &self.renumbered {
            return self.print_renumbered(changes, out);
        }
        let rows = self.rows();
        if !rows.is_empty() {
            if !self.problems.is_empty() {
                writeln!(out)?;
            }
            let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
            let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
            for [service, pool, addresses] in &rows {
                writeln!(out, "{service:first$}  {pool:second$}  {addresses}")?;
            }
        }
        if !rows.is_empty() || !self.problems.is_empty() {
            writeln!(out)?;
        }
        writeln!(
            out,
            "{}, {}: {}, {}",
            counted(self.files, "file"),
            counted(self.objects, "object"),
            counted(self.errors, "error"),
            counted(self.warnings, "warning"),
        )
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let mut rows: Vec<_> = self
            .assignments
            .iter()
            .map(|(service, assignment)| {
                let addresses: Vec<_> =
                    assignment.addresses.iter().map(ToString::to_string).collect();
                [service.to_string(), assignment.pool.clone(), addresses.join(", ")]
            })
            .chain(self.refusals.iter().map(|(service, refusal)| {
                [service.to_string(), "-".to_owned(), format!("none: {}", refusal.message)]
            }))
            .collect();
        rows.sort();
        if !rows.is_empty() {
            rows.insert(0, ["SERVICE".to_owned(), "POOL".to_owned(), "ADDRESSES".to_owned()]);
        }
        rows
    }
}

/// `1 file`, `2 files`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
