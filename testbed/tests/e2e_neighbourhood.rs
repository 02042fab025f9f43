//! The others on the LAN: who uses a VIP already keeps it, who takes it later is answered and
//! reported, and every form of the question "who has it?" gets exactly one answer.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use herald_announcer::wire::{
    Arp, Ethernet, MacAddr, Ndp, NeighbourSolicitation, Operation, ethernet, solicited_node,
};
use herald_announcer::{announcement, probe};
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{Host, host, node_of, nodes};
use herald_testbed::lab::netns::Netns;
use herald_testbed::metrics::scrape;
use herald_testbed::neighbour::{Claims, ask, claim, send};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{MANIFESTS, Scenario, manifests};
use herald_testbed::status::Conflict;

/// The addresses that the pool gives to the first Service.
const VIPS: [&str; 2] = ["192.168.1.240", "fd00:1::f0"];

/// Where each node's speaker tells its metrics.
const METRICS: &str = "127.0.0.1:7947";

#[test]
fn an_address_in_use_is_reported_and_not_announced() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let router = of_lab("r1")?;
        scenario.lab.netns("r1")?.ip("addr add 192.168.1.240/32 dev eth0\n\
             addr add fd00:1::f0/128 dev eth0 nodad\n")?;
        scenario.start_all(&["--metrics-listen", METRICS])?;
        scenario.put_all_manifests()?;
        for vip in VIPS {
            let vip: IpAddr = vip.parse()?;
            let holder = reported(scenario, vip, router, "blocked")?;
            let sample = format!("herald_vip_conflict{{vip=\"{vip}\",state=\"blocked\"}} 1");
            scenario.wait("the metric says so too", 15, |scenario| {
                let Ok(text) = scenario.lab.netns(&holder)?.inside(|| scrape(METRICS)) else {
                    return Ok(None);
                };
                Ok(text.contains(&sample).then_some(()))
            })?;
            // Held, so that no other node tries its luck, but not spoken for.
            scenario.wait("the holder is silent", 15, |scenario| {
                let status = scenario.status(&holder)?;
                Ok(status.vip(vip).is_some_and(|vip| !vip.announcing).then_some(()))
            })?;
            let claims: Vec<_> = nodes().map(|node| Claims::of(&node)).collect::<Result<_, _>>()?;
            assert_eq!(who_has(&scenario.lab, vip)?, [router.mac()], "voices for {vip}");
            for claims in claims {
                let heard = claims.finish()?;
                assert!(heard.iter().all(|(address, _)| *address != vip), "{heard:?}");
            }
        }

        // Once the address is free, a Service that is made anew has it.
        scenario.lab.netns("r1")?.ip("addr del 192.168.1.240/32 dev eth0\n\
             addr del fd00:1::f0/128 dev eth0\n")?;
        let (service, text) = MANIFESTS[3];
        fs::remove_file(manifests().join(service))?;
        scenario.wait("the VIPs are gone", 15, |scenario| {
            let gone = |node: &String| Ok(scenario.status(node)?.vips.is_empty());
            let gone = nodes().map(|node| gone(&node)).collect::<anyhow::Result<Vec<bool>>>()?;
            Ok(gone.into_iter().all(|gone| gone).then_some(()))
        })?;
        scenario.put_manifest(service, text)?;
        for (vip, holder) in scenario.served()? {
            assert_eq!(who_has(&scenario.lab, vip)?, [of_lab(&holder)?.mac()], "voices for {vip}");
            let found = scenario.status(&holder)?.vip(vip).and_then(|vip| vip.conflict.clone());
            assert_eq!(found, None, "{vip}");
        }
        Ok(())
    })
}

/// For so long after its first announcement a VIP is given up again when somebody else has it: the
/// probation of the announcer's `conflict`, and a second more.
const PROBATION: Duration = Duration::from_secs(8);

