//! The command line: one file a command, all alike: `Args`, then `run`.

pub mod check;
pub mod speaker;
pub mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Load balancing for bare-metal Kubernetes on a local network.
///
/// Gives Services of type LoadBalancer an address from a pool, makes exactly one node answer for
/// it on the LAN, and carries the traffic to the pods with XDP.
#[derive(Debug, Parser)]
#[command(name = "herald", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Speaker(Box<speaker::SpeakerArgs>),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
}

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; fields are added, never renamed.
    Json,
}

impl Cli {
    /// Runs the chosen command.
    ///
    /// # Errors
    ///
    /// Whatever ended it, for `main` to print.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Speaker(args) => speaker::run(*args),
            Command::Status(args) => status::run(&args),
            Command::Check(args) => Ok(check::run(&args, &mut std::io::stdout())),
        }
    }
}
