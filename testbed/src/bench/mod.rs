//! Measurements, each against a rival or a floor that is measured in the same run.
//!
//! A benchmark prints what it does while it does it, ends with a table that says which aims were
//! met, and writes its values once, at the end. A missed aim is a result and no failure.

pub mod allocation;
pub mod datapath;
pub mod failover;
pub mod report;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measure Herald against a rival or a floor in the same run.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Time until many new Services have addresses on a real API server, and what idling costs.
    Allocation(allocation::AllocationArgs),
    /// The same, inside its namespaces.
    #[command(hide = true)]
    AllocationInside(allocation::InsideArgs),
    /// How long clients are not served, or not answered, when a node fails, moves its VIPs, or
    /// comes back, and how often two nodes answer; beside keepalived.
    Failover(failover::FailoverArgs),
    /// The same, inside its namespaces.
    #[command(hide = true)]
    FailoverInside(failover::InsideArgs),
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
        Action::Allocation(args) => allocation::run(&args),
        Action::AllocationInside(args) => allocation::run_inside(args),
        Action::Failover(args) => failover::run(&args),
        Action::FailoverInside(args) => failover::run_inside(&args),
        Action::Datapath(args) => datapath::run(&args),
        Action::DatapathInside(args) => datapath::run_inside(args),
    }
}
