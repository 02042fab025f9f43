//! The edges against a real kernel: sockets, groups, links and the announcer, each test in a
//! network namespace of its own with a pair of virtual Ethernet ports, `eth0` (ours) and `lan`
//! (everybody else). The namespace lives as long as the test's thread, so nothing is left behind.
//!
//! Needs root and the `ip` command; without them the tests fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod namespace;
mod speaker;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use herald_announcer::groups::Groups;
use herald_announcer::wire::{Arp, Ndp, ethernet};
use herald_announcer::{
    Announcer, Answering, Error, Links, Presence, Presences, announcement, links, probe,
    roll_caller, socket,
};
use namespace::{Tap, ip, ip_output, namespace};
use speaker::{
    CLIENT, OURS, SOON, Speaker, V4, V6, WHILE, announced, announcements, answers, arp_question,
    claim, lan, reachability_check, solicitation, until,
};
use tokio::sync::watch;

#[test]
fn watch_sees_links_come_change_and_go() {
    namespace(async || {
        let (mut links, _watching) = links::watch().await.unwrap();
        assert!(links.borrow().by_name["lo"].is_loopback);
        assert!(!links.borrow().by_name.contains_key("eth0"));
        let mut until = async |what: &str, wanted: &dyn Fn(&Links) -> bool| {
            let seen = links.wait_for(|links| wanted(links));
            tokio::time::timeout(SOON, seen).await.expect(what).unwrap().clone()
        };

        lan();
        let up = until("up", &|l| l.by_name.get("eth0").is_some_and(|e| e.up && e.carrier)).await;
        assert_eq!(up.by_name["eth0"].mac, Some(OURS));
        assert_eq!(up.by_name["eth0"].mtu, 1500);

        ip("address add 192.168.1.11/24 dev eth0");
        ip("address add fd00:1::11/64 dev eth0 nodad");
        let own: [IpAddr; 2] = ["192.168.1.11".parse().unwrap(), "fd00:1::11".parse().unwrap()];
        let has = until("addresses", &|l| own.iter().all(|ip| l.with_address(*ip).is_some())).await;
        assert!(has.with_subnet_of(V4.parse().unwrap()).any(|link| link.name == "eth0"));
        assert!(has.with_subnet_of(V6.parse().unwrap()).any(|link| link.name == "eth0"));

        ip("link set lan down");
        let cut = until("no carrier", &|l| !l.by_name["eth0"].carrier).await;
        assert!(cut.by_name["eth0"].up);
        ip("link set eth0 down");
        until("down", &|l| !l.by_name["eth0"].up).await;
        ip("link set eth0 mtu 9000");
        until("mtu", &|l| l.by_name["eth0"].mtu == 9000).await;
        ip("link add br0 type bridge");
        ip("link set eth0 master br0");
        until("enslaved", &|l| l.by_name["eth0"].is_enslaved).await;
        // A bridge tells of a port that leaves by deleting it, in its own family.
        ip("link set eth0 nomaster");
        until("free", &|l| l.by_name.get("eth0").is_some_and(|e| !e.is_enslaved)).await;
        ip("link set eth0 arp off");
        until("no arp", &|l| l.by_name["eth0"].no_arp).await;
        ip("link del eth0");
        until("gone", &|l| !l.by_name.contains_key("eth0")).await;
    });
}

#[test]
fn answers_arp_and_solicitations_in_userspace_mode() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        speaker.handle.set(announced(&[V4, V6], "eth0"));
        let lan = Tap::open("lan");
        lan.until(SOON, announcements(V6)).await;

        lan.send(&arp_question(V4));
        let reply = lan.until(SOON, answers(V4)).await;
        let arp = Arp::parse(&reply[ethernet::HEADER_LENGTH..]).unwrap();
        assert_eq!((arp.sender_mac, arp.target_mac), (OURS, CLIENT));

        lan.send(&solicitation(V6));
        let reply = lan.until(SOON, answers(V6)).await;
        let Ok(Ndp::Advertisement(na)) = Ndp::parse(&reply[ethernet::HEADER_LENGTH..]) else {
            panic!("not an advertisement");
        };
        assert!(na.solicited && na.overrides && na.target_mac == Some(OURS));
        speaker.until_replies(2).await;

        lan.forget();
        lan.send(&arp_question("192.168.1.241"));
        lan.send(&solicitation("fd00:1::f1"));
        lan.silent(WHILE, |frame| claim(frame).is_some_and(|(_, answer)| answer)).await;
        assert!(speaker.handle.counters().ignored["not_ours"] >= 1);
        assert!(!speaker.task.is_finished());
    });
}

