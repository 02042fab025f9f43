//! Flow samples: which packets are looked at closer (pure), and what of them the ring buffer
//! `SAMPLES` carries.
//!
//! The packet that is not sampled must cost nothing: it increments its reason's counter as it must
//! anyway, and compares it with a number beside it ([`Counted`]). How many packets lie between two
//! samples is random (RFC 3176 3: flows that take turns would otherwise be sampled always or
//! never), and drawn only when one is taken. A [`Sample`] says how many packets it stands for, so
//! that those that were not taken are not lost to the sums.

use crate::budget::Rate;
use crate::reason::{REASONS, Reason};

/// One packet of so many is sampled, unless told otherwise.
pub const EVERY: u32 = 1024;

/// The fewest samples that can be asked for: one of so many packets.
pub const MAX_EVERY: u32 = 1 << 20;

/// Samples each CPU may write: 32 a second, as many at once after a rest.
pub const RATE: Rate = Rate { interval: 1_000_000_000 / 32, burst: 32 };

/// While nothing is to be sampled, a CPU asks again after so many packets of a reason.
const LOOK: u64 = 1024;

/// Octets of the frame that a sample holds: room for two VLAN tags, and for an ICMPv6 error with
/// the IPv6 header and the ports it quotes.
pub const FRAME: usize = 128;

/// Octets of the ring buffer `SAMPLES`: 1,560 samples, as many as 48 CPUs write at once.
pub const RING: u32 = 256 << 10;

/// Value of the per-CPU array `REASONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets with this reason.
    pub packets: u64,
    /// The packet to look at closer.
    due: u64,
    /// The last packet that was sampled.
    sampled: u64,
}

impl Counted {
    /// Counts one more packet; true if it is to be [settled](Self::settle) whether it is sampled.
    #[inline(always)]
    pub const fn count(&mut self) -> bool {
        self.packets += 1;
        self.packets >= self.due
    }

    /// Whether the packet just counted, which is due, should be sampled; and which is due next, by
    /// a random number. `every` is zero where nothing is to be sampled.
    #[inline(always)]
    #[must_use]
    pub const fn settle(&mut self, reason: u32, every: u32, random: u32) -> bool {
        if !is_sampled(reason) {
            self.due = u64::MAX;
            return false;
        }
        if every == 0 {
            self.due = self.packets + LOOK;
            self.sampled = self.packets;
            return false;
        }
        let every = if every < MAX_EVERY { every } else { MAX_EVERY };
        // Uniform from 1 to 2 * every - 1: `every` on average.
        self.due = self.packets + 1 + (random % (2 * every - 1)) as u64;
        true
    }

    /// How many packets a sample of the packet just counted stands for: all since the last.
    #[inline(always)]
    pub const fn weight(&self) -> u64 {
        self.packets - self.sampled
    }

    /// Notes that the packet just counted was sampled.
    #[inline(always)]
    pub const fn note(&mut self) {
        self.sampled = self.packets;
    }
}

/// Whether packets of a reason are sampled: those of a VIP's Service that were carried, and those
/// that were not although they asked for it.
#[inline(always)]
pub const fn is_sampled(reason: u32) -> bool {
    reason < REASONS && SAMPLED >> reason & 1 != 0
}

const SAMPLED: u64 = 1 << Reason::Forwarded as u32
    | 1 << Reason::Delivered as u32
    | 1 << Reason::DeliveredFromPeer as u32
    | 1 << Reason::DeliveredElsewhere as u32
    | 1 << Reason::NoBackend as u32
    | 1 << Reason::NoLocalBackend as u32
    | 1 << Reason::SourceRefused as u32
    | 1 << Reason::Rejected as u32
    | 1 << Reason::RejectLimited as u32
    | 1 << Reason::TtlExpired as u32
    | 1 << Reason::SctpPieces as u32
    | 1 << Reason::ReverseFull as u32;

/// Value of the per-CPU array `SAMPLER`: what became of samples on this CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampler {
    /// When the next may be written.
    pub budget: crate::budget::Budget,
    /// Written into the ring.
    pub written: u64,
    /// Not written, because of [`RATE`].
    pub limited: u64,
    /// Not written, because nobody had read the ring.
    pub full: u64,
}

