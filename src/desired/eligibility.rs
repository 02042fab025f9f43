//! Which nodes may hold a VIP, on which interfaces, and why the others may not (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use herald_leader_election::{NodeName, SessionState};
use ipnetwork::IpNetwork;

use super::{Context, Ineligible, Judged, Served};
use crate::facts::{Interface, Unusable};
use crate::observed::{Advertisement, Endpoint, Node, TrafficPolicy};

impl Context<'_> {
    /// Judges every node, given what announces the VIP at all.
    pub(super) fn candidates(
        &self,
        vip: IpAddr,
        found: Result<&[&Advertisement], Ineligible>,
        services: &[Served],
    ) -> Judged {
        let mut eligible = BTreeMap::new();
        let mut ineligible = BTreeMap::new();
        for (name, node) in &self.ground.nodes {
            let name = self.node_name(name);
            match found.and_then(|ads| self.eligibility(vip, &name, node, ads)) {
                Ok(interfaces) => drop(eligible.insert(name, interfaces)),
                Err(reason) => drop(ineligible.insert(name, reason)),
            }
        }
        self.spare_without_local(vip, services, &mut eligible, &mut ineligible);
        self.spare_cordoned(&mut eligible, &mut ineligible);
        Judged {
            eligible: shared(&self.judged.eligible, eligible),
            ineligible: shared(&self.judged.ineligible, ineligible),
        }
    }

    /// How much nodes are preferred: the sum of all weights that match, in all advertisements that
    /// select the node.
    pub(super) fn preference<'n>(
        &self,
        advertisements: &[&Advertisement],
        nodes: impl Iterator<Item = &'n NodeName>,
    ) -> BTreeMap<NodeName, u32> {
        let preference = |name: &NodeName| {
            let node = self.ground.nodes.get(name.as_str())?;
            let selecting = advertisements.iter().filter(|ad| ad.selects_node(node));
            let weights = selecting.map(|ad| ad.preference(&node.labels));
            Some(weights.fold(0, u32::saturating_add)).filter(|sum| *sum > 0)
        };
        nodes.filter_map(|name| Some((name.clone(), preference(name)?))).collect()
    }

    /// Takes cordoned nodes out where others can have the VIP: whoever cordons a node means to
    /// empty it. Where nobody else can, it stays; somebody may cordon a cluster of one node.
    fn spare_cordoned(
        &self,
        eligible: &mut BTreeMap<NodeName, BTreeSet<String>>,
        ineligible: &mut BTreeMap<NodeName, Ineligible>,
    ) {
        let is_cordoned = |name: &NodeName| {
            self.ground.nodes.get(name.as_str()).is_some_and(|node| node.cordoned)
        };
        // A drained node takes nothing.
        let takes = |name: &NodeName| !is_cordoned(name) && !self.ground.drained.contains(name);
        if eligible.keys().any(takes) {
            for (name, _) in eligible.extract_if(.., |name, _| is_cordoned(name)) {
                ineligible.insert(name, Ineligible::Cordoned);
            }
        }
    }

    /// Leaves the nodes that have endpoints of all Services whose externalTrafficPolicy is Local.
    /// Where no node has, those of several Services that share the VIP are served that can be: by
    /// the nodes that have endpoints of the most.
    fn spare_without_local(
        &self,
        vip: IpAddr,
        services: &[Served],
        eligible: &mut BTreeMap<NodeName, BTreeSet<String>>,
        ineligible: &mut BTreeMap<NodeName, Ineligible>,
    ) {
        let is_local = |it: &&Served| it.external_traffic_policy == TrafficPolicy::Local;
        let local: Vec<_> = services.iter().filter(is_local).collect();
        if local.is_empty() {
            return;
        }
        let count = |node: &NodeName| {
            local.iter().filter(|service| self.has_local(vip, service, node)).count()
        };
        let counts: BTreeMap<_, _> =
            eligible.keys().map(|node| (node.clone(), count(node))).collect();
        let most = counts.values().copied().max().unwrap_or_default();
        let is_use = most > 0 || local.len() < services.len();
        for (name, _) in eligible.extract_if(.., |name, _| !is_use || counts[name] < most) {
            ineligible.insert(name, Ineligible::NoLocalEndpoint);
        }
    }

    /// Whether the node has endpoints of the Service. An endpoint that is on no known node could be
    /// on any: it is the stack that gets there.
    fn has_local(&self, vip: IpAddr, service: &Served, node: &NodeName) -> bool {
        let serves_here = |endpoint: &Endpoint| {
            let place = self.ground.places.node_of(endpoint);
            can_serve(endpoint)
                && endpoint.address.is_ipv4() == vip.is_ipv4()
                && place.is_none_or(|place| place == node.as_str())
        };
        service.endpoints().iter().any(serves_here)
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
        let session = self.ground.sessions.get(name);
        let session = session.filter(|session| session.state == SessionState::Open);
        let session = session.ok_or(Ineligible::NoSession)?;
        if session.draining {
            return Err(Ineligible::Draining);
        }
        let facts = self.ground.facts.get(name);
        let usable = facts.map(|facts| &facts.interfaces[..]).unwrap_or_default();
        let mut interfaces = BTreeSet::new();
        for advertisement in &selected {
            let may = |interface: &&Interface| match advertisement.names_interfaces() {
                true => advertisement.selects_interface(&interface.name),
                false => interface.is_in_network_of(vip),
            };
            interfaces.extend(usable.iter().filter(may).map(|interface| interface.name.clone()));
        }
        let found = !interfaces.is_empty();
        interfaces.retain(|interface| !self.ground.exclusions.exclude(interface));
        if !interfaces.is_empty() {
            return Ok(interfaces);
        }
        if found {
            return Err(Ineligible::InterfaceExcluded);
        }
        let unusable = facts.map(|facts| &facts.unusable[..]).unwrap_or_default();
        if unusable.iter().any(|it| selected.iter().any(|ad| would_do(vip, ad, it))) {
            return Err(Ineligible::NoUsableInterface);
        }
        match selected.iter().any(|ad| !ad.names_interfaces()) {
            true => Err(Ineligible::NotInSubnet),
            false => Err(Ineligible::NoSuchInterface),
        }
    }
}

/// Whether an interface could announce the VIP, were it usable. One that is down has lost its IPv6
/// addresses, so one without any may well be in the network that is wanted.
fn would_do(vip: IpAddr, advertisement: &Advertisement, interface: &Unusable) -> bool {
    let Unusable { name, addresses } = interface;
    match advertisement.names_interfaces() {
        true => advertisement.selects_interface(name),
        false if addresses.iter().any(|network| network.contains(vip)) => true,
        false => vip.is_ipv6() && !addresses.iter().any(IpNetwork::is_ipv6),
    }
}

/// The value, or the one that was before, if they are equal.
fn shared<T: PartialEq>(before: &Arc<T>, value: T) -> Arc<T> {
    if **before == value { Arc::clone(before) } else { Arc::new(value) }
}

/// Whether new flows may go there if there is nothing better: MetalLB counts an endpoint that
/// still serves while it ends, and so does kube-proxy.
pub(super) fn can_serve(endpoint: &Endpoint) -> bool {
    endpoint.ready || endpoint.serving
}
