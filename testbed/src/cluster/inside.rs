//! The cluster's first process (edge): builds the lab and the control plane in its private
//! namespaces, says when both are up, then takes orders. It ends when a part of the control plane
//! ends, or when `up` dies before it is done; everything in its namespaces ends with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;

use super::control_plane::{Extent, HOST, PORT, keys};
use super::inherited::{Inherited, KeepArgs};
use super::whole::{Cluster, Plan};
use super::{Change, relay};
use crate::sandbox;

/// What `up` says when it has all it wanted.
pub const KEEP: u8 = b'k';

/// An order, and where its outcome goes.
type Order = (Change, UnixStream);

/// Runs the cluster.
///
/// # Errors
///
/// What could not be made; or which part has ended.
pub fn run(args: KeepArgs) -> anyhow::Result<ExitCode> {
    let Inherited { mut up, api, control, logs, lock: _lock } = args.take()?;
    sandbox::enter_as_first_process()?;
    // The directory itself may lie below /run, where this process sees another one.
    let log_directory = PathBuf::from(format!("/proc/self/fd/{}", logs.as_raw_fd()));
    end_with(up.try_clone().context("cannot watch over `up`")?);

    let outside = api.local_addr().context("cannot tell the port of the API server")?;
    let mut cluster = Cluster::build(&Plan {
        kubernetes: args.shape.kubernetes,
        manifests: args.shape.manifests,
        logs: log_directory,
        nodes: args.shape.nodes,
        outside,
        extent: Extent::Usual,
    })?;
    relay::start(api, cluster.plane.netns.clone(), SocketAddr::new(HOST.v4().into(), PORT));
    if args.shape.speakers {
        cluster.change(Change::Start)?;
    }
    let kubeconfig =
        std::fs::read(keys().join("admin.kubeconfig")).context("cannot read the kubeconfig")?;
    up.write_all(&kubeconfig).context("cannot hand the kubeconfig out")?;
    up.shutdown(Shutdown::Write).context("cannot hand the kubeconfig out")?;

    let (sender, orders) = channel();
    std::thread::spawn(move || take_orders(&control, &sender));
    obey(&orders, &mut cluster)
}

/// Until `up` has said that it got what it wanted, its end, by an interrupt or otherwise, is ours.
fn end_with(mut up: UnixStream) {
    std::thread::spawn(move || {
        let mut word = [0];
        if up.read_exact(&mut word).is_err() || word[0] != KEEP {
            // The kernel ends all other processes in here, this being the first.
            std::process::exit(0);
        }
    });
}

/// One order per connection, a line each way. Speakers are started by the main thread, because
/// they are made to end with the thread that starts them.
fn take_orders(control: &UnixListener, orders: &Sender<Order>) {
    loop {
        let Ok((stream, _)) = control.accept() else { continue };
        let mut line = String::new();
        // Whoever says nothing must not keep others waiting for ever.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = BufReader::new(&stream).read_line(&mut line);
        match Change::from_str(line.trim(), false) {
            Err(error) => answer(&stream, &error),
            Ok(change) => {
                if orders.send((change, stream)).is_err() {
                    return;
                }
            }
        }
    }
}

fn obey(orders: &Receiver<Order>, cluster: &mut Cluster) -> anyhow::Result<ExitCode> {
    loop {
        match orders.recv_timeout(Duration::from_millis(500)) {
            Ok((change, stream)) => match cluster.change(change) {
                Ok(()) => answer(&stream, DONE),
                Err(error) => answer(&stream, &format!("{error:#}")),
            },
            Err(RecvTimeoutError::Timeout) => cluster.plane.check()?,
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the control socket has gone"),
        }
    }
}

fn answer(mut stream: &UnixStream, text: &str) {
    // Who asked may have gone; what was asked for is done all the same.
    let _ = stream.write_all(text.as_bytes());
}

/// The answer to an order that was carried out.
pub const DONE: &str = "done";
