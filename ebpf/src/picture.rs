//! What the data plane should do, as values: compared as a whole, applied as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use herald_ebpf_common::{self as common, protocol};

use crate::rendezvous;

/// The whole wanted state of one node's data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// VIPs to answer for while the session lasts, each with an interface index.
    pub vips: BTreeSet<(IpAddr, u32)>,
    /// Every VIP of the cluster, held here or not. Frames that claim one this node does not hold
    /// are dropped on their way out, so a node's own address must not be among them.
    pub all_vips: BTreeSet<IpAddr>,
    /// Our interfaces that carry announcements: index to MAC.
    pub links: BTreeMap<u32, [u8; 6]>,
    /// The other speakers: MAC to their own addresses, where they have one of the family.
    pub peers: BTreeMap<[u8; 6], (Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    /// Service ports and the backends that each spreads new flows over.
    pub services: BTreeMap<ServicePort, BTreeSet<Backend>>,
    /// What else is wanted of a service port; those not named get the default.
    pub policies: BTreeMap<ServicePort, Policy>,
    /// Networks whose clients reach pods under the pods' own addresses: the pods' and the nodes'.
    /// With them known, a TCP reply whose flow was evicted still gets its VIP if only one VIP's
    /// port has that pod and port; without (`None`), it leaves untouched.
    pub direct: Option<BTreeSet<Network>>,
}

impl Picture {
    /// What the ports of this node's pods are known as, where that is one VIP's port alone.
    pub fn fallback(&self) -> BTreeMap<common::ServiceKey, common::ReverseValue> {
        let mut known: BTreeMap<common::ServiceKey, BTreeSet<ServicePort>> = BTreeMap::new();
        for (port, set) in self.services.iter().filter(|_| self.direct.is_some()) {
            let draining = self.policies.get(port).into_iter().flat_map(|policy| &policy.draining);
            for backend in set.iter().chain(draining).filter(|backend| backend.is_local) {
                let pod = ServicePort {
                    vip: backend.address.ip(),
                    port: backend.address.port(),
                    protocol: port.protocol,
                };
                known.entry(pod.key()).or_default().insert(*port);
            }
        }
        let only = |(pod, ports): (common::ServiceKey, BTreeSet<ServicePort>)| {
            let mut ports = ports.into_iter();
            let port = ports.next().filter(|_| ports.len() == 0)?.key();
            let value = common::ReverseValue { vip: port.vip, port_be: port.port_be, reserved: 0 };
            Some((pod, value))
        };
        known.into_iter().filter_map(only).collect()
    }
}

/// How a service port treats its clients and backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Backends that keep their flows but get no new ones, also where there are no others:
    /// terminating, or no longer ready. One that is neither here nor among the service's backends
    /// is dead: its flows move at once.
    pub draining: BTreeSet<Backend>,
    /// Weights other than 1; 0 means no new flows.
    pub weights: BTreeMap<SocketAddr, u32>,
    /// Which flows stay together.
    pub affinity: Affinity,
    /// The only networks that may ask; all may if empty.
    pub sources: BTreeSet<Network>,
    /// What a request gets while there is no backend for new flows.
    pub empty: WhenEmpty,
    /// Which backends count.
    pub locality: Locality,
}

/// Session affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Each flow on its own.
    #[default]
    None,
    /// All flows of a client's address go to one backend, for as long as its slot is that
    /// backend's. There is no state, hence no timeout: a client is never let go earlier than
    /// `sessionAffinityConfig` says, but also not later.
    Client,
}

/// What a request gets from a service port without backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenEmpty {
    /// It goes to the stack: something else may carry it.
    #[default]
    Pass,
    /// ICMP port unreachable, as kube-proxy answers.
    Reject,
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locality {
    /// Backends on all nodes.
    #[default]
    Cluster,
    /// Backends on this node only.
    Local,
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The address; bits beyond the prefix mean nothing.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix: u8,
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
    /// SCTP, RFC 9260.
    Sctp,
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
            Self::Sctp => protocol::SCTP,
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
            chunk: 0,
        }
    }
}

impl Backend {
    /// The entry of the array `BACKENDS`.
    pub fn entry(&self) -> common::Backend {
        common::Backend {
            address: common::address(self.address.ip()),
            node_mac: common::mac(self.node_mac),
            port_be: self.address.port().to_be(),
            flags: if self.is_local { common::IS_LOCAL } else { 0 },
            identity: rendezvous::identity(&self.address),
        }
    }

    /// What an entry of the array `BACKENDS` says.
    pub fn of_entry(entry: &common::Backend) -> Self {
        let octets = entry.address.map(u32::to_ne_bytes);
        let ip = Ipv6Addr::from_octets(std::array::from_fn(|i| octets[i / 4][i % 4]));
        let mac = entry.node_mac.map(u16::to_ne_bytes);
        Self {
            address: SocketAddr::new(ip.to_canonical(), u16::from_be(entry.port_be)),
            node_mac: std::array::from_fn(|i| mac[i / 2][i % 2]),
            is_local: entry.flags & common::IS_LOCAL != 0,
        }
    }
}

impl Network {
    /// The key of the map `SOURCES` for the network in a list.
    pub const fn key(&self, list: u32) -> common::SourceKey {
        let offset = if self.address.is_ipv4() { 96 } else { 0 };
        let bits = offset + self.prefix as u32;
        let bits = if bits > 128 { 128 } else { bits };
        common::SourceKey { prefix_bits: 32 + bits, list, address: common::address(self.address) }
    }
}
