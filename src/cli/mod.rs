//! The command line: one file a command, all alike: `Args`, then `run`.

pub mod check;
mod control;
pub mod flows;
pub mod speaker;
pub mod status;
pub mod steer;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::allocator::Classless;

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
    Flows(flows::FlowsArgs),
    Move(steer::MoveArgs),
    Drain(steer::DrainArgs),
    Undrain(steer::UndrainArgs),
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

/// Who gives addresses to Services without a loadBalancerClass, by the values of Cilium's option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DefaultIpam {
    /// Herald.
    #[default]
    Lbipam,
    /// Somebody else, or nobody.
    None,
}

impl From<DefaultIpam> for Classless {
    fn from(chosen: DefaultIpam) -> Self {
        match chosen {
            DefaultIpam::Lbipam => Self::Served,
            DefaultIpam::None => Self::Ignored,
        }
    }
}

/// A duration as people write it.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 100ms or 2s"))
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
            Command::Flows(args) => flows::run(&args, &mut std::io::stdout()),
            Command::Move(args) => steer::move_vip(&args),
            Command::Drain(args) => steer::drain(&args),
            Command::Undrain(args) => steer::undrain(&args),
            Command::Check(args) => Ok(check::run(&args, &mut std::io::stdout())),
        }
    }
}
