//! An announcer at work on `eth0`, and what is seen of it at the other end, `lan`.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herald_announcer::clock::boot_now;
use herald_announcer::conflict::Timing;
use herald_announcer::wire::{
    Arp, Ethernet, MacAddr, Ndp, NeighbourSolicitation, Operation, ethernet, solicited_node,
};
use herald_announcer::{
    Announced, Announcer, AnnouncerHandle, Answering, Error, Link, Links, links,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::namespace::ip;

pub const OURS: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
pub const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xc1]);
pub const V4: &str = "192.168.1.240";
pub const V6: &str = "fd00:1::f0";
/// How long the kernel and we may take for anything on two busy cores.
pub const SOON: Duration = Duration::from_secs(5);
/// How long silence is listened to.
pub const WHILE: Duration = Duration::from_millis(300);

pub fn lan() {
    let (ours, client) = (OURS.to_string(), CLIENT.to_string());
    ip(&format!("link add eth0 address {ours} type veth peer name lan address {client}"));
    ip("link set lan up");
    ip("link set eth0 up");
}

pub fn announced(vips: &[&str], interface: &str) -> Arc<Announced> {
    let interfaces = BTreeSet::from([interface.to_owned()]);
    let vips = vips.iter().map(|vip| (vip.parse().unwrap(), interfaces.clone())).collect();
    Arc::new(Announced { vips, ..Announced::default() })
}

/// An announcer with its watch over links and a deadline.
pub struct Speaker {
    pub handle: AnnouncerHandle,
    pub task: JoinHandle<Result<(), Error>>,
    pub links: watch::Receiver<Arc<Links>>,
    pub deadline: Arc<AtomicU64>,
}

impl Speaker {
    pub async fn start(answering: Answering) -> Self {
        Self::start_with(answering, Timing::default()).await
    }

    pub async fn start_with(answering: Answering, timing: Timing) -> Self {
        let (links, _watching) = links::watch().await.unwrap();
        let deadline = Arc::new(AtomicU64::new(0));
        let (handle, task) =
            Announcer::start_with(links.clone(), answering, deadline.clone(), timing);
        let speaker = Self { handle, task, links, deadline };
        speaker.allow(Duration::from_secs(60));
        speaker.until_link(|link| link.carrier).await;
        speaker
    }

    /// Sets the deadline this far ahead.
    pub fn allow(&self, ahead: Duration) {
        self.deadline.store((boot_now() + ahead).as_nanos() as u64, Ordering::Release);
    }

    /// Waits until `eth0` is as wanted.
    pub async fn until_link(&self, wanted: impl Fn(&Link) -> bool) -> Link {
        let mut links = self.links.clone();
        let seen = links.wait_for(|links| links.by_name.get("eth0").is_some_and(&wanted));
        let seen = tokio::time::timeout(SOON, seen).await.expect("eth0 never came to be as wanted");
        seen.unwrap().by_name["eth0"].clone()
    }

    pub async fn until_replies(&self, count: u64) {
        until("answers are counted", || self.handle.counters().replies >= count).await;
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = boot_now();
    while !condition() {
        assert!(boot_now() - start < SOON, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn arp_question(vip: &str) -> Vec<u8> {
    let question = Arp {
        operation: Operation::Request,
        sender_mac: CLIENT,
        sender: "192.168.1.100".parse().unwrap(),
        target_mac: MacAddr::ZERO,
        target: vip.parse().unwrap(),
    };
    question.to_frame(MacAddr::BROADCAST)
}

pub fn solicitation(vip: &str) -> Vec<u8> {
    let target: Ipv6Addr = vip.parse().unwrap();
    let destination = solicited_node(target);
    let source = "fd00:1::64".parse().unwrap();
    let question = NeighbourSolicitation { source, destination, target, source_mac: Some(CLIENT) };
    question.to_frame(CLIENT, MacAddr::of_ipv6_multicast(destination))
}

/// A question for one that is known already, to our MAC (RFC 4861 7.3.3).
pub fn reachability_check(vip: &str, source_mac: Option<MacAddr>) -> Vec<u8> {
    let target: Ipv6Addr = vip.parse().unwrap();
    let source = "fd00:1::64".parse().unwrap();
    let question = NeighbourSolicitation { source, destination: target, target, source_mac };
    question.to_frame(CLIENT, OURS)
}

/// What a frame claims: the address, and whether to one machine (an answer) or to all.
pub fn claim(frame: &[u8]) -> Option<(IpAddr, bool)> {
    let frame = Ethernet::parse(frame).ok().filter(|frame| frame.source == OURS)?;
    let vip = match frame.ether_type {
        ethernet::ARP => {
            let arp = Arp::parse(frame.payload).ok()?;
            let claims = arp.operation == Operation::Reply || arp.is_announcement();
            IpAddr::V4(claims.then_some(arp.sender)?)
        }
        _ => match Ndp::parse(frame.payload).ok()? {
            Ndp::Advertisement(na) => IpAddr::V6(na.target),
            Ndp::Solicitation(_) => return None,
        },
    };
    Some((vip, !frame.destination.is_multicast()))
}

pub fn answers(vip: &str) -> impl Fn(&[u8]) -> bool {
    let vip = vip.parse().unwrap();
    move |frame| claim(frame) == Some((vip, true))
}

pub fn announcements(vip: &str) -> impl Fn(&[u8]) -> bool {
    let vip = vip.parse().unwrap();
    move |frame| claim(frame) == Some((vip, false))
}
