//! A host's cable into the bridge, and what hangs on it (edge).

use super::addresses::{Host, NODES};
use super::netns::{self, Netns};

/// What the kernel gives a veth, and every card.
pub const MTU: u16 = 1500;

/// Lays the cable: `eth0` in the host's namespace with its addresses and routes, and its port at
/// the bridge.
///
/// # Errors
///
/// What the kernel or a tool refused.
pub fn lay(host: Host, netns: &Netns, mtu: u16) -> anyhow::Result<()> {
    let (name, port, mac, v4, v6) = (host.name, host.port(), host.mac(), host.v4(), host.v6());
    netns::ip(&format!(
        "link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {name}\n\
         link set {port} master br0 up\n"
    ))?;
    netns.ip(&format!(
        "link set eth0 up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n"
    ))?;
    if name.starts_with('n') {
        // Native XDP_TX loses the mark "checksum still to be computed", so the sender must compute
        // it before the frame enters a veth whose other end runs native XDP.
        netns::quietly("ethtool", &["-K", &port, "tx", "off"])?;
        netns.inside(|| netns::quietly("ethtool", &["-K", "eth0", "tx", "off"]))?;
    }
    if name != "r1" {
        netns.ip("route add default via 192.168.1.1\nroute add default via fd00:1::1\n")?;
    }
    Ok(())
}

/// A node's routes to the pods of the others.
///
/// # Errors
///
/// If the kernel refuses one.
pub fn routes_to_pods(netns: &Netns, node: u8) -> anyhow::Result<()> {
    for other in (1..=NODES).filter(|other| *other != node) {
        netns.ip(&format!(
            "route add 10.244.{other}.0/24 via 192.168.1.1{other}\n\
             route add fd00:244:{other}::/64 via fd00:1::1{other}\n"
        ))?;
    }
    Ok(())
}
