//! A Service whose table grows or shrinks because it has more backends or fewer: every established
//! flow stays where it is, and both families and both paths of the program agree on where that is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use herald_ebpf::{Affinity, Backend, Datapath, Picture, Policy, Protocol};

use crate::build::Frame;
use crate::kernel::{Action, Kernel};
use crate::{CLIENT4, CLIENT6, Pods, VIP4, ip, picture, requests};

/// Backends of tables of 1,024, 4,096, 16,384 and 4,096 slots.
const STEPS: [u8; 4] = [9, 30, 120, 31];
const PORTS: std::ops::Range<u16> = 40_000..40_060;

/// Both families' TCP Services with so many backends, each on a node of its own.
fn of(backends: u8, affinity: Affinity) -> Picture {
    let mut wanted = picture(Pods::Nowhere);
    for (port, set) in &mut wanted.services {
        Arc::make_mut(set).extend((1..=backends).map(|n| backend(port.vip.is_ipv4(), n)));
        let policy = Policy { affinity, ..Policy::default() };
        wanted.policies.insert(*port, policy.into());
    }
    wanted
}

fn backend(is_v4: bool, n: u8) -> Backend {
    let pod = if is_v4 { IpAddr::from([10, 244, n, 2]) } else { ip(&format!("fd00:244::{n}:2")) };
    Backend { address: SocketAddr::new(pod, 8080), node_mac: [2, 0, 0, 0, 7, n], is_local: false }
}

/// A segment of a flow: an acknowledgement, which belongs to an established one, or a SYN.
fn segment(vip: IpAddr, port: u16, is_syn: bool) -> Vec<u8> {
    let is_this = |frame: &&Frame| frame.to.ip() == vip && frame.protocol == crate::TCP;
    let template = requests().iter().find(is_this).cloned().unwrap();
    let client = if vip.is_ipv4() { CLIENT4.into() } else { ip(CLIENT6) };
    let mut bytes = Frame { from: (client, port).into(), ..template }.bytes();
    let flags = if vip.is_ipv4() { 47 } else { 67 };
    bytes[flags] = if is_syn { 0x02 } else { 0x10 };
    bytes
}

/// The node a packet is sent to; with a VLAN tag it takes the long way through the program.
fn node(kernel: &mut Kernel, packet: &[u8], is_tagged: bool) -> u8 {
    let frame =
        if is_tagged { crate::build::tagged(packet, &[(0x8100, 7)]) } else { packet.into() };
    let (action, out, reason) = kernel.xdp(&frame);
    assert_eq!((action, reason), (Action::Transmit, "forwarded"));
    out[5]
}

#[test]
fn keeps_every_flow_while_the_table_grows_and_shrinks() {
    let drain = Duration::from_secs(900);
    for vip in [IpAddr::from(VIP4), ip(crate::VIP6)] {
        let mut kernel = Kernel::with(&of(STEPS[0], Affinity::None));
        let mut flows: BTreeMap<u16, u8> = BTreeMap::new();
        for (step, backends) in (0..).zip(STEPS) {
            let now = Duration::from_secs(1_000) + Duration::from_secs(10) * step;
            kernel.datapath.apply_at(&of(backends, Affinity::None), now).unwrap();
            for (port, before) in &flows {
                let now_at = node(&mut kernel, &segment(vip, *port, false), false);
                // The last step takes most backends away: their flows have to go.
                assert!(now_at == *before || *before > backends, "{vip}, {backends}: flow {port}");
            }
            flows.retain(|_, node| *node <= backends);
            for port in PORTS {
                let port = port + 100 * step as u16;
                flows.insert(port, node(&mut kernel, &segment(vip, port, true), false));
            }
        }
        // The larger table is let go when its last slot is clean; nobody moves.
        let late = Duration::from_secs(1_100) + drain;
        let last = STEPS[STEPS.len() - 1];
        let begun: Vec<_> = flows.iter().filter(|(port, _)| **port >= 40_300).collect();
        kernel.datapath.apply_at(&of(last, Affinity::None), late).unwrap();
        for (port, before) in begun {
            assert_eq!(node(&mut kernel, &segment(vip, *port, false), false), *before);
        }
    }
}

