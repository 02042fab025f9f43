//! The fence against the kernel itself: every node has the VIPs bound to interfaces of its own, as
//! kube-proxy's IPVS mode does it and as another load balancer leaves it behind, and ARP is not
//! made strict. Only the holder is heard, a holder that hangs is not, and status counts what was
//! held back.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Context;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::neighbour::Claims;
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{PATIENCE, Scenario};
use herald_testbed::status::Fence;
use herald_testbed::trial::{gather, other};

/// Nobody's addresses, so that whoever sends to them has to ask for them.
const NOBODY: [&str; 2] = ["192.168.1.77", "fd00:1::77"];

#[test]
fn a_vip_bound_to_every_node_has_one_voice() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let listeners: Vec<(String, Claims)> = nodes()
            .map(|node| Ok((node.clone(), Claims::of(&node)?)))
            .collect::<anyhow::Result<_>>()?;
        for node in nodes() {
            bind(scenario, &node, &served)?;
        }

        for (vip, holder) in &served {
            let mac = host(holder).context("not of the lab")?.mac();
            assert_eq!(who_has(&scenario.lab, *vip)?, [mac], "voices for {vip}");
            for node in nodes().filter(|node| node != holder) {
                // The kernel did answer, and a frame that claims anything but the VIP leaves.
                held_back(scenario, &node, "its answer", |fence| match vip {
                    IpAddr::V4(_) => fence.arp > 0,
                    IpAddr::V6(_) => fence.advertisements > 0,
                })?;
                let before = fence(scenario, &node)?;
                ask_from(scenario, &node, *vip)?;
                held_back(scenario, &node, "its question", |fence| match vip {
                    IpAddr::V4(_) => fence.arp > before.arp,
                    IpAddr::V6(_) => fence.solicitations > before.solicitations,
                })?;
                let own = host(&node).context("not of the lab")?;
                for address in [own.v4().into(), own.v6().into()] {
                    assert_eq!(who_has(&scenario.lab, address)?, [own.mac()], "{node} itself");
                }
            }
        }
        for (node, claims) in listeners {
            let heard = claims.finish()?;
            assert!(!heard.is_empty(), "{node} was not heard at all");
            for (vip, holder) in &served {
                let of_vip = heard.iter().filter(|(address, _)| address == vip).count();
                assert_eq!(of_vip > 0, node == *holder, "{of_vip} claims of {node} to {vip}");
            }
        }
        a_frozen_holder_is_silent_though_its_kernel_has_the_vips(scenario, &served)
    })
}

/// Nobody takes the addresses off its interfaces, and nobody tells the fence that it holds them no
/// more: the programs find that out for themselves.
fn a_frozen_holder_is_silent_though_its_kernel_has_the_vips(
    scenario: &mut Scenario,
    served: &[(IpAddr, String)],
) -> anyhow::Result<()> {
    let vips: Vec<IpAddr> = served.iter().map(|(vip, _)| *vip).collect();
    let old = &served[0].1;
    let silent = host(old).context("not of the lab")?.mac();
    let witness = other(&[old])?;
    gather(scenario, &vips, old)?;
    let before = fence(scenario, old)?;
    scenario.speaker(old)?.signal(libc::SIGSTOP)?;
    for vip in vips {
        let new = scenario.wait("another node announces the VIP", PATIENCE, |scenario| {
            let Some(new) = scenario.holder(&witness, vip) else { return Ok(None) };
            let speaks =
                new != *old && scenario.status(&new)?.vip(vip).is_some_and(|v| v.announcing);
            Ok(speaks.then_some(new))
        })?;
        let mac = host(&new).context("not of the lab")?.mac();
        for _ in 0..5 {
            let voices = who_has(&scenario.lab, vip)?;
            assert!(!voices.contains(&silent), "{old} hangs and speaks for {vip}");
            assert_eq!(voices, [mac], "voices for {vip}");
        }
        // The program drops the questions that come; so the kernel is made to speak by itself.
        ask_from(scenario, old, vip)?;
    }
    scenario.speaker(old)?.signal(libc::SIGCONT)?;
    held_back(scenario, old, "what its kernel asked while it was frozen", |fence| {
        fence.arp > before.arp && fence.solicitations > before.solicitations
    })
}

/// IPv4 to an interface that is not on the LAN: the kernel answers for any address of the machine
/// on all of its interfaces (arp_ignore 0). IPv6 to the one that is: elsewhere it would not answer.
fn bind(scenario: &Scenario, node: &str, vips: &[(IpAddr, String)]) -> anyhow::Result<()> {
    let netns = scenario.lab.netns(node)?;
    netns.ip("link add kube-ipvs0 type veth peer name kube-ipvs1\nlink set kube-ipvs0 up\n")?;
    netns.sysctl(&[
        ("ipv4/conf/all/arp_ignore", "0"),
        ("ipv4/conf/eth0/arp_ignore", "0"),
        ("ipv4/conf/all/arp_announce", "0"),
        ("ipv4/conf/eth0/arp_announce", "0"),
    ])?;
    for (vip, _) in vips {
        netns.ip(&match vip {
            IpAddr::V4(vip) => format!("addr add {vip}/32 dev kube-ipvs0\n"),
            IpAddr::V6(vip) => format!("addr add {vip}/128 dev eth0 nodad\n"),
        })?;
    }
    Ok(())
}

/// A packet from the VIP to an address nobody has: the kernel asks for it, and says who asks.
fn ask_from(scenario: &Scenario, node: &str, vip: IpAddr) -> anyhow::Result<()> {
    let nobody: IpAddr = NOBODY[usize::from(vip.is_ipv6())].parse()?;
    scenario.lab.netns(node)?.inside(|| {
        let socket = UdpSocket::bind(SocketAddr::new(vip, 0))
            .with_context(|| format!("cannot send from {vip} on {node}"))?;
        socket.send_to(b"who are you", SocketAddr::new(nobody, 9))?;
        Ok(())
    })
}

fn fence(scenario: &Scenario, node: &str) -> anyhow::Result<Fence> {
    let mut datapath = scenario.status(node)?.datapath;
    let eth0 = datapath.pop().filter(|row| datapath.is_empty() && row.interface == "eth0");
    eth0.and_then(|row| row.fence).with_context(|| format!("no fence at eth0 of {node}"))
}

fn held_back(
    scenario: &mut Scenario,
    node: &str,
    what: &str,
    is_so: impl Fn(Fence) -> bool,
) -> anyhow::Result<()> {
    scenario.wait(&format!("the fence of {node} holds {what} back"), 15, |scenario| {
        Ok(is_so(fence(scenario, node)?).then_some(()))
    })
}
