//! Mutated frames through the loaded egress program, each judged by a model of the fence that was
//! written apart from it and for reading: plain slices, and what a receiver would learn.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_ebpf::Picture;

use crate::fence::{claims, innocents};
use crate::kernel::Kernel;
use crate::random::Random;
use crate::{Pods, VIP4, VIP6, ip, picture};

const FRAMES: usize = 100_000;
/// Printed with a failure; another one gives other frames.
const SEED: u64 = 0x66_656e_6365;

/// What this node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Nothing,
    Here,
    OnAnotherInterface,
}

impl Holding {
    fn picture(self) -> Picture {
        let here = picture(Pods::Here);
        let vips = match self {
            Self::Nothing => BTreeSet::new(),
            Self::Here => here.vips.clone(),
            Self::OnAnotherInterface => here.vips.iter().map(|(vip, _)| (*vip, 77)).collect(),
        };
        Picture { vips, ..here }
    }

    /// A tagged frame leaves by the parent of the interface that holds the VIP.
    fn may_say(self, is_tagged: bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Here => true,
            Self::OnAnotherInterface => is_tagged,
        }
    }
}

/// The address a frame teaches its receivers, and whether it has a VLAN tag.
fn teaches(frame: &[u8]) -> (Option<IpAddr>, bool) {
    let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
    let tags = match (is_tag(12), is_tag(16)) {
        (true, true) => 2,
        (true, false) => 1,
        (false, _) => 0,
    };
    let type_at = 12 + 4 * tags;
    let packet = frame.get(type_at + 2..).unwrap_or_default();
    let address = match frame.get(type_at..type_at + 2) {
        Some([0x08, 0x06]) if packet.len() >= 28 => v4(&packet[14..18]),
        // ICMPv6 with a whole target.
        Some([0x86, 0xdd]) if packet.len() >= 40 + 24 && packet[6] == 58 => match packet[40] {
            135 => v6(&packet[8..24]),
            136 => v6(&packet[48..64]),
            _ => None,
        },
        _ => None,
    };
    (address, tags > 0)
}

fn v4(octets: &[u8]) -> Option<IpAddr> {
    Some(<[u8; 4]>::try_from(octets).ok()?.into())
}

/// As the map knows addresses: an IPv4 one in its mapped form is the same VIP.
fn v6(octets: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical())
}

#[test]
fn stops_exactly_the_frames_that_teach_a_vip_it_does_not_hold() {
    let mut seeds: Vec<Vec<u8>> = claims().into_iter().map(|(_, frame, _)| frame).collect();
    seeds.extend(innocents().into_iter().map(|(_, frame)| frame));
    let vips = [IpAddr::from(VIP4), ip(VIP6)];
    let mut random = Random(SEED);
    for holding in [Holding::Nothing, Holding::Here, Holding::OnAnotherInterface] {
        let mut kernel = Kernel::with(&holding.picture());
        let (mut stopped, mut passed) = (0, 0);
        for number in 0..FRAMES / 3 {
            let seed = random.below(seeds.len());
            let frame = random.mutate(&seeds[seed]);
            let Ok((leaves, _)) = kernel.try_leave(&frame) else { continue };
            let (address, is_tagged) = teaches(&frame);
            let is_vip = address.is_some_and(|address| vips.contains(&address));
            let expected = !is_vip || holding.may_say(is_tagged);
            assert_eq!(
                leaves, expected,
                "{holding:?}, frame {number} of seed {SEED:#x}: {address:?} in {frame:02x?}"
            );
            if leaves { passed += 1 } else { stopped += 1 }
        }
        assert!(passed > FRAMES / 30, "{holding:?}: {passed} passed");
        let some = holding == Holding::Here || stopped > FRAMES / 30;
        assert!(some, "{holding:?}: the mutations leave enough to stop: {stopped}");
    }
}
