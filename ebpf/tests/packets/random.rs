//! A million random and mutated frames through the loaded program, each judged by the model:
//! never a wrong rewrite.

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

#[test]
fn never_rewrites_a_frame_wrongly() {
    let seeds = seeds();
    let mut random = Random(SEED);
    let mut changed = 0;
    for pods in [Pods::Here, Pods::Elsewhere] {
        let mut kernel = Kernel::with(&picture(pods));
        let mut model = Model::default();
        for number in 0..FRAMES / 2 {
            let seed = random.below(seeds.len());
            let frame = random.mutate(&seeds[seed]);
            let (action, out) = kernel.run(&frame);
            match model.judge(pods, &frame, action, &out) {
                Ok(fate) => changed += usize::from(fate == "changed"),
                Err(why) => panic!(
                    "frame {number} of seed {SEED:#x}: {why}\n in {frame:02x?}\nout {action:?} {out:02x?}"
                ),
            }
        }
    }
    assert!(changed > FRAMES / 10, "the mutations leave enough to carry: {changed}");
}
