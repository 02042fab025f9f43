//! Asks the LAN who has an address (edge), as any host does, but hears every answer, not only the
//! first: a second voice is what must never be.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_announcer::MacAddr;
use herald_announcer::wire::{Arp, NeighbourSolicitation, Operation, solicited_node};

use crate::clock;
use crate::lab::addresses::{Host, host};
use crate::lab::{Lab, backbone, bpf};
use crate::tap::{Kind, PacketSocket, voice};

/// How long answers are listened for; a second voice may be slower than the first.
const WINDOW: Duration = Duration::from_millis(300);
/// A machine this busy could not tell silence from slowness.
const PATIENCE: Duration = Duration::from_secs(10);

/// The MACs of all answers, in order, to one question asked by the client on the LAN. It listens
/// for 300 ms, and then on until the router has answered a question that was asked after that: so
/// no answer means that nobody answers, not that this machine was too busy to carry frames.
///
/// # Errors
///
/// If the question cannot be sent, or the router is not heard within 10 s.
pub fn who_has(lab: &Lab, address: IpAddr) -> anyhow::Result<Vec<MacAddr>> {
    let asker = host("c1").context("the lab has no c1")?;
    let router = host("r1").context("the lab has no r1")?.v4().into();
    lab.netns(asker.name)?.inside(|| answers("eth0", asker.into(), address, router))
}

/// As [`who_has`], on the second network, which the client must have joined; instead of the
/// router's answer it waits for one of this node's, so that also this very node had the time to
/// answer.
///
/// # Errors
///
/// As [`who_has`].
pub fn who_has_on_backbone(lab: &Lab, address: IpAddr, node: u8) -> anyhow::Result<Vec<MacAddr>> {
    let witness = backbone::address(node).into();
    let ask = || answers(backbone::INTERFACE, backbone::GUEST, address, witness);
    lab.netns(backbone::GUEST_NAME)?.inside(ask)
}

fn answers(
    interface: &str,
    asker: Questioner,
    address: IpAddr,
    witness: IpAddr,
) -> anyhow::Result<Vec<MacAddr>> {
    let socket = PacketSocket::open(bpf::index(interface)?, libc::ETH_P_ALL)?;
    socket.send(&question(asker, address))?;
    let mut answers = Vec::new();
    let end = clock::now() + PATIENCE;
    hear(&socket, &mut answers, None)?;
    loop {
        socket.send(&question(asker, witness))?;
        if hear(&socket, &mut answers, Some(witness))? {
            break;
        }
        ensure!(clock::now() < end, "{witness} is not heard: silence would mean nothing");
    }
    let of_address = answers.into_iter().filter(|(said, _)| *said == address);
    Ok(of_address.map(|(_, mac)| mac).collect())
}

/// Takes answers for 300 ms, or until one about this address has come, and tells whether it has.
fn hear(
    socket: &PacketSocket,
    answers: &mut Vec<(IpAddr, MacAddr)>,
    until: Option<IpAddr>,
) -> io::Result<bool> {
    let mut buffer = [0; 512];
    let end = clock::now() + WINDOW;
    while clock::now() < end {
        if let Some((frame, false)) = socket.receive(&mut buffer)?
            && let Some((said, mac, Kind::Answer)) = voice(frame)
        {
            answers.push((said, mac));
            if until == Some(said) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Questioner {
    pub mac: MacAddr,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl From<Host> for Questioner {
    fn from(host: Host) -> Self {
        Self { mac: host.mac(), v4: host.v4(), v6: host.v6() }
    }
}

/// The frame that asks for an address, by ARP or neighbour solicitation.
pub(crate) fn question(asker: Questioner, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(target) => Arp {
            operation: Operation::Request,
            sender_mac: asker.mac,
            sender: asker.v4,
            target_mac: MacAddr::ZERO,
            target,
        }
        .to_frame(MacAddr::BROADCAST),
        IpAddr::V6(target) => {
            let destination = solicited_node(target);
            NeighbourSolicitation {
                source: asker.v6,
                destination,
                target,
                source_mac: Some(asker.mac),
            }
            .to_frame(asker.mac, MacAddr::of_ipv6_multicast(destination))
        }
    }
}
