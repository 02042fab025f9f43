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

/// Measures the cases that are wanted. They take turns, so that a machine that grows slower does so
/// for all of them.
///
/// # Errors
///
/// What the kernel or a tool refused; a connection that was not carried.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let cases = [
        Case { name: ALONE, program: Program::Herald, has_herald: true, has_rules: false },
        Case { name: ALONE, program: Program::Nft, has_herald: false, has_rules: true },
        Case { name: BESIDE, program: Program::Herald, has_herald: true, has_rules: true },
    ];
    let mut rigs = Vec::new();
    for (number, case) in cases.into_iter().enumerate().filter(|(_, it)| scope.wants(it.name)) {
        rigs.push(Rig::lay(number, case).with_context(|| case.label())?);
    }
    let measured = turns(scope, &rigs);
    for rig in &rigs {
        rig.remove()?;
    }
    for (rig, samples) in rigs.iter().zip(measured?) {
        keep(rows, Row::of(rig.case.name, rig.case.program, PER_SECOND, samples));
    }
    Ok(())
}

/// One way of carrying the Service.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    program: Program,
    has_herald: bool,
    has_rules: bool,
}

impl Case {
    fn label(&self) -> String {
        format!("{} of {}", self.name, self.program.label())
    }
}

/// It on wires of its own, with a server in the pod.
struct Rig {
    case: Case,
    wire: Wire,
    listener: TcpListener,
    _loaded: Option<Loaded>,
}

/// Connections a second of each, turn by turn.
fn turns(scope: &Scope, rigs: &[Rig]) -> anyhow::Result<Vec<Vec<f64>>> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for rig in rigs {
            // The server closes first, so that the client's ports are free at once.
            threads.spawn(|| {
                for connection in rig.listener.incoming() {
                    drop(connection);
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let measure = || {
            let mut samples = vec![Vec::new(); rigs.len()];
            // The first turn warms up.
            for turn in 0..=scope.samples() {
                for (rig, samples) in rigs.iter().zip(&mut samples) {
                    let rate = rig.sample(scope).with_context(|| rig.case.label())?;
                    samples.extend((turn > 0).then_some(rate));
                }
            }
            anyhow::Ok(samples)
        };
        let samples = measure();
        is_over.store(true, Ordering::Relaxed);
        let woken: Vec<_> = rigs.iter().map(Rig::wake).collect();
        woken.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        samples
    })
}

impl Rig {
    fn lay(number: usize, case: Case) -> anyhow::Result<Self> {
        let wire = Wire::lay(&format!("tcp{number}-"))?;
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
        let loaded = case.has_herald.then(|| carry(&wire, number)).transpose()?;
        if case.has_rules {
            wire.node.inside(|| feed("nft", &["-f", "-"], &rules::nftables(1, 1)))?;
        }
        // A port that masquerading picks at random was another connection's a moment ago, whose
        // TIME_WAIT socket would refuse the newcomer's timestamps (RFC 7323 5.3): the client waits
        // a second then, and what is measured is the wait. The pod forgets connections at once.
        wire.pod.sysctl(&[("ipv4/tcp_max_tw_buckets", "0")])?;
        let any = (Ipv4Addr::UNSPECIFIED, POD_PORT);
        let listener = wire.pod.inside(|| TcpListener::bind(any).context("cannot listen"))?;
        Ok(Self { case, wire, listener, _loaded: loaded })
    }

    fn sample(&self, scope: &Scope) -> anyhow::Result<f64> {
        self.wire.node.inside(conntrack::flush)?;
        let vip = SocketAddr::from((vip4(0), PORT));
        let time = if scope.quick { SAMPLE / 10 } else { SAMPLE };
        self.wire.source.inside(|| connect(vip, time))
    }

    /// One more connection, by which the server notices that it is over.
    fn wake(&self) -> anyhow::Result<()> {
        self.wire.pod.inside(|| {
            let own = SocketAddr::from((pod4(0), POD_PORT));
            TcpStream::connect_timeout(&own, LIMIT).context("cannot end the server").map(drop)
        })
    }

    fn remove(&self) -> anyhow::Result<()> {
        let Wire { source, holder, node, pod } = &self.wire;
        for netns in [source, holder, node, pod] {
            crate::lab::netns::ip(&format!("netns del {}\n", netns.name()))?;
        }
        Ok(())
    }
}

/// Puts the data plane on the node.
fn carry(wire: &Wire, number: usize) -> anyhow::Result<Loaded> {
    let mut loaded = Loaded::new(&format!("tcp{number}"))?;
    wire.node.inside(|| {
        let ifindex = index("eth0")?;
        let mut wanted = picture(ifindex, 1, 1, Pods::Here);
        wanted.links.insert(ifindex, PEER);
        wanted.peers.clear();
        loaded.datapath.apply(&wanted)?;
        loaded.datapath.attach("eth0", Wanted::Only(Mode::Native))?;
        Ok(())
    })?;
    Ok(loaded)
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
