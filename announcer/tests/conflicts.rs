//! Other users of a VIP, against a real kernel: hosts that have it before us and after us, played
//! by the kernel itself or by hand-made frames at the other end of a pair of ports. As in
//! `edges.rs`, each test has a network namespace of its own and needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod namespace;
mod speaker;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_announcer::clock::boot_now;
use herald_announcer::conflict::Timing;
use herald_announcer::wire::{Arp, MacAddr, Ndp, Operation, ethernet};
use herald_announcer::{
    Announced, Answering, Conflict, ConflictState, Neighbourhood, Standing, announcement, probe,
};
use namespace::{Host, Tap, ip, namespace};
use speaker::{
    CLIENT, OURS, SOON, Speaker, V4, V6, WHILE, announced, announcements, answers, arp_question,
    claim, lan, until,
};

const PEER: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const FOREIGN: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x99]);
/// For tests that wait for the second probing; and every claim after the verdict is defended.
const QUICK: Timing = Timing {
    probes: 3,
    spacing: Duration::from_millis(10),
    patience: Duration::from_millis(10),
    probation: Duration::ZERO,
    defend_interval: Duration::from_millis(400),
    retry: Duration::from_millis(300),
    memory: Duration::from_secs(60),
};

fn others(probed: &[&str]) -> Arc<Neighbourhood> {
    let probed = announced(probed, "eth0").vips.clone();
    Arc::new(Neighbourhood { probed, peers: BTreeSet::from([PEER]) })
}

fn nothing() -> Arc<Announced> {
    Arc::new(Announced::default())
}

fn address(vip: &str) -> IpAddr {
    vip.parse().unwrap()
}

/// What a driver does with a standing: waits for it, and returns when it came.
async fn until_standing(speaker: &Speaker, vip: &str, wanted: Standing) -> Duration {
    let (mut standings, vip) = (speaker.handle.standings(), address(vip));
    let seen = standings.wait_for(|standings| standings.get(&vip) == Some(&wanted));
    let seen = tokio::time::timeout(SOON, seen).await;
    seen.unwrap_or_else(|_| panic!("{vip} never came to be {wanted}")).unwrap();
    boot_now()
}

fn conflict(speaker: &Speaker, vip: &str) -> Option<Conflict> {
    speaker.handle.conflicts().borrow().get(&address(vip)).cloned()
}

/// A probe for the VIP from our MAC.
fn probes(vip: &str) -> impl Fn(&[u8]) -> bool {
    let expected = probe::frame(address(vip), OURS);
    // Ethernet pads what is short.
    move |frame| frame.starts_with(&expected)
}

fn speaks(frame: &[u8]) -> bool {
    claim(frame).is_some()
}

#[test]
fn a_free_vip_is_asked_for_and_announced_within_100_ms() {
    for vip in [V4, V6] {
        namespace(async move || {
            lan();
            let speaker = Speaker::start(Answering::Userspace).await;
            // What goes before, a new speaker with its sockets, is not the Service's waiting time.
            speaker.handle.set_among(nothing(), others(&["192.168.1.9"]));
            until_standing(&speaker, "192.168.1.9", Standing::Clear).await;
            let lan = Tap::open("lan");

            let begin = boot_now();
            speaker.handle.set_among(nothing(), others(&[vip]));
            let verdict = until_standing(&speaker, vip, Standing::Clear).await;
            lan.silent(Duration::from_millis(50), speaks).await;
            let asked = lan.times(probes(vip));
            assert_eq!(asked.len(), 3);
            assert!(verdict - asked[2] >= Duration::from_millis(9), "it has listened");

            let introduced = boot_now();
            speaker.handle.set_among(announced(&[vip], "eth0"), others(&[]));
            lan.until(SOON, announcements(vip)).await;
            let spoken = lan.times(announcements(vip))[0];
            let waited = (verdict - begin) + (spoken - introduced);
            assert!(waited >= Duration::from_millis(30), "{waited:?}");
            assert!(waited < Duration::from_millis(100), "{waited:?}");
            assert_eq!(speaker.handle.counters().probes, 6);
        });
    }
}

