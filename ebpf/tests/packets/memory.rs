//! What a flood may take: nothing. The maps of flows are laid out beforehand, so their size says
//! nothing; what counts is that no entry is made, which would put out somebody's real one.

use std::net::SocketAddr;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use herald_ebpf_common::{
    Address, FlowKey, FragmentKey, Remembered, ReverseKey, ReverseKey4, ReverseValue, ReverseValue4,
};

use crate::build::Frame;
use crate::kernel::{Action, Kernel};
use crate::{Pods, ip, picture, pins, requests};

/// How many entries a map has.
fn entries<K: Pod, V: Pod>(directory: &Path, name: &str) -> usize {
    let data = MapData::from_pin(directory.join(name)).unwrap();
    let map: HashMap<_, K, V> = Map::LruHashMap(data).try_into().unwrap();
    map.keys().map(Result::unwrap).count()
}

/// What is remembered of single flows, by the map's name.
fn remembered(kernel: &Kernel) -> Vec<(&'static str, usize)> {
    let directory = pins(kernel);
    let all = [
        ("FLOWS", entries::<FlowKey, Remembered>(&directory, "FLOWS")),
        ("OPENING", entries::<FlowKey, Remembered>(&directory, "OPENING")),
        ("FRAGMENTS", entries::<FragmentKey, Remembered>(&directory, "FRAGMENTS")),
        ("REPLY_FRAGMENTS", entries::<FragmentKey, Address>(&directory, "REPLY_FRAGMENTS")),
        ("REVERSE", entries::<ReverseKey, ReverseValue>(&directory, "REVERSE")),
        ("REVERSE4", entries::<ReverseKey4, ReverseValue4>(&directory, "REVERSE4")),
    ];
    all.into_iter().filter(|(_, entries)| *entries != 0).collect()
}

/// The first packets of so many connections, each of another client, to a VIP of each family.
fn first_packets(clients: u16) -> impl Iterator<Item = Vec<u8>> {
    let requests = requests();
    (0..clients).flat_map(move |client| {
        let [high, low] = client.to_be_bytes();
        let from = [ip(&format!("198.18.{high}.{low}")), ip(&format!("fd00:9::{client:x}"))];
        let syn = |(request, from): (&Frame, _)| {
            let from = SocketAddr::new(from, 1_024 + client);
            let mut bytes = Frame { from, ..request.clone() }.bytes();
            // SYN alone; the checksum is not looked at on the way.
            bytes[if from.is_ipv4() { 47 } else { 67 }] = 2;
            bytes
        };
        requests[..2].iter().zip(from).map(syn).collect::<Vec<_>>()
    })
}

#[test]
fn ten_thousand_clients_first_packets_leave_nothing_on_the_holder() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    for packet in first_packets(5_000) {
        let (action, _) = kernel.run(&packet);
        assert_eq!(action, Action::Transmit, "{packet:02x?}");
    }
    assert_eq!(remembered(&kernel), []);
}

#[test]
fn a_pods_node_remembers_every_flow_of_its_pods() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for packet in first_packets(100) {
        let (action, _) = kernel.run(&packet);
        assert_eq!(action, Action::Pass, "{packet:02x?}");
    }
    assert_eq!(remembered(&kernel), [("REVERSE", 100), ("REVERSE4", 100)]);
}
