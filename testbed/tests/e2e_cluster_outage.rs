//! The API server, and then etcd, does not answer for longer than any lease lasts, while the
//! speakers elect by raft beside it: at every bridge port each VIP is answered for all the time by
//! one and the same node, no packet is lost, and when it is back all is as before and changes are
//! followed again.
//!
//! The same outage with Leases deciding, which must end in silence, is in `e2e_lease`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::client::Transport;
use herald_testbed::clock;
use herald_testbed::cluster::objects::{ECHO, POOL};
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::e2e::in_cluster;
use herald_testbed::judge::Judge;
use herald_testbed::probe::Probe;
use herald_testbed::scenario::service;
use herald_testbed::watch::PACE;

/// With longer times than usual: that nobody loses its session must not depend on how busy this
/// machine is.
const RAFT: [&str; 4] = ["--election", "raft", "--profile", "calm"];
/// Longer than Kubernetes waits before it calls every node not ready, all at once.
const WITHOUT_API: Duration = Duration::from_secs(60);
/// Longer than a request to the API server may take.
const WITHOUT_ETCD: Duration = Duration::from_secs(15);
/// The longest wait for anything that a busy machine may make slow.
const LIMIT: Duration = Duration::from_secs(90);

const LATER: &str = "
apiVersion: v1
kind: Service
metadata: {name: later, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ports: [{name: tcp, protocol: TCP, port: 80, targetPort: 8080}]
";

#[test]
fn raft_speakers_go_on_without_the_api_server_and_without_etcd() -> anyhow::Result<()> {
    in_cluster("manifests", |cluster| {
        cluster.start(&RAFT)?;
        cluster.apply(POOL)?;
        cluster.apply(ECHO)?;
        let holders = cluster.announced(2, LIMIT)?;
        let vips: Vec<IpAddr> = holders.keys().copied().collect();
        let before = claims(cluster, &vips)?;
        let judge = Judge::begin(&cluster.lab, &vips, PACE)?;
        let mut probes = BTreeMap::new();
        for (vip, port) in vips.iter().zip(40_000..) {
            let server = service(*vip, Transport::Udp);
            probes.insert(*vip, Probe::paced(cluster.lab.netns("c1")?, server, port, PACE)?);
        }

        hangs(cluster, "kube-apiserver", WITHOUT_API, &before)?;
        cluster.apply(LATER)?;
        cluster.announced(vips.len() + 1, LIMIT)?;
        hangs(cluster, "etcd", WITHOUT_ETCD, &before)?;
        cluster.kubectl(&["delete", "service", "later"])?;
        cluster.announced(vips.len(), LIMIT)?;

        assert_eq!(claims(cluster, &vips)?, before, "a VIP moved");
        for (vip, probe) in probes {
            let outcome = probe.finish()?;
            assert_eq!(outcome.lost(), 0, "of {} to {vip}", outcome.sent());
            println!("{vip}: none of {} datagrams was lost", outcome.sent());
        }
        let seen = judge.end(|| cluster.status("n1"))?;
        for vip in &vips {
            assert_eq!(seen.asked(*vip)?.answered_twice(), 0, "{vip}");
        }
        seen.no_silence(&vips, Duration::from_secs(3))
    })
}

/// Stops a program of the control plane for so long; each holder may speak at every moment of it.
fn hangs(
    cluster: &mut Cluster,
    program: &str,
    time: Duration,
    before: &BTreeMap<IpAddr, (String, u64)>,
) -> anyhow::Result<()> {
    let vips: Vec<IpAddr> = before.keys().copied().collect();
    cluster.plane.signal(program, libc::SIGSTOP)?;
    let stopped = clock::now();
    let mut asked = 0;
    while asked == 0 || stopped.elapsed() < time {
        cluster.speakers.check()?;
        for (vip, (holder, _)) in before {
            let own = cluster.status(holder)?;
            let is_announced = own.vip(*vip).is_some_and(|vip| vip.announcing);
            ensure!(is_announced, "{holder} does not announce {vip} any more");
            ensure!(own.election.deadline_ms.is_some(), "{holder} may not speak");
        }
        assert_eq!(claims(cluster, &vips)?, *before, "a VIP moved while {program} was stopped");
        asked += 1;
        clock::pause(Duration::from_millis(500));
    }
    cluster.plane.signal(program, libc::SIGCONT)?;
    println!("{program} stopped for {:?}: asked {asked} times, nothing moved", stopped.elapsed());
    cluster.wait("the API server answers", LIMIT, |cluster| {
        Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).ok())
    })?;
    Ok(())
}

/// Who holds each VIP in which term, as the first node sees it.
fn claims(cluster: &Cluster, vips: &[IpAddr]) -> anyhow::Result<BTreeMap<IpAddr, (String, u64)>> {
    let status = cluster.status("n1")?;
    let claim = |vip: &IpAddr| {
        let seen = status.vip(*vip).with_context(|| format!("{vip} is unknown"))?;
        let holder = seen.holder.clone().with_context(|| format!("{vip} has no holder"))?;
        Ok((*vip, (holder, seen.term)))
    };
    vips.iter().map(claim).collect()
}
