//! What the data plane should do, as values: compared as a whole, applied as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use herald_ebpf_common::{self as common, protocol};

/// The whole wanted state of one node's data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// VIPs to answer for while the session lasts, each with an interface index.
    pub vips: BTreeSet<(IpAddr, u32)>,
    /// Our interfaces that carry announcements: index to MAC.
    pub links: BTreeMap<u32, [u8; 6]>,
    /// The other speakers: MAC to their own addresses, where they have one of the family.
    pub peers: BTreeMap<[u8; 6], (Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    /// Service ports and the backends that each spreads over.
    pub services: BTreeMap<ServicePort, BTreeSet<Backend>>,
}

/// A port of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The VIP.
    pub vip: IpAddr,
    /// The Service's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A transport protocol the programs carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

/// Where requests can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The pod's address and port; what tells backends apart.
    pub address: SocketAddr,
    /// MAC of its node on the LAN.
    pub node_mac: [u8; 6],
    /// Whether its node is this one.
    pub is_local: bool,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

impl ServicePort {
    /// The key of the map `SERVICES`.
    pub const fn key(&self) -> common::ServiceKey {
        common::ServiceKey {
            vip: common::address(self.vip),
            port_be: self.port.to_be(),
            protocol: self.protocol.number(),
            reserved: 0,
        }
    }
}

impl Backend {
    /// The entry of the array `BACKENDS`.
    pub const fn entry(&self) -> common::Backend {
        common::Backend {
            address: common::address(self.address.ip()),
            node_mac: common::mac(self.node_mac),
            port_be: self.address.port().to_be(),
            is_local: self.is_local as u32,
        }
    }
}
