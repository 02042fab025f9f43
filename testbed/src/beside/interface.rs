//! A node's interface to the LAN that goes and comes back (edge), as a driver that is loaded again
//! or a virtual machine whose card is exchanged has it: a new interface of the old name.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::lab::Lab;
use crate::lab::addresses::{host, number};
use crate::lab::bpf::Attached;
use crate::lab::cable;
use crate::lab::netns;
use crate::lab::pass::Pass;
use crate::scenario::{PATIENCE, Scenario};
use crate::status::Datapath;

/// Takes `eth0` away, with all its addresses and routes.
///
/// # Errors
///
/// If there is none.
pub fn remove(lab: &Lab, node: &str) -> anyhow::Result<()> {
    lab.netns(node)?.ip("link del eth0\n")
}

/// Makes another `eth0` with the addresses and routes of the one before.
///
/// # Errors
///
/// What the kernel or a tool refused.
pub fn put_back(lab: &Lab, node: &str, mtu: u16) -> anyhow::Result<()> {
    let host = host(node).with_context(|| format!("the lab has no {node}"))?;
    let netns = lab.netns(node)?;
    cable::lay(host, netns, mtu)?;
    cable::routes_to_pods(netns, number(host))
}

/// Sets the MTU of both ends of a node's cable, and makes the bridge's end take what the node sends
/// by native XDP (see [`crate::lab::pass`]).
///
/// # Errors
///
/// What the kernel or a tool refused.
pub fn resize(lab: &Lab, node: &str, mtu: u16) -> anyhow::Result<Attached> {
    let port = host(node).with_context(|| format!("the lab has no {node}"))?.port();
    netns::ip(&format!("link set {port} mtu {mtu}\n"))?;
    // The peer's MTU is what native XDP looks at (drivers/net/veth.c): before the node's own.
    let attached = Pass::load()?.attach(&port);
    lab.netns(node)?.ip(&format!("link set eth0 mtu {mtu}\n"))?;
    attached.or_else(|_| Pass::load()?.attach(&port))
}

/// What iproute2 says about the XDP program on a node's `eth0`, its mode first (`xdp` or
/// `xdpgeneric`): nothing if there is none.
///
/// # Errors
///
/// If it cannot be asked.
pub fn program(lab: &Lab, node: &str) -> anyhow::Result<String> {
    let show = ["link", "show", "dev", "eth0"];
    let output = lab.netns(node)?.inside(|| Ok(Command::new("ip").args(show).output()?))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}");
    let mode = said.split_whitespace().filter(|word| word.starts_with("xdp"));
    let program = said.lines().filter(|line| line.contains("prog/")).map(str::trim);
    Ok(mode.chain(program).collect::<Vec<_>>().join(" "))
}

/// Waits until a node's speaker says that `eth0` is served in this mode, and returns the row.
///
/// # Errors
///
/// If it does not in time.
pub fn served_by(scenario: &mut Scenario, node: &str, mode: &str) -> anyhow::Result<Datapath> {
    // An interface that is another's is looked at every ten seconds.
    scenario.wait(&format!("{node} says {mode}"), PATIENCE, |scenario| {
        let Ok(status) = scenario.status(node) else { return Ok(None) };
        Ok(status.datapath.into_iter().find(|it| it.interface == "eth0" && it.mode == mode))
    })
}
