//! The programs' parser, run here on random and mutated frames: it must find what the model's
//! walk finds, which shares nothing with it, and never fail.

use herald_ebpf_common::parse::{self, Pieces, Transport, Ways};
use herald_ebpf_common::{Address, FragmentKey, Reason};
use proptest::prelude::*;

use crate::model::{Carried, Headers, walk};
use crate::random::{Random, seeds};

/// What the parser made of a frame.
#[derive(Debug, PartialEq)]
enum Found {
    Passed,
    Arp,
    Request { port: u16, client_port: u16, place: Place, piece: Option<Vec<u8>> },
    Later { l3: usize, name: Vec<u8> },
    Icmp { l3: usize, l4: usize, is_v4: bool },
    Solicitation,
}

/// Where a request's headers are, and whose they are.
#[derive(Debug, PartialEq)]
struct Place {
    l3: usize,
    l4: usize,
    protocol: u8,
    vip: Vec<u8>,
    client: Vec<u8>,
}

struct Record;

impl Ways for Record {
    type Verdict = Found;

    fn pass(self, _reason: Reason) -> Found {
        Found::Passed
    }

    fn arp(self) -> Found {
        Found::Arp
    }

    fn request(self, transport: &Transport) -> Found {
        let Transport { key, client, client_port_be, l3, l4, is_v4, pieces } = transport;
        let (vip, client) = (octets(&key.vip, *is_v4), octets(client, *is_v4));
        let identification = pieces.identification();
        let protocol = parse::of_pieces(key.protocol, *is_v4);
        let piece =
            (*pieces != Pieces::NONE).then(|| name(&client, &vip, identification, protocol));
        Found::Request {
            port: u16::from_be(key.port_be),
            client_port: u16::from_be(*client_port_be),
            place: Place { l3: *l3, l4: *l4, protocol: key.protocol, vip, client },
            piece,
        }
    }

    fn later_fragment(self, l3: usize, is_v4: bool, key: &FragmentKey) -> Found {
        let (client, vip) = (octets(&key.client, is_v4), octets(&key.vip, is_v4));
        Found::Later { l3, name: name(&client, &vip, key.identification, key.protocol) }
    }

    fn icmp(self, l3: usize, l4: usize) -> Found {
        Found::Icmp { l3, l4, is_v4: true }
    }

    fn icmpv6(self, l3: usize, l4: usize) -> Found {
        Found::Icmp { l3, l4, is_v4: false }
    }

    fn solicitation(self) -> Found {
        Found::Solicitation
    }
}

/// An address as it lies in the packet.
fn octets(address: &Address, is_v4: bool) -> Vec<u8> {
    let all: Vec<u8> = address.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mapped = [&[0; 10][..], &[0xff; 2]].concat();
    match is_v4 {
        true => {
            assert_eq!(all[..12], mapped, "IPv4 in its common form");
            all[12..].to_vec()
        }
        false => all,
    }
}

/// As the model names a packet in pieces.
fn name(source: &[u8], destination: &[u8], number: u32, protocol: u32) -> Vec<u8> {
    let number = number.to_ne_bytes();
    let of_family = match source.len() {
        4 => [&number[..2], &[u8::try_from(protocol).unwrap()]].concat(),
        _ if protocol == 0 => number.to_vec(),
        _ => panic!("IPv6 names no protocol: {protocol}"),
    };
    [source, destination, &of_family].concat()
}

/// What the parser should make of a frame, from the model's walk.
fn expected(frame: &[u8]) -> Found {
    match walk(frame) {
        // Asked in a VLAN, it is for another interface.
        Some(Carried::Arp) if frame[12..14] == [8, 6] => Found::Arp,
        Some(Carried::Ip(headers)) => of_ip(frame, &headers).unwrap_or(Found::Passed),
        _ => Found::Passed,
    }
}

