//! `herald status`: asks the speaker on this node and prints its report.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::cli::{Output, control};
use crate::speaker::socket::Ask;
use crate::status::Received;

/// Ask the speaker on this node what it does, and why not.
///
/// Shows the VIPs with their Services, holders, terms and backends, how each interface carries
/// traffic, and a named reason for every "no".
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald status
  herald status --output json | jq '.vips[] | {address, holder}'
  kubectl exec -n herald-system ds/herald -- herald status")]
pub struct StatusArgs {
    /// Directory of the speaker's socket, as given to `herald speaker`.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
///
/// If no speaker answers at the socket within 5 seconds.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let report = control::ask(&args.run_dir, &Ask::Status)?;
    match args.output {
        Output::Json => println!("{}", report.trim_end()),
        Output::Table => {
            let received: Received = serde_json::from_str(&report)
                .context("the speaker's report is not one of this version")?;
            print!("{}", received.table());
        }
    }
    Ok(ExitCode::SUCCESS)
}
