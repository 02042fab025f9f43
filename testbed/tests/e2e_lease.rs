//! Leases in a real API server decide who speaks: one holder, read off `kubectl get leases`;
//! another one when its node is cut off, hangs or is drained, by itself when asked to end; silence
//! while the API server or etcd is away for longer than the ttl, and of a second speaker under one
//! name, with one voice at every instant at every bridge port; and writes that do not grow with
//! VIPs.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

#[path = "e2e_lease/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::client::{self, Transport};
use herald_testbed::clock;
use herald_testbed::cluster::audit::Audit;
use herald_testbed::cluster::objects::{ECHO, POOL};
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::e2e::{in_cluster, in_large_cluster};
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::{host, node_of, nodes};
use herald_testbed::probe::Probe;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::service;
use herald_testbed::tap::Tap;
use herald_testbed::watch::PACE;
use serde_json::{Value, json};

/// Herald's own default; a machine that is busy gets a multiple of it.
const TTL: Duration = Duration::from_secs(5);
const TRIAL: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/trial";
/// The longest wait for anything that takes a ttl.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn leases_in_a_real_api_server_decide_who_speaks() -> anyhow::Result<()> {
    in_cluster("manifests", |cluster| {
        cluster.start(&[])?;
        cluster.apply(POOL)?;
        cluster.apply(ECHO)?;
        let holders = cluster.announced(2, LIMIT * 3)?;
        assert_eq!(cluster.status("n1")?.election.backend, "lease");
        let vips: Vec<IpAddr> = holders.keys().copied().collect();
        let judge = Judge::begin(&cluster.lab, &vips, PACE)?;
        the_table_says_who_holds_what(cluster, &holders)?;
        the_api_server_refuses_what_the_election_must_not_write(cluster)?;
        let (vip, holder) = holders.into_iter().find(|(vip, _)| vip.is_ipv4()).unwrap();
        a_node_that_is_cut_off_is_replaced(cluster, vip, &holder)?;
        all_are_silent_while_it_hangs(cluster, "kube-apiserver", TTL * 3, vip)?;
        all_are_silent_while_it_hangs(cluster, "etcd", TTL * 2, vip)?;
        process::a_killed_holder_starts_anew_without_loss(cluster, vip)?;
        process::a_drained_holder_hands_over_without_loss(cluster, vip)?;
        process::a_holder_that_hangs_takes_nothing_back(cluster, vip)?;
        let (old, new) = a_speaker_that_ends_hands_over(cluster, vip)?;
        a_second_speaker_under_one_name_is_silent(cluster, vip, &old, &new)?;
        judge.end(|| cluster.status(&new)).map(drop)
    })
}

fn the_table_says_who_holds_what(
    cluster: &Cluster,
    holders: &BTreeMap<IpAddr, String>,
) -> anyhow::Result<()> {
    let table = cluster.kubectl(&["get", "leases", "-n", "herald-system"])?;
    println!("{table}");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAME", "HOLDER", "AGE"]);
    let shown: BTreeMap<&str, &str> = lines.map(|words| (words[0], words[1])).collect();
    let mut wanted: BTreeMap<String, String> =
        nodes().map(|node| (format!("node-{node}"), node)).collect();
    for (vip, holder) in holders {
        let name = match vip {
            IpAddr::V4(vip) => format!("vip-{vip}"),
            IpAddr::V6(_) => "vip-fd00-1--f0".to_owned(),
        };
        wanted.insert(name, holder.clone());
    }
    let allocator = shown.get("allocator").context("nobody may allocate")?;
    assert!(nodes().any(|node| node == **allocator), "{allocator}");
    wanted.insert("allocator".into(), (*allocator).to_owned());
    let wanted: BTreeMap<&str, &str> =
        wanted.iter().map(|(name, holder)| (name.as_str(), holder.as_str())).collect();
    assert_eq!(shown, wanted);
    Ok(())
}

