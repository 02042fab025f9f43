//! The objects that a file holds, typed, with the places that later findings must point at.
//!
//! Plain data between `document`, which makes them, and `assemble`, which puts them together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::tree::Position;
use crate::observed::{Advertisement, Endpoint, Exclusions, Node, Pool, Service, ServiceName};
use crate::problem::{Level, Location, Problem, Reason};

/// The kinds that Herald reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// MetalLB's pool.
    IpAddressPool,
    /// MetalLB's announcement.
    L2Advertisement,
    /// Service.
    Service,
    /// EndpointSlice.
    EndpointSlice,
    /// Node.
    Node,
    /// Namespace.
    Namespace,
    /// Cilium's pool.
    CiliumPool,
    /// Cilium's announcement.
    CiliumPolicy,
    /// MetalLB's ConfigMap of interfaces that nothing is announced on; no other one is read.
    ConfigMap,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: &'static [Self] = &[
        Self::IpAddressPool,
        Self::L2Advertisement,
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::Namespace,
        Self::CiliumPool,
        Self::CiliumPolicy,
        Self::ConfigMap,
    ];

    /// The name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::CiliumPool => "CiliumLoadBalancerIPPool",
            Self::CiliumPolicy => "CiliumL2AnnouncementPolicy",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// The API versions that are read, the preferred one first.
    pub const fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::IpAddressPool | Self::L2Advertisement => &["metallb.io/v1beta1"],
            Self::Service | Self::Node | Self::Namespace | Self::ConfigMap => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::CiliumPool => &["cilium.io/v2", "cilium.io/v2alpha1"],
            Self::CiliumPolicy => &["cilium.io/v2alpha1"],
        }
    }

    /// The name in addresses of the API server.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::IpAddressPool => "ipaddresspools",
            Self::L2Advertisement => "l2advertisements",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::CiliumPool => "ciliumloadbalancerippools",
            Self::CiliumPolicy => "ciliuml2announcementpolicies",
            Self::ConfigMap => "configmaps",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Namespace | Self::CiliumPool | Self::CiliumPolicy)
    }

    /// Whether the kind is Kubernetes' own, so that an API server has checked its objects.
    pub const fn is_built_in(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Node | Self::Namespace)
    }

    /// Whether it says what Herald is to do, and not what there is to do it with.
    pub const fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::IpAddressPool
                | Self::L2Advertisement
                | Self::CiliumPool
                | Self::CiliumPolicy
                | Self::ConfigMap
        )
    }

    /// Whether it is a kind of pool.
    pub const fn is_pool(self) -> bool {
        matches!(self, Self::IpAddressPool | Self::CiliumPool)
    }

    /// Whether it says who announces what.
    pub const fn is_advertisement(self) -> bool {
        matches!(self, Self::L2Advertisement | Self::CiliumPolicy)
    }

    /// Whether the namespace is part of what makes an object itself. Pools are known by name alone:
    /// that is how Services ask for one, and how their annotations and statuses name it.
    const fn is_known_by_namespace(self) -> bool {
        self.is_namespaced() && !matches!(self, Self::IpAddressPool)
    }
}

/// Which object it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    /// What no two objects may have in common.
    pub fn identity(&self) -> (Kind, &str, &str) {
        let namespace =
            if self.kind.is_known_by_namespace() { self.namespace.as_str() } else { "" };
        (self.kind, namespace, &self.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.namespace.as_str() {
            "" => write!(f, " {}", self.name),
            namespace => write!(f, " {namespace}/{}", self.name),
        }
    }
}

/// An object, typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Pool {
        pool: Box<Pool>,
        /// Where each range of the pool stands.
        positions: Vec<Position>,
    },
    Advertisement(Box<Advertisement>),
    Service(Arc<Service>),
    Endpoints {
        service: ServiceName,
        endpoints: Arc<[Endpoint]>,
    },
    Node(Box<Node>),
    Namespace {
        name: String,
        labels: BTreeMap<String, String>,
    },
    Exclusions(Exclusions),
}

/// An object and where it stands in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub key: ObjectKey,
    pub position: Position,
    pub object: Object,
}

impl Placed {
    /// A problem with this object in that file.
    pub fn problem(
        &self,
        level: Level,
        file: &str,
        position: Position,
        reason: Reason,
        message: String,
    ) -> Problem {
        Problem {
            level,
            object: Some(self.key.to_string()),
            location: Some(location(file, position)),
            reason,
            message,
        }
    }
}

/// A position in a file.
pub fn location(file: &str, position: Position) -> Location {
    Location { file: file.to_owned(), line: position.line, column: position.column }
}
