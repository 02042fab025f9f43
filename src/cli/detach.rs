//! `herald detach`: what uninstalling the speaker leaves in the kernel is taken out of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use herald_ebpf::{Detached, Removed};

use crate::cli::control;
use crate::speaker::socket;

/// Take Herald's programs off this node's interfaces, when its speaker is gone for good.
///
/// A speaker that ends leaves its programs in the kernel, which forward on until the next one
/// adopts them. Where there will be none, they would forward by what they know now for ever: this
/// takes them off all interfaces, whichever version attached them, and removes their maps. Programs
/// of others stay. Do it after the speaker was stopped, which gave its VIPs to other nodes; flows
/// to pods elsewhere go on through those. Pods of this node are reached through kube-proxy alone,
/// if it runs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl delete -n herald-system ds/herald   # then, on each node:
  herald detach
  herald detach --pin-dir /sys/fs/bpf/other

Exit code 1 if a speaker runs on this node, or if something cannot be removed. What is attached can be
seen by `ip link` (xdp) and `bpftool net`.")]
pub struct DetachArgs {
    /// Directory of the pinned programs and maps, as given to `herald speaker`.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/herald")]
    pin_dir: PathBuf,
    /// Directory of the speaker's socket, as given to `herald speaker`: nothing must answer there.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// If a speaker runs here, or what could not be removed.
pub fn run(args: &DetachArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    if control::is_heard(&args.run_dir) {
        let socket = socket::path(&args.run_dir);
        bail!(
            "a speaker listens at {}: stop it first, or its VIPs fall silent here",
            socket.display()
        );
    }
    let removed = herald_ebpf::detach(&args.pin_dir)?;
    tell(&removed, args, out)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(removed: &Removed, args: &DetachArgs, out: &mut impl Write) -> std::io::Result<()> {
    let pin_dir = args.pin_dir.display();
    if *removed == Removed::default() {
        return writeln!(out, "nothing is attached or pinned under {pin_dir}");
    }
    for Detached { interface, program } in &removed.programs {
        writeln!(out, "{interface}: {program} detached")?;
    }
    writeln!(out, "{} maps and programs removed from {pin_dir}", removed.pins)
}
