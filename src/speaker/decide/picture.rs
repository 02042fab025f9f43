//! What the data plane of this node should do (pure): from the wanted VIPs to the picture that
//! `herald-ebpf` puts into the kernel.
//!
//! Must never put a VIP into the picture's `vips` that is not among those to be spoken for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use herald_ebpf::{
    Affinity, Backend, Locality, Network, Picture, Policy, Protocol as Carried, ServicePort,
    WhenEmpty,
};
use herald_leader_election::NodeName;
use ipnetwork::IpNetwork;

use super::{ByVip, Knowledge};
use crate::desired::{Backend as Endpoint, Places, Unused, Vip};
use crate::facts::{Carrier, Facts};
use crate::observed::{Protocol, Service, SessionAffinity, TrafficPolicy};

/// The ports of the VIPs of the last picture.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<IpAddr, Ports>);

/// The ports of a VIP, each with where it leads.
#[derive(Debug)]
struct Ports {
    /// What they follow from, with its Services, which it follows from itself.
    vip: Arc<Vip>,
    ports: Vec<(ServicePort, Arc<BTreeSet<Backend>>, Arc<Policy>)>,
}

/// The picture; `spoken` are the VIPs to answer for. What is remembered of the last one makes it
/// faster and nothing else.
pub(super) fn picture(
    known: &Knowledge<'_>,
    facts: &BTreeMap<NodeName, Facts>,
    vips: &BTreeMap<IpAddr, Arc<Vip>>,
    spoken: &ByVip,
    places: &Places,
    memory: &mut Memory,
) -> Picture {
    let is_vip = |ip: IpAddr| vips.get(&ip).is_some_and(|vip| !vip.is_address_of_a_node());
    let index = |name: &String| {
        let is_xdp = known.interfaces.get(name) == Some(&Carrier::Xdp);
        known.links.by_name.get(name).filter(|_| is_xdp).map(|link| link.index)
    };
    let mut picture = Picture::default();
    for (vip, interfaces) in spoken {
        picture.vips.extend(interfaces.iter().filter_map(index).map(|index| (*vip, index)));
    }
    for link in known.interfaces.keys().filter_map(|name| known.links.by_name.get(name)) {
        if let (Some(mac), Some(index)) = (link.mac, index(&link.name)) {
            picture.links.insert(index, mac.0);
        }
    }
    for (_, facts) in facts.iter().filter(|(node, _)| *node != known.me) {
        let macs = facts.interfaces.iter().filter_map(|i| Some((i.mac()?, addresses(i, is_vip))));
        picture.peers.extend(macs);
    }
    // The fence keeps anybody on this node from claiming what it does not hold. A node's own
    // address is nobody's VIP, and its packets are none of ours.
    let ours = || vips.iter().filter(|(_, wanted)| !wanted.is_address_of_a_node());
    picture.all_vips = ours().map(|(vip, _)| *vip).collect();
    let mut before = std::mem::take(&mut memory.0);
    let ports = |(vip, wanted): (&IpAddr, &Arc<Vip>)| {
        let same = before.remove(vip).filter(|it| Arc::ptr_eq(&it.vip, wanted));
        (*vip, same.unwrap_or_else(|| Ports::of(known, *vip, wanted)))
    };
    memory.0 = ours().map(ports).collect();
    let all = || memory.0.values().flat_map(|vip| &vip.ports);
    picture.services = all().map(|(port, set, _)| (*port, Arc::clone(set))).collect();
    picture.policies = all().map(|(port, _, policy)| (*port, Arc::clone(policy))).collect();
    let direct = places.networks();
    picture.direct = direct.map(|it| it.into_iter().map(network).collect());
    picture
}

