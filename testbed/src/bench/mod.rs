//! Measurements, each against a rival in the same run.

pub mod datapath;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measure.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Nanoseconds a packet, packets and connections a second, map writes and map memory; against
    /// XDP_TX, nftables and iptables.
    Datapath(datapath::DatapathArgs),
    /// The same, inside its namespaces.
    #[command(hide = true)]
    DatapathInside(datapath::InsideArgs),
}

/// Runs the command.
///
/// # Errors
///
/// What could not be measured.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Datapath(args) => datapath::run(&args),
        Action::DatapathInside(args) => datapath::run_inside(args),
    }
}
