//! Where an endpoint is, and which networks the pods and nodes have (pure).
//!
//! Most endpoints name their node. Those written by hand or by a Gateway's controller do not; they
//! are found by address, as long as nothing shows that addresses are handed out in another way:
//! Kubernetes assigns every node a pod network, but not every network plugin uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::observed::{Endpoint, Observed};

/// Addresses of nodes and networks of their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    nodes: BTreeMap<IpAddr, String>,
    /// By first address. Networks of pods do not overlap.
    pods: BTreeMap<IpAddr, (IpNetwork, String)>,
    /// Every pod that names its node has an address of that node's network.
    is_by_node: bool,
    /// Every node has a pod network, and every pod an address of one.
    is_whole: bool,
}

impl Places {
    /// What the nodes say, checked against the endpoints that name theirs.
    pub fn of(observed: &Observed) -> Self {
        let mut places = Self { is_by_node: true, is_whole: true, ..Self::default() };
        for node in observed.nodes.values() {
            places.nodes.extend(node.addresses.iter().map(|ip| (*ip, node.name.clone())));
            let networks = node.pod_networks.iter();
            places.pods.extend(networks.map(|it| (it.network(), (*it, node.name.clone()))));
            places.is_whole &= !node.pod_networks.is_empty();
        }
        for endpoint in observed.endpoints.values().flat_map(|it| &**it) {
            let Some(named) = endpoint.node.as_deref() else { continue };
            if places.is_address_of_a_node(endpoint.address) {
                continue;
            }
            let found = places.pod_network(endpoint.address);
            let (is_inside, is_elsewhere) =
                (found.is_some(), found.is_some_and(|(_, node)| node != named));
            places.is_whole &= is_inside;
            places.is_by_node &= !is_elsewhere;
        }
        places
    }

    /// The node the endpoint is on: the one it names, the one whose own address it has (a pod on
    /// the host's network), or the one whose pod network it is in.
    pub fn node_of<'s>(&'s self, endpoint: &'s Endpoint) -> Option<&'s str> {
        let by_pods = || {
            let found = self.pod_network(endpoint.address).filter(|_| self.is_by_node);
            found.map(|(_, node)| node)
        };
        let by_address = || self.nodes.get(&endpoint.address).map(String::as_str);
        endpoint.node.as_deref().or_else(by_address).or_else(by_pods)
    }

    /// Whether a node has the address for itself.
    pub fn is_address_of_a_node(&self, address: IpAddr) -> bool {
        self.nodes.contains_key(&address)
    }

    /// All networks of pods and nodes, if all are known.
    pub fn networks(&self) -> Option<BTreeSet<IpNetwork>> {
        if !self.is_whole || self.pods.is_empty() {
            return None;
        }
        let pods = self.pods.values().map(|(network, _)| *network);
        Some(pods.chain(self.nodes.keys().map(|address| IpNetwork::from(*address))).collect())
    }

    fn pod_network(&self, address: IpAddr) -> Option<(IpNetwork, &str)> {
        let (_, (network, node)) = self.pods.range(..=address).next_back()?;
        network.contains(address).then_some((*network, node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{endpoint, observed, service_name};

    /// Nodes n1..n3 with 10.244.n.0/24 for their pods.
    fn with_networks() -> Observed {
        let mut observed = observed();
        for (n, node) in (1..).zip(observed.nodes.values_mut()) {
            node.pod_networks = vec![format!("10.244.{n}.0/24").parse().unwrap()];
        }
        observed
    }

    fn nowhere(address: [u8; 4]) -> Endpoint {
        Endpoint { node: None, address: address.into(), ..endpoint(1) }
    }

    #[test]
    fn an_endpoint_without_a_node_is_found_by_its_address() {
        let observed = with_networks();
        let places = Places::of(&observed);
        let node_of = |address| places.node_of(&nowhere(address)).map(str::to_owned);
        assert_eq!(node_of([192, 168, 1, 12]).unwrap(), "n2", "on the host's network");
        assert_eq!(node_of([10, 244, 3, 255]).unwrap(), "n3");
        assert_eq!(node_of([10, 244, 4, 0]), None);
        assert_eq!(node_of([10, 244, 0, 255]), None);
        assert_eq!(node_of([192, 192, 192, 192]), None, "what a Gateway of Cilium's has");
        let named = Endpoint { node: Some("n1".into()), ..nowhere([10, 244, 3, 2]) };
        assert_eq!(places.node_of(&named), Some("n1"), "what it names comes first");
    }

    #[test]
    fn pod_networks_that_are_not_used_by_node_locate_nothing() {
        let mut observed = with_networks();
        let moved = Endpoint { address: [10, 244, 3, 9].into(), ..endpoint(1) };
        observed.endpoints.insert(service_name(), vec![moved].into());
        let places = Places::of(&observed);
        assert_eq!(places.node_of(&nowhere([10, 244, 2, 2])), None);
        assert_eq!(places.node_of(&nowhere([192, 168, 1, 12])), Some("n2"));
        assert!(places.networks().is_some(), "together they still hold every pod");
    }

    #[test]
    fn the_networks_are_known_only_if_all_are() {
        assert_eq!(Places::of(&observed()).networks(), None, "no node says");
        let texts = |observed: &Observed| -> Option<Vec<String>> {
            let networks = Places::of(observed).networks()?;
            Some(networks.iter().map(ToString::to_string).collect())
        };
        let all = [
            "10.244.1.0/24",
            "10.244.2.0/24",
            "10.244.3.0/24",
            "192.168.1.11/32",
            "192.168.1.12/32",
            "192.168.1.13/32",
        ];
        assert_eq!(texts(&with_networks()).unwrap(), all);
        let mut one_silent = with_networks();
        one_silent.nodes.get_mut("n2").unwrap().pod_networks.clear();
        assert_eq!(texts(&one_silent), None);
        let mut stray = with_networks();
        let elsewhere = Endpoint { address: [172, 16, 0, 2].into(), ..endpoint(1) };
        stray.endpoints.insert(service_name(), vec![elsewhere].into());
        assert_eq!(texts(&stray), None, "a pod lies outside");
    }
}
