//! The endpoints behind a VIP, and the MAC at which each is reached or why it is not (pure).

use std::net::{IpAddr, SocketAddr};

use herald_leader_election::NodeName;

use super::{Backend, Context, Unused};
use crate::facts::Facts;
use crate::observed::{Endpoint, Service, ServicePort};

impl Context<'_> {
    pub(super) fn backends(&self, vip: IpAddr, service: &Service) -> Vec<Backend> {
        let of_family =
            self.endpoints(service).iter().filter(|e| e.address.is_ipv4() == vip.is_ipv4());
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
        let node = self.places.node_of(endpoint);
        let reached = self.reach(node.as_ref());
        Some(Backend {
            service: service.name.clone(),
            port: port.port,
            protocol: port.protocol,
            address: SocketAddr::new(endpoint.address, serving.port),
            node,
            target: match endpoint {
                Endpoint { ready: true, .. } => reached,
                Endpoint { terminating: true, serving: true, .. } => Err(Unused::Terminating),
                _ => Err(Unused::NotReady),
            },
            draining: reached.ok().filter(|_| !endpoint.ready),
        })
    }

    /// The MAC of the endpoint's node, whether or not it is ready.
    fn reach(&self, node: Option<&NodeName>) -> Result<[u8; 6], Unused> {
        let node = node.ok_or(Unused::NoNode)?;
        // Without a living speaker the programs are still in the kernel: the node delivers on, as
        // long as it is there.
        if !self.view.sessions.contains_key(node) || self.gone.contains(node) {
            return Err(Unused::NodeSessionLost);
        }
        let none = Facts::default();
        let ours = self.facts.get(self.me).unwrap_or(&none);
        let facts = self.facts.get(node).unwrap_or(&none);
        facts.mac_towards(ours).ok_or(Unused::NoInterface)
    }
}
