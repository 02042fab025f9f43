//! Solicitations and advertisements as they lie on the wire, and every way to spoil them.

use super::*;

/// A multicast solicitation with a source link-layer option; offsets below are into this.
fn solicitation() -> Vec<u8> {
    crate::hex(
        "60000000 0020 3a ff                     # 32 octets of ICMPv6, hop limit 255
         fd000001 00000000 00000000 00000064     # fd00:1::64
         ff020000 00000000 00000001 ff0000f0     # ff02::1:ff00:f0
         87 00 7a96 00000000                     # solicitation
         fd000001 00000000 00000000 000000f0     # fd00:1::f0
         01 01 02:00:00:00:00:c1                 # source link-layer address",
    )
}

/// Duplicate address detection: no source, so no option either.
fn duplicate_address_detection() -> Vec<u8> {
    crate::hex(
        "60000000 0018 3a ff
         00000000 00000000 00000000 00000000     # nobody
         ff020000 00000000 00000001 ff0000f0
         87 00 7bc6 00000000
         fd000001 00000000 00000000 000000f0",
    )
}

fn advertisement() -> Vec<u8> {
    crate::hex(
        "60000000 0020 3a ff
         fd000001 00000000 00000000 000000f0     # fd00:1::f0
         fd000001 00000000 00000000 00000064     # fd00:1::64
         88 00 1a59 60000000                     # advertisement, Solicited and Override set
         fd000001 00000000 00000000 000000f0
         02 01 02:00:00:00:00:01                 # target link-layer address",
    )
}

const ICMPV6: usize = 40;
const TARGET: usize = ICMPV6 + 8;
const OPTIONS: usize = ICMPV6 + 24;

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// The packet with other options, its lengths and checksum made right again.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut packet = solicitation();
    packet.truncate(OPTIONS);
    packet.extend_from_slice(options);
    sealed(packet)
}

/// Puts the right payload length and checksum in.
fn sealed(mut packet: Vec<u8>) -> Vec<u8> {
    let length = (packet.len() - ICMPV6) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[ICMPV6 + 2..ICMPV6 + 4].fill(0);
    let ip = Ipv6::parse(&packet).unwrap();
    let sum = checksum::icmpv6(ip.source, ip.destination, ip.payload);
    packet[ICMPV6 + 2..ICMPV6 + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The packet with octets replaced, sealed again.
fn spoilt(mut packet: Vec<u8>, offset: usize, octets: &[u8]) -> Vec<u8> {
    packet[offset..offset + octets.len()].copy_from_slice(octets);
    sealed(packet)
}

#[test]
fn reads_a_solicitation() {
    let expected = NeighbourSolicitation {
        source: address("fd00:1::64"),
        destination: address("ff02::1:ff00:f0"),
        target: address("fd00:1::f0"),
        source_mac: Some(MacAddr([2, 0, 0, 0, 0, 0xc1])),
    };
    assert_eq!(Ndp::parse(&solicitation()), Ok(Ndp::Solicitation(expected)));
    assert_eq!(expected.to_bytes(), solicitation());
}

#[test]
fn reads_duplicate_address_detection() {
    let expected = NeighbourSolicitation {
        source: Ipv6Addr::UNSPECIFIED,
        destination: address("ff02::1:ff00:f0"),
        target: address("fd00:1::f0"),
        source_mac: None,
    };
    let packet = duplicate_address_detection();
    assert_eq!(Ndp::parse(&packet), Ok(Ndp::Solicitation(expected)));
    assert_eq!(expected.to_bytes(), packet);
}

#[test]
fn reads_an_advertisement() {
    let expected = NeighbourAdvertisement {
        source: address("fd00:1::f0"),
        destination: address("fd00:1::64"),
        router: false,
        solicited: true,
        overrides: true,
        target: address("fd00:1::f0"),
        target_mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
    };
    assert_eq!(Ndp::parse(&advertisement()), Ok(Ndp::Advertisement(expected)));
    assert_eq!(expected.to_bytes(), advertisement());
}

#[test]
fn keeps_every_rule_of_rfc_4861_7_1_1() {
    let group = solicited_node(address("fd00:1::f0")).octets();
    let all_nodes = ALL_NODES.octets();
    let with_option_from_nobody = spoilt(solicitation(), 8, &[0; 16]);
    let to_all_from_nobody = spoilt(duplicate_address_detection(), 24, &all_nodes);
    let mut wrong_checksum = solicitation();
    wrong_checksum[ICMPV6 + 3] ^= 1;
    let mut short = solicitation();
    short.truncate(OPTIONS - 1);
    let refused = [
        ("hop limit", spoilt(solicitation(), 7, &[254]), ParseReason::HopLimit),
        ("checksum", wrong_checksum, ParseReason::Icmpv6Checksum),
        ("code", spoilt(solicitation(), ICMPV6 + 1, &[1]), ParseReason::Icmpv6Code),
        ("length", sealed(short), ParseReason::Truncated),
        ("target", spoilt(solicitation(), TARGET, &group), ParseReason::TargetMulticast),
        ("option", with_options(&[1, 0, 2, 0, 0, 0, 0, 0xc1]), ParseReason::OptionZeroLength),
        ("destination", to_all_from_nobody, ParseReason::UnspecifiedDestination),
        ("source option", with_option_from_nobody, ParseReason::UnspecifiedLinkLayer),
    ];
    for (rule, packet, reason) in refused {
        assert_eq!(Ndp::parse(&packet), Err(reason), "{rule}");
    }
}

#[test]
fn keeps_every_rule_of_rfc_4861_7_1_2() {
    let group = solicited_node(address("fd00:1::f0")).octets();
    let to_all = spoilt(advertisement(), 24, &ALL_NODES.octets());
    let refused = [
        ("hop limit", spoilt(advertisement(), 7, &[1]), ParseReason::HopLimit),
        ("code", spoilt(advertisement(), ICMPV6 + 1, &[1]), ParseReason::Icmpv6Code),
        ("target", spoilt(advertisement(), TARGET, &group), ParseReason::TargetMulticast),
        ("solicited", to_all, ParseReason::SolicitedMulticast),
        ("option", spoilt(advertisement(), OPTIONS + 1, &[0]), ParseReason::OptionZeroLength),
    ];
    for (rule, packet, reason) in refused {
        assert_eq!(Ndp::parse(&packet), Err(reason), "{rule}");
    }
}

/// pnet_packet 0.35 multiplies this length as an octet: 32 * 8 overflows.
#[test]
fn survives_the_option_length_that_breaks_pnet() {
    for units in [32, 33, 64, 128, 255] {
        let packet = with_options(&[1, units, 2, 0, 0, 0, 0, 0xc1]);
        assert_eq!(Ndp::parse(&packet), Err(ParseReason::OptionTruncated), "{units} units");
    }
}

/// pnet_packet 0.35 accepts it; a walker that believed it would never end.
#[test]
fn refuses_a_zero_length_option_wherever_it_stands() {
    let nonce_then_zero = [[14, 1, 1, 2, 3, 4, 5, 6], [1, 0, 2, 0, 0, 0, 0, 0xc1]].concat();
    assert_eq!(Ndp::parse(&with_options(&nonce_then_zero)), Err(ParseReason::OptionZeroLength));
    assert_eq!(Ndp::parse(&with_options(&[14, 0])), Err(ParseReason::OptionZeroLength));
}

#[test]
fn steps_over_options_it_does_not_know() {
    // A nonce (RFC 3971 5.3.2) and an option of 32 units before the address.
    let mut options = vec![14, 1, 1, 2, 3, 4, 5, 6, 200, 32];
    options.resize(8 + 256, 0xee);
    options.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 0xc1]);
    let Ok(Ndp::Solicitation(parsed)) = Ndp::parse(&with_options(&options)) else {
        panic!("not a solicitation");
    };
    assert_eq!(parsed.source_mac, Some(MacAddr([2, 0, 0, 0, 0, 0xc1])));
}

