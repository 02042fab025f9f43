//! Listens at every port of the lab's bridge at once (edge): each frame by which a host says where
//! an address is, once, where it enters the bridge, with the kernel's time stamp.
//!
//! One socket hears all ports and the kernel stamps each frame as it arrives, so that the order is
//! that of the frames, however late this thread runs. It must hear what is dropped behind it as
//! well, by a fault or a port that is switched off: what counts is who spoke.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use herald_announcer::MacAddr;
use herald_announcer::wire::{Arp, Ethernet, Ndp, Operation, ethernet};

use super::turns::{SecondVoice, second_voices};
use super::{Kind, PacketSocket, voice};
use crate::clock;
use crate::lab::addresses::{LAN, host, node_of};
use crate::lab::bpf;
use crate::stop::{Flag, Stop};

/// A host said where an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it entered the bridge, on the kernel's clock of civil time.
    pub at: Duration,
    /// The host whose port it came through.
    pub port: &'static str,
    /// The address.
    pub address: IpAddr,
    /// Where it is said to be.
    pub mac: MacAddr,
    /// In which form.
    pub kind: Kind,
}

/// A running tap of all ports.
#[derive(Debug)]
pub struct PortsTap {
    stop: Stop,
    thread: JoinHandle<io::Result<(Vec<Claim>, u32)>>,
}

/// All that was said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// In order of time.
    pub claims: Vec<Claim>,
}

impl PortsTap {
    /// Starts to listen. To be called in the bridge's namespace.
    ///
    /// # Errors
    ///
    /// If a port is missing.
    pub fn start() -> anyhow::Result<Self> {
        let mut ports = BTreeMap::new();
        for host in LAN {
            ports.insert(bpf::index(&host.port())?, host.name);
        }
        let socket = PacketSocket::open_everywhere().context("cannot listen at the ports")?;
        let stop = Stop::default();
        let flag = stop.flag();
        let thread = std::thread::spawn(move || listen(&socket, &ports, &flag));
        Ok(Self { stop, thread })
    }

    /// Stops and tells what was heard.
    ///
    /// # Errors
    ///
    /// If the socket failed, or the kernel had to drop frames: nothing could be said to be absent.
    pub fn finish(self) -> anyhow::Result<Heard> {
        drop(self.stop);
        let ended = self.thread.join().map_err(|_| anyhow!("the tap crashed"))?;
        let (mut claims, missed) = ended.context("cannot listen on")?;
        ensure!(missed == 0, "the tap missed {missed} frames");
        claims.sort_by_key(|claim| claim.at);
        Ok(Heard { claims })
    }
}

impl Heard {
    /// That an address had one voice, with these nodes holding it in turn; `None` is a holder that
    /// nobody knows.
    ///
    /// # Errors
    ///
    /// Every frame out of turn, in words.
    pub fn one_voice(&self, address: IpAddr, order: &[Option<String>]) -> anyhow::Result<()> {
        let second = self.second_voices(address, order);
        let told: Vec<String> = second.iter().take(10).map(|voice| self.tell(voice)).collect();
        ensure!(
            second.is_empty(),
            "{} frames claim {address} out of turn ({}):\n{}",
            second.len(),
            order.iter().map(|it| it.as_deref().unwrap_or("?")).collect::<Vec<_>>().join(", then "),
            told.join("\n")
        );
        Ok(())
    }

    /// The frames that claim an address out of turn; a name that is not of the lab has no turn.
    pub fn second_voices(&self, address: IpAddr, order: &[Option<String>]) -> Vec<SecondVoice> {
        let known = order.iter().filter(|it| it.as_deref().is_none_or(|it| host(it).is_some()));
        let macs: Vec<_> = known.map(|it| Some(host(it.as_deref()?)?.mac())).collect();
        second_voices(&self.claims, address, &macs)
    }

    fn tell(&self, voice: &SecondVoice) -> String {
        let name = |mac| node_of(mac).map_or_else(|| format!("{mac}"), str::to_owned);
        let SecondVoice { claim, turn } = voice;
        let begun = self.claims.iter().find(|c| c.address == claim.address && Some(c.mac) == *turn);
        format!(
            "  {:?} by {} at the port of {}, {:?} after {} had begun",
            claim.kind,
            name(claim.mac),
            claim.port,
            begun.map(|begun| claim.at.saturating_sub(begun.at)).unwrap_or_default(),
            turn.map_or("nobody".to_owned(), name),
        )
    }
}

fn listen(
    socket: &PacketSocket,
    ports: &BTreeMap<u32, &'static str>,
    stop: &Flag,
) -> io::Result<(Vec<Claim>, u32)> {
    let mut claims = Vec::new();
    let mut buffer = [0; 512];
    let mut end = None;
    loop {
        if end.is_none() && stop.is_set() {
            end = Some(clock::wall());
        }
        // What is queued already belongs to the capture: stop only behind it.
        match socket.receive_stamped(&mut buffer)? {
            Some(stamped) if end.is_some_and(|end| stamped.at > end) => break,
            Some(stamped) => {
                // The bridge itself shows every frame again.
                if let Some(port) = ports.get(&stamped.interface)
                    && let Some((address, mac, kind)) = claim(stamped.frame)
                {
                    claims.push(Claim { at: stamped.at, port, address, mac, kind });
                }
            }
            None if end.is_some() => break,
            None => {}
        }
    }
    Ok((claims, socket.missed()?))
}

/// The address a frame claims, and for whom: any ARP packet with a sender address, requests
/// included, for whoever hears one may learn from it (RFC 826); any neighbour advertisement; and a
/// solicitation that says where its own source is (RFC 4861 4.3).
fn claim(frame: &[u8]) -> Option<(IpAddr, MacAddr, Kind)> {
    if let Some(voice) = voice(frame) {
        return Some(voice);
    }
    let frame = Ethernet::parse(frame).ok()?;
    match frame.ether_type {
        ethernet::ARP => {
            let arp = Arp::parse(frame.payload).ok()?;
            let claims = arp.operation == Operation::Request && !arp.sender.is_unspecified();
            claims.then(|| (arp.sender.into(), arp.sender_mac, Kind::Question))
        }
        ethernet::IPV6 => match Ndp::parse(frame.payload).ok()? {
            Ndp::Solicitation(asked) => {
                asked.source_mac.map(|mac| (asked.source.into(), mac, Kind::Question))
            }
            Ndp::Advertisement(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 240);
    const NODE: MacAddr = MacAddr([2, 0, 0, 0, 1, 11]);

    fn arp(operation: Operation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let packet = Arp { operation, sender_mac: NODE, sender, target_mac: MacAddr::ZERO, target };
        packet.to_frame(MacAddr::BROADCAST)
    }

    #[test]
    fn every_way_to_claim_an_address_is_heard() {
        let other = Ipv4Addr::new(192, 168, 1, 100);
        let heard = |frame: &[u8]| {
            claim(frame).map(|(address, mac, kind)| {
                assert_eq!((address, mac), (VIP.into(), NODE));
                kind
            })
        };
        assert_eq!(heard(&arp(Operation::Reply, VIP, other)), Some(Kind::Answer));
        assert_eq!(heard(&arp(Operation::Request, VIP, VIP)), Some(Kind::Announcement));
        assert_eq!(heard(&arp(Operation::Reply, VIP, VIP)), Some(Kind::Announcement));
        assert_eq!(heard(&arp(Operation::Request, VIP, other)), Some(Kind::Question));
        // A probe claims nothing (RFC 5227 2.1.1).
        assert_eq!(heard(&arp(Operation::Request, Ipv4Addr::UNSPECIFIED, VIP)), None);
    }
}
