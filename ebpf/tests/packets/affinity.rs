//! Session affinity: which clients stay with their backend while the backends change, of both
//! families, over TCP and UDP, on both paths through the program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use herald_ebpf::{Affinity, Backend, Picture, Policy, Protocol};

use crate::build::{Frame, tagged};
use crate::kernel::{Action, Kernel};
use crate::{CLIENT, OURS, Pods, VIP4, VIP6, ip, picture};

const TIMEOUT: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(900);
/// Changes come at multiples of this.
const CHANGE: Duration = Duration::from_secs(100_000);
const CLIENTS: u8 = 30;

/// A Service with affinity on both VIPs.
#[derive(Clone, Default)]
struct Wanted {
    backends: Vec<u8>,
    draining: Vec<u8>,
    /// A backend and its weight.
    heavy: Option<(u8, u32)>,
}

impl Wanted {
    fn of(backends: impl IntoIterator<Item = u8>) -> Self {
        Self { backends: backends.into_iter().collect(), ..Self::default() }
    }

    fn picture(&self) -> Picture {
        let mut wanted = picture(Pods::Nowhere);
        for (port, set) in &mut wanted.services {
            let backend = |n: &u8| backend(port.vip.is_ipv4(), *n);
            Arc::make_mut(set).extend(self.backends.iter().map(backend));
            let weight = |(n, weight): (u8, u32)| (backend(&n).address, weight);
            let policy = Policy {
                affinity: Affinity::Client { timeout: TIMEOUT },
                draining: self.draining.iter().map(backend).collect(),
                weights: self.heavy.map(weight).into_iter().collect(),
                ..Policy::default()
            };
            wanted.policies.insert(*port, policy.into());
        }
        wanted
    }
}

fn backend(is_v4: bool, n: u8) -> Backend {
    let pod = if is_v4 { IpAddr::from([10, 244, n, 2]) } else { ip(&format!("fd00:244::{n}:2")) };
    Backend { address: SocketAddr::new(pod, 8080), node_mac: [2, 0, 0, 0, 7, n], is_local: false }
}

/// A family and a transport of the Service, as a client sees it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    is_v4: bool,
    protocol: Protocol,
}

const KINDS: [Kind; 4] = [
    Kind { is_v4: true, protocol: Protocol::Tcp },
    Kind { is_v4: false, protocol: Protocol::Tcp },
    Kind { is_v4: true, protocol: Protocol::Udp },
    Kind { is_v4: false, protocol: Protocol::Udp },
];

impl Kind {
    /// A packet of a client's flow from a port: one that opens it, or one in its middle.
    fn packet(self, client: u8, port: u16, opens: bool) -> Vec<u8> {
        let (from, to) = match self.is_v4 {
            true => (IpAddr::from([192, 168, 1, client]), VIP4.into()),
            false => (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 1, client.into()).into(), ip(VIP6)),
        };
        let frame = Frame {
            destination: OURS,
            source: CLIENT,
            from: (from, port).into(),
            to: (to, 80).into(),
            protocol: self.protocol.number(),
            hops: 64,
        };
        let mut bytes = frame.bytes();
        if self.protocol == Protocol::Tcp {
            // Flags are outside what the datapath verifies, hence no new checksum.
            bytes[if self.is_v4 { 47 } else { 67 }] = if opens { 0x02 } else { 0x10 };
        }
        bytes
    }

    /// Where each client's flow from a port goes.
    fn chosen(self, kernel: &mut Kernel, port: u16, opens: bool) -> BTreeMap<u8, u8> {
        let node = |client| node(kernel, &self.packet(client, port, opens));
        (1..=CLIENTS).zip((1..=CLIENTS).map(node)).collect()
    }
}

/// The node a packet is sent to, on the usual path and, with a VLAN tag, on the long one.
fn node(kernel: &mut Kernel, packet: &[u8]) -> u8 {
    let mut sent = |packet: &[u8]| {
        let (action, out) = kernel.run(packet);
        assert_eq!((action, &out[..5]), (Action::Transmit, &[2, 0, 0, 0, 7][..]));
        out[5]
    };
    let (usual, long) = (sent(packet), sent(&tagged(packet, &[(0x8100, 7)])));
    assert_eq!(usual, long, "both paths agree");
    usual
}

/// Where new flows from a port go, by kind and client.
type Chosen = Vec<BTreeMap<u8, u8>>;

fn opened(kernel: &mut Kernel, port: u16) -> Chosen {
    KINDS.iter().map(|kind| kind.chosen(kernel, port, true)).collect()
}

