//! What the cluster looks like: typed values, parsed once at the border.
//!
//! Every later stage reads this and nothing else about the cluster. Nothing here does I/O, reads a
//! clock or checks a value again; whoever builds an `Observed` (`source`) has checked it. Read
//! `observed/range.rs` for addresses, `observed/selector.rs` for labels, and `pool.rs`,
//! `advertisement.rs` and `service.rs` for what the kinds of Kubernetes, MetalLB and Cilium become.

mod advertisement;
mod exclusion;
mod faulty;
mod pattern;
mod pool;
mod range;
mod selector;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use advertisement::{Advertisement, PreferredNodes};
pub use exclusion::Exclusions;
pub use faulty::Faulty;
pub use pattern::{Pattern, PatternError};
pub use pool::{Allocation, CILIUM_PREFIX, Pool, PoolKind};
pub use range::{AddressRange, IpFamily};
pub use selector::{Requirement, Selector};
pub use service::{
    ALLOCATED_FROM, ASSIGNED, BGP, CiliumSharing, FamilyPolicy, Grants, HERALD, L2_ANNOUNCER,
    Listener, OLD_REQUEST_SATISFIED, PREVIOUS, Protocol, REQUEST_SATISFIED, Reported, Service,
    ServicePort, SessionAffinity, TargetPort, TrafficPolicy,
};

/// The whole input picture. Services and endpoints are shared with the pictures before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Pools by name. The ranges of those without a conflict never overlap.
    pub pools: BTreeMap<String, Pool>,
    /// True while an invalid manifest may hide a pool. Addresses outside all known pools are then
    /// not taken away from anybody.
    pub pools_incomplete: bool,
    /// True while an invalid manifest may hide an announcement. What was announced then goes on
    /// being announced.
    pub advertisements_incomplete: bool,
    /// True while an invalid manifest may hide a Service. Addresses of unknown Services are then
    /// not given to others.
    pub services_incomplete: bool,
    /// Addresses of Services that exist but cannot be read. They are nobody else's.
    pub hidden: BTreeMap<ServiceName, Vec<IpAddr>>,
    /// Announcements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
    /// Interfaces that nothing is announced on.
    pub exclusions: Exclusions,
    /// The conditions that Cilium's policies carry, by the name of the object, also of those that
    /// cannot be read.
    pub policies: BTreeMap<String, Vec<serde_json::Value>>,
    /// Objects of the configuration in an API server that cannot be used as they are, by what
    /// problems call them.
    pub faulty: BTreeMap<String, Faulty>,
    /// All Services, of every type.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// Endpoints by the Service they belong to, sorted by address.
    pub endpoints: BTreeMap<ServiceName, Arc<[Endpoint]>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Labels of namespaces, by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// The name of a Service: `namespace/name`, also when serialized. Cheap to copy: each of ten
/// thousand stands in a dozen places.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<NameParts>);

/// What a [`ServiceName`] is made of.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameParts {
    /// The namespace.
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

impl ServiceName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self(Arc::new(NameParts { namespace: namespace.into(), name: name.into() }))
    }
}

impl Deref for ServiceName {
    type Target = NameParts;

    fn deref(&self) -> &NameParts {
        &self.0
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

/// One address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// The node the pod runs on, where that is known.
    pub node: Option<String>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it answers those it has; also true of a pod that ends and is ready otherwise.
    pub serving: bool,
    /// Whether the pod is about to end: on purpose, whatever else it says.
    pub terminating: bool,
    /// Whether it counts as ready although it does not say so: everything stopped being ready at
    /// once (see `source/steady.rs`).
    pub kept: bool,
    /// The ports it listens on, sorted; those of one slice have them in common.
    pub ports: Arc<[EndpointPort]>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The name.
    pub name: String,
    /// Its internal addresses, in the order in which it lists them.
    pub addresses: Vec<IpAddr>,
    /// Labels, for announcements that select nodes.
    pub labels: BTreeMap<String, String>,
    /// Whether it is labelled `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub excluded: bool,
    /// Whether its condition NetworkUnavailable is true.
    pub network_unavailable: bool,
    /// Whether it has a condition Ready that is not true.
    pub not_ready: bool,
    /// Whether it is cordoned (spec.unschedulable).
    pub cordoned: bool,
    /// The networks of its pods (spec.podCIDRs), where Kubernetes assigns them.
    pub pod_networks: Vec<IpNetwork>,
    /// How many new flows each of its pods gets, compared with pods of other nodes (annotation
    /// [`WEIGHT`]), from 0 to [`MOST_WEIGHT`]; it counts as 1 where nobody says.
    pub weight: Option<u32>,
    /// What its author wrote there that is no weight.
    pub bad_weight: Option<String>,
}

/// The annotation with a node's weight.
pub const WEIGHT: &str = "herald.io/weight";
/// The greatest weight. A slot table has about a hundred slots for each backend: a backend of less
/// than a hundredth of the others' weight could end up with none.
pub const MOST_WEIGHT: u32 = 100;
