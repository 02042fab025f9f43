//! A million random and mutated frames through the loaded program, each judged by the model:
//! never a wrong rewrite, and a reason for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use herald_ebpf::{Network, Picture, Policy, WhenEmpty};

use crate::asks_model::{Asks, SOURCES};
use crate::build::{arp, tagged};
use crate::kernel::Kernel;
use crate::model::Model;
use crate::network::{echo, fragments, pieces_with_options, reply, too_big};
use crate::{
    BROADCAST, CLIENT, CLIENT4, CLIENT6, Frame, OURS, PEER, Pods, VIP4, VIP6, ip, picture,
    requests, solicitation,
};

const FRAMES: usize = 1_000_000;
/// Printed with a failure; another one gives other frames.
const SEED: u64 = 0x6865_7261_6c64;

/// Frames of every kind the program does something with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for request in requests() {
        seeds.push(request.bytes());
        seeds.push(Frame { source: PEER, ..request.clone() }.bytes());
        seeds.push(tagged(&request.bytes(), &[(0x8100, 7)]));
        seeds.push(tagged(&request.bytes(), &[(0x88a8, 7), (0x8100, 8)]));
        seeds.push(too_big(request.to.ip(), &reply(&request, request.to)));
        seeds.extend(fragments(&request));
        if request.to.is_ipv6() {
            let segment = &request.bytes()[54..];
            let options = [&[request.protocol, 0, 1, 4, 0, 0, 0, 0], segment].concat();
            seeds.push(request.ipv6(60, &options));
            seeds.extend(pieces_with_options(&request));
        } else {
            let mut options = request.bytes();
            options[14] = 0x46;
            options.splice(34..34, [1, 1, 1, 0]);
            seeds.push(options);
        }
    }
    seeds.push(echo(8, (OURS, CLIENT), CLIENT4.into(), VIP4.into(), 9));
    seeds.push(echo(128, (OURS, CLIENT), ip(CLIENT6), ip(VIP6), 9));
    seeds.push(arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4)));
    seeds.push(solicitation(Some(CLIENT), CLIENT6, None));
    seeds
}

/// xorshift64* (Vigna, 2016): the same frames every time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// Nothing but chance, or that behind the Ethernet header of a frame.
    fn noise(&mut self, seed: &[u8]) -> Vec<u8> {
        let kept = if self.below(2) == 0 { 0 } else { 14 };
        let length = 14 + self.below(120);
        let behind = (kept..length).map(|_| self.below(256) as u8).collect::<Vec<_>>();
        [&seed[..kept], &behind].concat()
    }

    /// Up to four changes: an octet, often in the headers; a bit; the length.
    pub fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut frame = seed.to_vec();
        for _ in 0..self.below(5) {
            let reach = if self.below(4) == 0 { frame.len() } else { frame.len().min(64) };
            let at = self.below(reach);
            match self.below(8) {
                0..3 => frame[at] = self.below(256) as u8,
                3..6 => frame[at] ^= 1 << self.below(8),
                6 => frame.truncate((at + 1).max(14)),
                _ => frame.resize(frame.len() + self.below(24), self.below(256) as u8),
            }
        }
        frame
    }
}

/// A picture, and how many of its frames are handled at least, of a hundred.
fn rounds() -> [(Pods, Asks, usize); 4] {
    [
        (Pods::Here, Asks::Nothing, 10),
        (Pods::Elsewhere, Asks::Nothing, 10),
        (Pods::Here, Asks::Sources, 10),
        (Pods::Nowhere, Asks::Reject, 4),
    ]
}

fn pictured(pods: Pods, asks: Asks) -> Picture {
    let mut wanted = picture(pods);
    let network = |(address, prefix)| Network { address: ip(address), prefix };
    let policy = match asks {
        Asks::Nothing => return wanted,
        Asks::Sources => Policy { sources: SOURCES.map(network).into(), ..Policy::default() },
        Asks::Reject => Policy { empty: WhenEmpty::Reject, ..Policy::default() },
    };
    let policy = Arc::new(policy);
    wanted.policies = wanted.services.keys().map(|port| (*port, Arc::clone(&policy))).collect();
    wanted
}

#[test]
fn never_rewrites_a_frame_wrongly() {
    let seeds = seeds();
    let mut random = Random(SEED);
    for (pods, asks, least) in rounds() {
        let mut kernel = Kernel::with(&pictured(pods, asks));
        let mut model = Model { asks, ..Model::default() };
        let mut fates = BTreeMap::<_, usize>::new();
        let frames = FRAMES / rounds().len();
        for number in 0..frames {
            let seed = &seeds[random.below(seeds.len())];
            let frame = match random.below(10) {
                0 => random.noise(seed),
                _ => random.mutate(seed),
            };
            let (action, out) = kernel.run(&frame);
            match model.judge(pods, &frame, action, &out) {
                Ok(fate) => *fates.entry(fate).or_default() += 1,
                Err(why) => panic!(
                    "frame {number} of seed {SEED:#x}, {asks:?}: {why}\n in {frame:02x?}\nout {action:?} {out:02x?}"
                ),
            }
        }
        println!("{asks:?}: {fates:?}");
        let handled = |fate: &str| fates.get(fate).copied().unwrap_or(0);
        let all = handled("changed") + handled("dropped") + handled("rejected");
        assert!(all > frames * least / 100, "the mutations leave enough to handle: {fates:?}");
        let kinds: &[&str] = match asks {
            Asks::Nothing => &["changed"],
            Asks::Sources => &["changed", "dropped"],
            Asks::Reject => &["changed", "dropped", "rejected"],
        };
        assert!(kinds.iter().all(|kind| handled(kind) > 0), "{asks:?}: {fates:?}");
        let counted: u64 = kernel.counters().values().sum();
        assert_eq!(counted, frames as u64, "one reason a frame");
    }
}
