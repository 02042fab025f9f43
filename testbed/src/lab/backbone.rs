//! A second network between the nodes (edge), as machines with a network for themselves have it:
//! they hear each other there when their cable to the LAN is pulled.

use std::net::{Ipv4Addr, Ipv6Addr};

use herald_announcer::MacAddr;

use super::addresses::{NODES, port};
use super::pass::Pass;
use super::{Lab, netns};
use crate::resolve::Questioner;

/// The nodes' interface on it, and the guest's.
pub const INTERFACE: &str = "eth1";
/// The client that may join it.
pub(crate) const GUEST_NAME: &str = "c1";
/// As whom the client asks there.
pub(crate) const GUEST: Questioner = Questioner {
    mac: MacAddr([2, 0, 0, 0, 8, 100]),
    v4: Ipv4Addr::new(10, 8, 0, 100),
    v6: Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 0x100),
};

/// A node's address on it.
pub fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, 10 + node)
}

/// A node's MAC on it.
pub fn mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 8, 10 + node])
}

impl Lab {
    /// Lays the second network.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool refused.
    pub fn add_backbone(&mut self) -> anyhow::Result<()> {
        netns::ip(
            "link add br1 type bridge stp_state 0 mcast_snooping 0 forward_delay 0\n\
             link set br1 up\n",
        )?;
        let pass = Pass::load()?;
        for node in 1..=NODES {
            let name = format!("n{node}");
            self.plug_in(&name, mac(node), &format!("addr add {}/24", address(node)))?;
            self._passes.push(pass.attach(&second_port(&name))?);
        }
        Ok(())
    }

    /// Lets the client on the LAN ask there too.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool refused.
    pub fn join_backbone(&self) -> anyhow::Result<()> {
        let Questioner { mac, v4, v6 } = GUEST;
        self.plug_in(GUEST_NAME, mac, &format!("addr add {v4}/24"))?;
        self.netns(GUEST_NAME)?.ip(&format!("addr add {v6}/64 dev {INTERFACE} nodad\n"))
    }

    fn plug_in(&self, name: &str, mac: MacAddr, and: &str) -> anyhow::Result<()> {
        let port = second_port(name);
        netns::ip(&format!(
            "link add {port} type veth peer name {INTERFACE} address {mac} netns {name}\n\
             link set {port} master br1 up\n"
        ))?;
        self.netns(name)?.ip(&format!("link set {INTERFACE} up\n{and} dev {INTERFACE}\n"))
    }
}

fn second_port(name: &str) -> String {
    format!("{}-b", port(name))
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
