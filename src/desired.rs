//! From what is observed to what is wanted: for each assigned VIP, which nodes may hold it and
//! where its traffic goes, each "no" with its named reason (pure).
//!
//! Must not know who holds a VIP, nor what the kernel can do: election and driver decide those.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use herald_leader_election::{NodeName, SessionState, View};

use crate::allocator::Assignment;
use crate::facts::{Facts, Interface};
use crate::observed::{
    Advertisement, Endpoint, Node, Observed, Protocol, Service, ServiceName, ServicePort,
    TrafficPolicy,
};

/// One wanted VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The Service it is for.
    pub service: ServiceName,
    /// The pool it came from.
    pub pool: String,
    /// Nodes that may hold it, each with the interfaces to announce it on.
    pub eligible: BTreeMap<NodeName, BTreeSet<String>>,
    /// Nodes that may not, and why.
    pub ineligible: BTreeMap<NodeName, Ineligible>,
    /// Endpoints by Service port.
    pub backends: Vec<Backend>,
}

/// Why a node may not hold a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// No L2Advertisement selects the VIP's pool.
    NoAdvertisement,
    /// L2Advertisements select the pool, but not this node.
    NotSelected,
    /// The node is labelled out of external load balancing.
    Excluded,
    /// No speaker on the node has a living session.
    NoSession,
    /// The node is giving its VIPs away.
    Draining,
    /// externalTrafficPolicy is Local and no endpoint on the node is ready.
    NoLocalEndpoint,
    /// No usable interface of the node is named by an L2Advertisement.
    NoSuchInterface,
    /// No usable interface of the node is in a network that contains the VIP.
    NotInSubnet,
}

impl Ineligible {
    /// The name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAdvertisement => "no_advertisement",
            Self::NotSelected => "node_not_selected",
            Self::Excluded => "node_excluded_by_label",
            Self::NoSession => "no_session",
            Self::Draining => "draining",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::NoSuchInterface => "no_such_interface",
            Self::NotInSubnet => "not_in_subnet",
        }
    }
}

/// An endpoint of a VIP's Service, at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service's port and protocol.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The pod's address and port.
    pub address: SocketAddr,
    /// Its node, if known.
    pub node: Option<NodeName>,
    /// The MAC to send new flows to, or why none goes there.
    pub target: Result<[u8; 6], Unused>,
    /// The MAC to send flows to that it already has, where it gets no new ones.
    pub draining: Option<[u8; 6]>,
}

/// Why an endpoint gets no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The endpoint is not ready.
    NotReady,
    /// The endpoint names no node.
    NoNode,
    /// The endpoint's node fell silent or never had a speaker: nothing delivers to its pods.
    NodeSessionLost,
    /// The endpoint's node has no usable interface.
    NoInterface,
    /// SCTP to another port than the Service's: its checksum (CRC32c over the whole packet,
    /// RFC 9260 6.8) cannot follow the change, and the data plane passes it to the stack.
    SctpPortDiffers,
}

impl Unused {
    /// The name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::NoNode => "no_node",
            Self::NodeSessionLost => "node_session_lost",
            Self::NoInterface => "node_without_interface",
            Self::SctpPortDiffers => "sctp_port_differs",
        }
    }
}

/// Facts of all nodes that ever published any, by the election's view.
pub fn facts(view: &View) -> BTreeMap<NodeName, Facts> {
    let decode = |session: &herald_leader_election::Session| Facts::decode(&session.facts);
    view.sessions.iter().map(|(node, session)| (node.clone(), decode(session))).collect()
}

/// The wanted VIPs, as seen from `me`.
pub fn desired(
    me: &NodeName,
    observed: &Observed,
    assignments: &BTreeMap<ServiceName, Assignment>,
    view: &View,
) -> BTreeMap<IpAddr, Vip> {
    let facts = facts(view);
    let context = Context { me, observed, view, facts: &facts };
    let mut vips = BTreeMap::new();
    for (name, assignment) in assignments {
        let Some(service) = observed.services.get(name) else { continue };
        for address in &assignment.addresses {
            vips.insert(*address, context.vip(*address, name, service, &assignment.pool));
        }
    }
    vips
}