fn of_ip(frame: &[u8], headers: &Headers) -> Option<Found> {
    let &Headers { l3, l4, protocol, is_v4, offset, has_more, ref name } = headers;
    let is_carried = matches!(protocol, 6 | 17 | 132);
    if offset != 0 {
        return (is_carried || !is_v4).then(|| Found::Later { l3, name: name.clone() });
    }
    if is_carried {
        let ports = frame.get(l4..l4 + 4)?;
        let (addresses, length) = if is_v4 { (l3 + 12, 4) } else { (l3 + 8, 16) };
        let client = frame[addresses..addresses + length].to_vec();
        let vip = frame[addresses + length..addresses + 2 * length].to_vec();
        return Some(Found::Request {
            port: u16::from_be_bytes([ports[2], ports[3]]),
            client_port: u16::from_be_bytes([ports[0], ports[1]]),
            place: Place { l3, l4, protocol, vip, client },
            piece: has_more.then(|| name.clone()),
        });
    }
    match (protocol, is_v4) {
        (1, true) if !has_more => Some(Found::Icmp { l3, l4, is_v4 }),
        (58, false) if !has_more => match frame.get(l4..l4 + 2)?[0] {
            135 => (l4 == 54).then_some(Found::Solicitation),
            _ => Some(Found::Icmp { l3, l4, is_v4 }),
        },
        _ => None,
    }
}

/// The two ways must agree; and whatever the short way takes for usual, the long one takes for a
/// whole request behind a bare header.
fn check(frame: &[u8]) -> Result<Found, TestCaseError> {
    let found = parse::walk(frame, Record);
    prop_assert_eq!(&found, &expected(frame), "{:02x?}", frame);
    let is_usual = match frame.get(12..14) {
        Some([0x08, 0x00]) => parse::usual_v4(frame).is_some(),
        Some([0x86, 0xdd]) => parse::usual_v6(frame).is_some(),
        _ => false,
    };
    let may_be_usual = match &found {
        Found::Request { place, piece: None, .. } => {
            place.protocol != 132 && matches!((place.vip.len(), place.l4), (4, 34) | (16, 54))
        }
        _ => false,
    };
    prop_assert_eq!(is_usual, may_be_usual, "{:02x?}", frame);
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn finds_what_the_model_finds_in_any_octets(
        mut frame in proptest::collection::vec(any::<u8>(), 0..160),
        kind in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x8100), Just(0x0806), any::<u16>()],
        version in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x60), any::<u8>()],
    ) {
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            frame[14] = version;
        }
        check(&frame)?;
    }

    #[test]
    fn finds_what_the_model_finds_in_chains_of_extension_headers(
        headers in proptest::collection::vec((0_usize..5, 0_u8..3, any::<[u8; 6]>()), 0..6),
        last in prop_oneof![Just(6_u8), Just(17), Just(58), Just(132), Just(59), any::<u8>()],
        rest in proptest::collection::vec(any::<u8>(), 0..40),
        length in prop_oneof![Just(None), any::<u16>().prop_map(Some)],
    ) {
        const KINDS: [u8; 5] = [0, 43, 60, 44, 44];
        let mut payload = Vec::new();
        for (number, (kind, units, body)) in headers.iter().enumerate() {
            let next = headers.get(number + 1).map_or(last, |(kind, ..)| KINDS[*kind]);
            let units = if KINDS[*kind] == 44 { 0 } else { *units };
            payload.extend([next, units]);
            payload.extend(body);
            // As the first fragment of its packet, so that the chain goes on; or as it came.
            if *kind == 4 {
                let at = payload.len() - 6;
                payload[at..at + 2].copy_from_slice(&[0, body[0] & 1]);
            }
            payload.extend(vec![0; 8 * usize::from(units)]);
        }
        payload.extend(&rest);
        let first = headers.first().map_or(last, |(kind, ..)| KINDS[*kind]);
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.unwrap_or(payload.len() as u16).to_be_bytes());
        frame.extend([first, 64]);
        frame.extend([0xfd; 32]);
        frame.extend(payload);
        check(&frame)?;
    }
}

#[test]
fn finds_what_the_model_finds_in_mutated_frames_of_every_kind() {
    const FRAMES: usize = 500_000;
    let seeds = seeds();
    let mut random = Random(0x7061_7273_6572);
    let mut kinds = [0; 5];
    for number in 0..FRAMES {
        let frame = random.mutate(&seeds[number % seeds.len()]);
        match check(&frame).unwrap() {
            Found::Passed | Found::Arp => kinds[0] += 1,
            Found::Request { .. } => kinds[1] += 1,
            Found::Later { .. } => kinds[2] += 1,
            Found::Icmp { .. } => kinds[3] += 1,
            Found::Solicitation => kinds[4] += 1,
        }
    }
    // Every kind has its seeds, and most mutations leave a frame what it was.
    assert!(kinds.iter().all(|found| *found > FRAMES / 200), "{kinds:?}");
}
