//! The endpoints behind a VIP, and the MAC at which each is reached or why it is not (pure).
//!
//! A pod weighs what its node does. Weights are about shares and never about reachability: where
//! all that could be used weighs nothing, it shares the flows alike, and where the policy is Local,
//! the pods of one node do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use herald_leader_election::{NodeName, View};

use super::{Backend, Context, Served, Unused};
use crate::facts::{Carrier, Facts};
use crate::observed::{Endpoint, Service, ServicePort, TrafficPolicy};

/// The weight of a pod whose node says nothing.
const EVEN: u32 = 1;

impl Context<'_> {
    pub(super) fn backends(&self, vip: IpAddr, service: &Served) -> Vec<Backend> {
        let of_family = service.endpoints().iter().filter(|e| e.address.is_ipv4() == vip.is_ipv4());
        let mut backends = Vec::new();
        for endpoint in of_family {
            for port in &service.ports {
                backends.extend(self.backend(service, endpoint, port));
            }
        }
        if service.external_traffic_policy == TrafficPolicy::Cluster {
            self.weigh(&mut backends);
        }
        backends
    }

    fn weigh(&self, backends: &mut [Backend]) {
        for backend in backends.iter_mut() {
            let node = backend.node.as_ref().and_then(|name| self.ground.nodes.get(name.as_str()));
            backend.weight = node.and_then(|node| node.weight).unwrap_or(EVEN);
        }
        let at = |backend: &Backend| (backend.port, backend.protocol);
        let takes = |backend: &&Backend| backend.target.is_ok() && backend.weight > 0;
        let taken: BTreeSet<_> = backends.iter().filter(takes).map(at).collect();
        for backend in backends.iter_mut().filter(|backend| backend.weight == 0) {
            let Ok(mac) = backend.target else { continue };
            if taken.contains(&at(backend)) {
                backend.target = Err(Unused::NodeWeightZero);
                backend.draining = Some(mac);
            } else {
                backend.weight = EVEN;
            }
        }
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
        let node = self.ground.places.node_of(endpoint);
        let reached = node.map_or(Err(Unused::NoNode), |node| {
            self.ground.reached.get(node).copied().unwrap_or(Err(Unused::NodeSessionLost))
        });
        Some(Backend {
            service: service.name.clone(),
            port: port.port,
            protocol: port.protocol,
            address: SocketAddr::new(endpoint.address, serving.port),
            node: node.map(|node| self.node_name(node)),
            target: match endpoint {
                Endpoint { ready: true, .. } => reached,
                Endpoint { terminating: true, serving: true, .. } => Err(Unused::Terminating),
                _ => Err(Unused::NotReady),
            },
            draining: reached.ok().filter(|_| !endpoint.ready),
            weight: EVEN,
        })
    }
}

/// The MAC of every node that has ever had a session, whether or not its endpoints are ready.
pub(super) fn reached(
    me: &NodeName,
    view: &View,
    facts: &BTreeMap<NodeName, Facts>,
    gone: &BTreeSet<NodeName>,
) -> BTreeMap<NodeName, Result<[u8; 6], Unused>> {
    let none = Facts::default();
    let ours = facts.get(me).unwrap_or(&none);
    let sends = ours.interfaces.iter().any(|interface| interface.carrier == Carrier::Xdp);
    let reach = |node: &NodeName| {
        // Without a living speaker the programs are still in the kernel: the node delivers on, as
        // long as it is there.
        if gone.contains(node) {
            return Err(Unused::NodeSessionLost);
        }
        let interface = facts.get(node).unwrap_or(&none).towards(ours);
        let interface = interface.ok_or(Unused::NoInterface)?;
        // The pods of this node need no other's program; and where this node has none to send
        // anything, kube-proxy finds its own way to them all.
        if interface.carrier == Carrier::Off && node != me && sends {
            return Err(Unused::NodeWithoutXdp);
        }
        interface.mac().ok_or(Unused::NoInterface)
    };
    view.sessions.keys().map(|node| (node.clone(), reach(node))).collect()
}

#[cfg(test)]
mod tests;