/// The other machine's kernel has the addresses, and answers our probes as any Linux host does.
#[test]
fn a_host_that_has_the_vip_blocks_it_until_it_goes() {
    namespace(async || {
        lan();
        let speaker = Speaker::start_with(Answering::Userspace, QUICK).await;
        let host = Host::with("lan");
        host.ip("address add 192.168.1.240/24 dev lan");
        host.ip("address add fd00:1::f0/64 dev lan nodad");
        speaker.until_link(|link| link.carrier).await;
        speaker.handle.set_among(nothing(), others(&[V4, V6]));
        for vip in [V4, V6] {
            until_standing(&speaker, vip, Standing::Blocked).await;
            let found = conflict(&speaker, vip).unwrap();
            assert_eq!((found.mac, found.interface.as_str()), (CLIENT, "eth0"));
            assert_eq!(found.state, ConflictState::Blocked);
        }
        // Asked for again, and again it answers.
        let counted = |vip| conflict(&speaker, vip).is_some_and(|found| found.count >= 2);
        until("probed again", || counted(V4) && counted(V6)).await;
        assert!(speaker.handle.counters().claims >= 4);
        assert_eq!(speaker.handle.counters().announcements, 0);

        host.ip("address flush dev lan");
        for vip in [V4, V6] {
            until_standing(&speaker, vip, Standing::Clear).await;
            assert_eq!(conflict(&speaker, vip), None);
        }
        speaker.handle.set_among(announced(&[V4, V6], "eth0"), others(&[]));
        until("announced", || speaker.handle.counters().announcements >= 3).await;
    });
}

/// A second interface of this machine on the same segment is no other host.
#[test]
fn our_own_kernel_on_another_interface_is_not_foreign() {
    namespace(async || {
        lan();
        let speaker = Speaker::start_with(Answering::Userspace, QUICK).await;
        ip("address add 192.168.1.240/24 dev lan");
        speaker.handle.set_among(nothing(), others(&[V4]));
        until_standing(&speaker, V4, Standing::Clear).await;
        assert!(speaker.handle.counters().claims >= 1, "it has answered");
    });
}

/// RFC 5227 2.1.1: two hosts that want the same address hear each other's probes.
#[test]
fn another_hosts_probe_blocks_the_vip() {
    for vip in [V4, V6] {
        namespace(async move || {
            lan();
            let patient = Timing { patience: SOON, ..Timing::default() };
            let speaker = Speaker::start_with(Answering::Datapath, patient).await;
            let lan = Tap::open("lan");
            speaker.handle.set_among(nothing(), others(&[vip]));
            lan.until(SOON, probes(vip)).await;
            lan.send(&probe::frame(address(vip), PEER));
            lan.send(&probe::frame(address("192.168.1.7"), FOREIGN));
            lan.send(&probe::frame(address("fd00:1::7"), FOREIGN));
            tokio::time::sleep(WHILE).await;
            assert_eq!(conflict(&speaker, vip), None);
            lan.send(&probe::frame(address(vip), FOREIGN));
            until_standing(&speaker, vip, Standing::Blocked).await;
            assert_eq!(conflict(&speaker, vip).unwrap().mac, FOREIGN);
        });
    }
}

#[test]
fn a_takeover_is_announced_at_once_and_asks_nobody() {
    namespace(async || {
        lan();
        let slow = Timing { spacing: SOON, patience: SOON, ..Timing::default() };
        let speaker = Speaker::start_with(Answering::Datapath, slow).await;
        let lan = Tap::open("lan");
        // Whoever has it: the cluster has decided already.
        speaker.handle.set_among(announced(&[V4, V6], "eth0"), others(&[]));
        lan.until(Duration::from_millis(500), announcements(V4)).await;
        lan.until(Duration::from_millis(500), announcements(V6)).await;
        assert_eq!(speaker.handle.counters().probes, 0);
        until_standing(&speaker, V4, Standing::Clear).await;
    });
}