/// What the edge relies on: a PUT with uid and resourceVersion changes that very object or nothing,
/// and never creates one anew.
fn the_api_server_refuses_what_the_election_must_not_write(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    cluster.apply(
        r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "trial", "namespace": "default"}}"#,
    )?;
    let replace =
        |seen: &str| cluster.plane.kubectl(&["replace", "--raw", TRIAL, "-f", "-"], Some(seen));
    let seen = cluster.kubectl(&["get", "--raw", TRIAL])?;
    let changed = seen.replace(r#""spec":{"#, r#""spec":{"holderIdentity":"n1""#);
    ensure!(changed != seen, "not a Lease as expected: {seen}");
    replace(&changed)?;
    let refused = replace(&seen).unwrap_err().to_string();
    assert!(refused.contains("modified"), "{refused}");
    let seen = cluster.kubectl(&["get", "--raw", TRIAL])?;
    cluster.kubectl(&["delete", "--raw", TRIAL])?;
    let refused = replace(&seen).unwrap_err().to_string();
    assert!(refused.contains("Precondition failed: UID"), "{refused}");
    Ok(())
}

fn a_node_that_is_cut_off_is_replaced(
    cluster: &mut Cluster,
    vip: IpAddr,
    old: &str,
) -> anyhow::Result<()> {
    assert_eq!(who_has(&cluster.lab, vip)?, [host(old).unwrap().mac()]);
    request(cluster, vip)?;
    let witness = nodes().find(|node| node != old).unwrap();
    let term = cluster.status(&witness)?.vip(vip).unwrap().term;

    let tap = Tap::at("c1", &[])?;
    cluster.lab.cut(old)?;
    let cut = clock::now();
    let new = cluster.wait("another node holds the VIP", LIMIT, |cluster| {
        let holder = cluster.status(&witness)?.vip(vip).and_then(|vip| vip.holder.clone());
        Ok(holder.filter(|holder| holder != old))
    })?;
    let held = cut.elapsed();
    cluster.wait("the client is served again", LIMIT, |cluster| Ok(request(cluster, vip).ok()))?;
    println!(
        "cut off {old}: {new} holds after {held:?}, the client is served after {:?}",
        cut.elapsed()
    );
    assert_eq!(cluster.status(&witness)?.vip(vip).unwrap().term, term + 1);
    let silent = cluster.status(old)?;
    assert!(!silent.vip(vip).is_some_and(|vip| vip.announcing), "{old} believes it may speak");

    cluster.lab.heal(old)?;
    let healed = clock::now();
    cluster.wait("the returned node has a session", LIMIT, |cluster| {
        let seen = |node: &str| Some(cluster.status(node).ok()?.open_session(old)?.epoch);
        let (others, own) = (seen(&new), seen(old));
        Ok((others.is_some() && others == own).then_some(()))
    })?;
    println!("healed {old}: a session after {:?}", healed.elapsed());
    cluster.wait("all see the same holder", LIMIT, |cluster| {
        let holds = |node: String| cluster.status(&node).ok()?.vip(vip)?.holder.clone();
        Ok(nodes().all(|node| holds(node).as_ref() == Some(&new)).then_some(()))
    })?;
    assert_eq!(who_has(&cluster.lab, vip)?, [host(&new).unwrap().mac()], "it takes nothing back");

    let capture = tap.finish()?;
    assert_eq!(capture.missed, 0);
    let of = |node: &str| {
        let voices = capture.voices_for(vip).filter(move |v| node_of(v.mac) == Some(node));
        voices.map(|voice| voice.at).collect::<Vec<_>>()
    };
    let begin = *of(&new).first().with_context(|| format!("{new} never announced itself"))?;
    for node in nodes().filter(|node| *node != new) {
        assert!(of(&node).into_iter().all(|at| at < begin), "{node} spoke beside {new}");
    }
    Ok(())
}

