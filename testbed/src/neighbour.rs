//! Neighbour questions and claims as frames (edge): asks by hand what no ordinary host would ask on
//! demand, and records at a bridge port everything a host claims, questions included: who is asked
//! learns the asker's address.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_announcer::MacAddr;
use herald_announcer::wire::{Arp, Ethernet, Ndp, ethernet};

use crate::clock;
use crate::lab::netns::Netns;
use crate::lab::{addresses, bpf};
use crate::tap::{Direction, PacketSocket, Recording};

/// How long the first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long more are listened for after it; a second voice may be slower than the first.
const WINDOW: Duration = Duration::from_millis(300);

/// Sends a frame out of a host's `eth0`.
///
/// # Errors
///
/// The kernel's refusal.
pub fn send(host: &Netns, frame: &[u8]) -> anyhow::Result<()> {
    host.inside(|| Ok(open("eth0")?.send(frame)?))
}

/// Sends a frame out of a host's `eth0`, waits for an answer, and returns it with those that come
/// within 300 ms after it.
///
/// # Errors
///
/// The kernel's refusal.
pub fn ask(
    host: &Netns,
    frame: &[u8],
    is_answer: impl Fn(&[u8]) -> bool + Sync,
) -> anyhow::Result<Vec<Vec<u8>>> {
    host.inside(|| {
        let socket = open("eth0")?;
        socket.send(frame)?;
        let (mut answers, mut buffer) = (Vec::new(), [0; 512]);
        let mut end = clock::now() + PATIENCE;
        while clock::now() < end {
            if let Some((frame, false)) = socket.receive(&mut buffer)?
                && is_answer(frame)
            {
                if answers.is_empty() {
                    end = clock::now() + WINDOW;
                }
                answers.push(frame.to_vec());
            }
        }
        Ok(answers)
    })
}

/// The address a frame teaches its receivers, and the MAC they learn for it: an ARP packet its
/// sender's (RFC 826), a neighbour advertisement its target's, a neighbour solicitation its
/// source's (RFC 4861 7.2.3).
pub fn claim(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    let frame = Ethernet::parse(frame).ok()?;
    match frame.ether_type {
        ethernet::ARP => {
            let arp = Arp::parse(frame.payload).ok()?;
            (!arp.sender.is_unspecified()).then_some((arp.sender.into(), arp.sender_mac))
        }
        ethernet::IPV6 => match Ndp::parse(frame.payload).ok()? {
            Ndp::Advertisement(na) => {
                Some((na.target.into(), na.target_mac.unwrap_or(frame.source)))
            }
            Ndp::Solicitation(ns) if ns.source.is_unspecified() => None,
            Ndp::Solicitation(ns) => {
                Some((ns.source.into(), ns.source_mac.unwrap_or(frame.source)))
            }
        },
        _ => None,
    }
}

/// A running record of what one host claims.
#[derive(Debug)]
pub struct Claims(Recording<Vec<(IpAddr, MacAddr)>>);

impl Claims {
    /// Starts to listen at a host's bridge port. To be called in the bridge's namespace.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn of(host: &str) -> anyhow::Result<Self> {
        let socket = open(&addresses::port(host))?;
        Ok(Self(Recording::start(socket, |claims: &mut Vec<_>, frame, direction| {
            claims.extend(claim(frame).filter(|_| direction == Direction::FromHost));
        })))
    }

    /// Stops and returns all claims, in order.
    ///
    /// # Errors
    ///
    /// If the socket failed, or the kernel dropped a frame before it was read.
    pub fn finish(self) -> anyhow::Result<Vec<(IpAddr, MacAddr)>> {
        let (claims, missed) = self.0.finish()?;
        ensure!(missed == 0, "{missed} frames were dropped before they were read");
        Ok(claims)
    }
}

fn open(interface: &str) -> anyhow::Result<PacketSocket> {
    PacketSocket::open(bpf::index(interface)?, libc::ETH_P_ALL)
        .with_context(|| format!("cannot listen on {interface}"))
}

#[cfg(test)]
mod tests {
    use herald_announcer::{announcement, probe};

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    #[test]
    fn an_announcement_claims_and_a_probe_does_not() {
        for vip in ["192.168.1.240", "fd00:1::f0"] {
            let vip = vip.parse().unwrap();
            for frame in announcement::frames(vip, MAC) {
                assert_eq!(claim(&frame), Some((vip, MAC)));
            }
            assert_eq!(claim(&probe::frame(vip, MAC)), None);
        }
    }
}
