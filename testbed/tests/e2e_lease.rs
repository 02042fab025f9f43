//! Leases in a real API server decide who speaks: one holder, read off `kubectl get leases`; another
//! one when its node is cut off, by itself when asked to end; silence while the API server is away
//! for longer than the ttl; and writes that do not grow with VIPs.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::client::{self, Transport};
use herald_testbed::clock;
use herald_testbed::cluster::rig::{Rig, in_cluster};
use herald_testbed::lab::addresses::{host, node_of, nodes};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::service;
use herald_testbed::tap::Tap;
use serde_json::{Value, json};

/// As people write it for MetalLB.
const POOL: &str = r#"
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: ["192.168.1.240-192.168.1.250", "fd00:1::f0-fd00:1::ff"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2-advert, namespace: metallb-system}
"#;

const SERVICE: &str = r#"{
    "apiVersion": "v1", "kind": "Service",
    "metadata": {"name": "echo", "namespace": "default"},
    "spec": {
        "type": "LoadBalancer", "selector": {"app": "echo"},
        "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
            {"name": "udp", "protocol": "UDP", "port": 5353, "targetPort": 8080}
        ]
    }
}"#;

/// Herald's own default; a machine that is busy gets a multiple of it.
const TTL: Duration = Duration::from_secs(5);
const TRIAL: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/trial";
/// The longest wait for anything that takes a ttl.
const LIMIT: u64 = 60;

#[test]
fn leases_in_a_real_api_server_decide_who_speaks() -> anyhow::Result<()> {
    in_cluster(|rig| {
        rig.start_all(&[])?;
        apply(rig, POOL)?;
        apply(rig, SERVICE)?;
        let holders = announced(rig, 2)?;
        assert_eq!(rig.status("n1")?.election.backend, "lease");
        the_table_says_who_holds_what(rig, &holders)?;
        the_api_server_refuses_what_the_election_must_not_write(rig)?;
        let (vip, holder) = holders.into_iter().find(|(vip, _)| vip.is_ipv4()).unwrap();
        a_node_that_is_cut_off_is_replaced(rig, vip, &holder)?;
        all_are_silent_while_the_api_server_is_away(rig, vip)?;
        a_speaker_that_ends_hands_over(rig, vip)
    })
}

fn the_table_says_who_holds_what(
    rig: &Rig,
    holders: &BTreeMap<IpAddr, String>,
) -> anyhow::Result<()> {
    let table = rig.cluster.kubectl(&["get", "leases", "-n", "herald-system"], None)?;
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
fn the_api_server_refuses_what_the_election_must_not_write(rig: &Rig) -> anyhow::Result<()> {
    apply(
        rig,
        r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "trial", "namespace": "default"}}"#,
    )?;
    let replace =
        |seen: &str| rig.cluster.kubectl(&["replace", "--raw", TRIAL, "-f", "-"], Some(seen));
    let seen = rig.cluster.kubectl(&["get", "--raw", TRIAL], None)?;
    let changed = seen.replace(r#""spec":{"#, r#""spec":{"holderIdentity":"n1""#);
    ensure!(changed != seen, "not a Lease as expected: {seen}");
    replace(&changed)?;
    let refused = replace(&seen).unwrap_err().to_string();
    assert!(refused.contains("modified"), "{refused}");
    let seen = rig.cluster.kubectl(&["get", "--raw", TRIAL], None)?;
    rig.cluster.kubectl(&["delete", "--raw", TRIAL], None)?;
    let refused = replace(&seen).unwrap_err().to_string();
    assert!(refused.contains("Precondition failed: UID"), "{refused}");
    Ok(())
}