/// RFC 5227 2.4 (c).
#[test]
fn a_later_user_is_answered_and_reported() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let router = of_lab("r1")?;
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        clock::pause(PROBATION);
        for (vip, holder) in served {
            let ours = of_lab(&holder)?.mac();
            let claims = Claims::of(&holder)?;
            let defences = |scenario: &Scenario| -> anyhow::Result<u64> {
                Ok(scenario.status(&holder)?.counters["announcer_defences"])
            };
            let made = defences(scenario)?;
            send(scenario.lab.netns("r1")?, &announcement::defence(vip, router.mac()))?;
            let reporter = reported(scenario, vip, router, "defended")?;
            assert_eq!(reporter, holder, "{vip}");
            scenario.wait("the VIP is defended", 15, |scenario| {
                Ok((defences(scenario)? > made).then_some(()))
            })?;
            assert_eq!(who_has(&scenario.lab, vip)?, [ours], "voices for {vip}");
            let heard = claims.finish()?;
            assert!(heard.contains(&(vip, ours)), "{heard:?}");
            let status = scenario.status(&holder)?;
            assert!(status.vip(vip).is_some_and(|vip| vip.announcing), "{vip} was given up");
        }
        Ok(())
    })
}

#[test]
fn every_question_has_one_answer() -> anyhow::Result<()> {
    in_lab(|scenario| questions_are_answered(scenario, &[]))
}

#[test]
fn every_question_has_one_answer_without_xdp() -> anyhow::Result<()> {
    in_lab(|scenario| questions_are_answered(scenario, &["--datapath", "off"]))
}

fn questions_are_answered(scenario: &mut Scenario, flags: &[&str]) -> anyhow::Result<()> {
    scenario.start_all(flags)?;
    scenario.put_all_manifests()?;
    let client = of_lab("c1")?;
    let served = scenario.served()?;
    for (vip, holder) in &served {
        let ours = of_lab(holder)?.mac();
        for (name, question, solicited) in questions(client, *vip, ours) {
            let is_answer = |frame: &[u8]| claim(frame).is_some_and(|(said, _)| said == *vip);
            // Rounds of the holder's burst come in between: only answers are counted.
            let heard = ask(scenario.lab.netns("c1")?, &question, |frame| {
                is_answer(frame) && kind(frame) == Some(solicited)
            })?;
            let macs: Vec<_> = heard.iter().filter_map(|frame| claim(frame)).collect();
            if solicited == Solicited::ByAll {
                // To all, as an announcement is; at least the one that was asked for.
                assert!(!macs.is_empty(), "{name} for {vip}");
                assert!(macs.iter().all(|said| *said == (*vip, ours)), "{name}: {macs:?}");
            } else {
                assert_eq!(macs, [(*vip, ours)], "{name} for {vip}");
            }
        }
    }
    let (vip, holder) = &served[1];
    let ours = of_lab(holder)?.mac();
    kernel_finds_it_reachable(scenario.lab.netns("c1")?, *vip, ours)?;
    kernel_finds_it_in_use(scenario.lab.netns("r1")?, *vip)?;
    for (vip, holder) in &served {
        let status = scenario.status(holder)?;
        let vip = status.vip(*vip).context("no longer there")?;
        assert!(vip.announcing && vip.conflict.is_none(), "a question is no claim: {vip:?}");
    }
    Ok(())
}

/// How an answer is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Solicited {
    /// To who asked.
    ByOne,
    /// To all nodes: who asked has no address yet (RFC 4861 7.2.4).
    ByAll,
}

/// Every question a host may ask about an address, and how it is answered.
fn questions(asker: Host, vip: IpAddr, holder: MacAddr) -> Vec<(&'static str, Vec<u8>, Solicited)> {
    use Solicited::{ByAll, ByOne};
    let mac = asker.mac();
    match vip {
        IpAddr::V4(vip) => {
            let arp = |sender: Ipv4Addr, to: MacAddr| {
                let (operation, target_mac) = (Operation::Request, MacAddr::ZERO);
                Arp { operation, sender_mac: mac, sender, target_mac, target: vip }.to_frame(to)
            };
            vec![
                ("a request", arp(asker.v4(), MacAddr::BROADCAST), ByOne),
                // RFC 1122 2.3.2.1.
                ("a unicast poll", arp(asker.v4(), holder), ByOne),
                ("a probe (RFC 5227 2.1.1)", probe::frame(vip.into(), mac), ByOne),
            ]
        }
        IpAddr::V6(vip) => {
            let group = solicited_node(vip);
            let ns = |source: Ipv6Addr, destination: Ipv6Addr, source_mac, to: MacAddr| {
                let ns = NeighbourSolicitation { source, destination, target: vip, source_mac };
                ns.to_frame(mac, to)
            };
            let group_mac = MacAddr::of_ipv6_multicast(group);
            vec![
                ("resolution", ns(asker.v6(), group, Some(mac), group_mac), ByOne),
                ("a reachability check", ns(asker.v6(), vip, Some(mac), holder), ByOne),
                // RFC 4861 7.2.2 lets a unicast solicitation go without the option.
                ("a check without an option", ns(asker.v6(), vip, None, holder), ByOne),
                ("an address test (RFC 4862 5.4.2)", probe::frame(vip.into(), mac), ByAll),
            ]
        }
    }
}

