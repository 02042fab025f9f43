//! Flows of slots that changed a short time ago, and what must not push them out of the flow table.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use herald_ebpf::{Backend, Picture};

use crate::build::Frame;
use crate::kernel::{Action, Kernel};
use crate::{CLIENT4, Pods, VIP4, picture, requests};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The IPv4 Service with so many backends, each on a node of its own.
fn of(backends: u8) -> Picture {
    let mut wanted = picture(Pods::Nowhere);
    for (_, set) in wanted.services.iter_mut().filter(|(port, _)| port.vip == IpAddr::from(VIP4)) {
        Arc::make_mut(set).extend((1..=backends).map(|n| Backend {
            address: SocketAddr::from(([10, 244, n, 2], 8080)),
            node_mac: [2, 0, 0, 0, 7, n],
            is_local: false,
        }));
    }
    wanted
}

/// A segment of a client; nobody looks at its checksum.
fn segment(client: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = Frame { from: (client, port).into(), ..requests()[0].clone() }.bytes();
    bytes[47] = flags;
    bytes
}

/// The node a packet is sent to.
fn node(kernel: &mut Kernel, packet: &[u8]) -> u8 {
    let (action, out) = kernel.run(packet);
    assert_eq!(action, Action::Transmit);
    out[5]
}

#[test]
fn a_flood_of_new_flows_pushes_no_established_one_out() {
    let mut kernel = Kernel::with(&of(10));
    // Twice as many: half of the slots have changed.
    kernel.datapath.apply(&of(20)).unwrap();
    let mut flows = BTreeMap::new();
    for port in 40_000..40_100 {
        let opened = node(&mut kernel, &segment(CLIENT4, port, SYN));
        assert_eq!(node(&mut kernel, &segment(CLIENT4, port, ACK)), opened, "flow {port}");
        flows.insert(port, opened);
    }
    assert!(flows.values().filter(|node| **node > 10).count() > 20, "few new: {flows:?}");
    let mut other = segment([10, 0, 0, 0], 1, SYN);
    for number in 0..100_000_u32 {
        other[26..30].copy_from_slice(&(0x0a00_0000 | number).to_be_bytes());
        let _ = node(&mut kernel, &other);
    }
    for (port, opened) in flows {
        assert_eq!(node(&mut kernel, &segment(CLIENT4, port, ACK)), opened, "flow {port}");
    }
}

/// A port that is used again belongs to the new flow, whatever is remembered of the old one.
#[test]
fn a_flow_that_opens_anew_is_not_taken_for_the_old_one() {
    let mut kernel = Kernel::with(&of(10));
    kernel.datapath.apply(&of(20)).unwrap();
    let mut moved = 0;
    for port in 40_000..40_100 {
        // It was there before the change: remembered at its first packet since, and at its second.
        let before = node(&mut kernel, &segment(CLIENT4, port, ACK));
        assert_eq!(node(&mut kernel, &segment(CLIENT4, port, ACK)), before);
        assert!(before <= 10, "flow {port}");
        let opened = node(&mut kernel, &segment(CLIENT4, port, SYN));
        for _ in 0..3 {
            assert_eq!(node(&mut kernel, &segment(CLIENT4, port, ACK)), opened, "flow {port}");
        }
        moved += usize::from(opened != before);
    }
    assert!(moved > 20, "{moved}");
}
