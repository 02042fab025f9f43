//! `herald-lab`: the demo, a shell in the lab, and the server that runs in its pods.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use herald_testbed::scenario::Scenario;
use herald_testbed::{bench, cluster, demo, flows, pod, sandbox};

/// A LAN of network namespaces with Herald in it. Needs root; leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "herald-lab", version)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what Herald does, step by step, with measured values.
    Demo {
        /// Write the measured values to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Run a command in the lab while Herald serves the demo's Service there (default: bash).
    Shell {
        /// The command.
        #[arg(trailing_var_arg = true)]
        command: Vec<OsString>,
    },
    /// Measure Herald against a rival or a floor: testbed/bench.
    Bench(bench::BenchArgs),
    /// A Kubernetes cluster in the lab: up, speakers, down.
    Cluster(cluster::ClusterArgs),
    /// Serve in a pod.
    #[command(hide = true)]
    Pod(pod::PodArgs),
    /// Serve many connections in a pod.
    #[command(hide = true)]
    FlowsServer(flows::FlowsArgs),
    /// The demo, inside its namespaces.
    #[command(hide = true)]
    DemoInside { report: i32 },
    /// The shell, inside its namespaces.
    #[command(hide = true)]
    ShellInside {
        #[arg(allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("herald-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Demo { json } => {
            if let Some(path) = &json {
                // Better told now than after the demo. Written only at the end: an interrupted
                // demo leaves no file, and an earlier one as it is.
                can_hold_a_file(path)?;
            }
            let (code, report) = sandbox::run(&["demo-inside".into()])?;
            if let Some(path) = json.filter(|_| !report.is_empty()) {
                std::fs::write(&path, report)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(ExitCode::from(code))
        }
        Action::DemoInside { report } => {
            sandbox::enter_as_first_process()?;
            // SAFETY: the outer process opened it for this one, and nothing else here uses it.
            let report = unsafe { File::from_raw_fd(report) };
            demo::run(report)
        }
        Action::Shell { command } => {
            let mut arguments = vec!["shell-inside".into(), "--".into()];
            arguments.extend(command);
            let (code, _) = sandbox::run(&arguments)?;
            Ok(ExitCode::from(code))
        }
        Action::ShellInside { command } => shell(&command),
        Action::Cluster(args) => cluster::run(args),
        Action::Bench(args) => bench::run(args),
        Action::Pod(args) => pod::serve(args).map(|()| ExitCode::SUCCESS),
        Action::FlowsServer(args) => flows::serve(args).map(|()| ExitCode::SUCCESS),
    }
}

fn can_hold_a_file(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    ensure!(directory.is_dir(), "cannot write {}: no such directory", path.display());
    ensure!(!path.is_dir(), "cannot write {}: it is a directory", path.display());
    Ok(())
}

fn shell(command: &[OsString]) -> anyhow::Result<ExitCode> {
    sandbox::enter_as_first_process()?;
    let mut scenario = Scenario::build()?;
    scenario.start_all(&[])?;
    scenario.put_all_manifests()?;
    for (vip, holder) in scenario.served()? {
        println!("{vip} is held by {holder}");
    }
    // The last argument is the report's descriptor, which a shell has no use for.
    let command = &command[..command.len().saturating_sub(1)];
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => ("bash".into(), command),
    };
    let status = Command::new(&program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
