//! `herald speaker`: the process that runs on every node.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod election;

use anyhow::Context;
use clap::Args;
use herald_ebpf::common::sample::{EVERY, MAX_EVERY};

use crate::allocator;
use crate::cli::DefaultIpam;
use crate::source;
use crate::speaker::carriers::Choice;
use crate::speaker::{self, Config, Origin};

/// Run the speaker of this node: hold VIPs, answer for them, carry their traffic.
///
/// Reads Services, EndpointSlices, Nodes and pools from the API server, or from a directory of
/// manifests, and elects with the other speakers: by Leases in the API server, or by raft among
/// themselves. SIGTERM gives all VIPs to other nodes before it ends; the programs in the kernel
/// stay and forward on, and the next speaker adopts them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald speaker --node-name n1                  # in a pod: by Leases of the cluster around it
  herald speaker --node-name n1 --election raft --key-file /etc/herald/key
  herald speaker --node-name n1 --source /etc/herald
  herald speaker --node-name n1 --source /etc/herald --voters n1,n2,n3 --datapath off

Leases need nothing but the API server; a dead node's VIPs move after --lease-ttl, and all fall
silent while the API server is away for longer. Raft needs neither, and moves them within a second.
To change from one to the other, set --election and restart all speakers: no two kinds speak at
once.

With raft, speakers reach each other at the first InternalIP of their Nodes. Three nodes vote, five
from five nodes on, and one of two; members come and go with their Nodes. Give the same --voters, or
none, on every node. The pin directory must be on a BPF filesystem (mount -t bpf bpf /sys/fs/bpf).")]
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
    /// Namespace of Herald's own objects in the API server, Leases among them.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "herald-system")]
    namespace: String,
    #[command(flatten)]
    election: election::ElectionArgs,
    /// Directory of the status socket.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
    /// Directory on a BPF filesystem for programs and maps; not used with --datapath off.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/herald")]
    pin_dir: PathBuf,
    /// Interface to announce on; repeat for more. Default: those with the node's addresses.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// How traffic is carried.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    datapath: Choice,
    /// How long after a Service's backends changed the connections that were open before stay with
    /// their old one, where a new one has taken its place for new connections: from 1s to 7d. Those
    /// open for longer are cut off when it is over, and need to connect anew. Until then the
    /// changed part of the table keeps an entry for each of its connections, 32768 on a node. Of no
    /// effect with --datapath off.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = drain_time)]
    drain_time: Duration,
    /// Sample one packet of so many for `herald flows`, `herald status` and metrics, at random; at
    /// most 32 a second and CPU. 0 samples none, 1 all up to that; the others get no slower. None
    /// are sampled with --datapath off.
    #[arg(long, value_name = "PACKETS", default_value_t = EVERY, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_EVERY)))]
    flow_samples: u32,
    /// The only loadBalancerClass to serve; without it, Services that have no class, and the
    /// classes herald.io/herald, io.cilium/l2-announcer and io.cilium/bgp-control-plane (addresses
    /// only).
    #[arg(long, value_name = "CLASS", visible_alias = "lb-class")]
    load_balancer_class: Option<String>,
    /// Who gives addresses to Services without a class, as Cilium's option of this name.
    #[arg(long, value_enum, default_value_t, conflicts_with = "load_balancer_class")]
    default_lb_service_ipam: DefaultIpam,
    /// Namespace whose IPAddressPools and L2Advertisements count; repeat for more.
    #[arg(
        long,
        visible_alias = "pool-namespaces",
        value_name = "NAME",
        value_delimiter = ',',
        default_values_t = source::kubernetes::Config::default().pool_namespaces
    )]
    pool_namespace: Vec<String>,
    /// Let nodes take part that are labelled
    /// node.kubernetes.io/exclude-from-external-load-balancers.
    #[arg(long)]
    ignore_exclude_lb: bool,
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
    let election = args.election.judge(args.source.is_some())?;
    let config = Config {
        election: election.election,
        namespace: args.namespace,
        node: args.node_name,
        origin: match args.source {
            Some(directory) => Origin::Directory(directory),
            None => Origin::Kubernetes(args.kubeconfig),
        },
        voters: election.voters,
        state_dir: election.state_dir,
        run_dir: args.run_dir,
        pin_dir: args.pin_dir,
        interfaces: args.interface,
        datapath: args.datapath,
        drain: args.drain_time,
        flow_samples: args.flow_samples,
        allocator: allocator::Config {
            class: args.load_balancer_class,
            classless: args.default_lb_service_ipam.into(),
        },
        timing: election.timing,
        patience: election.patience,
        key_file: election.key_file,
        raft_port: election.raft_port,
        metrics_listen: args.metrics_listen,
        reading: source::kubernetes::Config {
            pool_namespaces: args.pool_namespace,
            options: source::Options { ignores_exclude_label: args.ignore_exclude_lb },
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(speaker::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// A drain time that does some good and ends some day.
fn drain_time(text: &str) -> Result<Duration, String> {
    let time = super::duration(text)?;
    match DRAIN_TIMES.contains(&time) {
        true => Ok(time),
        false => Err("it may be from 1s to 7d".to_owned()),
    }
}

/// What `--drain-time` may be.
const DRAIN_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        speaker: SpeakerArgs,
    }

    fn parse(line: &str) -> Result<SpeakerArgs, clap::Error> {
        let words = ["herald", "--node-name=n1"].into_iter().chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.speaker)
    }

    #[test]
    fn pools_count_in_metallbs_namespace_and_heralds_own_unless_told_otherwise() {
        for (line, wanted) in [
            ("", &["metallb-system", "herald-system"][..]),
            ("--pool-namespace a", &["a"]),
            ("--pool-namespace a,b --pool-namespace c", &["a", "b", "c"]),
        ] {
            assert_eq!(parse(line).unwrap().pool_namespace, wanted, "{line:?}");
        }
    }

    #[test]
    fn says_who_serves_services_without_a_class() {
        for (line, wanted) in [
            ("", DefaultIpam::Lbipam),
            ("--default-lb-service-ipam lbipam", DefaultIpam::Lbipam),
            ("--default-lb-service-ipam none", DefaultIpam::None),
        ] {
            assert_eq!(parse(line).unwrap().default_lb_service_ipam, wanted, "{line:?}");
        }
        assert!(parse("--default-lb-service-ipam none --lb-class x").is_err());
        assert!(parse("--default-lb-service-ipam nodeipam").is_err(), "not what Herald does");
    }

    fn drain_of(flags: &[&str]) -> Option<Duration> {
        let line = [&["speaker", "--node-name", "n1"], flags].concat();
        Line::try_parse_from(line).ok().map(|line| line.speaker.drain_time)
    }

    #[test]
    fn drains_for_a_quarter_of_an_hour_unless_told_otherwise() {
        assert_eq!(drain_of(&[]), Some(herald_ebpf::DRAIN));
        assert_eq!(drain_of(&["--drain-time", "90s"]), Some(Duration::from_secs(90)));
        for refused in ["0s", "999ms", "8d", "10", "soon"] {
            assert_eq!(drain_of(&["--drain-time", refused]), None, "{refused}");
        }
    }
}
