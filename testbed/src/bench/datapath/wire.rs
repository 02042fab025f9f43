//! The wires of the live measurements (edge): namespaces joined by veths, without a bridge.
//!
//! ```text
//!   source  h0 ==== eth0  holder          the client, the router and the switch in one; ends
//!           w0 ==== eth0  node            there are `bench_sink` or `bench_switch`
//!                         pod0 ==== eth0  pod
//! ```

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::pictures::{CLIENT, OURS, PEER, pod4};
use crate::lab::netns::{Netns, quietly};

/// The namespaces.
pub struct Wire {
    /// Where frames come from.
    pub source: Netns,
    /// Who holds the VIP.
    pub holder: Netns,
    /// Where the pods live.
    pub node: Netns,
    /// The pods: one namespace for all.
    pub pod: Netns,
}

/// MAC of all pods.
const POD: [u8; 6] = [2, 0, 0, 0, 2, 2];

impl Wire {
    /// Lays all wires; names begin with `prefix`.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool refused.
    pub fn lay(prefix: &str) -> anyhow::Result<Self> {
        let make = |name: &str| -> anyhow::Result<Netns> {
            let netns = Netns::create(&format!("{prefix}{name}"))?;
            netns.sysctl(&[
                ("ipv6/conf/default/disable_ipv6", "1"),
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
            ])?;
            netns.ip("link set lo up\n")?;
            Ok(netns)
        };
        let wire = Self {
            source: make("source")?,
            holder: make("holder")?,
            node: make("node")?,
            pod: make("pod")?,
        };
        let (client, ours, peer, pod) = (mac(CLIENT), mac(OURS), mac(PEER), mac(POD));
        let cable = |from: &Netns, near: &str, near_mac: &str, to: &Netns, far_mac: &str| {
            from.ip(&format!(
                "link add {near} address {near_mac} type veth peer name eth0 address {far_mac} \
                 netns {}\nlink set {near} up\n",
                to.name()
            ))?;
            to.ip("link set eth0 up\n")?;
            for (netns, interface) in [(from, near), (to, "eth0")] {
                // A veth receives from XDP only through NAPI, which GRO switches on; and native
                // XDP loses the mark "checksum still to be computed".
                netns.inside(|| {
                    quietly("ethtool", &["-K", interface, "gro", "on"])?;
                    quietly("ethtool", &["-K", interface, "tx", "off"])
                })?;
            }
            anyhow::Ok(())
        };
        cable(&wire.source, "h0", &client, &wire.holder, &ours)?;
        cable(&wire.source, "w0", &client, &wire.node, &peer)?;
        cable(&wire.node, "pod0", &mac([2, 0, 0, 0, 2, 1]), &wire.pod, &pod)?;
        // The clients and the other nodes' pods are behind the source, which knows them all.
        wire.holder.ip(&format!(
            "addr add 192.168.1.11/24 dev eth0\n\
             neigh add 192.168.1.1 lladdr {client} dev eth0\n\
             neigh add 192.168.1.12 lladdr {peer} dev eth0\n\
             route add default via 192.168.1.1\n\
             route add 10.244.0.0/14 via 192.168.1.12\n"
        ))?;
        wire.node.ip(&format!(
            "addr add 192.168.1.12/24 dev eth0\n\
             neigh add 192.168.1.1 lladdr {client} dev eth0\n\
             neigh add 192.168.1.11 lladdr {ours} dev eth0\n\
             route add default via 192.168.1.1\n\
             addr add 169.254.1.1/32 dev pod0\n\
             neigh add 169.254.1.2 lladdr {pod} dev pod0\n\
             route add 10.244.0.0/14 via 169.254.1.2 dev pod0 onlink\n"
        ))?;
        let pod_ip = pod4(0);
        wire.pod.ip(&format!(
            "addr add {pod_ip}/32 dev eth0\n\
             neigh add 169.254.1.1 lladdr 02:00:00:00:02:01 dev eth0\n\
             route add default via 169.254.1.1 dev eth0 onlink\n"
        ))?;
        Ok(wire)
    }
}

/// Gives rules to a program that reads them from its input, in the calling thread's namespace.
///
/// # Errors
///
/// What the program says.
pub fn feed(program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).with_context(|| format!("cannot write to {program}"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
