//! A process inside a namespace of the lab (edge): started with its output going to a file, ended
//! by its own number, and by the kernel if the lab dies first.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::confinement::Confinement;
use super::netns::{self, Netns};
use crate::{clock, sandbox};

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command in a namespace; what it prints is added to the log file.
    ///
    /// # Errors
    ///
    /// If the program or the log file cannot be opened.
    pub fn start(name: &str, command: Command, netns: &Netns, log: &Path) -> anyhow::Result<Self> {
        Self::start_confined(name, command, netns, log, None)
    }

    /// The same with few capabilities.
    ///
    /// # Errors
    ///
    /// As [`Self::start`]; or the kernel's refusal.
    pub fn start_confined(
        name: &str,
        mut command: Command,
        netns: &Netns,
        log: &Path,
        confinement: Option<Confinement>,
    ) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<File> {
            let mut options = OpenOptions::new();
            let file = options.create(true).append(true).open(log);
            file.with_context(|| format!("cannot open the log {}", log.display()))
        };
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let descriptor = netns.raw();
        // SAFETY: setns, capset and prctl are plain system calls, allowed between fork and exec;
        // the descriptor is open, for `netns` outlives the call to spawn.
        unsafe {
            command.pre_exec(move || {
                netns::set(descriptor)?;
                if let Some(confinement) = &confinement {
                    confinement.apply()?;
                }
                // Last: a change of capabilities may forget it.
                sandbox::die_with_parent()
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its number in the caller's process namespace.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub fn signal(&mut self, signal: i32) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has already ended: {status}", self.name);
        }
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: takes two numbers; the child is not reaped yet, so the number is still its own.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error())
                .with_context(|| format!("cannot signal {}", self.name)),
        }
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    ///
    /// If it does not end in time; it is killed then.
    pub fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let ended = self.ended_within(limit);
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn ended_within(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        clock::await_for(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it at once (SIGKILL) and waits.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// All it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is no failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program of this name that was built together with the running one.
///
/// # Errors
///
/// If it is not there, with the command that builds it.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // Tests lie one directory deeper, in `deps`.
    let places = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    places.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{name} is not built beside {}: run `cargo build --workspace`", own.display())
    })
}
