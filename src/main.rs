//! The `herald` command: parses arguments, sets up logging, prints what went wrong in one line.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use herald::cli::Cli;
use tracing_subscriber::EnvFilter;

/// What is logged unless RUST_LOG says otherwise. The client complains of every request that fails,
/// also while an API server only restarts; Herald itself tells what a person has to know about it.
const LOGGED: &str = "info,kube_client::client=off,kube_runtime::watcher=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("herald: {error:#}");
            ExitCode::FAILURE
        }
    }
}
