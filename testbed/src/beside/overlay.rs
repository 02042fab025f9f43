//! A pod network in VXLAN tunnels between the nodes, laid as flannel lays it (backend/vxlan): one
//! `flannel.1` a node, whose neighbours and their nodes are written down and never learned.

use crate::lab::Lab;
use crate::lab::addresses::{NODES, PODS, pod_name};
use crate::lab::netns;

/// Octets that VXLAN takes from each packet over IPv4.
const MTU: u16 = 1500 - 50;

/// Lays the tunnels and gives the routes to other nodes' IPv4 pods to them; IPv6 is routed on.
///
/// # Errors
///
/// What the kernel or a tool refused.
pub fn lay(lab: &Lab) -> anyhow::Result<()> {
    for node in 1..=NODES {
        let netns = lab.netns(&format!("n{node}"))?;
        let mac = mac(node);
        netns.ip(&format!(
            "link add flannel.1 address {mac} mtu {MTU} type vxlan id 1 local 192.168.1.1{node} \
             dev eth0 dstport 8472 nolearning\n\
             addr add 10.244.{node}.0/32 dev flannel.1\n\
             link set flannel.1 up\n\
             link set cni0 mtu {MTU}\n"
        ))?;
        for other in (1..=NODES).filter(|other| *other != node) {
            let theirs = self::mac(other);
            netns.inside(|| {
                let there = format!("192.168.1.1{other}");
                netns::quietly(
                    "bridge",
                    &["fdb", "append", &theirs, "dev", "flannel.1", "dst", &there],
                )
            })?;
            netns.ip(&format!(
                "neigh add 10.244.{other}.0 lladdr {theirs} dev flannel.1 nud permanent\n\
                 route replace 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink\n"
            ))?;
        }
        for pod in 1..=PODS {
            lab.netns(&pod_name(node, pod))?.ip(&format!("link set eth0 mtu {MTU}\n"))?;
        }
    }
    Ok(())
}

fn mac(node: u8) -> String {
    format!("02:00:00:03:{node:02}:01")
}