#[test]
fn both_paths_agree_on_the_backend_of_a_flow() {
    let by_client = Affinity::Client { timeout: Duration::from_secs(60) };
    let cases = [(9, by_client), (30, Affinity::None), (120, by_client)];
    for (backends, affinity) in cases {
        let mut kernel = Kernel::with(&of(backends, affinity));
        for vip in [IpAddr::from(VIP4), ip(crate::VIP6)] {
            for port in PORTS {
                let packet = segment(vip, port, false);
                let usual = node(&mut kernel, &packet, false);
                assert_eq!(usual, node(&mut kernel, &packet, true), "{vip}, {backends}");
            }
        }
    }
}

#[test]
fn a_new_process_adopts_a_large_table() {
    let wanted = of(60, Affinity::None);
    let mut kernel = Kernel::with(&wanted);
    let vip = IpAddr::from(VIP4);
    let before: Vec<u8> =
        PORTS.map(|port| node(&mut kernel, &segment(vip, port, false), false)).collect();
    let (mut second, _fence) = herald_ebpf::Datapath::open(kernel.directory.path()).unwrap();
    second.apply(&wanted).unwrap();
    assert_eq!(second.next_deadline(), None, "nothing changed, so nothing is dirty");
    let after: Vec<u8> =
        PORTS.map(|port| node(&mut kernel, &segment(vip, port, false), false)).collect();
    assert_eq!(before, after);
}

/// One TCP Service over IPv4 with all these backends, each on a node of its own; every third has
/// twice the weight.
fn of_many(backends: impl Iterator<Item = u16>) -> Picture {
    let mut wanted = picture(Pods::Nowhere);
    let vip = IpAddr::from(VIP4);
    wanted.services.retain(|port, _| port.vip == vip && port.protocol == Protocol::Tcp);
    let mut policy = Policy::default();
    let mut many = BTreeSet::new();
    for n in backends {
        let [high, low] = n.to_be_bytes();
        let address = SocketAddr::from(([10, 245, high, low], 8080));
        many.insert(Backend { address, node_mac: [2, 0, 0, 8, high, low], is_local: false });
        if n % 3 == 0 {
            policy.weights.insert(address, 2);
        }
    }
    for (port, set) in &mut wanted.services {
        *set = Arc::new(many.clone());
        wanted.policies.insert(*port, policy.clone().into());
    }
    wanted
}

/// The backend that a segment is sent to.
fn one_of_many(kernel: &mut Kernel, port: u16) -> u16 {
    let (action, out) = kernel.run(&segment(IpAddr::from(VIP4), port, false));
    assert_eq!((action, &out[..4]), (Action::Transmit, &[2, 0, 0, 8][..]));
    u16::from_be_bytes([out[4], out[5]])
}

/// The largest table, of 64 parts, for as many backends as a Service may have.
#[test]
fn a_backend_of_hundreds_takes_its_own_flows_with_it_and_no_others() {
    const BACKENDS: u16 = 4_096;
    const FLOWS: std::ops::Range<u16> = 1_024..33_024;
    let wanted = of_many(0..BACKENDS);
    let mut kernel = Kernel::with(&wanted);
    let before: Vec<u16> = FLOWS.map(|port| one_of_many(&mut kernel, port)).collect();
    let used: BTreeSet<u16> = before.iter().copied().collect();
    // Six flows each in twelve slots, or more: one in a hundred has none.
    assert!(used.len() > usize::from(BACKENDS) - 100, "{} backends are used", used.len());

    // The next process takes the 64 parts of the table as they are.
    let (mut next, _fence) = Datapath::open(kernel.directory.path()).unwrap();
    next.apply(&wanted).unwrap();
    assert_eq!(next.next_deadline(), None, "nothing changed, so nothing is dirty");
    let after: Vec<u16> = FLOWS.map(|port| one_of_many(&mut kernel, port)).collect();
    assert_eq!(after, before);

    let gone = before[0];
    next.apply(&of_many((0..BACKENDS).filter(|n| *n != gone))).unwrap();
    for (port, was) in FLOWS.zip(before) {
        let is = one_of_many(&mut kernel, port);
        assert_eq!(is == was, was != gone, "flow {port}: from {was} to {is}");
    }
}