/// The same of flows that are established.
fn continued(kernel: &mut Kernel, port: u16) -> Chosen {
    KINDS.iter().map(|kind| kind.chosen(kernel, port, false)).collect()
}

fn nodes(chosen: &BTreeMap<u8, u8>) -> BTreeSet<u8> {
    chosen.values().copied().collect()
}

#[test]
fn clients_stay_for_the_timeout_when_a_backend_comes_or_a_weight_changes() {
    let few = Wanted::of(1..=3);
    let mut kernel = Kernel::with(&few.picture());
    let before = opened(&mut kernel, 40_000);
    assert!(before.iter().all(|chosen| nodes(chosen) == [1, 2, 3].into()), "{before:?}");
    let changes = [Wanted::of(1..=6), Wanted { heavy: Some((3, 50)), ..few.clone() }];
    for (n, after) in (0..).zip(changes) {
        let change = CHANGE * (n + 1);
        for seconds in [0, 59] {
            kernel
                .datapath
                .apply_at(&after.picture(), change + Duration::from_secs(seconds))
                .unwrap();
            assert_eq!(opened(&mut kernel, 41_000), before, "new flows");
            assert_eq!(continued(&mut kernel, 40_000), before, "old flows");
            assert_eq!(kernel.datapath.next_deadline(), Some(change + TIMEOUT));
        }
        // Then new flows are spread anew, and the established ones stay. UDP's, which nobody can
        // tell from new ones, do so too.
        kernel.datapath.apply_at(&after.picture(), change + TIMEOUT).unwrap();
        assert_eq!(continued(&mut kernel, 40_000), before, "old flows");
        let spread = opened(&mut kernel, 42_000);
        assert!(spread[..2].iter().zip(&before).all(|(now, before)| now != before), "TCP");
        assert_eq!(spread[2..], before[2..], "UDP");
        assert_eq!(continued(&mut kernel, 42_000), spread, "flows of new places");
        let clean = change + TIMEOUT + DRAIN;
        assert_eq!(kernel.datapath.next_deadline(), Some(clean));
        kernel.datapath.apply_at(&after.picture(), clean).unwrap();
        assert_eq!(kernel.datapath.next_deadline(), None);
        let late = opened(&mut kernel, 43_000);
        assert_eq!((&late[..2], &late[2..]), (&spread[..2], &spread[..2]), "by addresses alone");
        // Back to where it began, with the time for it.
        for time in [0, 60, 2_000] {
            kernel.datapath.apply_at(&few.picture(), clean + Duration::from_secs(time)).unwrap();
        }
        assert_eq!(opened(&mut kernel, 44_000), before);
    }
}

#[test]
fn only_clients_of_a_backend_that_goes_away_get_another() {
    let dead = Wanted::of([1, 2, 4]);
    let drains = Wanted { draining: vec![3], ..dead.clone() };
    let mut kernel = Kernel::with(&Wanted::of(1..=3).picture());
    let before = opened(&mut kernel, 40_000);
    for (n, after) in (0..).zip([dead, drains]) {
        let change = CHANGE * (n + 1);
        kernel.datapath.apply_at(&after.picture(), change).unwrap();
        let now = opened(&mut kernel, 41_000);
        for (now, before) in now.iter().zip(&before) {
            assert!(!nodes(now).contains(&3));
            let moved: Vec<_> =
                before.iter().filter(|(client, node)| now[*client] != **node).collect();
            assert!(!moved.is_empty() && moved.iter().all(|(_, node)| **node == 3), "{moved:?}");
        }
        // Where they went, they stay: also when the one they left is there again.
        let back = Wanted::of(1..=5).picture();
        kernel.datapath.apply_at(&back, change + Duration::from_secs(1)).unwrap();
        assert_eq!(opened(&mut kernel, 42_000), now);
        for time in [2, 70, 2_000, 3_000] {
            let at = change + Duration::from_secs(time);
            kernel.datapath.apply_at(&Wanted::of(1..=3).picture(), at).unwrap();
        }
        assert_eq!(opened(&mut kernel, 43_000), before);
    }
}

#[test]
fn a_new_process_goes_on_holding_what_was_held() {
    let after = Wanted::of(1..=6).picture();
    let mut kernel = Kernel::with(&Wanted::of(1..=3).picture());
    let before = opened(&mut kernel, 40_000);
    kernel.datapath.apply(&after).unwrap();
    let (mut second, _fence) = herald_ebpf::Datapath::open(kernel.directory.path()).unwrap();
    second.apply(&after).unwrap();
    assert!(second.next_deadline().is_some());
    assert_eq!(opened(&mut kernel, 41_000), before);
}
