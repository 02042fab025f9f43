//! TCP connections a second between real sockets, on one CPU: client, node and pod, each with a
//! stack of its own. The node carries the Service by the data plane or by kube-proxy's rules.
//!
//! Two ways of carrying it by the data plane: alone, and with kube-proxy's rules loaded beside it,
//! as on a node whose kube-proxy still serves cluster addresses.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use herald_ebpf::{Mode, Wanted};

use super::hot::Loaded;
use super::pictures::{CLIENT, PEER, POD_PORT, PORT, Pods, picture, pod4, vip4};
use super::rows::{PER_SECOND, Program, Row};
use super::wire::{Wire, feed};
use super::{Scope, conntrack, keep, rules};
use crate::clock;
use crate::lab::bpf::index;

const ALONE: &str = "live_tcp_connections";
const BESIDE: &str = "live_tcp_connections_beside_nft";
/// How long a sample takes.
const SAMPLE: Duration = Duration::from_secs(2);
/// A connection that takes longer is not being carried.
const LIMIT: Duration = Duration::from_secs(10);

/// Measures the cases that are wanted.
///
/// # Errors
///
/// What the kernel or a tool refused; a connection that was not carried.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let cases = [
        (ALONE, Program::Herald, true, false),
        (ALONE, Program::Nft, false, true),
        (BESIDE, Program::Herald, true, true),
    ];
    for (name, program, has_herald, has_rules) in cases {
        if scope.wants(name) {
            let samples = run(scope, name, has_herald, has_rules)
                .with_context(|| format!("{name} of {}", program.label()))?;
            keep(rows, Row::of(name, program, PER_SECOND, samples));
        }
    }
    Ok(())
}

fn run(scope: &Scope, name: &str, has_herald: bool, has_rules: bool) -> anyhow::Result<Vec<f64>> {
    let wire = Wire::lay("")?;
    let samples = on(scope, name, &wire, has_herald, has_rules);
    for netns in [&wire.source, &wire.holder, &wire.node, &wire.pod] {
        crate::lab::netns::ip(&format!("netns del {}\n", netns.name()))?;
    }
    samples
}

fn on(
    scope: &Scope,
    name: &str,
    wire: &Wire,
    has_herald: bool,
    has_rules: bool,
) -> anyhow::Result<Vec<f64>> {
    let mac = |octets: [u8; 6]| octets.map(|octet| format!("{octet:02x}")).join(":");
    wire.source.ip(&format!(
        "addr add 192.168.1.100/24 dev w0\n\
         neigh add {} lladdr {} dev w0\n\
         route add {}/32 dev w0\n",
        vip4(0),
        mac(PEER),
        vip4(0)
    ))?;
    wire.node.ip(&format!("neigh add 192.168.1.100 lladdr {} dev eth0\n", mac(CLIENT)))?;
    let mut loaded = None;
    if has_herald {
        let data_plane = loaded.insert(Loaded::new(name)?);
        wire.node.inside(|| {
            let ifindex = index("eth0")?;
            let mut wanted = picture(ifindex, 1, 1, Pods::Here);
            wanted.links.insert(ifindex, PEER);
            wanted.peers.clear();
            data_plane.datapath.apply(&wanted)?;
            data_plane.datapath.attach("eth0", Wanted::Only(Mode::Native))?;
            Ok(())
        })?;
    }
    if has_rules {
        wire.node.inside(|| feed("nft", &["-f", "-"], &rules::nftables(1, 1)))?;
    }
    // A port that masquerading picks at random was another connection's a moment ago, whose TIME_WAIT
    // socket would refuse the newcomer's timestamps (RFC 7323 5.3): the client waits a second then, and
    // what is measured is the wait. The pod forgets connections at once.
    wire.pod.sysctl(&[("ipv4/tcp_max_tw_buckets", "0")])?;
    let listener = wire
        .pod
        .inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, POD_PORT)).context("cannot listen"))?;
    let vip = SocketAddr::from((vip4(0), PORT));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope_of_threads| {
        // The server closes first, so that the client's ports are free at once.
        let server = scope_of_threads.spawn(|| {
            for connection in listener.incoming() {
                drop(connection);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let samples = wire.source.inside(|| {
            (0..scope.samples() + 1)
                .map(|_| {
                    wire.node.inside(conntrack::flush)?;
                    connect(vip, if scope.quick { SAMPLE / 10 } else { SAMPLE })
                })
                .collect::<anyhow::Result<Vec<f64>>>()
        });
        is_over.store(true, Ordering::Relaxed);
        // One more connection, by which the server notices that it is over.
        let woken = wire.pod.inside(|| {
            let own = SocketAddr::from((pod4(0), POD_PORT));
            TcpStream::connect_timeout(&own, LIMIT).context("cannot end the server")
        });
        drop(woken?);
        let _ = server.join();
        // The first one warms up.
        Ok(samples?.split_off(1))
    })
}

/// Connections a second: each is opened, closed by the server, and closed.
fn connect(vip: SocketAddr, time: Duration) -> anyhow::Result<f64> {
    let begin = clock::now();
    let mut count = 0;
    while begin.elapsed() < time {
        let mut stream = TcpStream::connect_timeout(&vip, LIMIT)
            .with_context(|| format!("connection {count} was not carried"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let _ = stream.read(&mut [0; 1]).with_context(|| format!("connection {count} hangs"))?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