/// Stops the API server or etcd for some ttls. With Leases deciding nobody may speak from one ttl
/// on, and nobody does until it goes on: a minute would show nothing that three ttl do not. That
/// speakers which elect by raft go on through a minute of it is shown in `e2e_cluster_outage`. What
/// was asked of it before is done when it goes on, late.
fn all_are_silent_while_it_hangs(
    cluster: &mut Cluster,
    program: &str,
    time: Duration,
    vip: IpAddr,
) -> anyhow::Result<()> {
    let holder = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
    let mac = host(&holder).unwrap().mac();
    cluster.plane.signal(program, libc::SIGSTOP)?;
    let stopped = clock::now();
    // Until its own deadline the holder goes on: what was heard before the deadline is an answer.
    let answers = who_has(&cluster.lab, vip)?;
    if cluster.status(&holder)?.election.deadline_ms.is_some() {
        assert_eq!(answers, [mac], "the holder gave up before its deadline");
    }
    let mut before = String::new();
    cluster.wait("nobody may speak", LIMIT, |cluster| {
        let mut silent = true;
        for node in nodes() {
            silent &= cluster.status(&node)?.election.deadline_ms.is_none();
        }
        let words = outage(&cluster.speakers.status_text(&holder)?);
        if let Some(text) = words.filter(|text| text.contains("unless")) {
            before = text;
        }
        Ok(silent.then_some(()))
    })?;
    println!("{program} stopped: all silent after {:?}; before that: {before}", stopped.elapsed());
    let mut asked = 0;
    while asked < 5 || stopped.elapsed() < time {
        assert_eq!(who_has(&cluster.lab, vip)?, [], "somebody speaks past its deadline");
        asked += 1;
    }
    let words = cluster.speakers.status_text(&holder)?;
    println!("{}", words.lines().take(2).collect::<Vec<_>>().join("\n"));
    assert!(
        words.starts_with(&format!("node {holder}: may not speak now; lease in herald-system"))
    );
    let said = outage(&words).context("not a word about the outage")?;
    assert!(said.contains("silent until it does"), "{said}");

    cluster.plane.signal(program, libc::SIGCONT)?;
    let returned = clock::now();
    let first = cluster.wait("somebody answers again", LIMIT, |cluster| {
        let answers = who_has(&cluster.lab, vip)?;
        ensure!(answers.len() <= 1, "two voices: {answers:?}");
        Ok(answers.first().copied())
    })?;
    println!("{program} back: {} answers after {:?}", node_of(first).unwrap(), returned.elapsed());
    cluster.announced(2, LIMIT * 3)?;
    let end = clock::now() + TTL;
    while clock::now() < end {
        assert_eq!(who_has(&cluster.lab, vip)?.len(), 1, "exactly one speaks");
    }
    Ok(())
}

/// From which node to which.
fn a_speaker_that_ends_hands_over(
    cluster: &mut Cluster,
    vip: IpAddr,
) -> anyhow::Result<(String, String)> {
    let old = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
    cluster.speakers.stop_on(&old, LIMIT)?;
    let witness = nodes().find(|node| *node != old).unwrap();
    let new = cluster.status(&witness)?.vip(vip).and_then(|vip| vip.holder.clone());
    let new = new.filter(|new| *new != old).context("nobody holds it though its holder left")?;
    cluster.wait("the new holder answers, alone", LIMIT, |cluster| {
        Ok((who_has(&cluster.lab, vip)? == [host(&new).unwrap().mac()]).then_some(()))
    })?;
    request(cluster, vip)?;
    let name = format!("node-{old}");
    let session = lease(cluster, &name)?;
    assert_eq!(session["spec"]["holderIdentity"], Value::Null, "{session}");
    assert_eq!(session["metadata"]["annotations"]["herald.io/state"], "closed");
    Ok((old, new))
}

/// On a machine whose speaker has ended, one is started under the name of a holder; that it is not
/// that node's machine is not noticed by its addresses, for its interface is named.
fn a_second_speaker_under_one_name_is_silent(
    cluster: &mut Cluster,
    vip: IpAddr,
    machine: &str,
    name: &str,
) -> anyhow::Result<()> {
    let flags = ["--interface", "eth0"];
    cluster.speakers.start_as(name, machine, &flags, &cluster.lab, &cluster.plane)?;
    cluster.wait("it says that it waits", LIMIT, |cluster| {
        let status = cluster.speakers.status_text(machine).unwrap_or_default();
        Ok(status.contains("duplicate_name").then_some(()))
    })?;
    println!("{}", cluster.speakers.status_text(machine)?);
    let begun = clock::now();
    while begun.elapsed() < TTL * 2 {
        let double = cluster.status(machine)?;
        assert!(double.vips.iter().all(|vip| !vip.announcing), "the double speaks");
        assert!(who_has(&cluster.lab, vip)?.len() <= 1, "two voices");
    }
    Ok(())
}