#[test]
fn refuses_a_link_layer_address_that_is_not_one_machines() {
    for option in [
        [1, 1, 0x33, 0x33, 0, 0, 0, 1].as_slice(),
        &[1, 1, 0, 0, 0, 0, 0, 0],
        &[1, 2, 2, 0, 0, 0, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(Ndp::parse(&with_options(option)), Err(ParseReason::OptionLinkLayer));
    }
}

#[test]
fn refuses_a_cut_option() {
    for options in [[1].as_slice(), &[1, 1, 2, 0, 0], &[14, 2, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(Ndp::parse(&with_options(options)), Err(ParseReason::OptionTruncated));
    }
}

#[test]
fn refuses_every_cut_of_the_frame() {
    for packet in [solicitation(), advertisement()] {
        for length in 1..packet.len() {
            assert_eq!(Ndp::parse(&packet[..length]), Err(ParseReason::Truncated), "{length}");
        }
    }
}

#[test]
fn refuses_what_is_not_neighbour_discovery() {
    let mut tcp = solicitation();
    tcp[6] = 6;
    assert_eq!(Ndp::parse(&tcp), Err(ParseReason::NotIcmpv6));
    let echo = spoilt(solicitation(), ICMPV6, &[128]);
    assert_eq!(Ndp::parse(&echo), Err(ParseReason::Icmpv6Type));
    let mut ipv4 = solicitation();
    ipv4[0] = 0x45;
    assert_eq!(Ndp::parse(&ipv4), Err(ParseReason::IpVersion));
    let from_group = spoilt_source(ALL_NODES);
    assert_eq!(Ndp::parse(&from_group), Err(ParseReason::Ipv6Source));
}

/// A solicitation from another source; not sealed, since no valid packet has that source.
fn spoilt_source(source: Ipv6Addr) -> Vec<u8> {
    let mut packet = solicitation();
    packet[8..24].copy_from_slice(&source.octets());
    packet
}

#[test]
fn cuts_padding_of_the_frame_off() {
    let padded = [duplicate_address_detection(), vec![0; 30]].concat();
    assert_eq!(Ndp::parse(&padded), Ndp::parse(&duplicate_address_detection()));
}