/// A record of the ring buffer `SAMPLES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Boot-time nanoseconds.
    pub at: u64,
    /// Packets it stands for, see [`Counted::weight`].
    pub packets: u64,
    /// The number of the verdict's `Reason`.
    pub reason: u32,
    /// Index of the interface the packet came in by.
    pub ifindex: u32,
    /// Octets of the whole frame, as the programs left it.
    pub length: u32,
    /// How many of `frame` are this frame's; the others are anything.
    pub held: u32,
    /// The beginning of the frame, as the programs left it.
    pub frame: [u8; FRAME],
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: `repr(C)` of integers without padding (asserted below): any bytes are valid.
    unsafe impl aya::Pod for super::Counted {}
    // SAFETY: as above; `Budget` is one integer.
    unsafe impl aya::Pod for super::Sampler {}
}

const _: () = {
    assert!(REASONS <= u64::BITS);
    assert!(size_of::<Counted>() == 3 * 8);
    assert!(size_of::<Sampler>() == 4 * 8);
    assert!(size_of::<Sample>() == 2 * 8 + 4 * 4 + FRAME);
};

#[cfg(test)]
mod tests {
    use super::{Counted, LOOK, MAX_EVERY, is_sampled};
    use crate::reason::Reason;

    const FORWARDED: u32 = Reason::Forwarded as u32;

    /// The numbers of the packets that are sampled, and the weight of each.
    fn sampled(every: u32, packets: u64, mut random: impl FnMut() -> u32) -> ([u64; 64], usize) {
        let mut counted = Counted::default();
        let (mut weights, mut count) = ([0; 64], 0);
        for _ in 0..packets {
            if counted.count() && counted.settle(FORWARDED, every, random()) {
                weights[count] = counted.weight();
                counted.note();
                count += 1;
            }
        }
        (weights, count)
    }

    #[test]
    fn one_of_one_is_every_packet() {
        let (weights, count) = sampled(1, 50, || u32::MAX);
        assert_eq!((&weights[..50], count), (&[1; 50][..], 50));
    }

    #[test]
    fn gaps_are_as_drawn_and_weights_are_the_gaps() {
        // Of 1 to 7: the first packet, then 1 + random % 7 later.
        let mut draws = [0, 6, 7, 3].into_iter().cycle();
        let (weights, count) = sampled(4, 20, || draws.next().unwrap_or_default());
        assert_eq!((&weights[..7], count), (&[1, 1, 7, 1, 4, 1, 0][..], 6));
    }

    #[test]
    fn what_was_not_written_counts_for_the_next() {
        let mut counted = Counted::default();
        for _ in 0..3 {
            assert!(counted.count() && counted.settle(FORWARDED, 1, 0));
        }
        assert_eq!(counted.weight(), 3);
    }

    #[test]
    fn off_it_asks_seldom_and_then_stands_for_what_came_after() {
        let mut counted = Counted::default();
        let asked = |counted: &mut Counted, every| {
            (1..=2 * LOOK)
                .filter(|_| counted.count() && !counted.settle(FORWARDED, every, 0))
                .count()
        };
        assert_eq!(asked(&mut counted, 0), 2);
        // Turned on, the next time it asks.
        let first = (1..=2 * LOOK).find(|_| counted.count() && counted.settle(FORWARDED, 8, 0));
        assert_eq!((first, counted.weight()), (Some(1), LOOK));
    }

    #[test]
    fn other_reasons_ask_once() {
        assert!(!is_sampled(Reason::NotForVip as u32) && !is_sampled(u32::MAX));
        let mut counted = Counted::default();
        let asked = (0..10_000).filter(|_| {
            let is_due = counted.count();
            assert!(!is_due || !counted.settle(Reason::NotForVip as u32, 1, 0));
            is_due
        });
        assert_eq!(asked.count(), 1);
    }

    #[test]
    fn any_setting_is_bounded() {
        let mut counted = Counted::default();
        assert!(counted.count() && counted.settle(FORWARDED, u32::MAX, u32::MAX));
        assert!(counted.due <= counted.packets + 2 * u64::from(MAX_EVERY));
    }
}