struct Context<'a> {
    me: &'a NodeName,
    observed: &'a Observed,
    view: &'a View,
    facts: &'a BTreeMap<NodeName, Facts>,
}

impl Context<'_> {
    fn vip(&self, vip: IpAddr, name: &ServiceName, service: &Service, pool: &str) -> Vip {
        let all = self.observed.advertisements.values();
        let from = self.observed.pools.get(pool);
        let advertisements: Vec<&Advertisement> =
            all.filter(|ad| from.is_some_and(|pool| ad.covers(pool))).collect();
        let mut eligible = BTreeMap::new();
        let mut ineligible = BTreeMap::new();
        let backends = self.backends(vip, name, service);
        let is_local = service.external_traffic_policy == TrafficPolicy::Local;
        let has_local = |node: &NodeName| {
            let here = |b: &Backend| b.node.as_ref() == Some(node) && b.target.is_ok();
            !is_local || backends.iter().any(here)
        };
        for (node_name, node) in &self.observed.nodes {
            let node_name = NodeName(node_name.clone());
            match self.eligibility(vip, &node_name, node, &advertisements) {
                Ok(_) if !has_local(&node_name) => {
                    ineligible.insert(node_name, Ineligible::NoLocalEndpoint);
                }
                Ok(interfaces) => drop(eligible.insert(node_name, interfaces)),
                Err(reason) => drop(ineligible.insert(node_name, reason)),
            }
        }
        Vip { service: name.clone(), pool: pool.into(), eligible, ineligible, backends }
    }

    /// The interfaces a node may announce a VIP on: those the advertisements name, or all in a
    /// network that contains the VIP where they name none.
    fn eligibility(
        &self,
        vip: IpAddr,
        name: &NodeName,
        node: &Node,
        advertisements: &[&Advertisement],
    ) -> Result<BTreeSet<String>, Ineligible> {
        if advertisements.is_empty() {
            return Err(Ineligible::NoAdvertisement);
        }
        if node.excluded {
            return Err(Ineligible::Excluded);
        }
        let selected: Vec<_> = advertisements.iter().filter(|ad| ad.selects_node(node)).collect();
        if selected.is_empty() {
            return Err(Ineligible::NotSelected);
        }
        let session = self.view.sessions.get(name);
        let session = session.filter(|session| session.state == SessionState::Open);
        let session = session.ok_or(Ineligible::NoSession)?;
        if session.draining {
            return Err(Ineligible::Draining);
        }
        let usable = self.facts.get(name).map(|facts| &facts.interfaces[..]).unwrap_or_default();
        let mut interfaces = BTreeSet::new();
        for advertisement in &selected {
            let may = |interface: &&Interface| match advertisement.interfaces.is_empty() {
                true => interface.is_in_network_of(vip),
                false => advertisement.selects_interface(&interface.name),
            };
            interfaces.extend(usable.iter().filter(may).map(|interface| interface.name.clone()));
        }
        if !interfaces.is_empty() {
            return Ok(interfaces);
        }
        match selected.iter().any(|ad| ad.interfaces.is_empty()) {
            true => Err(Ineligible::NotInSubnet),
            false => Err(Ineligible::NoSuchInterface),
        }
    }

    fn backends(&self, vip: IpAddr, name: &ServiceName, service: &Service) -> Vec<Backend> {
        let endpoints = self.observed.endpoints.get(name).map(|e| &e[..]).unwrap_or_default();
        let of_family = endpoints.iter().filter(|e| e.address.is_ipv4() == vip.is_ipv4());
        let mut backends = Vec::new();
        for endpoint in of_family {
            for port in &service.ports {
                backends.extend(self.backend(endpoint, port));
            }
        }
        backends
    }

    /// The endpoint at a Service port, if it serves it: EndpointSlice ports carry the Service
    /// port's name.
    fn backend(&self, endpoint: &Endpoint, port: &ServicePort) -> Option<Backend> {
        let serving = endpoint
            .ports
            .iter()
            .find(|serving| serving.name == port.name && serving.protocol == port.protocol)?;
        let reached = self.reach(endpoint, port, serving.port);
        Some(Backend {
            port: port.port,
            protocol: port.protocol,
            address: SocketAddr::new(endpoint.address, serving.port),
            node: endpoint.node.clone().map(NodeName),
            target: if endpoint.ready { reached } else { Err(Unused::NotReady) },
            draining: reached.ok().filter(|_| !endpoint.ready),
        })
    }

    /// The MAC of the endpoint's node, whether or not it is ready.
    fn reach(
        &self,
        endpoint: &Endpoint,
        port: &ServicePort,
        serving: u16,
    ) -> Result<[u8; 6], Unused> {
        if port.protocol == Protocol::Sctp && serving != port.port {
            return Err(Unused::SctpPortDiffers);
        }
        let node = endpoint.node.clone().map(NodeName).ok_or(Unused::NoNode)?;
        // A speaker that said goodbye left its programs in the kernel: the node still delivers.
        let session = self.view.sessions.get(&node);
        if session.is_none_or(|session| session.state == SessionState::Revoked) {
            return Err(Unused::NodeSessionLost);
        }
        let none = Facts::default();
        let ours = self.facts.get(self.me).unwrap_or(&none);
        let facts = self.facts.get(&node).unwrap_or(&none);
        facts.mac_towards(ours).ok_or(Unused::NoInterface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{VIP, assignments, endpoint, mac, node, observed, service_name, view};

    fn the_vip(observed: &Observed, view: &View) -> Vip {
        let mut vips = desired(&node(1), observed, &assignments(), view);
        vips.remove(&IpAddr::from(VIP)).unwrap()
    }

    fn why_not(observed: &Observed, view: &View, n: u8) -> Option<Ineligible> {
        the_vip(observed, view).ineligible.get(&node(n)).copied()
    }

    #[test]
    fn every_node_in_the_subnet_is_eligible_on_that_interface() {
        let vip = the_vip(&observed(), &view(1));
        let eth0 = BTreeSet::from(["eth0".to_owned()]);
        assert_eq!(vip.eligible, (1..=3).map(|n| (node(n), eth0.clone())).collect());
        assert_eq!(vip.ineligible, BTreeMap::new());
    }

    #[test]
    fn every_reason_against_a_node_has_its_name() {
        let edit = |change: fn(&mut Observed)| {
            let mut observed = observed();
            change(&mut observed);
            observed
        };
        let advertisement = |change: fn(&mut Advertisement)| {
            let mut observed = observed();
            observed.advertisements.values_mut().for_each(change);
            observed
        };
        let none = edit(|o| o.advertisements.clear());
        assert_eq!(why_not(&none, &view(1), 2), Some(Ineligible::NoAdvertisement));
        let excluded = edit(|o| o.nodes.values_mut().for_each(|node| node.excluded = true));
        assert_eq!(why_not(&excluded, &view(1), 2), Some(Ineligible::Excluded));
        let elsewhere = advertisement(|ad| ad.interfaces = ["eth9".to_owned()].into());
        assert_eq!(why_not(&elsewhere, &view(1), 2), Some(Ineligible::NoSuchInterface));
        let nobody = advertisement(|ad| {
            let requirement = crate::observed::Requirement::Exists("gpu".into());
            ad.node_selectors = vec![crate::observed::Selector { requirements: vec![requirement] }];
        });
        assert_eq!(why_not(&nobody, &view(1), 2), Some(Ineligible::NotSelected));
        let mut state = view(1);
        state.sessions.get_mut(&node(2)).unwrap().state = SessionState::Revoked;
        assert_eq!(why_not(&observed(), &state, 2), Some(Ineligible::NoSession));
        let mut draining = view(1);
        draining.sessions.get_mut(&node(2)).unwrap().draining = true;
        assert_eq!(why_not(&observed(), &draining, 2), Some(Ineligible::Draining));
        let mut no_link = view(1);
        no_link.sessions.get_mut(&node(2)).unwrap().facts = Facts::default().encode().into();
        assert_eq!(why_not(&observed(), &no_link, 2), Some(Ineligible::NotInSubnet));
    }

    #[test]
    fn a_named_interface_needs_no_subnet() {
        let mut observed = observed();
        for advertisement in observed.advertisements.values_mut() {
            advertisement.interfaces.insert("eth0".into());
        }
        let assignment = Assignment { pool: "first".into(), addresses: vec![[10, 9, 9, 9].into()] };
        let assignments = BTreeMap::from([(service_name(), assignment)]);
        let vips = desired(&node(1), &observed, &assignments, &view(1));
        assert_eq!(vips[&IpAddr::from([10, 9, 9, 9])].eligible.len(), 3);
    }

    #[test]
    fn with_a_local_policy_only_nodes_with_a_ready_pod_are_eligible() {
        let mut observed = observed();
        for service in observed.services.values_mut() {
            service.external_traffic_policy = TrafficPolicy::Local;
        }
        let not_ready = Endpoint { ready: false, ..endpoint(2) };
        observed.endpoints.insert(service_name(), vec![endpoint(1), not_ready]);
        let vip = the_vip(&observed, &view(1));
        assert_eq!(vip.eligible.into_keys().collect::<Vec<_>>(), [node(1)]);
        let why = Ineligible::NoLocalEndpoint;
        assert_eq!(vip.ineligible, BTreeMap::from([(node(2), why), (node(3), why)]));
    }

    #[test]
    fn a_pod_that_is_not_ready_keeps_its_flows() {
        let mut observed = observed();
        let not_ready = Endpoint { ready: false, ..endpoint(2) };
        observed.endpoints.insert(service_name(), vec![not_ready]);
        let vip = the_vip(&observed, &view(1));
        let backend = &vip.backends[0];
        assert_eq!((backend.target, backend.draining), (Err(Unused::NotReady), Some(mac(2))));
    }

    #[test]
    fn sends_to_ready_pods_by_their_nodes_mac() {
        let vip = the_vip(&observed(), &view(1));
        let targets: Vec<_> = vip.backends.iter().map(|b| (b.port, b.protocol, b.target)).collect();
        let expected = (1..=3)
            .flat_map(|n| [(80, Protocol::Tcp, Ok(mac(n))), (53, Protocol::Udp, Ok(mac(n)))]);
        assert_eq!(targets, expected.collect::<Vec<_>>());
    }

    #[test]
    fn every_unused_endpoint_has_its_reason() {
        let mut observed = observed();
        let not_ready = Endpoint { ready: false, ..endpoint(1) };
        let nowhere = Endpoint { node: None, ..endpoint(2) };
        observed.endpoints.insert(service_name(), vec![not_ready, nowhere, endpoint(3)]);
        let mut view = view(1);
        view.sessions.get_mut(&node(3)).unwrap().state = SessionState::Revoked;
        let reasons = |view: &View| -> Vec<_> {
            the_vip(&observed, view).backends.iter().map(|b| b.target.err()).step_by(2).collect()
        };
        let (not_ready, nowhere) = (Some(Unused::NotReady), Some(Unused::NoNode));
        assert_eq!(reasons(&view), [not_ready, nowhere, Some(Unused::NodeSessionLost)]);
        view.sessions.get_mut(&node(3)).unwrap().state = SessionState::Closed;
        assert_eq!(reasons(&view), [not_ready, nowhere, None], "its kernel still delivers");
    }
}