/// RFC 4861 7.2.2 lets unicast solicitations go without the option; RFC 4862 5.4.2 forbids it to
/// address tests. The filter of the socket must let all of them through.
#[test]
fn answers_reachability_checks_and_address_tests_in_userspace_mode() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4, V6], "eth0"));
        // An answer to all nodes looks like a round of the burst, so that has to be over.
        until("the whole burst", || lan.times(announcements(V6)).len() >= 3).await;
        lan.forget();
        let address_test = probe::frame(V6.parse().unwrap(), CLIENT);
        lan.ask_until(SOON, &address_test, announcements(V6)).await;

        let mut poll = arp_question(V4);
        poll[..6].copy_from_slice(&OURS.0);
        let arp_probe = probe::frame(V4.parse().unwrap(), CLIENT);
        for question in [poll, arp_probe] {
            lan.forget();
            lan.ask_until(SOON, &question, answers(V4)).await;
        }
        for option in [Some(CLIENT), None] {
            lan.forget();
            lan.ask_until(SOON, &reachability_check(V6, option), answers(V6)).await;
        }
    });
}

#[test]
fn leaves_questions_to_the_data_plane_in_datapath_mode() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        speaker.handle.set(announced(&[V4, V6], "eth0"));
        let lan = Tap::open("lan");
        lan.until(SOON, announcements(V4)).await;
        lan.send(&arp_question(V4));
        lan.send(&solicitation(V6));
        lan.silent(WHILE, |frame| claim(frame).is_some_and(|(_, answer)| answer)).await;

        let mut changed = (*announced(&[V4, V6], "eth0")).clone();
        changed.answering.insert("eth0".to_owned(), Answering::Userspace);
        speaker.handle.set(Arc::new(changed));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
    });
}

#[test]
fn announces_a_gained_vip_in_both_forms_and_spaced() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4], "eth0"));
        let wanted = announcements(V4);
        until("three rounds", || lan.times(&wanted).len() >= 6).await;
        let times = lan.times(&wanted);
        // Two frames a round, at 0, 100 and 500 ms.
        let distance = |a: usize, b: usize| (times[b] - times[a]).as_millis();
        assert!(distance(0, 1) < 90, "{times:?}");
        assert!((90..390).contains(&distance(0, 2)), "{times:?}");
        assert!((450..950).contains(&distance(0, 4)), "{times:?}");
        let operation = |frame: &[u8]| frame[21];
        let forms: Vec<u8> = lan.frames(&wanted).iter().map(|frame| operation(frame)).collect();
        assert_eq!(forms[..6], [1, 2, 1, 2, 1, 2]);
        assert!(speaker.handle.counters().announcements >= 6);
    });
}

#[test]
fn a_picture_that_changes_nothing_announces_nothing() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V6], "eth0"));
        // Three rounds, the last after two seconds.
        until("the whole burst", || lan.times(announcements(V6)).len() >= 3).await;
        speaker.handle.set(announced(&[V6], "eth0"));
        lan.forget();
        lan.silent(WHILE, announcements(V6)).await;

        // Lost and gained between two looks of the task is gained all the same.
        speaker.handle.set(announced(&[], "eth0"));
        speaker.handle.set(announced(&[V6], "eth0"));
        lan.until(SOON, announcements(V6)).await;
    });
}

#[test]
fn is_silent_once_the_deadline_has_passed() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4, V6], "eth0"));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        speaker.allow(Duration::ZERO);
        lan.forget();
        lan.send(&arp_question(V4));
        lan.send(&solicitation(V6));
        // Rounds of both bursts fall into this time, too.
        lan.silent(Duration::from_millis(1500), |frame| claim(frame).is_some()).await;
        assert!(speaker.handle.counters().fenced >= 2);

        speaker.allow(Duration::from_secs(60));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
    });
}

