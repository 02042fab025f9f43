//! The data plane's wanted states that are measured (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use herald_ebpf::{Backend, Picture, Protocol, ServicePort};

/// The MAC of the node under test.
pub const OURS: [u8; 6] = [2, 0, 0, 0, 1, 11];
/// The MAC of the node the pods live on, if not here.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 1, 12];
/// The MAC of the router the clients are behind.
pub const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// The Services' port.
pub const PORT: u16 = 80;
/// The pods' port.
pub const POD_PORT: u16 = 8080;

/// The first IPv4 VIP; the others follow.
pub const fn vip4(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc0a8_8000 + service)
}

/// The first IPv6 VIP.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0xf0);

/// A pod by its number among all.
pub const fn pod4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0af4_0002 + number)
}

/// Where the pods live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// On the node under test.
    Here,
    /// On another.
    Elsewhere,
}

/// So many Services with so many endpoints each, on one interface.
pub fn picture(ifindex: u32, services: u32, endpoints: u32, pods: Pods) -> Picture {
    let mut picture = Picture {
        links: BTreeMap::from([(ifindex, OURS)]),
        peers: BTreeMap::from([(PEER, (Some(Ipv4Addr::new(192, 168, 1, 12)), None))]),
        ..Picture::default()
    };
    for service in 0..services {
        let vip = IpAddr::from(vip4(service));
        let backends = (0..endpoints).map(|i| backend(pod4(service * endpoints + i).into(), pods));
        add(&mut picture, ifindex, vip, backends.collect());
    }
    picture
}

/// A Service over IPv6.
pub fn add_v6(picture: &mut Picture, ifindex: u32, endpoints: u16, pods: Pods) {
    let pod = |i| Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2 + i);
    let backends = (0..endpoints).map(|i| backend(pod(i).into(), pods)).collect();
    add(picture, ifindex, VIP6.into(), backends);
}

/// A backend.
pub fn backend(ip: IpAddr, pods: Pods) -> Backend {
    let is_local = pods == Pods::Here;
    let node_mac = if is_local { OURS } else { PEER };
    Backend { address: (ip, POD_PORT).into(), node_mac, is_local }
}

/// The port of a Service.
pub fn port(vip: IpAddr) -> ServicePort {
    ServicePort { vip, port: PORT, protocol: Protocol::Tcp }
}

fn add(picture: &mut Picture, ifindex: u32, vip: IpAddr, backends: BTreeSet<Backend>) {
    picture.vips.insert((vip, ifindex));
    picture.all_vips.insert(vip);
    picture.services.insert(port(vip), backends.into());
}

/// The same, with one endpoint of one Service replaced.
pub fn replace(picture: &mut Picture, vip: IpAddr, change: u32, pods: Pods) {
    let Some(set) = picture.services.get_mut(&port(vip)).map(Arc::make_mut) else { return };
    set.pop_first();
    set.insert(backend(stranger4(change).into(), pods));
}

/// The pod that a change brings. Counted from the far end of the pods' network, so as to be
/// nobody's address yet.
pub const fn stranger4(change: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0aff_fffe - change)
}
