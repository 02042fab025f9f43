#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

const NODE: [u8; 6] = [2, 0, 0, 0, 1, 12];
const OURS: [u8; 6] = [2, 0, 0, 0, 1, 11];

/// A record about a frame, of which it holds as much as it can.
fn record(reason: Reason, frame: &[u8]) -> Vec<u8> {
    let held = frame.len().min(FRAME);
    let mut record = Vec::new();
    record.extend(5_000_000_000_u64.to_ne_bytes());
    record.extend(1024_u64.to_ne_bytes());
    for number in [reason as usize, 7, frame.len(), held] {
        record.extend((number as u32).to_ne_bytes());
    }
    record.extend(&frame[..held]);
    // What an earlier record left there.
    record.resize(size_of::<Sample>(), 0xee);
    record
}

fn ethernet(ether_types: &[u8], packet: &[u8]) -> Vec<u8> {
    [&NODE[..], &OURS[..], ether_types, packet].concat()
}

/// 192.168.1.100:40001 to 192.168.1.240:80.
fn ipv4(first: u8, fragment: [u8; 2], protocol: u8) -> Vec<u8> {
    let header = [first, 0, 0, 28, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0];
    let options = vec![1; usize::from(first & 0x0f).saturating_sub(5) * 4];
    let ends = [192, 168, 1, 100, 192, 168, 1, 240];
    [&header[..], &ends[..], &options[..], &PORTS[..], &[0; 4][..]].concat()
}

/// fd00:1::100 to fd00:1::f0.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next, 64];
    let ends = ["fd00:1::100", "fd00:1::f0"].map(|it| it.parse::<Ipv6Addr>().unwrap().octets());
    [&header[..], &ends[0], &ends[1], payload].concat()
}

const PORTS: [u8; 4] = [0x9c, 0x41, 0, 80];
const UDP: [u8; 8] = [0x9c, 0x41, 0, 80, 0, 8, 0, 0];

fn end(ip: &str, port: impl Into<Option<u16>>) -> End {
    End { ip: ip.parse().unwrap(), port: port.into() }
}

fn frame4() -> Vec<u8> {
    ethernet(&[8, 0], &ipv4(0x45, [0x40, 0], 6))
}

fn forwarded4() -> FlowSample {
    FlowSample {
        at: Duration::from_secs(5),
        reason: Reason::Forwarded,
        packets: 1024,
        ifindex: 7,
        length: 42,
        protocol: Protocol::Tcp,
        client: end("192.168.1.100", 40_001),
        vip: Some(end("192.168.1.240", 80)),
        next_hop: Some(NODE),
        pod: None,
    }
}

fn forwarded6() -> FlowSample {
    FlowSample {
        protocol: Protocol::Udp,
        client: end("fd00:1::100", 40_001),
        vip: Some(end("fd00:1::f0", 80)),
        ..forwarded4()
    }
}

#[test]
fn reads_a_flow_and_where_it_went() {
    let extensions = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[17, 1], &[0; 14], &UDP].concat();
    let rows = [
        ("IPv4", frame4(), forwarded4()),
        ("options", ethernet(&[8, 0], &ipv4(0x46, [0, 0], 6)), forwarded4()),
        ("a first fragment", ethernet(&[8, 0], &ipv4(0x45, [0x20, 0], 6)), forwarded4()),
        ("a tag", ethernet(&[0x81, 0, 0, 5, 8, 0], &ipv4(0x45, [0, 0], 6)), forwarded4()),
        (
            "two tags",
            ethernet(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0], &ipv4(0x45, [0, 0], 6)),
            forwarded4(),
        ),
        ("IPv6", ethernet(&[0x86, 0xdd], &ipv6(17, &UDP)), forwarded6()),
        ("IPv6 extensions", ethernet(&[0x86, 0xdd], &ipv6(0, &extensions)), forwarded6()),
    ];
    for (name, frame, expected) in rows {
        let expected = FlowSample { length: frame.len() as u32, ..expected };
        assert_eq!(FlowSample::decode(&record(Reason::Forwarded, &frame)), Ok(expected), "{name}");
    }
}

#[test]
fn later_fragments_have_no_ports() {
    let later6 = [&[17, 0, 0, 8, 0, 0, 0, 9][..], b"anything"].concat();
    let rows = [
        (ethernet(&[8, 0], &ipv4(0x45, [0, 3], 17)), end("192.168.1.240", None)),
        (ethernet(&[0x86, 0xdd], &ipv6(44, &later6)), end("fd00:1::f0", None)),
    ];
    for (frame, vip) in rows {
        let sample = FlowSample::decode(&record(Reason::Forwarded, &frame)).unwrap();
        assert_eq!((sample.vip, sample.client.port), (Some(vip), None));
    }
}

