//! Who is who on the lab's LAN (pure): names, addresses, MACs, written down once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_announcer::MacAddr;

/// How many nodes there are.
pub const NODES: u8 = 3;
/// How many pods there are on each.
pub const PODS: u8 = 2;
/// The port on which every pod serves TCP and UDP.
pub const POD_PORT: u16 = 8080;
/// The client on the LAN, and the one behind the router.
pub const CLIENTS: [&str; 2] = ["c1", "c2"];

/// `n1`, `n2`, `n3`.
pub fn nodes() -> impl Iterator<Item = String> {
    (1..=NODES).map(|number| format!("n{number}"))
}

/// A host on the LAN: its name, the last octet of its addresses, in decimal digits for both
/// families, as people write them: 192.168.1.11 and fd00:1::11.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its name, its namespace's name, and part of its bridge port's name.
    pub name: &'static str,
    /// The last part of its addresses and its MAC.
    pub digits: u8,
}

/// Everybody whose `eth0` is a port of the bridge.
pub const LAN: [Host; 5] = [
    Host { name: "n1", digits: 11 },
    Host { name: "n2", digits: 12 },
    Host { name: "n3", digits: 13 },
    Host { name: "c1", digits: 100 },
    Host { name: "r1", digits: 1 },
];

impl Host {
    /// 192.168.1.x
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 1, self.digits)
    }

    /// fd00:1::x, the digits being those of the IPv4 address.
    pub fn v6(self) -> Ipv6Addr {
        let digits = u16::from(self.digits);
        let digits = digits / 100 * 0x100 + digits / 10 % 10 * 0x10 + digits % 10;
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, digits)
    }

    /// 02:00:00:00:01:x
    pub fn mac(self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 1, self.digits])
    }

    /// The bridge's end of its cable.
    pub fn port(self) -> String {
        port(self.name)
    }
}

/// The bridge's end of a host's cable.
pub fn port(name: &str) -> String {
    format!("port-{name}")
}

/// The host of a name.
pub fn host(name: &str) -> Option<Host> {
    LAN.into_iter().find(|host| host.name == name)
}

/// The node with a MAC.
pub fn node_of(mac: MacAddr) -> Option<&'static str> {
    LAN.into_iter().find(|host| host.mac() == mac).map(|host| host.name)
}

/// The address with which a client's requests leave it.
pub fn client_address(client: &str, like: IpAddr) -> Option<IpAddr> {
    let (v4, v6) = match client {
        "c1" => host("c1").map(|host| (host.v4(), host.v6()))?,
        "c2" => (Ipv4Addr::new(10, 9, 0, 2), Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2)),
        _ => return None,
    };
    Some(if like.is_ipv4() { v4.into() } else { v6.into() })
}

/// A node's number, which its pods' addresses contain.
pub fn number(node: Host) -> u8 {
    node.digits - 10
}

/// A pod's name, for its Pod as for its namespace.
pub fn pod_name(node: u8, pod: u8) -> String {
    format!("n{node}-p{pod}")
}

/// A pod's addresses, IPv4 first.
pub fn pod_addresses(node: u8, pod: u8) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::new(10, 244, node, pod + 1);
    let (node, last) = (u16::from(node), u16::from(pod) + 1);
    [v4.into(), IpAddr::from([0xfd00, 0x244, node, 0, 0, 0, 0, last])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        let shown: Vec<String> =
            LAN.iter().map(|host| format!("{} {} {}", host.name, host.v4(), host.v6())).collect();
        assert_eq!(
            shown,
            [
                "n1 192.168.1.11 fd00:1::11",
                "n2 192.168.1.12 fd00:1::12",
                "n3 192.168.1.13 fd00:1::13",
                "c1 192.168.1.100 fd00:1::100",
                "r1 192.168.1.1 fd00:1::1",
            ]
        );
    }

    #[test]
    fn pods_have_the_addresses_of_their_nodes() {
        let shown = pod_addresses(2, 1).map(|address| address.to_string());
        assert_eq!(shown, ["10.244.2.2", "fd00:244:2::2"]);
        assert_eq!(pod_name(number(LAN[1]), 1), "n2-p1");
    }
}
