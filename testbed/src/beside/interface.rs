//! A node's interface to the LAN that goes and comes back (edge), as a driver that is loaded again
//! or a virtual machine whose card is exchanged has it: a new interface of the old name.

use anyhow::Context;

use crate::lab::Lab;
use crate::lab::addresses::{NODES, host};
use crate::lab::bpf::Attached;
use crate::lab::netns;
use crate::lab::pass::Pass;

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
    let (port, mac, v4, v6) = (host.port(), host.mac(), host.v4(), host.v6());
    netns::ip(&format!(
        "link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {node}\n\
         link set {port} master br0 up\n"
    ))?;
    // As in the lab's own cables: XDP_TX loses the mark "checksum still to be computed".
    netns::quietly("ethtool", &["-K", &port, "tx", "off"])?;
    netns.inside(|| netns::quietly("ethtool", &["-K", "eth0", "tx", "off"]))?;
    netns.ip(&format!(
        "link set eth0 up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         route add default via 192.168.1.1\n\
         route add default via fd00:1::1\n"
    ))?;
    for other in (1..=NODES).filter(|other| format!("n{other}") != node) {
        netns.ip(&format!(
            "route add 10.244.{other}.0/24 via 192.168.1.1{other}\n\
             route add fd00:244:{other}::/64 via fd00:1::1{other}\n"
        ))?;
    }
    Ok(())
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
