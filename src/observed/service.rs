//! A Service: what its author wrote, what the API server decided, and what was reported back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{IpFamily, ServiceName};

/// A Service, with the defaults of Kubernetes filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Whether its families are what is assumed because nobody has named any.
    pub has_default_families: bool,
    /// Its addresses within the cluster, once the API server has decided them.
    pub cluster_ips: Vec<IpAddr>,
    /// Which addresses its author asks for; none means any.
    pub requested: Vec<IpAddr>,
    /// Which endpoints may carry its traffic.
    pub external_traffic_policy: TrafficPolicy,
    /// Whether a client stays with its endpoint.
    pub session_affinity: SessionAffinity,
    /// Labels, for pools and announcements that select Services.
    pub labels: BTreeMap<String, String>,
    /// The labels of its pods.
    pub selector: BTreeMap<String, String>,
    /// The pool of MetalLB's its author asks for.
    pub requested_pool: Option<String>,
    /// Why its requests cannot be understood or contradict each other, whatever the pool.
    pub contradiction: Option<String>,
    /// Why its requests contradict each other by MetalLB's rules only.
    pub metallb_contradiction: Option<String>,
    /// MetalLB's sharing key; never empty.
    pub sharing_key: Option<String>,
    /// Cilium's sharing.
    pub cilium_sharing: Option<CiliumSharing>,
    /// The only clients that may reach it (loadBalancerSourceRanges); empty means all. Where
    /// nothing of what its author wrote can be read, these are networks that no client is in.
    pub source_ranges: BTreeSet<IpNetwork>,
    /// What its author wrote among them that is no network.
    pub bad_source_ranges: Vec<String>,
    /// Addresses of its author's own, which are not assigned but may be announced.
    pub external_ips: Vec<IpAddr>,
    /// Old spellings of annotations that its author uses.
    pub deprecated: Vec<&'static str>,
    /// What it had when its pool disappeared; it gets the same again if that is possible.
    pub previous: Vec<IpAddr>,
    /// What was last reported back.
    pub reported: Reported,
    /// When it was created, as RFC 3339 in UTC; empty when unknown.
    pub created: String,
    /// Its identity through time; empty when unknown.
    pub uid: String,
    /// Its version, for writes that must not overwrite; empty when unknown.
    pub resource_version: String,
}

/// Cilium's annotations about sharing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CiliumSharing {
    /// The key; never empty.
    pub key: String,
    /// Which other namespaces it shares with.
    pub grants: Grants,
    /// Whether it shares with Services of other pods though its traffic policy is Local.
    pub permits_different_pods: bool,
}

/// Namespaces that a Service shares an address with, besides its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Grants {
    /// All.
    Every,
    /// These.
    Named(BTreeSet<String>),
}

impl Default for Grants {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// What the Service's status and annotations say that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// The addresses in its status.
    pub addresses: Vec<IpAddr>,
    /// The pool that an annotation names.
    pub pool: Option<String>,
    /// What an annotation of Herald's own says that Herald has assigned; none if it has not.
    pub assigned: Option<Vec<IpAddr>>,
    /// The conditions in its status.
    pub conditions: Vec<serde_json::Value>,
}

impl Reported {
    /// Whether Cilium, or Herald in its place, has said in the status how the request went.
    pub fn has_cilium_condition(&self) -> bool {
        let is_one = |it: &serde_json::Value| {
            it["type"] == REQUEST_SATISFIED || it["type"] == OLD_REQUEST_SATISFIED
        };
        self.conditions.iter().any(is_one)
    }
}

impl Service {
    /// Whether its externalIPs may be announced: Services of another load balancer's class are
    /// that one's. Those without a class include every type but LoadBalancer.
    pub fn may_announce_external_ips(&self) -> bool {
        matches!(self.class.as_deref(), None | Some(HERALD | L2_ANNOUNCER))
    }

    /// Whether its class is one of Cilium's.
    pub fn is_of_cilium_class(&self) -> bool {
        matches!(self.class.as_deref(), Some(L2_ANNOUNCER | BGP))
    }

    /// Its labels with Cilium's pseudo labels, which overwrite those of the same name.
    pub fn labels_with_pseudo(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.insert("io.kubernetes.service.namespace".into(), self.name.namespace.clone());
        labels.insert("io.kubernetes.service.name".into(), self.name.name.clone());
        labels
    }

    /// Whether no port of one is a port of the other.
    pub fn ports_differ(&self, other: &Self) -> bool {
        !other.listeners().any(|listener| self.listens_at(listener))
    }

    /// What it listens at.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.ports.iter().map(|port| (port.protocol, port.port))
    }

    /// Whether that is one of its ports.
    pub fn listens_at(&self, listener: Listener) -> bool {
        self.listeners().any(|ours| ours == listener)
    }
}

/// A protocol, and a port at the VIP.
pub type Listener = (Protocol, u16);

/// Herald's own loadBalancerClass.
pub const HERALD: &str = "herald.io/herald";
/// Cilium's loadBalancerClass for L2 announcements.
pub const L2_ANNOUNCER: &str = "io.cilium/l2-announcer";
/// Cilium's loadBalancerClass for BGP: addresses are assigned, and announced by somebody else.
pub const BGP: &str = "io.cilium/bgp-control-plane";

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum FamilyPolicy {
    /// One address.
    #[default]
    SingleStack,
    /// Two addresses where that is possible, else one.
    PreferDualStack,
    /// Two addresses or none.
    RequireDualStack,
}

/// Which endpoints may carry traffic from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum TrafficPolicy {
    /// Every endpoint.
    #[default]
    Cluster,
    /// Only those on the node that the traffic enters.
    Local,
}

/// Whether a client stays with its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum SessionAffinity {
    /// Each connection goes anywhere.
    #[default]
    None,
    /// All connections of one client address go to one endpoint.
    ClientIp {
        /// How long it stays there, if it could.
        timeout: Duration,
    },
}
/// The annotation with the pool of a Service.
pub const ALLOCATED_FROM: &str = "metallb.io/ip-allocated-from-pool";
/// The annotation with what Herald has assigned to a Service: only that is ever taken away again
/// from one that Herald does not serve any more.
pub const ASSIGNED: &str = "herald.io/assigned-addresses";
/// The type of Cilium's condition that says whether a Service has the addresses it wants.
pub const REQUEST_SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";
/// What Cilium called it before.
pub const OLD_REQUEST_SATISFIED: &str = "io.cilium/lb-ipam-request-satisfied";
/// The annotation with what a Service had when its pool disappeared.
pub const PREVIOUS: &str = "herald.io/previous-addresses";
