//! The frame of an end-to-end test: private namespaces around it, the speakers' logs if it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::cluster::control_plane::Extent;
use crate::cluster::whole::{Cluster, Plan};
use crate::sandbox;
use crate::scenario::Scenario;

/// Runs a test in a lab of its own. Nothing of it is left when the test's process ends.
///
/// # Errors
///
/// What the test returns. The logs are printed then, and after a panic.
pub fn in_lab(test: impl FnOnce(&mut Scenario) -> anyhow::Result<()>) -> anyhow::Result<()> {
    sandbox::enter()?;
    told(Scenario::build()?, test, Scenario::logs)
}

/// Runs a test in a cluster of its own, of three nodes without speakers; `manifests` is what
/// installs Herald in it, seen from the root of the repository. Nothing of it is left when the
/// test's process ends.
///
/// # Errors
///
/// As [`in_lab`].
pub fn in_cluster(
    manifests: &str,
    test: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    in_cluster_of(Extent::Test, manifests, test)
}

/// The same in a cluster for thousands of Services.
///
/// # Errors
///
/// As [`in_lab`].
pub fn in_large_cluster(
    manifests: &str,
    test: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    in_cluster_of(Extent::Benchmark, manifests, test)
}

fn in_cluster_of(
    extent: Extent,
    manifests: &str,
    test: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let kubernetes = kubernetes()?;
    sandbox::enter()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let plan = Plan { extent, ..Plan::private(&kubernetes, &root.join(manifests), 3)? };
    told(Cluster::build(&plan)?, test, Cluster::logs)
}

/// Where the testbed's Kubernetes is, built now if it never was.
///
/// # Errors
///
/// If it cannot be built.
pub fn kubernetes() -> anyhow::Result<PathBuf> {
    ensure!(script().status()?.success(), "Kubernetes could not be built");
    printed(script().arg("--directory"))
}

/// Where the definitions are that other products publish of their kinds, a directory for each
/// product; fetched now if they never were.
///
/// # Errors
///
/// If they cannot be fetched.
pub fn definitions() -> anyhow::Result<PathBuf> {
    printed(script().arg("--definitions"))
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lib/kubernetes.sh"))
}

fn printed(command: &mut Command) -> anyhow::Result<PathBuf> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let path = String::from_utf8(output.stdout).context("a strange path")?;
    Ok(path.trim().into())
}

fn told<T>(
    mut stage: T,
    test: impl FnOnce(&mut T) -> anyhow::Result<()>,
    logs: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    // Nothing is used after a panic but the logs.
    let result = catch_unwind(AssertUnwindSafe(|| test(&mut stage)));
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", logs(&stage));
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
