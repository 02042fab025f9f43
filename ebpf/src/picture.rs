//! What the data plane should do, as values: compared as a whole, applied as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
    /// Service ports and the backends that each spreads new flows over. Shared, because from one
    /// picture to the next most stay what they are: then there is nothing to compare.
    pub services: BTreeMap<ServicePort, Arc<BTreeSet<Backend>>>,
    /// What else is wanted of a service port; those not named get the default.
    pub policies: BTreeMap<ServicePort, Arc<Policy>>,
    /// Networks whose clients reach pods under the pods' own addresses: the pods' and the nodes'.
    /// With them known, a TCP reply whose flow was evicted still gets its VIP if only one VIP's
    /// port has that pod and port; without (`None`), it leaves untouched.
    pub direct: Option<BTreeSet<Network>>,
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
    /// All flows of a client's address go to one backend, new ones too, as kube-proxy has it: a
    /// client whose backend goes away, or gets no new flows any more, gets another one at once;
    /// no other client moves then. When a client would move for another reason (a backend comes,
    /// a weight changes), it stays for the `timeout` first, so that nobody moves who was active a
    /// shorter time ago. Its established flows stay beyond that, as any others.
    ///
    /// This takes no state in the kernel, and differs from kube-proxy in three ways, since it
    /// remembers no client:
    ///
    /// - A client that is not active stays as well; it is let go only when something changes.
    /// - The time counts from the change and not from the client's last flow: one that is active
    ///   all the while moves once, when the time is over (the API calls it the *maximum* session
    ///   sticky time).
    /// - A client that comes for the first time within the timeout after a change goes where
    ///   those that are active stay. A backend that comes gets its share when the time is over,
    ///   or what others leave.
    ///
    /// A node that starts anew, without its maps, knows of no change before and holds nothing
    /// back: if it becomes the holder within the timeout, clients may move.
    Client {
        /// How long a client stays.
        timeout: Duration,
    },
}

impl Affinity {
    /// How long a client stays, where its flows go together.
    pub const fn timeout(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Client { timeout } => Some(timeout),
        }
    }
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

    /// The protocol in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
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
        let mac = entry.node_mac.map(u16::to_ne_bytes);
        Self {
            address: SocketAddr::new(common::ip(&entry.address), u16::from_be(entry.port_be)),
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
