//! `herald speaker`: the process that runs on every node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use herald_leader_election::Timing;

use crate::allocator;
use crate::speaker::carriers::Choice;
use crate::speaker::{self, Config, Origin};

/// Run the speaker of this node: hold VIPs, answer for them, carry their traffic.
///
/// Reads Services, EndpointSlices, Nodes and pools from the API server, or from a directory of
/// manifests, and elects with the other speakers by raft. SIGTERM gives all VIPs to other nodes before it ends; the programs
/// in the kernel stay and forward on, and the next speaker adopts them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald speaker --node-name n1 --source /etc/herald --voters n1,n2,n3
  herald speaker --node-name n1 --kubeconfig /etc/herald/kubeconfig --voters n1,n2,n3
  herald speaker --node-name n1 --source /etc/herald --voters n1 --datapath off

The voters' addresses are the first InternalIP of their Nodes. Give the same --voters on
every node. The pin directory must be on a BPF filesystem (mount -t bpf bpf /sys/fs/bpf).")]
pub struct SpeakerArgs {
    /// This node, as its Node object is named.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
    /// Directory of manifests to read instead of an API server; it is watched.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    source: Option<PathBuf>,
    /// How to reach the API server; by default the one of the cluster this runs in.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Names of the nodes that elect, this one included.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', required = true)]
    voters: Vec<String>,
    /// Directory of the election's log; must survive a restart.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/herald")]
    state_dir: PathBuf,
    /// Directory of the status socket.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
    /// Directory on a BPF filesystem for programs and maps.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/herald")]
    pin_dir: PathBuf,
    /// Interface to announce on; repeat for more. Default: those with the node's addresses.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// How traffic is carried.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    datapath: Choice,
    /// The loadBalancerClass to serve; without it, Services that have no class.
    #[arg(long, value_name = "CLASS")]
    load_balancer_class: Option<String>,
    /// How often a session is renewed.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = super::duration)]
    heartbeat: Duration,
    /// How long a session lasts without renewal: the time after which a dead node's VIPs move.
    #[arg(long, value_name = "TIME", default_value = "600ms", value_parser = super::duration)]
    ttl: Duration,
    /// File with the key that all speakers of the cluster share: hexadecimal, base64 or any secret
    /// text. Their traffic is authenticated and encrypted with it; without it, it is neither.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// TCP port on which speakers talk to each other.
    #[arg(long, value_name = "PORT", default_value_t = 7946)]
    raft_port: u16,
    /// Address and port of an HTTP server with /metrics (Prometheus), /healthz and /readyz, such as
    /// 0.0.0.0:7947; none by default.
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

/// Runs the command until the speaker ends.
///
/// # Errors
///
/// What is missing, in one sentence; or the part that failed.
pub fn run(args: SpeakerArgs) -> anyhow::Result<ExitCode> {
    let config = Config {
        node: args.node_name,
        origin: match args.source {
            Some(directory) => Origin::Directory(directory),
            None => Origin::Kubernetes(args.kubeconfig),
        },
        voters: args.voters,
        state_dir: args.state_dir,
        run_dir: args.run_dir,
        pin_dir: args.pin_dir,
        interfaces: args.interface,
        datapath: args.datapath,
        allocator: allocator::Config { class: args.load_balancer_class },
        timing: Timing { heartbeat: args.heartbeat, ttl: args.ttl },
        key_file: args.key_file,
        raft_port: args.raft_port,
        metrics_listen: args.metrics_listen,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(speaker::run(config))?;
    Ok(ExitCode::SUCCESS)
}
