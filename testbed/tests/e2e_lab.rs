//! The lab itself, without Herald: what the other tests stand on must be able to fail.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use herald_testbed::client::{self, Transport};
use herald_testbed::lab::Lab;
use herald_testbed::lab::addresses::{NODES, POD_PORT, PODS, host, pod_addresses, pod_name};
use herald_testbed::probe::Probe;
use herald_testbed::resolve::who_has;
use herald_testbed::tap::{Direction, Tap};
use herald_testbed::{clock, sandbox};

/// Long enough for many of the datagrams that are sent each millisecond, on the busiest machine.
const CUT: Duration = Duration::from_secs(1);

fn lab() -> anyhow::Result<Lab> {
    sandbox::enter()?;
    let lab = Lab::build(Path::new(sandbox::SCRATCH))?;
    // The last pod started is the last to listen.
    let netns = lab.netns("n1")?;
    clock::await_for("the pods answer", Duration::from_secs(5), || {
        let last = pods()
            .last()
            .map_or(Ok(()), |(_, pod)| netns.inside(|| client::who(Transport::Tcp, pod).map(drop)));
        Ok(last.ok())
    })?;
    Ok(lab)
}

fn pods() -> impl Iterator<Item = (String, SocketAddr)> {
    (1..=NODES).flat_map(|node| {
        (1..=PODS).flat_map(move |pod| {
            let server = move |address| (pod_name(node, pod), SocketAddr::new(address, POD_PORT));
            pod_addresses(node, pod).map(server)
        })
    })
}

#[test]
fn every_node_reaches_every_pod() -> anyhow::Result<()> {
    let lab = lab()?;
    for node in 1..=NODES {
        for (name, pod) in pods() {
            for transport in [Transport::Tcp, Transport::Udp] {
                let netns = lab.netns(&format!("n{node}"))?;
                let reply = netns.inside(|| client::who(transport, pod))?;
                assert_eq!(reply.answer.pod, name);
            }
        }
    }
    let (_, far) = pods().last().unwrap();
    lab.netns("n1")?.inside(|| {
        client::upload(far, 2_000_000)?;
        client::download(far, 2_000_000)
    })
}

/// Strict reverse path filtering (RFC 3704 2.2): what a node with it lets through, any node does.
#[test]
fn every_node_filters_by_the_strict_reverse_path() -> anyhow::Result<()> {
    let lab = lab()?;
    for node in 1..=NODES {
        // The greater of the two is in force.
        for of in ["all", "eth0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
            let netns = lab.netns(&format!("n{node}"))?;
            let filter = netns.inside(|| Ok(fs::read_to_string(&path)?))?;
            let expected: &[&str] = if of == "eth0" { &["1"] } else { &["0", "1"] };
            assert!(expected.contains(&filter.trim()), "n{node}, {of}: {filter}");
        }
    }
    Ok(())
}

#[test]
fn a_cut_is_silent_and_measured_and_heals() -> anyhow::Result<()> {
    let lab = lab()?;
    let pod = "10.244.2.2:8080".parse()?;
    let probe = Probe::start(lab.netns("n1")?, pod, 40_000)?;
    let answered = |number| {
        clock::await_for("the probe is answered", Duration::from_secs(10), || {
            Ok((probe.last_answer() >= number).then_some(()))
        })
    };
    answered(100)?;
    let begin = clock::now();
    lab.cut("n2")?;
    let carrier = lab.netns("n2")?.inside(|| carrier("eth0"))?;
    clock::pause(CUT);
    lab.heal("n2")?;
    answered(probe.last_answer() + 100)?;
    let end = clock::now();
    let outcome = probe.finish()?;
    assert!(carrier, "a cut must not show at the interface");
    let outage = outcome.outage();
    let most = end - begin;
    assert!((CUT * 9 / 10..most).contains(&outage), "{outage:?}, at most {most:?}");
    assert!(outcome.lost() >= 150, "{} of {}", outcome.lost(), outcome.sent());
    assert_eq!(outcome.nodes(), ["n2"]);
    Ok(())
}

#[test]
fn an_unplugged_node_has_no_carrier() -> anyhow::Result<()> {
    let lab = lab()?;
    lab.unplug("n2")?;
    let unplugged = lab.netns("n2")?.inside(|| carrier("eth0"))?;
    lab.plug("n2")?;
    let plugged = lab.netns("n2")?.inside(|| carrier("eth0"))?;
    assert_eq!((unplugged, plugged), (false, true));
    Ok(())
}

#[test]
fn every_voice_on_the_lan_is_heard() -> anyhow::Result<()> {
    let lab = lab()?;
    let node = host("n1").unwrap();
    let tap = Tap::at("n1", &[node.v4().into()])?;
    for address in [node.v4().into(), node.v6().into()] {
        assert_eq!(who_has(&lab, address)?, [node.mac()]);
    }
    assert_eq!(who_has(&lab, "192.168.1.240".parse()?)?, []);
    let pod = "10.244.2.2:8080".parse()?;
    let reply = lab.netns("n1")?.inside(|| client::who(Transport::Udp, pod))?;
    let capture = tap.finish()?;
    let voices = capture.voices.iter().filter(|voice| voice.mac == node.mac());
    assert_eq!(voices.filter(|voice| voice.direction == Direction::FromHost).count(), 2);
    let flow = (Direction::FromHost, SocketAddr::new(node.v4().into(), reply.from.port()), pod);
    assert_eq!(capture.flows.get(&flow), Some(&1));
    assert_eq!(capture.missed, 0);
    Ok(())
}

/// Whether an interface of the calling thread's namespace has a carrier, as `ip` tells: the
/// namespace's `/sys` is not mounted.
fn carrier(interface: &str) -> anyhow::Result<bool> {
    let output =
        std::process::Command::new("ip").args(["-o", "link", "show", interface]).output()?;
    Ok(String::from_utf8(output.stdout)?.contains("LOWER_UP"))
}

#[test]
fn nothing_of_a_lab_shows_outside() -> anyhow::Result<()> {
    let before = fs::read_to_string("/proc/self/mounts")?;
    let inside =
        std::thread::spawn(|| lab().map(|_| fs::read_to_string("/proc/thread-self/mounts")));
    let inside = inside.join().unwrap()??;
    assert_eq!(fs::read_to_string("/proc/self/mounts")?, before);
    assert_ne!(inside, before);
    Ok(())
}
