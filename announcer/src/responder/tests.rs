//! Questions on the left, answers on the right, as frames a reader can check by eye.

use super::*;

const OWN: LinkIdentity = LinkIdentity { mac: MacAddr([0x02, 0, 0, 0, 0, 0x01]) };

/// The VIPs of these tests: 192.168.1.240 and fd00:1::f0.
fn decide(frame: &[u8]) -> Verdict {
    let vips: [IpAddr; 2] = ["192.168.1.240".parse().unwrap(), "fd00:1::f0".parse().unwrap()];
    respond(frame, &OWN, |address| vips.contains(&address))
}

fn ignored(frame: &[u8], reason: IgnoreReason) {
    assert_eq!(decide(frame), Verdict::Ignore(reason));
}

fn answered(question: &[u8], answer: &str) {
    assert_eq!(decide(question), Verdict::Reply(crate::hex(answer)));
}

/// A request from 192.168.1.100 at 02:..:c1 for the VIP.
fn arp_request() -> Vec<u8> {
    crate::hex(
        "ff:ff:ff:ff:ff:ff 02:00:00:00:00:c1 0806
         0001 0800 06 04 0001
         02:00:00:00:00:c1 c0a80164      # 192.168.1.100
         00:00:00:00:00:00 c0a801f0      # 192.168.1.240",
    )
}

const ARP_REPLY: &str = "02:00:00:00:00:c1 02:00:00:00:00:01 0806
     0001 0800 06 04 0002
     02:00:00:00:00:01 c0a801f0      # 192.168.1.240 is here
     02:00:00:00:00:c1 c0a80164";

#[test]
fn answers_a_broadcast_request() {
    answered(&arp_request(), ARP_REPLY);
}

#[test]
fn answers_a_request_to_its_own_mac() {
    let mut unicast = arp_request();
    unicast[..6].copy_from_slice(&OWN.mac.0);
    answered(&unicast, ARP_REPLY);
}

#[test]
fn ignores_padding_behind_a_request() {
    answered(&[arp_request(), vec![0; 18]].concat(), ARP_REPLY);
}

#[test]
fn answers_a_probe() {
    let mut probe = arp_request();
    probe[28..32].fill(0);
    answered(
        &probe,
        "02:00:00:00:00:c1 02:00:00:00:00:01 0806
         0001 0800 06 04 0002
         02:00:00:00:00:01 c0a801f0
         02:00:00:00:00:c1 00000000      # to nobody yet",
    );
}