fn a_node_that_is_cut_off_is_replaced(rig: &mut Rig, vip: IpAddr, old: &str) -> anyhow::Result<()> {
    assert_eq!(who_has(&rig.lab, vip)?, [host(old).unwrap().mac()]);
    request(rig, vip)?;
    let witness = nodes().find(|node| node != old).unwrap();
    let term = rig.status(&witness)?.vip(vip).unwrap().term;

    let tap = Tap::at("c1", &[])?;
    rig.lab.cut(old)?;
    let cut = clock::now();
    let new = rig.wait("another node holds the VIP", LIMIT, |rig| {
        let holder = rig.status(&witness)?.vip(vip).and_then(|vip| vip.holder.clone());
        Ok(holder.filter(|holder| holder != old))
    })?;
    let held = cut.elapsed();
    rig.wait("the client is served again", LIMIT, |rig| Ok(request(rig, vip).ok()))?;
    println!(
        "cut off {old}: {new} holds after {held:?}, the client is served after {:?}",
        cut.elapsed()
    );
    assert_eq!(rig.status(&witness)?.vip(vip).unwrap().term, term + 1);
    let silent = rig.status(old)?;
    assert!(!silent.vip(vip).is_some_and(|vip| vip.announcing), "{old} believes it may speak");

    rig.lab.heal(old)?;
    let healed = clock::now();
    rig.wait("the returned node has a session", LIMIT, |rig| {
        let seen = |node: &str| Some(rig.status(node).ok()?.open_session(old)?.epoch);
        let (others, own) = (seen(&new), seen(old));
        Ok((others.is_some() && others == own).then_some(()))
    })?;
    println!("healed {old}: a session after {:?}", healed.elapsed());
    rig.wait("all see the same holder", LIMIT, |rig| {
        let holds = |node: String| rig.status(&node).ok()?.vip(vip)?.holder.clone();
        Ok(nodes().all(|node| holds(node).as_ref() == Some(&new)).then_some(()))
    })?;
    assert_eq!(who_has(&rig.lab, vip)?, [host(&new).unwrap().mac()], "it takes nothing back");

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

fn all_are_silent_while_the_api_server_is_away(rig: &mut Rig, vip: IpAddr) -> anyhow::Result<()> {
    let holder = announced(rig, 2)?.remove(&vip).unwrap();
    let mac = host(&holder).unwrap().mac();
    rig.cluster.signal_server(libc::SIGSTOP)?;
    let stopped = clock::now();
    // Until its own deadline the holder goes on: what was heard before the deadline is an answer.
    let answers = who_has(&rig.lab, vip)?;
    if rig.status(&holder)?.election.deadline_ms.is_some() {
        assert_eq!(answers, [mac], "the holder gave up before its deadline");
    }
    let mut before = String::new();
    rig.wait("nobody may speak", LIMIT, |rig| {
        let mut silent = true;
        for node in nodes() {
            silent &= rig.status(&node)?.election.deadline_ms.is_none();
        }
        let words = outage(&rig.status_text(&holder)?);
        if let Some(text) = words.filter(|text| text.contains("unless")) {
            before = text;
        }
        Ok(silent.then_some(()))
    })?;
    println!("API server stopped: all silent after {:?}; before that: {before}", stopped.elapsed());
    for _ in 0..5 {
        assert_eq!(who_has(&rig.lab, vip)?, [], "somebody speaks past its deadline");
    }
    let words = rig.status_text(&holder)?;
    println!("{}", words.lines().take(2).collect::<Vec<_>>().join("\n"));
    assert!(
        words.starts_with(&format!("node {holder}: may not speak now; lease in herald-system"))
    );
    let said = outage(&words).context("not a word about the outage")?;
    assert!(said.contains("silent until it does"), "{said}");

    rig.cluster.signal_server(libc::SIGCONT)?;
    let returned = clock::now();
    let first = rig.wait("somebody answers again", LIMIT, |rig| {
        let answers = who_has(&rig.lab, vip)?;
        ensure!(answers.len() <= 1, "two voices: {answers:?}");
        Ok(answers.first().copied())
    })?;
    println!("API server back: {} answers after {:?}", node_of(first).unwrap(), returned.elapsed());
    announced(rig, 2)?;
    let end = clock::now() + TTL;
    while clock::now() < end {
        assert_eq!(who_has(&rig.lab, vip)?.len(), 1, "exactly one speaks");
    }
    Ok(())
}

fn a_speaker_that_ends_hands_over(rig: &mut Rig, vip: IpAddr) -> anyhow::Result<()> {
    let old = announced(rig, 2)?.remove(&vip).unwrap();
    rig.stop(&old, LIMIT)?;
    let witness = nodes().find(|node| *node != old).unwrap();
    let new = rig.status(&witness)?.vip(vip).and_then(|vip| vip.holder.clone());
    let new = new.filter(|new| *new != old).context("nobody holds it though its holder left")?;
    rig.wait("the new holder answers, alone", LIMIT, |rig| {
        Ok((who_has(&rig.lab, vip)? == [host(&new).unwrap().mac()]).then_some(()))
    })?;
    request(rig, vip)?;
    let name = format!("node-{old}");
    let session = lease(rig, &name)?;
    assert_eq!(session["spec"]["holderIdentity"], Value::Null, "{session}");
    assert_eq!(session["metadata"]["annotations"]["herald.io/state"], "closed");
    Ok(())
}

/// Raft decides, and the same table shows what it decided.
#[test]
fn what_raft_decides_is_shown_as_leases() -> anyhow::Result<()> {
    in_cluster(|rig| {
        rig.start_all(&["--voters", "n1,n2,n3"])?;
        apply(rig, POOL)?;
        apply(rig, SERVICE)?;
        let holders = announced(rig, 2)?;
        assert_eq!(rig.status("n1")?.election.backend, "raft");
        mirrored(rig, &holders)?;
        println!("{}", rig.cluster.kubectl(&["get", "leases", "-n", "herald-system"], None)?);

        let (vip, old) = holders.iter().next().context("no VIP")?;
        rig.stop(old, LIMIT)?;
        let witness = nodes().find(|node| node != old).unwrap();
        let moved = rig.wait("another node holds it", LIMIT, |rig| {
            let holders = rig.status(&witness)?.holders();
            let moved = holders.len() == 2 && holders.values().all(|holder| holder != old);
            Ok(moved.then_some(holders))
        })?;
        assert_ne!(moved[vip], *old);
        mirrored(rig, &moved)?;

        rig.cluster.kubectl(&["delete", "service", "echo"], None)?;
        mirrored(rig, &BTreeMap::new())?;
        a_speaker_that_elects_in_another_way_waits(rig, *vip, old)
    })
}

/// While `--election` is being changed: `one`, which is stopped, comes back by Leases.
fn a_speaker_that_elects_in_another_way_waits(
    rig: &mut Rig,
    vip: IpAddr,
    one: &str,
) -> anyhow::Result<()> {
    let waits = |rig: &mut Rig, node: &str| {
        rig.wait("it says that it waits for the others", LIMIT, |rig| {
            let status = rig.status_text(node).unwrap_or_default();
            Ok(status.contains("other_back_end").then_some(()))
        })
    };
    let speaks = |rig: &mut Rig, node: &str| {
        rig.wait(&format!("{node} speaks alone"), LIMIT, |rig| {
            let Ok(status) = rig.status(node) else { return Ok(false.then_some(())) };
            let is_announced = status.vip(vip).is_some_and(|vip| vip.announcing);
            let mac = host(node).unwrap().mac();
            Ok((is_announced && who_has(&rig.lab, vip)? == [mac]).then_some(()))
        })
    };
    let others: Vec<String> = nodes().filter(|node| node != one).collect();
    apply(rig, SERVICE)?;
    let holder = rig.wait("raft's speakers hold it", LIMIT, |rig| {
        let status = rig.status(&others[0])?;
        Ok(status.vip(vip).and_then(|vip| vip.holder.clone()))
    })?;
    speaks(rig, &holder)?;
    rig.start(one, &[])?;
    waits(rig, one)?;
    speaks(rig, &holder)?;
    for node in &others {
        rig.stop(node, LIMIT)?;
    }
    speaks(rig, one)?;
    rig.start(&others[0], &["--voters", "n1,n2,n3"])?;
    waits(rig, &others[0])?;
    speaks(rig, one)
}

/// Waits until the Leases of VIPs are these, with these holders.
fn mirrored(rig: &mut Rig, holders: &BTreeMap<IpAddr, String>) -> anyhow::Result<()> {
    let mut wanted: Vec<String> = Vec::new();
    for (vip, holder) in holders {
        let name = vip.to_string().replace(':', "-");
        wanted.push(format!("vip-{name} {holder} raft"));
    }
    wanted.sort();
    let mut shown = Vec::new();
    let reached = rig.wait("the Leases show the holders", LIMIT, |rig| {
        let list = ["get", "leases", "-n", "herald-system", "-o", "json"];
        let list: Value = serde_json::from_str(&rig.cluster.kubectl(&list, None)?)?;
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

/// More VIPs, the same steady cost: after all is settled, an edge writes nothing but renewals.
#[test]
fn writes_do_not_grow_with_vips() -> anyhow::Result<()> {
    const VIPS: usize = 200;
    const RENEWALS: u64 = 6;
    in_cluster(|rig| {
        rig.start_all(&[])?;
        apply(
            rig,
            &POOL
                .replace(".240-192.168.1.250", ".20-192.168.1.99\", \"192.168.1.101-192.168.1.250"),
        )?;
        let services = (0..VIPS).map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("echo-{number}"), "namespace": "default"},
                "spec": {
                    "type": "LoadBalancer", "selector": {"app": "echo"},
                    "allocateLoadBalancerNodePorts": false,
                    "ports": [{"port": 80, "targetPort": 8080}],
                },
            })
        });
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": services.collect::<Vec<_>>()});
        apply(rig, &list.to_string())?;
        announced(rig, VIPS)?;
        // Whatever is still being tidied up: until two readings a renewal apart agree.
        rig.wait("nothing but renewals is written", LIMIT, |rig| {
            let before = extra(rig)?;
            clock::pause(Duration::from_secs(2));
            Ok((extra(rig)? == before).then_some(()))
        })?;
        let (before, begin) = (readings(rig)?, clock::now());
        rig.wait("each node has renewed its session some times", LIMIT, |rig| {
            let now = readings(rig)?;
            let enough = |node: &String| now[node].renewals >= before[node].renewals + RENEWALS;
            Ok(nodes().all(|node| enough(&node)).then_some(()))
        })?;
        let (after, took) = (readings(rig)?, begin.elapsed().as_secs_f64());
        let mut total = 0;
        for node in nodes() {
            let writes = after[&node].writes - before[&node].writes;
            let renewals = after[&node].renewals - before[&node].renewals;
            total += writes;
            // A renewal between the reading of one count and of the other.
            assert!(
                writes <= renewals + 1,
                "{node} wrote {writes} times to renew {renewals} times"
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a handful of writes")]
        let rate = total as f64 / took;
        println!(
            "{VIPS} VIPs, 3 nodes: {total} writes of Leases in {took:.1} s, {rate:.2} a second"
        );
        Ok(())
    })
}

/// What one node has written, by its own count, and its renewals as its Lease numbers them.
struct Reading {
    writes: u64,
    renewals: u64,
}

fn readings(rig: &Rig) -> anyhow::Result<BTreeMap<String, Reading>> {
    let mut readings = BTreeMap::new();
    for node in nodes() {
        let writes = rig.status(&node)?.counters["lease_writes"];
        let session = lease(rig, &format!("node-{node}"))?;
        let renewals = session["metadata"]["annotations"]["herald.io/renewal"].as_str();
        let renewals = renewals.context("a session without a number")?.parse()?;
        readings.insert(node, Reading { writes, renewals });
    }
    Ok(readings)
}

/// Writes that were no renewals, for each node.
fn extra(rig: &Rig) -> anyhow::Result<Vec<i128>> {
    let extra = |it: &Reading| i128::from(it.writes) - i128::from(it.renewals);
    Ok(readings(rig)?.values().map(extra).collect())
}

fn lease(rig: &Rig, name: &str) -> anyhow::Result<Value> {
    let arguments = ["get", "lease", name, "-n", "herald-system", "-o", "json"];
    Ok(serde_json::from_str(&rig.cluster.kubectl(&arguments, None)?)?)
}

fn apply(rig: &Rig, manifest: &str) -> anyhow::Result<()> {
    rig.cluster.kubectl(&["create", "-f", "-"], Some(manifest)).map(drop)
}

/// Waits until there are so many VIPs, each announced by the holder that all agree on.
fn announced(rig: &mut Rig, count: usize) -> anyhow::Result<BTreeMap<IpAddr, String>> {
    let what = format!("{count} VIPs are announced by their holders");
    rig.wait(&what, 120, |rig| {
        let mut statuses = BTreeMap::new();
        for node in nodes() {
            // One that is being started does not answer yet.
            let Ok(status) = rig.status(&node) else { return Ok(None) };
            statuses.insert(node, status);
        }
        let holders = statuses["n1"].holders();
        let agreed = statuses.values().all(|status| status.holders() == holders);
        let spoken = holders.iter().all(|(vip, holder)| {
            statuses.get(holder).and_then(|it| it.vip(*vip)).is_some_and(|vip| vip.announcing)
        });
        Ok((holders.len() == count && agreed && spoken).then_some(holders))
    })
}

fn request(rig: &Rig, vip: IpAddr) -> anyhow::Result<client::Reply> {
    let server = service(vip, Transport::Udp);
    rig.lab.netns("c1")?.inside(|| client::who(Transport::Udp, server))
}

/// The line about the API server's outage.
fn outage(status: &str) -> Option<String> {
    status
        .lines()
        .find(|line| line.starts_with("the API server does not answer"))
        .map(str::to_owned)
}