/// Raft decides, and the same table shows what it decided.
#[test]
fn what_raft_decides_is_shown_as_leases() -> anyhow::Result<()> {
    in_cluster("manifests", |cluster| {
        // As in the DaemonSet; the voters are chosen among the Nodes.
        cluster.start(&["--election", "raft"])?;
        cluster.apply(POOL)?;
        cluster.apply(ECHO)?;
        let holders = cluster.announced(2, LIMIT * 3)?;
        assert_eq!(cluster.status("n1")?.election.backend, "raft");
        mirrored(cluster, &holders)?;
        println!("{}", cluster.kubectl(&["get", "leases", "-n", "herald-system"])?);
        the_overlay_gives_each_speaker_the_key(cluster)?;

        let (vip, old) = holders.iter().next().context("no VIP")?;
        cluster.speakers.stop_on(old, LIMIT)?;
        let witness = nodes().find(|node| node != old).unwrap();
        let moved = cluster.wait("another node holds it", LIMIT, |cluster| {
            let holders = cluster.status(&witness)?.holders();
            let moved = holders.len() == 2 && holders.values().all(|holder| holder != old);
            Ok(moved.then_some(holders))
        })?;
        assert_ne!(moved[vip], *old);
        mirrored(cluster, &moved)?;

        cluster.kubectl(&["delete", "service", "echo"])?;
        mirrored(cluster, &BTreeMap::new())?;
        a_speaker_that_elects_in_another_way_waits(cluster, *vip, old)
    })
}

/// `manifests/raft`, as far as it can be seen without running its Pods.
fn the_overlay_gives_each_speaker_the_key(cluster: &Cluster) -> anyhow::Result<()> {
    let overlay = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/raft");
    let rendered = cluster.kubectl(&["kustomize", overlay])?;
    for part in [
        "--election=raft",
        "--key-file=/etc/herald/key",
        "mountPath: /etc/herald",
        "secretName: herald-key",
    ] {
        ensure!(rendered.contains(part), "{part} is not in manifests/raft:\n{rendered}");
    }
    Ok(())
}

/// While `--election` is being changed: `one`, which is stopped, comes back by Leases.
fn a_speaker_that_elects_in_another_way_waits(
    cluster: &mut Cluster,
    vip: IpAddr,
    one: &str,
) -> anyhow::Result<()> {
    let waits = |cluster: &mut Cluster, node: &str| {
        cluster.wait("it says that it waits for the others", LIMIT, |cluster| {
            let status = cluster.speakers.status_text(node).unwrap_or_default();
            Ok(status.contains("other_back_end").then_some(()))
        })
    };
    let speaks = |cluster: &mut Cluster, node: &str| {
        cluster.wait(&format!("{node} speaks alone"), LIMIT, |cluster| {
            let Ok(status) = cluster.status(node) else { return Ok(false.then_some(())) };
            let is_announced = status.vip(vip).is_some_and(|vip| vip.announcing);
            let mac = host(node).unwrap().mac();
            Ok((is_announced && who_has(&cluster.lab, vip)? == [mac]).then_some(()))
        })
    };
    let others: Vec<String> = nodes().filter(|node| node != one).collect();
    cluster.apply(ECHO)?;
    let holder = cluster.wait("raft's speakers hold it", LIMIT, |cluster| {
        let status = cluster.status(&others[0])?;
        Ok(status.vip(vip).and_then(|vip| vip.holder.clone()))
    })?;
    speaks(cluster, &holder)?;
    cluster.speakers.start(&[], &cluster.lab, &cluster.plane)?;
    waits(cluster, one)?;
    speaks(cluster, &holder)?;
    for node in &others {
        cluster.speakers.stop_on(node, LIMIT)?;
    }
    speaks(cluster, one)?;
    let raft = ["--election", "raft"];
    cluster.speakers.start(&raft, &cluster.lab, &cluster.plane)?;
    waits(cluster, &others[0])?;
    speaks(cluster, one)
}

