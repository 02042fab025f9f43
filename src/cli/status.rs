//! `herald status`: asks the speaker on this node and prints its report.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::cli::Output;
use crate::speaker::socket;
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
    let path = socket::path(&args.run_dir);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!("no speaker answers at {}: is it running, with this --run-dir?", path.display())
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut report = String::new();
    stream
        .read_to_string(&mut report)
        .with_context(|| format!("the speaker at {} did not finish its report", path.display()))?;
    match args.output {
        Output::Json => println!("{}", report.trim_end()),
        Output::Table => {
            let received: Received = serde_json::from_str(&report).with_context(|| {
                format!("the report of {} is not one of this version", path.display())
            })?;
            print!("{}", received.table());
        }
    }
    Ok(ExitCode::SUCCESS)
}
