//! What the cluster looks like: typed values, parsed once at the border.
//!
//! Every later stage reads this and nothing else about the cluster. Nothing here does I/O, reads a
//! clock or checks a value again; whoever builds an `Observed` (`source`) has checked it. Read
//! `observed/range.rs` for addresses and `observed/selector.rs` for labels.

mod range;
mod selector;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use range::{AddressRange, IpFamily};
pub use selector::{Requirement, Selector};

/// The whole input picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Pools by name. Their ranges never overlap.
    pub pools: BTreeMap<String, Pool>,
    /// True while an invalid manifest may hide a pool. Addresses outside all known pools are then
    /// not taken away from anybody.
    pub pools_incomplete: bool,
    /// True while an invalid manifest may hide a Service. Addresses of unknown Services are then
    /// not given to others.
    pub services_incomplete: bool,
    /// Announcements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
    /// All Services, of every type.
    pub services: BTreeMap<ServiceName, Service>,
    /// Endpoints by the Service they belong to, sorted by address.
    pub endpoints: BTreeMap<ServiceName, Vec<Endpoint>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
}

/// A named set of ranges VIPs come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The name, unique among pools.
    pub name: String,
    /// Labels, for announcements that select pools.
    pub labels: BTreeMap<String, String>,
    /// The ranges in the order in which they are used; they do not overlap.
    pub ranges: Vec<AddressRange>,
    /// Whether Services that ask for nothing get an address from here.
    pub auto_assign: bool,
    /// Whether IPv4 addresses ending in .0 and .255 are left out.
    pub avoid_buggy: bool,
}

impl Pool {
    /// Whether one of the ranges holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether any range is of the family.
    pub fn has_family(&self, family: IpFamily) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }
}

/// Which pools are announced, by which nodes and on which interfaces (MetalLB's L2Advertisement).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advertisement {
    /// The name, unique among announcements.
    pub name: String,
    /// Pools by name.
    pub pools: BTreeSet<String>,
    /// Pools by label, besides the named ones.
    pub pool_selectors: Vec<Selector>,
    /// Nodes that may announce; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Exact names of interfaces to announce on; empty means all.
    pub interfaces: BTreeSet<String>,
}

impl Advertisement {
    /// Whether addresses of the pool are announced. Neither names nor selectors means every pool.
    pub fn covers(&self, pool: &Pool) -> bool {
        (self.pools.is_empty() && self.pool_selectors.is_empty())
            || self.pools.contains(&pool.name)
            || self.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
    }

    /// Whether the node may announce.
    pub fn selects_node(&self, node: &Node) -> bool {
        self.node_selectors.is_empty()
            || self.node_selectors.iter().any(|selector| selector.matches(&node.labels))
    }

    /// Whether to announce on the interface.
    pub fn selects_interface(&self, interface: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.contains(interface)
    }
}

/// The name of a Service: `namespace/name`, also when serialized.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

impl ServiceName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The text is not of the form `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {0:?} as the name of a Service; expected namespace/name")]
pub struct ServiceNameError(String);

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(ServiceNameError(text.to_owned())),
        }
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A Service, with the defaults of Kubernetes filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// Whether the type is LoadBalancer.
    pub load_balancer: bool,
    /// The loadBalancerClass, which says whose Service it is.
    pub class: Option<String>,
    /// The ports it listens on.
    pub ports: Vec<ServicePort>,
    /// One or two distinct families, the preferred one first.
    pub ip_families: Vec<IpFamily>,
    /// What to do about a second family.
    pub family_policy: FamilyPolicy,
    /// Which addresses its author asks for; at most one of each family, none means any.
    pub requested: Vec<IpAddr>,
    /// Which endpoints may carry its traffic.
    pub external_traffic_policy: TrafficPolicy,
    /// Whether a client stays with its endpoint.
    pub session_affinity: SessionAffinity,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The name, by which the port of an endpoint is found; empty when there is but one port.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port at the VIP.
    pub port: u16,
    /// The port at the pod, as its author wrote it; the endpoints say what it came to.
    pub target: TargetPort,
}

/// The port at the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that the pod gives to one of its ports.
    Name(String),
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What to do about a second address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FamilyPolicy {
    /// One address.
    SingleStack,
    /// Two addresses where that is possible, else one.
    PreferDualStack,
    /// Two addresses or none.
    RequireDualStack,
}

/// Which endpoints may carry traffic from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TrafficPolicy {
    /// Every endpoint.
    Cluster,
    /// Only those on the node that the traffic enters.
    Local,
}

/// Whether a client stays with its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SessionAffinity {
    /// Each connection goes anywhere.
    None,
    /// All connections of one client address go to one endpoint.
    ClientIp,
}

/// One address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// The node the pod runs on, where that is known.
    pub node: Option<String>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// The ports it listens on, sorted.
    pub ports: Vec<EndpointPort>,
}

/// One port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointPort {
    /// The name of the Service's port that leads here; empty when there is but one.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port at the pod.
    pub port: u16,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The name.
    pub name: String,
    /// Its internal addresses, in the order in which it lists them.
    pub addresses: Vec<IpAddr>,
    /// Labels, for announcements that select nodes.
    pub labels: BTreeMap<String, String>,
    /// Whether it is labelled `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub excluded: bool,
}
