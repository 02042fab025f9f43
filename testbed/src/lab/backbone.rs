//! A second network between the nodes (edge), as machines with a network for themselves have it:
//! they hear each other there when their cable to the LAN is pulled.

use super::addresses::{NODES, port};
use super::{Lab, netns};

/// The nodes' interface on it.
pub const INTERFACE: &str = "eth1";

/// A node's address on it.
pub fn address(node: u8) -> String {
    format!("10.8.0.1{node}")
}

impl Lab {
    /// Lays the second network.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool refused.
    pub fn add_backbone(&self) -> anyhow::Result<()> {
        netns::ip("link add br1 type bridge stp_state 0 forward_delay 0\nlink set br1 up\n")?;
        for node in 1..=NODES {
            let (name, address) = (format!("n{node}"), address(node));
            let port = format!("{}-b", port(&name));
            netns::ip(&format!(
                "link add {port} type veth peer name {INTERFACE} netns {name}\n\
                 link set {port} master br1 up\n"
            ))?;
            self.netns(&name)?.ip(&format!(
                "link set {INTERFACE} up\n\
                 addr add {address}/24 dev {INTERFACE}\n"
            ))?;
        }
        Ok(())
    }
}

/// The Nodes' manifests, with these addresses as their InternalIPs.
pub fn nodes_manifest() -> String {
    let node = |node| {
        let address = address(node);
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{node}}}\n\
             status:\n  addresses:\n    - {{type: InternalIP, address: {address}}}\n"
        )
    };
    (1..=NODES).map(node).collect()
}
