//! The commands (edge): `up` starts the keeper and waits for its word, `speakers` passes an order
//! on, `down` ends the keeper. The keeper holds the namespaces and does nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use super::inherited::{Inherited, KeepArgs};
use super::inside::{DONE, KEEP};
use super::state::State;
use super::{Change, UpArgs, speakers};
use crate::{clock, sandbox};

/// Starts a cluster, writes its kubeconfig and leaves it running.
///
/// # Errors
///
/// If one runs already; or what went wrong and where the logs are. Nothing runs then.
pub fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let start = clock::now();
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and needs root");
    }
    for program in ["herald-kubernetes", "etcd"] {
        let program = args.shape.kubernetes.join(program);
        ensure!(program.is_file(), "{} is missing: run testbed/cluster", program.display());
    }
    if args.shape.speakers {
        speakers::kustomization(&args.shape.manifests)?;
    }
    // Told now, and not after all is up.
    let directory = match args.kubeconfig.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    ensure!(directory.is_dir(), "there is no directory {}", directory.display());
    let state = State::of_user();
    let mut lock = state.begin()?;
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let address = api.local_addr()?;
    let control = UnixListener::bind(state.control()).context("cannot make the control socket")?;
    let logs = File::open(state.logs()).context("cannot open the directory of logs")?;
    let (mut inner, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;

    let log = File::create(state.logs().join("cluster.log")).context("cannot make a log")?;
    let handed = Inherited { up: theirs, api, control, logs, lock: lock.file().try_clone()? };
    let mut command = Command::new("/proc/self/exe");
    let descriptors = handed.hand_to(&mut command);
    let keep = KeepArgs { shape: args.shape.clone(), descriptors, report: None };
    command.args(keep.repeated("keep")).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut keeper = command.spawn().context("cannot start the cluster's keeper")?;
    lock.name_keeper(keeper.id())?;
    // From here on only the keeper and those inside have them; an end of theirs is seen as such.
    drop(handed);

    let mut kubeconfig = Vec::new();
    inner.read_to_end(&mut kubeconfig).context("cannot hear from the cluster")?;
    if kubeconfig.is_empty() {
        let status = keeper.wait().context("cannot wait for the keeper")?;
        let said = fs::read_to_string(state.logs().join("cluster.log")).unwrap_or_default();
        bail!("the cluster did not come up ({status})\n{said}logs: {}", state.logs().display());
    }
    publish(&state, &args.kubeconfig, &kubeconfig)?;
    inner.write_all(&[KEEP]).context("the cluster has ended again")?;
    println!(
        "API server https://{address} with {} nodes, up in {:.1} s\nkubeconfig {}\nlogs {}",
        args.shape.nodes,
        start.elapsed().as_secs_f32(),
        args.kubeconfig.display(),
        state.logs().display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// The process that outlives `up`.
///
/// # Errors
///
/// If the namespaces cannot be made.
pub fn keep(args: &KeepArgs) -> anyhow::Result<ExitCode> {
    let (code, _) = sandbox::run(&args.repeated("inside"))?;
    // A failure is explained by the logs; any other end was asked for.
    if code != 1 {
        State::of_user().remove()?;
    }
    Ok(ExitCode::from(code))
}

/// Has the cluster start, stop or restart its speakers, and waits for that.
///
/// # Errors
///
/// If no cluster is up, or what the cluster says.
pub fn order(change: Change) -> anyhow::Result<ExitCode> {
    let mut stream = UnixStream::connect(State::of_user().control())
        .context("no cluster is up: start one with `testbed/cluster up --kubeconfig FILE`")?;
    let word = change.to_possible_value().context("not an order")?;
    writeln!(stream, "{}", word.get_name()).context("cannot pass the order on")?;
    let mut said = String::new();
    stream.read_to_string(&mut said).context("cannot hear from the cluster")?;
    ensure!(said == DONE, "{}", if said.is_empty() { "the cluster has ended" } else { &said });
    Ok(ExitCode::SUCCESS)
}

/// Ends the cluster and removes what it has written.
///
/// # Errors
///
/// If it does not end in time.
pub fn down() -> anyhow::Result<ExitCode> {
    let state = State::of_user();
    if !state.exists() {
        println!("no cluster is up");
        return Ok(ExitCode::SUCCESS);
    }
    if state.is_held()? {
        let keeper = state.keeper()?;
        // SAFETY: takes two numbers. The lock is held, so the keeper lives and the number is its.
        if unsafe { libc::kill(keeper, libc::SIGTERM) } != 0 {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("cannot end the keeper, process {keeper}"));
        }
        clock::await_for("the cluster ends", Duration::from_secs(20), || {
            Ok((!state.is_held()?).then_some(()))
        })?;
    }
    state.remove()?;
    Ok(ExitCode::SUCCESS)
}

/// For the administrator only; the path is kept so that `down` can remove the file again.
fn publish(state: &State, path: &Path, kubeconfig: &[u8]) -> anyhow::Result<()> {
    let write = |path: &Path| -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(path)?.write_all(kubeconfig)
    };
    for path in [path, &state.kubeconfig()] {
        write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let absolute = path.canonicalize().context("cannot tell where the kubeconfig is")?;
    fs::write(state.published(), absolute.as_os_str().as_encoded_bytes())
        .context("cannot note where the kubeconfig is")
}