/// In datapath mode, too, where nobody reads questions from a socket.
#[test]
fn a_host_that_appears_later_is_defended_against_and_reported() {
    for (vip, answering) in [
        (V4, Answering::Datapath),
        (V6, Answering::Datapath),
        (V4, Answering::Userspace),
        (V6, Answering::Userspace),
    ] {
        namespace(async move || {
            lan();
            let speaker = Speaker::start_with(answering, QUICK).await;
            let lan = Tap::open("lan");
            speaker.handle.set_among(announced(&[vip], "eth0"), others(&[]));
            lan.until(SOON, announcements(vip)).await;
            // Rounds of the burst look like defences on the wire; the counter tells them apart.
            let foreign = announcement::defence(address(vip), FOREIGN);
            for _ in 0..5 {
                lan.send(&foreign);
            }
            until("all heard", || speaker.handle.counters().claims == 5).await;
            until("defended", || speaker.handle.counters().defences == 1).await;
            let found = conflict(&speaker, vip).unwrap();
            assert_eq!((found.mac, found.state), (FOREIGN, ConflictState::Defended));
            tokio::time::sleep(QUICK.defend_interval).await;
            assert_eq!(speaker.handle.counters().defences, 1, "one defence an interval");
            lan.send(&foreign);
            until("defended again", || speaker.handle.counters().defences == 2).await;
            assert_eq!(conflict(&speaker, vip).unwrap().count, 6);
            until_standing(&speaker, vip, Standing::Clear).await;
        });
    }
}

/// RFC 5227 2.4: requests claim their sender's address as replies do.
#[test]
fn every_form_of_arp_claims_its_senders_address() {
    namespace(async || {
        lan();
        let speaker = Speaker::start_with(Answering::Datapath, QUICK).await;
        let lan = Tap::open("lan");
        speaker.handle.set_among(announced(&[V4, "192.168.1.77"], "eth0"), others(&[]));
        until_standing(&speaker, V4, Standing::Clear).await;
        let frame = |operation, sender: &str, destination: MacAddr| {
            let (sender, target) = (sender.parse().unwrap(), "192.168.1.1".parse().unwrap());
            let target_mac = MacAddr::ZERO;
            Arp { operation, sender_mac: FOREIGN, sender, target_mac, target }.to_frame(destination)
        };
        let heard = || speaker.handle.counters().claims;
        for claimed in [
            frame(Operation::Request, V4, MacAddr::BROADCAST),
            frame(Operation::Reply, V4, OURS),
            frame(Operation::Request, "192.168.1.77", MacAddr::BROADCAST),
        ] {
            let before = heard();
            lan.send(&claimed);
            until("heard", || heard() == before + 1).await;
        }
        // Nobody's VIP, one between two VIPs, and a frame that a switch flooded.
        for other in ["192.168.1.241", "192.168.1.76"] {
            lan.send(&frame(Operation::Request, other, MacAddr::BROADCAST));
        }
        lan.send(&frame(Operation::Reply, V4, PEER));
        tokio::time::sleep(WHILE).await;
        assert_eq!(heard(), 3);
    });
}

#[test]
fn late_frames_of_a_peer_are_no_conflict() {
    namespace(async || {
        lan();
        let speaker = Speaker::start_with(Answering::Datapath, QUICK).await;
        let lan = Tap::open("lan");
        speaker.handle.set_among(announced(&[V4, V6], "eth0"), others(&["192.168.1.241"]));
        lan.until(SOON, announcements(V4)).await;
        // The last holder's burst, answers of its kernel, and our own frames come back by a hub.
        let mut sent = 0;
        for mac in [PEER, OURS] {
            for vip in [V4, V6, "192.168.1.241"] {
                for frame in announcement::frames(address(vip), mac) {
                    lan.send(&frame);
                    sent += 1;
                }
            }
        }
        until("all heard", || speaker.handle.counters().claims == sent).await;
        until_standing(&speaker, "192.168.1.241", Standing::Clear).await;
        assert!(speaker.handle.conflicts().borrow().is_empty());
        assert_eq!(speaker.handle.counters().defences, 0);
    });
}