#[test]
fn a_delivered_packet_has_its_pods_address() {
    for reason in [Reason::Delivered, Reason::DeliveredFromPeer, Reason::DeliveredElsewhere] {
        let sample = FlowSample::decode(&record(reason, &frame4())).unwrap();
        let pod = forwarded4().vip;
        assert_eq!(sample, FlowSample { reason, vip: None, next_hop: None, pod, ..forwarded4() });
    }
}

#[test]
fn a_refused_packet_is_the_one_the_answer_quotes() {
    let answer4 = |quote: &[u8]| {
        let icmp = [&[3, 3, 0, 0, 0, 0, 0, 0][..], quote].concat();
        let mut ip = ipv4(0x45, [0x40, 0], 1);
        ip.truncate(20);
        ethernet(&[8, 0], &[ip, icmp].concat())
    };
    let icmp6 = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &ipv6(17, &UDP)].concat();
    let answer6 = ethernet(&[0x86, 0xdd], &ipv6(58, &icmp6));
    let rows = [(answer4(&ipv4(0x45, [0, 0], 6)), forwarded4()), (answer6, forwarded6())];
    for (frame, expected) in rows {
        let (reason, length) = (Reason::Rejected, frame.len() as u32);
        let expected = FlowSample { reason, length, next_hop: None, ..expected };
        assert_eq!(FlowSample::decode(&record(Reason::Rejected, &frame)), Ok(expected));
    }
    let cut = answer4(&ipv4(0x45, [0, 0], 6)[..22]);
    assert_eq!(FlowSample::decode(&record(Reason::Rejected, &cut)), Err(Unreadable::Cut));
    let no_error = record(Reason::Rejected, &frame4());
    assert_eq!(FlowSample::decode(&no_error), Err(Unreadable::NotCarried));
}

#[test]
fn refuses_what_is_no_sample() {
    let good = record(Reason::Forwarded, &frame4());
    let with = |at: usize, number: u32| {
        let mut record = good.clone();
        record[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        record
    };
    let of = |frame: &[u8]| record(Reason::Forwarded, frame);
    let loops = [HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(6);
    let rows = [
        ("nothing", vec![], Unreadable::WrongLength),
        ("one octet less", good[1..].to_vec(), Unreadable::WrongLength),
        ("one octet more", [&good[..], &[0]].concat(), Unreadable::WrongLength),
        ("more than there is room for", with(28, 129), Unreadable::HoldsTooMuch),
        ("more than there was", with(28, 43), Unreadable::HoldsTooMuch),
        ("a reason to come", with(16, 99), Unreadable::UnknownReason),
        ("a reason not sampled", with(16, Reason::NotForVip as u32), Unreadable::UnknownReason),
        ("none of the frame", with(28, 0), Unreadable::Cut),
        ("cut in the addresses", of(&frame4()[..32]), Unreadable::Cut),
        ("cut in the ports", of(&frame4()[..37]), Unreadable::Cut),
        ("ARP", of(&ethernet(&[8, 6], &[0; 28])), Unreadable::NotCarried),
        ("IPv6 in IPv4's place", of(&ethernet(&[8, 0], &ipv6(6, &UDP))), Unreadable::NotCarried),
        ("a short header", of(&ethernet(&[8, 0], &ipv4(0x44, [0, 0], 6))), Unreadable::NotCarried),
        ("OSPF", of(&ethernet(&[8, 0], &ipv4(0x45, [0, 0], 89))), Unreadable::NotCarried),
        ("tags without end", of(&[0x81, 0].repeat(40)), Unreadable::NotCarried),
        (
            "extensions without end",
            of(&ethernet(&[0x86, 0xdd], &ipv6(0, &loops))),
            Unreadable::NotCarried,
        ),
    ];
    for (name, record, why) in rows {
        assert_eq!(FlowSample::decode(&record), Err(why), "{name}");
    }
}

proptest! {
    /// Whatever is in the ring: no panic, and nothing that was not held is read.
    #[test]
    fn any_octets_are_read_within_what_is_held(
        mut octets in proptest::collection::vec(any::<u8>(), size_of::<Sample>()),
        reason in 0..Reason::ALL.len() as u32,
        held in 0..=FRAME as u32,
        ether_type in prop_oneof![Just([8, 0]), Just([0x86, 0xdd]), Just([0x81, 0])],
        first in prop_oneof![Just(0x45), Just(0x4f), Just(0x60)],
        next in prop_oneof![Just(6), Just(17), Just(132), any::<u8>()],
    ) {
        octets[16..20].copy_from_slice(&reason.to_ne_bytes());
        octets[24..28].copy_from_slice(&1500_u32.to_ne_bytes());
        octets[28..32].copy_from_slice(&held.to_ne_bytes());
        octets[44..46].copy_from_slice(&ether_type);
        octets[46] = first;
        // Of IPv6 and of IPv4: few random octets are a protocol that is carried.
        (octets[52], octets[55]) = (next, next);
        let read = FlowSample::decode(&octets);
        octets[32 + held as usize..].fill(0);
        prop_assert_eq!(FlowSample::decode(&octets), read);
    }
}
