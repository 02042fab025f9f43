//! What the data plane of this node should do (pure): from the wanted VIPs to the picture that
//! `herald-ebpf` puts into the kernel.
//!
//! Must never put a VIP into the picture's `vips` that is not among those to be spoken for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_ebpf::picture::{Affinity, Locality};
use herald_ebpf::{Backend, Picture, Protocol as Carried, ServicePort};
use herald_leader_election::NodeName;

use super::{ByVip, Carrier, Knowledge};
use crate::desired::Vip;
use crate::facts::Facts;
use crate::observed::{Protocol, SessionAffinity, TrafficPolicy};

/// The picture; `spoken` are the VIPs to answer for.
pub(super) fn picture(
    known: &Knowledge<'_>,
    facts: &BTreeMap<NodeName, Facts>,
    vips: &BTreeMap<IpAddr, Vip>,
    spoken: &ByVip,
) -> Picture {
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
        let macs = facts.interfaces.iter().filter_map(|i| Some((i.mac()?, addresses(i))));
        picture.peers.extend(macs);
    }
    // The fence keeps anybody on this node from claiming what it does not hold.
    picture.all_vips = vips.keys().copied().collect();
    for (vip, wanted) in vips {
        services(known, *vip, wanted, &mut picture);
    }
    picture
}

/// The ports of a VIP's Services and where each leads.
fn services(known: &Knowledge<'_>, vip: IpAddr, wanted: &Vip, picture: &mut Picture) {
    for backend in &wanted.backends {
        let port = ServicePort { vip, port: backend.port, protocol: carried(backend.protocol) };
        // A port whose endpoints all drop out stays, empty: its packets are counted as such.
        let set = picture.services.entry(port).or_default();
        let policy = picture.policies.entry(port).or_default();
        let service = known.observed.services.get(&backend.service);
        let is_local = service.is_some_and(|s| s.external_traffic_policy == TrafficPolicy::Local);
        let is_sticky = service.is_some_and(|s| s.session_affinity == SessionAffinity::ClientIp);
        policy.affinity = if is_sticky { Affinity::Client } else { Affinity::None };
        policy.locality = if is_local { Locality::Local } else { Locality::Cluster };
        let is_here = backend.node.as_ref() == Some(known.me);
        let to = |node_mac| Backend { address: backend.address, node_mac, is_local: is_here };
        set.extend(backend.target.ok().map(to));
        policy.draining.extend(backend.draining.map(to));
    }
}

const fn carried(protocol: Protocol) -> Carried {
    match protocol {
        Protocol::Tcp => Carried::Tcp,
        Protocol::Udp => Carried::Udp,
        Protocol::Sctp => Carried::Sctp,
    }
}

/// A peer's own addresses on an interface, by which it is told from the clients it forwards for.
fn addresses(interface: &crate::facts::Interface) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let mut v4 = None;
    let mut v6 = None;
    for network in &interface.addresses {
        match network.ip() {
            IpAddr::V4(ip) => v4 = v4.or(Some(ip)),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {}
            IpAddr::V6(ip) => v6 = v6.or(Some(ip)),
        }
    }
    (v4, v6)
}
