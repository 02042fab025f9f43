//! Private namespaces (edge), so that nothing outlives the lab: mounts, network and, for the demo,
//! processes. When the last process inside has gone, by whatever end, the kernel takes away every
//! network namespace, pinned program and file that was made there.
//!
//! It must never change the mounts or the network of the machine itself: everything below happens
//! after `unshare(2)`.

use std::ffi::{CStr, OsString};
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, anyhow, bail};

/// A private tmpfs for everything the lab writes.
pub const SCRATCH: &str = "/run/lab";

/// Puts the calling thread, and all threads and processes it starts from now on, into a network of
/// its own without any interface but `lo`, with a private and empty `/run`.
///
/// # Errors
///
/// If this is not root, or the kernel refuses.
pub fn enter() -> anyhow::Result<()> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and needs root");
    }
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET, "mounts and network")?;
    // Without this, mounts made here would show outside (systemd makes / shared).
    mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    mount(c"tmpfs", c"/run", Some(c"tmpfs"), 0)?;
    for directory in ["/run/netns", SCRATCH] {
        fs::create_dir(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    Ok(())
}

/// Mounts a BPF filesystem at a directory, which is made.
///
/// # Errors
///
/// If the kernel refuses.
pub fn mount_bpf(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let target = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
    mount(c"bpf", &target, Some(c"bpf"), 0)
}

/// Runs this program again with other arguments as the first process of private namespaces, and
/// waits for it. An interrupt or SIGTERM ends all processes inside at once; so does any death of
/// the calling process. What the inner process writes to the file descriptor whose number is put
/// behind `arguments` is returned with its exit code, whatever its end was.
///
/// # Errors
///
/// If the namespaces or the process cannot be made.
pub fn run(arguments: &[OsString]) -> anyhow::Result<(u8, Vec<u8>)> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and needs root");
    }
    let signals = block_signals();
    let (reader, writer) = pipe(0)?;
    // Read as it comes: a long run reports after each of its parts, and the pipe would be full.
    let reading = std::thread::spawn(move || {
        let mut written = Vec::new();
        fs::File::from(reader).read_to_end(&mut written).map(|_| written)
    });
    // From here on children, and only they, live in a new process namespace, and the kernel makes
    // no more threads here.
    unshare(libc::CLONE_NEWPID, "processes")?;
    // Not blocking: an open pipe (EAGAIN) is told from a closed one.
    let (alive_reader, alive_writer) = pipe(libc::O_NONBLOCK)?;
    let (report, alive, alive_end) =
        (writer.as_raw_fd(), alive_reader.as_raw_fd(), alive_writer.as_raw_fd());
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).arg(report.to_string());
    // SAFETY: only async-signal-safe calls between fork and exec: prctl, close, read, fcntl,
    // sigprocmask.
    unsafe {
        command.pre_exec(move || {
            die_with_parent()?;
            // If the parent died before the line above, its end of this pipe is closed.
            libc::close(alive_end);
            let mut byte = 0u8;
            if libc::read(alive, (&raw mut byte).cast(), 1) == 0 {
                libc::_exit(1);
            }
            libc::fcntl(report, libc::F_SETFD, 0);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const signals, std::ptr::null_mut());
            Ok(())
        });
    }
    let child = command.spawn().context("cannot start the lab's first process")?;
    drop((writer, alive_reader));
    let code = supervise(child, &signals)?;
    // The last one that could write has gone with its namespace.
    let written = reading.join().map_err(|_| anyhow!("the reader of the lab's report crashed"))?;
    drop(alive_writer);
    Ok((code, written.context("cannot read the lab's report")?))
}

/// The second half of [`run`], inside: shows this process namespace in `/proc`.
///
/// # Errors
///
/// As [`enter`].
pub fn enter_as_first_process() -> anyhow::Result<()> {
    enter()?;
    mount(c"proc", c"/proc", Some(c"proc"), 0)
}

/// For `pre_exec`: the kernel kills this process when the thread that started it ends.
pub(crate) fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn supervise(mut child: Child, signals: &libc::sigset_t) -> anyhow::Result<u8> {
    loop {
        let mut signal = 0;
        // SAFETY: both point to valid values.
        unsafe { libc::sigwait(signals, &raw mut signal) };
        if signal != libc::SIGCHLD {
            child.kill().context("cannot end the lab")?;
            child.wait()?;
            return Ok(128u8.saturating_add(u8::try_from(signal).unwrap_or(0)));
        }
        if let Some(status) = child.try_wait()? {
            let killed = status.signal().map(|signal| 128 + signal);
            let code = status.code().or(killed).unwrap_or(1);
            return Ok(u8::try_from(code).unwrap_or(1));
        }
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: a zeroed set is a valid place for sigemptyset to fill, and the rest works on it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

fn pipe(flags: libc::c_int) -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors fit into the array.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot make a pipe");
    }
    // SAFETY: the call above made them, nobody else owns them.
    unsafe { Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))) }
}

fn unshare(flags: libc::c_int, what: &str) -> anyhow::Result<()> {
    // SAFETY: takes flags only.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot make private namespaces for {what}")),
    }
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
) -> anyhow::Result<()> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all strings end with a zero and outlive the call; data may be null.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, std::ptr::null()) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot mount {source:?} at {target:?}")),
    }
}
