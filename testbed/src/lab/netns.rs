//! One network namespace by name (edge). Code and processes are put into it; the calling thread
//! never is.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{io, io::Write};

use anyhow::{Context, bail};

/// A handle on a namespace; it lives as long as a handle or a process inside does.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace that `ip netns` knows by this name.
    ///
    /// # Errors
    ///
    /// If there is one of that name.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        ip(&format!("netns add {name}"))?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For [`set`] in a process about to start.
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs code inside, in a thread of its own, and waits for it.
    ///
    /// # Errors
    ///
    /// What the code returns; or the kernel's refusal.
    pub fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.set()?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Puts the calling thread inside, for good.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub(crate) fn set(&self) -> anyhow::Result<()> {
        set(self.raw()).with_context(|| format!("cannot enter the namespace {}", self.name))
    }

    /// Runs lines of `ip -batch` inside.
    ///
    /// # Errors
    ///
    /// What `ip` says.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        batch(Command::new("ip").args(["-n", &self.name]), lines)
    }

    /// Sets kernel parameters inside, each `path value` below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// If the kernel has no such parameter.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        self.inside(|| sysctl(settings))
    }
}

/// Sets kernel parameters of the calling thread's namespace.
///
/// # Errors
///
/// If the kernel has no such parameter.
pub(crate) fn sysctl(settings: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))?;
    }
    Ok(())
}

/// Runs lines of `ip -batch` in the calling thread's namespace.
///
/// # Errors
///
/// What `ip` says.
pub(crate) fn ip(lines: &str) -> anyhow::Result<()> {
    batch(&mut Command::new("ip"), lines)
}

fn batch(command: &mut Command, lines: &str) -> anyhow::Result<()> {
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run ip: is iproute2 installed?")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).context("cannot write to ip")?;
    }
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        bail!("ip refused: {}\nin:\n{lines}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a command that prints only if it fails.
///
/// # Errors
///
/// What it printed.
pub(crate) fn quietly(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// For `pre_exec` too: puts the calling thread into the namespace behind the descriptor.
pub(crate) fn set(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: takes a descriptor and a flag.
    match unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