impl Ports {
    /// Every port is there, also without any backend: then its packets are rejected or passed to
    /// the stack, and counted as such.
    fn of(known: &Knowledge<'_>, vip: IpAddr, wanted: &Arc<Vip>) -> Self {
        let mut ports = Vec::new();
        let mut taken = BTreeSet::new();
        for service in wanted.services.iter().filter_map(|it| known.observed.services.get(it)) {
            for port in &service.ports {
                let is_of_port = |it: &&Endpoint| {
                    it.service == service.name
                        && (it.port, it.protocol) == (port.port, port.protocol)
                };
                let key = ServicePort { vip, port: port.port, protocol: carried(port.protocol) };
                // Only externalIPs can have one port twice: the Service whose name comes first has
                // it.
                if !taken.insert(key) {
                    continue;
                }
                let backends: Vec<&Endpoint> = wanted.backends.iter().filter(is_of_port).collect();
                let (set, policy) = behind(known.me, service, &backends);
                ports.push((key, set.into(), policy.into()));
            }
        }
        Self { vip: Arc::clone(wanted), ports }
    }
}

/// Where new flows of a port go, and what else is to be done with its packets.
fn behind(me: &NodeName, service: &Service, backends: &[&Endpoint]) -> (BTreeSet<Backend>, Policy) {
    let mut set = BTreeSet::new();
    let mut policy = Policy {
        affinity: match service.session_affinity {
            SessionAffinity::ClientIp { timeout } => Affinity::Client { timeout },
            SessionAffinity::None => Affinity::None,
        },
        locality: match service.external_traffic_policy {
            TrafficPolicy::Local => Locality::Local,
            TrafficPolicy::Cluster => Locality::Cluster,
        },
        sources: service.source_ranges.iter().copied().map(network).collect(),
        ..Policy::default()
    };
    let unused = || backends.iter().filter_map(|it| it.target.err());
    if unused().any(Unused::is_left_to_the_stack) {
        return (set, policy);
    }
    // Where endpoints are ready that no speaker delivers to, kube-proxy may still get there.
    if backends.iter().all(|it| it.target == Err(Unused::NotReady)) {
        policy.empty = WhenEmpty::Reject;
    }
    let counts =
        |it: &Endpoint| policy.locality == Locality::Cluster || it.node.as_ref() == Some(me);
    let is_any_ready = backends.iter().any(|it| it.target.is_ok() && counts(it));
    for backend in backends {
        let is_local = backend.node.as_ref() == Some(me);
        let to = |node_mac| Backend { address: backend.address, node_mac, is_local };
        // Better a pod that serves its last than none (KEP-1669, as kube-proxy does).
        let is_needed =
            backend.target == Err(Unused::Terminating) && !is_any_ready && counts(backend);
        let target = if is_needed { backend.draining } else { backend.target.ok() };
        match target {
            Some(mac) => {
                set.insert(to(mac));
                let weight = Some(backend.weight).filter(|weight| *weight > 1);
                policy.weights.extend(weight.map(|weight| (backend.address, weight)));
            }
            None => policy.draining.extend(backend.draining.map(to)),
        }
    }
    (set, policy)
}

fn network(network: IpNetwork) -> Network {
    Network { address: network.network(), prefix: network.prefix() }
}

/// A port's protocol in the data plane's words.
pub(crate) const fn carried(protocol: Protocol) -> Carried {
    match protocol {
        Protocol::Tcp => Carried::Tcp,
        Protocol::Udp => Carried::Udp,
        Protocol::Sctp => Carried::Sctp,
    }
}

/// A peer's own addresses on an interface, by which it is told from the clients it forwards for. A
/// VIP that is bound there too (kube-proxy in IPVS mode does that) is not its own.
fn addresses(
    interface: &crate::facts::Interface,
    is_vip: impl Fn(IpAddr) -> bool,
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let mut v4 = None;
    let mut v6 = None;
    for ip in interface.addresses.iter().map(|network| network.ip()).filter(|ip| !is_vip(*ip)) {
        match ip {
            IpAddr::V4(ip) => v4 = v4.or(Some(ip)),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
            IpAddr::V6(ip) => v6 = v6.or(Some(ip)),
        }
    }
    (v4, v6)
}

#[cfg(test)]
mod tests;
