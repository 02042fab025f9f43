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
    /// The Services it is for: more than one where they share it.
    pub services: Vec<ServiceName>,
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
    /// No L2Advertisement or policy selects the VIP's pool and Services.
    NoAdvertisement,
    /// L2Advertisements select the pool, but not this node.
    NotSelected,
    /// The node is labelled out of external load balancing.
    Excluded,
    /// The node says that its network is not set up.
    NetworkUnavailable,
    /// The address is shared, and every L2Advertisement for its pool picks out Services: it would
    /// be announced for one that is not meant.
    SharedAddress,
    /// No speaker on the node has a living session.
    NoSession,
    /// The node is giving its VIPs away.
    Draining,
    /// externalTrafficPolicy is Local and no endpoint on the node is ready.
    NoLocalEndpoint,
    /// No usable interface of the node is named by an L2Advertisement.
    NoSuchInterface,
    /// The interfaces of the node that would do are excluded by `metallb-excludel2`.
    InterfaceExcluded,
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
            Self::NetworkUnavailable => "node_network_unavailable",
            Self::SharedAddress => "shared_ip_with_service_selector",
            Self::NoSession => "no_session",
            Self::Draining => "draining",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::NoSuchInterface => "no_such_interface",
            Self::InterfaceExcluded => "interface_excluded",
            Self::NotInSubnet => "not_in_subnet",
        }
    }
}

/// An endpoint of a VIP's Service, at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service it is an endpoint of.
    pub service: ServiceName,
    /// The Service's port.
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
    /// Only some clients may reach the Service, which kube-proxy sees to: its packets go to the stack.
    SourceRanges,
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
            Self::SourceRanges => "source_ranges_left_to_kube_proxy",
            Self::SctpPortDiffers => "sctp_port_differs",
        }
    }
}

/// Facts of all nodes that ever published any, by the election's view.
pub fn facts(view: &View) -> BTreeMap<NodeName, Facts> {
    let decode = |session: &herald_leader_election::Session| Facts::decode(&session.facts);
    view.sessions.iter().map(|(node, session)| (node.clone(), decode(session))).collect()
}

/// The wanted VIPs, as seen from `me`; `facts` are those of the view.
pub fn desired(
    me: &NodeName,
    observed: &Observed,
    assignments: &BTreeMap<ServiceName, Assignment>,
    view: &View,
    facts: &BTreeMap<NodeName, Facts>,
) -> BTreeMap<IpAddr, Vip> {
    let context = Context { me, observed, view, facts };
    let mut shared: BTreeMap<IpAddr, (&str, Vec<&Service>)> = BTreeMap::new();
    for (name, assignment) in assignments {
        let Some(service) = observed.services.get(name) else { continue };
        for address in &assignment.addresses {
            shared.entry(*address).or_insert((&assignment.pool, vec![])).1.push(service);
        }
    }
    let vip = |(address, (pool, services)): (IpAddr, (&str, Vec<&Service>))| {
        (address, context.vip(address, pool, &services))
    };
    shared.into_iter().map(vip).collect()
}

struct Context<'a> {
    me: &'a NodeName,
    observed: &'a Observed,
    view: &'a View,
    facts: &'a BTreeMap<NodeName, Facts>,
}