/// Waits until the Leases of VIPs are these, with these holders.
fn mirrored(cluster: &mut Cluster, holders: &BTreeMap<IpAddr, String>) -> anyhow::Result<()> {
    let mut wanted: Vec<String> = Vec::new();
    for (vip, holder) in holders {
        let name = vip.to_string().replace(':', "-");
        wanted.push(format!("vip-{name} {holder} raft"));
    }
    wanted.sort();
    let mut shown = Vec::new();
    let reached = cluster.wait("the Leases show the holders", LIMIT, |cluster| {
        let list = cluster.get(&["leases", "-n", "herald-system"])?;
        shown.clear();
        for lease in list["items"].as_array().into_iter().flatten() {
            let words = [
                &lease["metadata"]["name"],
                &lease["spec"]["holderIdentity"],
                &lease["metadata"]["labels"]["herald.io/decided-by"],
            ];
            let words = words.map(|word| word.as_str().unwrap_or("-")).join(" ");
            if words.starts_with("vip-") {
                shown.push(words);
            }
        }
        shown.sort();
        Ok((shown == wanted).then_some(()))
    });
    reached.with_context(|| format!("wanted {wanted:?}, last seen {shown:?}"))
}

/// More VIPs, the same steady cost: after all is settled, Herald writes nothing but renewals, by
/// the API server's own record.
#[test]
fn writes_do_not_grow_with_vips() -> anyhow::Result<()> {
    const VIPS: usize = 200;
    const RENEWALS: u64 = 30;
    in_large_cluster("manifests", |cluster| {
        cluster.start(&[])?;
        cluster.apply(&POOL.replace("fd00:1::f0-fd00:1::ff", "fd00:1::1:0/112"))?;
        let services = (0..VIPS).map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("echo-{number}"), "namespace": "default"},
                "spec": {
                    "type": "LoadBalancer", "selector": {"app": "echo"}, "ipFamilies": ["IPv6"],
                    "allocateLoadBalancerNodePorts": false,
                    "ports": [{"port": 80, "targetPort": 8080}],
                },
            })
        });
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": services.collect::<Vec<_>>()});
        let begin = clock::now();
        cluster.plane.kubectl(&["create", "-f", "-"], Some(&list.to_string()))?;
        println!("{VIPS} Services created in {:.1} s", begin.elapsed().as_secs_f64());
        cluster.announced(VIPS, LIMIT * 3)?;
        println!("all are announced after {:.1} s", begin.elapsed().as_secs_f64());
        let (mut audit, mut begin) = (Audit::from_now()?, clock::now());
        let mut renewals = 0;
        let took = cluster.wait("nothing but renewals is written", LIMIT * 2, |_| {
            let counted = audit.count()?;
            renewals += counted.renewals;
            if counted.writes > counted.renewals {
                // Something is still being tidied up, or a slow machine has lost a session.
                (renewals, begin) = (0, clock::now());
            }
            Ok((renewals >= RENEWALS).then(|| begin.elapsed().as_secs_f64()))
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a handful of writes")]
        let rate = renewals as f64 / took;
        println!("{VIPS} VIPs, 3 nodes: {renewals} writes in {took:.1} s, {rate:.2} a second");
        // Each node writes every 1.5 s.
        ensure!(rate < 3.0, "{rate} writes a second");
        Ok(())
    })
}

fn lease(cluster: &Cluster, name: &str) -> anyhow::Result<Value> {
    cluster.get(&["lease", name, "-n", "herald-system"])
}

fn request(cluster: &Cluster, vip: IpAddr) -> anyhow::Result<client::Reply> {
    let server = service(vip, Transport::Udp);
    cluster.lab.netns("c1")?.inside(|| client::who(Transport::Udp, server))
}

/// The line about the API server's outage.
fn outage(status: &str) -> Option<String> {
    status
        .lines()
        .find(|line| line.starts_with("the API server does not answer"))
        .map(str::to_owned)
}