/// How a frame answers, if it is an answer.
fn kind(frame: &[u8]) -> Option<Solicited> {
    let frame = Ethernet::parse(frame).ok()?;
    if frame.ether_type == ethernet::ARP {
        let arp = Arp::parse(frame.payload).ok()?;
        let is_answer = arp.operation == Operation::Reply && !arp.is_announcement();
        return is_answer.then_some(Solicited::ByOne);
    }
    match Ndp::parse(frame.payload).ok()? {
        Ndp::Advertisement(na) if na.solicited => Some(Solicited::ByOne),
        Ndp::Advertisement(_) => Some(Solicited::ByAll),
        Ndp::Solicitation(_) => None,
    }
}

/// The asker is Linux itself: told that the entry may be out of date, it checks it by unicast
/// solicitations (RFC 4861 7.3.3), and forgets a neighbour that does not answer.
fn kernel_finds_it_reachable(client: &Netns, vip: IpAddr, mac: MacAddr) -> anyhow::Result<()> {
    client.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud probe\n"))?;
    until(
        client,
        "the kernel finds the VIP reachable",
        &["neigh", "show", &vip.to_string()],
        |said| said.contains("REACHABLE"),
    )
}

/// Likewise, about to take the address: duplicate address detection must fail.
fn kernel_finds_it_in_use(other: &Netns, vip: IpAddr) -> anyhow::Result<()> {
    other.sysctl(&[("ipv6/conf/eth0/accept_dad", "1"), ("ipv6/conf/eth0/dad_transmits", "3")])?;
    other.ip(&format!("addr add {vip}/128 dev eth0\n"))?;
    until(
        other,
        "the kernel finds the VIP in use",
        &["-6", "addr", "show", "dev", "eth0"],
        |said| {
            said.lines()
                .any(|line| line.contains(&format!("{vip}/128")) && line.contains("dadfailed"))
        },
    )
}

fn until(
    netns: &Netns,
    what: &str,
    command: &[&str],
    is_so: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    clock::await_for(what, Duration::from_secs(15), || {
        let output = netns.inside(|| Ok(Command::new("ip").args(command).output()?))?;
        if !output.status.success() {
            bail!("ip {command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(is_so(&String::from_utf8_lossy(&output.stdout)).then_some(()))
    })
}

/// The node that reports a conflict about a VIP with this host.
fn reported(
    scenario: &mut Scenario,
    vip: IpAddr,
    foreign: Host,
    state: &str,
) -> anyhow::Result<String> {
    let wanted = Conflict {
        state: state.to_owned(),
        mac: foreign.mac().to_string(),
        interface: "eth0".to_owned(),
    };
    scenario.wait(&format!("a conflict about {vip} is reported: {state}"), 15, |scenario| {
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { continue };
            if status.vip(vip).is_some_and(|vip| vip.conflict.as_ref() == Some(&wanted)) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })
}

fn of_lab(name: &str) -> anyhow::Result<Host> {
    let host = host(name).with_context(|| format!("{name} is not on the lab's LAN"))?;
    // A node's name must mean the node that speaks with its MAC.
    match node_of(host.mac()) {
        Some(found) if found == name => Ok(host),
        found => bail!("{name} is {found:?}"),
    }
}