impl Context<'_> {
    fn vip(&self, vip: IpAddr, pool: &str, services: &[&Service]) -> Vip {
        let backends: Vec<Backend> =
            services.iter().flat_map(|service| self.backends(vip, service)).collect();
        let local: Vec<&Service> = services
            .iter()
            .copied()
            .filter(|service| service.external_traffic_policy == TrafficPolicy::Local)
            .collect();
        let has_local = |node: &NodeName, service: &Service| {
            let is_here = |b: &Backend| b.node.as_ref() == Some(node) && b.service == service.name;
            backends.iter().any(|backend| is_here(backend) && backend.target.is_ok())
        };
        let advertisements = self.advertisements(pool, services);
        let mut eligible = BTreeMap::new();
        let mut ineligible = BTreeMap::new();
        for (node_name, node) in &self.observed.nodes {
            let node_name = NodeName(node_name.clone());
            let found = advertisements.as_ref().map_err(|why| *why);
            match found.and_then(|ads| self.eligibility(vip, &node_name, node, ads)) {
                Ok(_) if !local.iter().all(|service| has_local(&node_name, service)) => {
                    ineligible.insert(node_name, Ineligible::NoLocalEndpoint);
                }
                Ok(interfaces) => drop(eligible.insert(node_name, interfaces)),
                Err(reason) => drop(ineligible.insert(node_name, reason)),
            }
        }
        let services = services.iter().map(|service| service.name.clone()).collect();
        Vip { services, pool: pool.into(), eligible, ineligible, backends }
    }

    /// What announces addresses of the pool for these Services.
    fn advertisements(
        &self,
        pool: &str,
        services: &[&Service],
    ) -> Result<Vec<&Advertisement>, Ineligible> {
        let pool = self.observed.pools.get(pool).ok_or(Ineligible::NoAdvertisement)?;
        let covering: Vec<&Advertisement> = self
            .observed
            .advertisements
            .values()
            .filter(|ad| ad.covers(pool) && services.iter().all(|s| ad.covers_service(s)))
            .collect();
        if covering.is_empty() {
            return Err(Ineligible::NoAdvertisement);
        }
        let is_safe = |ad: &&Advertisement| services.len() == 1 || !ad.selects_services();
        let safe: Vec<&Advertisement> = covering.into_iter().filter(is_safe).collect();
        if safe.is_empty() { Err(Ineligible::SharedAddress) } else { Ok(safe) }
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
        if node.excluded {
            return Err(Ineligible::Excluded);
        }
        if node.network_unavailable {
            return Err(Ineligible::NetworkUnavailable);
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
            let may = |interface: &&Interface| match advertisement.names_interfaces() {
                true => advertisement.selects_interface(&interface.name),
                false => interface.is_in_network_of(vip),
            };
            interfaces.extend(usable.iter().filter(may).map(|interface| interface.name.clone()));
        }
        let found = !interfaces.is_empty();
        interfaces.retain(|interface| !self.observed.exclusions.exclude(interface));
        if !interfaces.is_empty() {
            return Ok(interfaces);
        }
        if found {
            return Err(Ineligible::InterfaceExcluded);
        }
        match selected.iter().any(|ad| !ad.names_interfaces()) {
            true => Err(Ineligible::NotInSubnet),
            false => Err(Ineligible::NoSuchInterface),
        }
    }

    fn backends(&self, vip: IpAddr, service: &Service) -> Vec<Backend> {
        let endpoints =
            self.observed.endpoints.get(&service.name).map(|e| &e[..]).unwrap_or_default();
        let of_family = endpoints.iter().filter(|e| e.address.is_ipv4() == vip.is_ipv4());
        let mut backends = Vec::new();
        for endpoint in of_family {
            for port in &service.ports {
                backends.extend(self.backend(service, endpoint, port));
            }
        }
        backends
    }

    /// The endpoint at a Service port, if it serves it: EndpointSlice ports carry the Service
    /// port's name.
    fn backend(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        port: &ServicePort,
    ) -> Option<Backend> {
        let serving = endpoint
            .ports
            .iter()
            .find(|serving| serving.name == port.name && serving.protocol == port.protocol)?;
        let reached = match service.source_ranges.is_empty() {
            false => Err(Unused::SourceRanges),
            true => self.reach(endpoint, port, serving.port),
        };
        Some(Backend {
            service: service.name.clone(),
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
    use crate::observed::{Exclusions, Pattern};

    fn the_vip(observed: &Observed, view: &View) -> Vip {
        let mut vips = desired(&node(1), observed, &assignments(), view, &facts(view));
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
    fn an_excluded_interface_is_not_announced_on_whoever_names_it() {
        let mut observed = observed();
        observed.exclusions = Exclusions(vec![Pattern::new("^eth").unwrap()]);
        for interfaces in [BTreeSet::new(), BTreeSet::from(["eth0".to_owned()])] {
            observed.advertisements.get_mut("all").unwrap().interfaces = interfaces;
            let vip = the_vip(&observed, &view(1));
            assert_eq!(vip.ineligible[&node(1)], Ineligible::InterfaceExcluded);
            assert!(vip.eligible.is_empty());
        }
        observed.exclusions = Exclusions(vec![Pattern::new("^veth").unwrap()]);
        assert_eq!(the_vip(&observed, &view(1)).eligible.len(), 3);
    }

    #[test]
    fn a_named_interface_needs_no_subnet() {
        let mut observed = observed();
        for advertisement in observed.advertisements.values_mut() {
            advertisement.interfaces.insert("eth0".into());
        }
        let assignment = Assignment { pool: "first".into(), addresses: vec![[10, 9, 9, 9].into()] };
        let assignments = BTreeMap::from([(service_name(), assignment)]);
        let vips = desired(&node(1), &observed, &assignments, &view(1), &facts(&view(1)));
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
    fn services_that_share_an_address_share_its_vip() {
        let mut observed = observed();
        let other = ServiceName::new("default", "other");
        let mut service = observed.services[&service_name()].clone();
        service.name = other.clone();
        service.ports.iter_mut().for_each(|port| port.port += 1000);
        observed.services.insert(other.clone(), service);
        observed.endpoints.insert(other.clone(), vec![endpoint(1)]);
        let mut assigned = assignments();
        assigned.insert(other.clone(), assigned[&service_name()].clone());
        let vips = desired(&node(1), &observed, &assigned, &view(1), &facts(&view(1)));
        let vip = &vips[&IpAddr::from(VIP)];
        assert_eq!(vip.services, [service_name(), other]);
        let ports: BTreeSet<u16> = vip.backends.iter().map(|backend| backend.port).collect();
        assert_eq!(ports, BTreeSet::from([53, 80, 1053, 1080]));
        for advertisement in observed.advertisements.values_mut() {
            advertisement.service_selectors = vec![crate::observed::Selector::default()];
        }
        let vips = desired(&node(1), &observed, &assigned, &view(1), &facts(&view(1)));
        let why = vips[&IpAddr::from(VIP)].ineligible.get(&node(1));
        assert_eq!(why, Some(&Ineligible::SharedAddress));
    }

    #[test]
    fn leaves_a_service_with_source_ranges_to_kube_proxy() {
        let mut observed = observed();
        for service in observed.services.values_mut() {
            service.source_ranges = ["192.0.2.0/24".parse().unwrap()].into();
        }
        let vip = the_vip(&observed, &view(1));
        assert!(vip.backends.iter().all(|b| b.target == Err(Unused::SourceRanges)));
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