#[test]
fn a_round_held_back_by_the_deadline_follows_its_renewal() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        speaker.allow(Duration::ZERO);
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4], "eth0"));
        lan.silent(WHILE, announcements(V4)).await;
        speaker.allow(Duration::from_secs(60));
        lan.until(SOON, announcements(V4)).await;
    });
}

#[test]
fn falls_silent_at_once_for_a_removed_vip() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4, "192.168.1.241"], "eth0"));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        speaker.handle.set(announced(&["192.168.1.241"], "eth0"));
        // What the kernel already has may still be on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        lan.forget();
        lan.send(&arp_question(V4));
        lan.silent(Duration::from_millis(700), |frame| {
            claim(frame).is_some_and(|(vip, _)| vip == V4.parse::<IpAddr>().unwrap())
        })
        .await;
        lan.ask_until(SOON, &arp_question("192.168.1.241"), answers("192.168.1.241")).await;
    });
}

#[test]
fn an_interface_made_anew_is_announced_and_answered_on_again() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        speaker.handle.set(announced(&[V4, V6], "eth0"));
        {
            let lan = Tap::open("lan");
            lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        }
        let before = speaker.until_link(|link| link.carrier).await.index;
        ip("link del eth0");
        lan();
        speaker.until_link(|link| link.carrier && link.index != before).await;
        let lan = Tap::open("lan");
        lan.until(SOON, announcements(V4)).await;
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        lan.ask_until(SOON, &solicitation(V6), answers(V6)).await;
        assert!(!speaker.task.is_finished());
    });
}

#[test]
fn a_carrier_that_returns_is_announced_on_again() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        speaker.handle.set(announced(&[V6], "eth0"));
        let lan = Tap::open("lan");
        until("the whole burst", || lan.times(announcements(V6)).len() >= 3).await;
        for _ in 0..3 {
            ip("link set eth0 down");
            speaker.until_link(|link| !link.up).await;
            lan.forget();
            ip("link set eth0 up");
            speaker.until_link(|link| link.carrier).await;
            lan.until(SOON, announcements(V6)).await;
            lan.ask_until(SOON, &solicitation(V6), answers(V6)).await;
        }
        assert!(!speaker.task.is_finished());
    });
}

#[test]
fn a_frame_of_another_vlan_is_not_for_this_link() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4], "eth0"));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        let tagged = |tag: u8| {
            let mut frame = arp_question(V4);
            frame.splice(12..12, [0x81, 0x00, 0x00, tag]);
            frame
        };
        lan.forget();
        lan.send(&tagged(5));
        lan.silent(WHILE, answers(V4)).await;
        // VLAN 0 is no VLAN, only a priority (IEEE 802.1Q 6.9).
        lan.ask_until(SOON, &tagged(0), answers(V4)).await;
    });
}

/// The kernel gives such a frame to sockets on the device below as well, as it does with the
/// frames of a VLAN that has a device.
#[test]
fn a_frame_for_a_device_stacked_on_the_link_is_not_for_this_link() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4], "eth0"));
        let mut to_our_mac = arp_question(V4);
        to_our_mac[..6].copy_from_slice(&OURS.0);
        lan.ask_until(SOON, &to_our_mac, answers(V4)).await;
        ip("link add link eth0 name above0 type macvlan mode passthru");
        ip("link set above0 up");
        tokio::time::sleep(WHILE).await;
        lan.forget();
        lan.send(&to_our_mac);
        lan.silent(WHILE, answers(V4)).await;
        ip("link del above0");
        lan.ask_until(SOON, &to_our_mac, answers(V4)).await;
    });
}

#[test]
fn joins_the_groups_of_its_vips_and_leaves_them_with_the_last() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        let group = "ff02::1:ff00:f0";
        let joined = || ip_output("-6 maddress show dev eth0").contains(group);
        assert!(!joined());
        // Both VIPs end in 00:00f0 and share the group.
        speaker.handle.set(announced(&[V6, "fd00:2::f0"], "eth0"));
        until("joined", joined).await;
        speaker.handle.set(announced(&["fd00:2::f0"], "eth0"));
        tokio::time::sleep(WHILE).await;
        assert!(joined());
        speaker.handle.set(announced(&[], "eth0"));
        until("left", || !joined()).await;
        speaker.handle.set(announced(&[V6], "eth0"));
        until("joined again", joined).await;
        drop(speaker.handle);
        speaker.task.await.unwrap().unwrap();
        assert!(!joined());
    });
}