/// A slow host's answer, for which the shortened schedule has not waited, takes the VIP back; and
/// not even the userspace responder speaks for it then, although the picture still has it.
#[test]
fn a_claim_on_probation_silences_the_vip_at_once() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Userspace).await;
        let lan = Tap::open("lan");
        speaker.handle.set_among(nothing(), others(&[V4]));
        until_standing(&speaker, V4, Standing::Clear).await;
        speaker.handle.set_among(announced(&[V4], "eth0"), others(&[]));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
        lan.send(&announcement::defence(address(V4), FOREIGN));
        until_standing(&speaker, V4, Standing::Blocked).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        lan.forget();
        lan.send(&arp_question(V4));
        // Rounds of the burst fall into this time, too.
        lan.silent(Duration::from_millis(700), speaks).await;
        assert_eq!(conflict(&speaker, V4).unwrap().state, ConflictState::Blocked);

        // Lost and gained again, as the takeover of another's VIP: at once.
        speaker.handle.set_among(nothing(), others(&[]));
        speaker.handle.set_among(announced(&[V4], "eth0"), others(&[]));
        lan.ask_until(SOON, &arp_question(V4), answers(V4)).await;
    });
}

#[test]
fn nothing_is_asked_before_the_deadline_is_set() {
    namespace(async || {
        lan();
        let speaker = Speaker::start(Answering::Datapath).await;
        speaker.allow(Duration::ZERO);
        let lan = Tap::open("lan");
        speaker.handle.set_among(nothing(), others(&[V4]));
        lan.silent(WHILE, probes(V4)).await;
        assert_eq!(speaker.handle.standings().borrow().get(&address(V4)), Some(&Standing::Probing));
        speaker.allow(Duration::from_secs(60));
        lan.until(SOON, probes(V4)).await;
        until_standing(&speaker, V4, Standing::Clear).await;
    });
}

#[test]
fn without_a_neighbourhood_nothing_is_listened_to() {
    namespace(async || {
        lan();
        let speaker = Speaker::start_with(Answering::Datapath, QUICK).await;
        let lan = Tap::open("lan");
        speaker.handle.set(announced(&[V4], "eth0"));
        lan.until(SOON, announcements(V4)).await;
        lan.send(&announcement::defence(address(V4), FOREIGN));
        tokio::time::sleep(WHILE).await;
        assert_eq!((speaker.handle.counters().claims, conflict(&speaker, V4)), (0, None));
    });
}

#[test]
fn an_interface_made_anew_is_asked_on_again() {
    namespace(async || {
        lan();
        // Long enough for the second probing to be seen.
        let patient = Timing { patience: Duration::from_millis(700), ..Timing::default() };
        let speaker = Speaker::start_with(Answering::Datapath, patient).await;
        speaker.handle.set_among(nothing(), others(&[V6]));
        until_standing(&speaker, V6, Standing::Clear).await;
        let before = speaker.until_link(|link| link.carrier).await.index;
        ip("link del eth0");
        lan();
        speaker.until_link(|link| link.carrier && link.index != before).await;
        let lan = Tap::open("lan");
        until_standing(&speaker, V6, Standing::Probing).await;
        // Heard by the new sockets, a solicited answer as a kernel gives it.
        let mut answer = announcement::defence(address(V6), FOREIGN);
        answer[6..12].copy_from_slice(&FOREIGN.0);
        assert!(Ndp::parse(&answer[ethernet::HEADER_LENGTH..]).is_ok());
        lan.send(&answer);
        until_standing(&speaker, V6, Standing::Blocked).await;
        assert!(!speaker.task.is_finished());
    });
}
