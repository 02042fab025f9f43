//! Open files that one process of a cluster hands to the next (edge): their numbers go along as
//! arguments, which is all that survives `exec`.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use super::Shape;

/// The arguments of the keeper and of the cluster's first process, which are the same.
#[derive(Clone, Debug, Args)]
pub struct KeepArgs {
    /// What the cluster is made of.
    #[command(flatten)]
    pub shape: Shape,
    /// Open files, in the order of [`Inherited`].
    #[arg(long, value_delimiter = ',')]
    pub descriptors: Vec<RawFd>,
    /// What [`crate::sandbox::run`] puts behind its arguments; not used.
    pub report: Option<RawFd>,
}

/// The open files themselves.
#[derive(Debug)]
pub struct Inherited {
    /// Towards `up`, until it has returned.
    pub up: UnixStream,
    /// Where the API server is reached from outside.
    pub api: TcpListener,
    /// Where orders come in.
    pub control: UnixListener,
    /// The directory of logs.
    pub logs: File,
    /// Keeps the state's lock until the last process has gone.
    pub lock: File,
}

impl KeepArgs {
    /// The same arguments once more, for the next process.
    pub fn repeated(&self, action: &str) -> Vec<OsString> {
        let Shape { nodes, speakers, kubernetes, manifests } = &self.shape;
        let numbers: Vec<String> = self.descriptors.iter().map(RawFd::to_string).collect();
        let mut arguments: Vec<OsString> = vec!["cluster".into(), action.into()];
        arguments.extend(["--nodes".into(), nodes.to_string().into()]);
        arguments.extend(["--kubernetes".into(), kubernetes.into()]);
        arguments.extend(["--manifests".into(), manifests.into()]);
        arguments.extend(["--descriptors".into(), numbers.join(",").into()]);
        if *speakers {
            arguments.push("--speakers".into());
        }
        arguments
    }

    /// Takes the open files over; processes started from now on do not inherit them.
    ///
    /// # Errors
    ///
    /// If one of the numbers is not that of an open file.
    pub fn take(&self) -> anyhow::Result<Inherited> {
        let [up, api, control, logs, lock] = self.descriptors[..] else {
            anyhow::bail!("this is started by `up` only");
        };
        Ok(Inherited {
            up: owned(up)?.into(),
            api: owned(api)?.into(),
            control: owned(control)?.into(),
            logs: owned(logs)?.into(),
            lock: owned(lock)?.into(),
        })
    }
}

impl Inherited {
    /// Lets the process that a command starts, and those it starts in turn, inherit the files.
    /// Returns their numbers.
    pub fn hand_to(&self, command: &mut Command) -> Vec<RawFd> {
        let descriptors = vec![
            self.up.as_raw_fd(),
            self.api.as_raw_fd(),
            self.control.as_raw_fd(),
            self.logs.as_raw_fd(),
            self.lock.as_raw_fd(),
        ];
        let inherited = descriptors.clone();
        // SAFETY: fcntl and setsid are plain system calls, allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // A terminal's interrupt must reach `up` and not the keeper.
                if libc::setsid() < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                inherited.iter().try_for_each(|descriptor| flag(*descriptor, 0))
            });
        }
        descriptors
    }
}

fn owned(descriptor: RawFd) -> anyhow::Result<OwnedFd> {
    flag(descriptor, libc::FD_CLOEXEC)?;
    // SAFETY: the call above has shown that it is open; `up` opened it for this process, each
    // number is taken once, and nothing else here knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn flag(descriptor: RawFd, flag: i32) -> std::io::Result<()> {
    // SAFETY: takes numbers; one that is not open is an error.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, flag) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