#[test]
fn joins_more_groups_than_one_socket_can_hold() {
    namespace(async || {
        lan();
        let (links, _watching) = links::watch().await.unwrap();
        let index = links.borrow().by_name["eth0"].index;
        let vip = |n: u16| Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n);
        let mut groups = Groups::default();
        let errors = groups.set((0..6000).map(|n| (index, vip(n))));
        assert!(errors.is_empty(), "{}", errors[0]);
        assert_eq!(groups.joined(), 6000);
        assert!(groups.set([(index, vip(1))]).is_empty());
        assert_eq!(groups.joined(), 1);
    });
}

#[test]
fn a_group_that_cannot_be_joined_is_told_and_tried_again() {
    namespace(async || {
        let mut groups = Groups::default();
        let nowhere = (99, V6.parse().unwrap());
        for _ in 0..2 {
            let errors = groups.set([nowhere]);
            assert_eq!(errors.len(), 1);
            assert_eq!(
                errors[0].to_string(),
                "cannot join ff02::1:ff00:f0 on interface index 99; is IPv6 disabled there?"
            );
        }
        assert_eq!(groups.joined(), 0);
    });
}

#[test]
fn a_missing_capability_is_one_clear_sentence() {
    namespace(async || {
        let (links, _watching) = links::watch().await.unwrap();
        namespace::become_nobody();
        assert!(matches!(socket::check_permission(), Err(Error::MissingCapability)));
        let (_handle, task) =
            Announcer::start(links, Answering::Datapath, Arc::new(AtomicU64::new(0)));
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open a packet socket: CAP_NET_RAW is missing; run as root or grant it"
        );
    });
}

#[test]
fn ends_with_an_error_when_nobody_watches_the_links() {
    namespace(async || {
        let (sender, links) = watch::channel(Arc::new(Links::default()));
        let (_handle, task) =
            Announcer::start(links, Answering::Datapath, Arc::new(AtomicU64::new(0)));
        drop(sender);
        assert!(matches!(task.await.unwrap(), Err(Error::LinksEnded)));
    });
}

#[test]
fn asks_nodes_for_their_own_addresses_and_hears_their_answers() {
    namespace(async || {
        lan();
        ip("address add 192.168.1.11/24 dev eth0");
        ip("address add fd00:1::11/64 dev eth0 nodad");
        let (links, _watching) = links::watch().await.unwrap();
        let (call, task) = roll_caller::start(links);
        let nodes: [IpAddr; 2] = ["192.168.1.12".parse().unwrap(), "fd00:1::12".parse().unwrap()];
        let lan = Tap::open("lan");
        let mut presences = call.presences();
        let mut until = async |what: &str, wanted: [Presence; 2]| {
            let all = |told: &Presences| nodes.map(|ip| told.get(&ip).copied()) == wanted.map(Some);
            let seen = presences.wait_for(|told| all(told));
            drop(tokio::time::timeout(SOON, seen).await.expect(what).unwrap());
        };

        call.set(nodes.map(|node| (node, CLIENT)).into());
        for node in nodes {
            let question = probe::frame(node, OURS);
            lan.until(SOON, |frame| frame == question).await;
        }
        until("nobody answers", [Presence::Gone; 2]).await;
        for node in nodes {
            lan.send(&announcement::frames(node, CLIENT)[0]);
        }
        until("both answer", [Presence::Here; 2]).await;
        ip("link set lan down");
        until("the cable is pulled", [Presence::Gone; 2]).await;
        ip("link set lan up");
        until("asks again where the answers went", [Presence::Gone; 2]).await;

        call.set([].into());
        assert!(!task.is_finished());
        drop(call);
        tokio::time::timeout(SOON, task).await.unwrap().unwrap().unwrap();
    });
}