#[test]
fn replies_to_the_sender_the_packet_names() {
    // A bridge of the wireless kind puts its own MAC on the frame.
    let mut relayed = arp_request();
    relayed[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    answered(&relayed, ARP_REPLY);
}

#[test]
fn is_silent_about_addresses_that_are_not_ours() {
    let mut other = arp_request();
    other[41] = 0xf1;
    ignored(&other, IgnoreReason::NotOurs);
    let mut other = solicitation();
    for last_of_address in [5, 14 + 39, 14 + 40 + 23] {
        other[last_of_address] = 0xf1;
    }
    // Two octets under the checksum grew by one each, so it falls by two.
    other[14 + 43] -= 2;
    ignored(&other, IgnoreReason::NotOurs);
}

#[test]
fn is_silent_about_frames_for_other_machines() {
    let mut flooded = arp_request();
    flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    ignored(&flooded, IgnoreReason::OtherMac);
    let mut flooded = solicitation();
    flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    ignored(&flooded, IgnoreReason::OtherMac);
    let mut other_group = solicitation();
    other_group[5] = 0xf1;
    ignored(&other_group, IgnoreReason::OtherMac);
}

#[test]
fn never_answers_an_announcement() {
    for operation in [1, 2] {
        let mut announcement = arp_request();
        announcement[21] = operation;
        announcement[28..32].copy_from_slice(&[192, 168, 1, 240]);
        let reason = match operation {
            1 => IgnoreReason::Announcement,
            _ => IgnoreReason::NotARequest,
        };
        ignored(&announcement, reason);
    }
}

#[test]
fn never_answers_a_reply_or_an_advertisement() {
    let mut reply = arp_request();
    reply[21] = 2;
    ignored(&reply, IgnoreReason::NotARequest);
    let vip = "fd00:1::f0".parse().unwrap();
    for frame in crate::announcement::frames(vip, MacAddr([2, 0, 0, 0, 0, 9])) {
        let to_us = [OWN.mac.0.as_slice(), &frame[6..]].concat();
        ignored(&frame, IgnoreReason::NotARequest);
        ignored(&to_us, IgnoreReason::NotARequest);
    }
}

#[test]
fn looks_through_no_tag_and_no_other_protocol() {
    // VLAN 5 around a request (IEEE 802.1Q).
    let mut tagged = arp_request();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    ignored(&tagged, IgnoreReason::OtherProtocol);
    let mut ipv4 = arp_request();
    ipv4[13] = 0;
    ignored(&ipv4, IgnoreReason::OtherProtocol);
}

#[test]
fn says_what_is_wrong_with_a_frame() {
    ignored(&[], IgnoreReason::Malformed(ParseReason::Truncated));
    let mut wrong = arp_request();
    wrong[18] = 8;
    ignored(&wrong, IgnoreReason::Malformed(ParseReason::ArpHardwareLength));
    let mut forwarded = solicitation();
    forwarded[14 + 7] = 64;
    ignored(&forwarded, IgnoreReason::Malformed(ParseReason::HopLimit));
}

/// Address resolution: to the target's group, with the source link-layer option.
fn solicitation() -> Vec<u8> {
    crate::hex(
        "33:33:ff:00:00:f0 02:00:00:00:00:c1 86dd
         60000000 0020 3a ff
         fd000001 00000000 00000000 00000064     # fd00:1::64
         ff020000 00000000 00000001 ff0000f0     # ff02::1:ff00:f0
         87 00 7a96 00000000
         fd000001 00000000 00000000 000000f0     # fd00:1::f0
         01 01 02:00:00:00:00:c1",
    )
}

const ADVERTISEMENT: &str = "02:00:00:00:00:c1 02:00:00:00:00:01 86dd
     60000000 0020 3a ff
     fd000001 00000000 00000000 000000f0     # from the VIP
     fd000001 00000000 00000000 00000064     # to who asked
     88 00 1a59 60000000                     # Solicited and Override set
     fd000001 00000000 00000000 000000f0
     02 01 02:00:00:00:00:01";

#[test]
fn answers_address_resolution() {
    answered(&solicitation(), ADVERTISEMENT);
}

#[test]
fn answers_a_groups_packet_in_a_unicast_frame() {
    let mut converted = solicitation();
    converted[..6].copy_from_slice(&OWN.mac.0);
    answered(&converted, ADVERTISEMENT);
}

#[test]
fn answers_to_the_source_link_layer_option_before_the_frames_source() {
    let mut relayed = solicitation();
    relayed[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    answered(&relayed, ADVERTISEMENT);
}

/// Neighbour unreachability detection: unicast, often without an option.
fn reachability_check() -> Vec<u8> {
    crate::hex(
        "02:00:00:00:00:01 02:00:00:00:00:c1 86dd
         60000000 0018 3a ff
         fd000001 00000000 00000000 00000064
         fd000001 00000000 00000000 000000f0     # to the VIP itself
         87 00 7f63 00000000
         fd000001 00000000 00000000 000000f0",
    )
}

#[test]
fn answers_a_reachability_check_without_an_option() {
    answered(&reachability_check(), ADVERTISEMENT);
}

/// To the MAC that the option names, where a bridge of the wireless kind put its own on the frame.
#[test]
fn answers_a_reachability_check_with_an_option() {
    let check = NeighbourSolicitation {
        source: "fd00:1::64".parse().unwrap(),
        destination: "fd00:1::f0".parse().unwrap(),
        target: "fd00:1::f0".parse().unwrap(),
        source_mac: Some(MacAddr([2, 0, 0, 0, 0, 0xc1])),
    };
    answered(&check.to_frame(MacAddr([2, 0, 0, 0, 0, 0xc1]), OWN.mac), ADVERTISEMENT);
    answered(&check.to_frame(MacAddr([2, 0, 0, 0, 0, 0x99]), OWN.mac), ADVERTISEMENT);
}

#[test]
fn ignores_a_reachability_check_of_another_machine() {
    let mut flooded = reachability_check();
    flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    ignored(&flooded, IgnoreReason::OtherMac);
}

#[test]
fn answers_duplicate_address_detection_to_all_nodes() {
    let detection = crate::hex(
        "33:33:ff:00:00:f0 02:00:00:00:00:c1 86dd
         60000000 0018 3a ff
         00000000 00000000 00000000 00000000
         ff020000 00000000 00000001 ff0000f0
         87 00 7bc6 00000000
         fd000001 00000000 00000000 000000f0",
    );
    answered(
        &detection,
        "33:33:00:00:00:01 02:00:00:00:00:01 86dd
         60000000 0020 3a ff
         fd000001 00000000 00000000 000000f0
         ff020000 00000000 00000000 00000001     # all nodes
         88 00 58bb 20000000                     # Override set, Solicited not
         fd000001 00000000 00000000 000000f0
         02 01 02:00:00:00:00:01",
    );
}

#[test]
fn ignores_a_solicitation_sent_to_another_address() {
    let other = NeighbourSolicitation {
        source: "fd00:1::64".parse().unwrap(),
        destination: "fd00:1::11".parse().unwrap(),
        target: "fd00:1::f0".parse().unwrap(),
        source_mac: None,
    };
    let frame = other.to_frame(MacAddr([2, 0, 0, 0, 0, 0xc1]), OWN.mac);
    ignored(&frame, IgnoreReason::OtherDestination);
}
