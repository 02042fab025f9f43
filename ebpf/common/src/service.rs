//! The slot tables as the programs read them, and the keys they are found by.

use crate::layout::{Address, is_mapped, mapped};

/// Slots of the smallest table, and of each chunk of a larger one. A power of two: the mask is the
/// verifier's bound.
pub const SLOTS: usize = 1024;

/// Backends on this node that one service's table lists (see [`ServiceTable::local`]).
pub const LOCAL_SLOTS: usize = 64;

/// `Slot::previous` of a dirty slot whose flows without an entry go to its current backend.
pub const PREVIOUS_IS_CURRENT: u16 = u16::MAX;

/// Key of the map `SERVICES`: a part of a service port's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Address,
    /// The Service's port.
    pub port_be: u16,
    /// TCP, UDP or SCTP, see [`protocol`](crate::layout::protocol).
    pub protocol: u8,
    /// Which part of its table, see [`ServiceTable`].
    pub chunk: u8,
}

/// Key of the map `SERVICES4`: as [`ServiceKey`], of an IPv4 VIP. A short key of its own is hashed
/// and compared in a fraction of the time; one number, because a key that is stored in parts and
/// hashed as words stalls until the parts have reached the cache.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey4(u64);

impl ServiceKey4 {
    /// The key of the first part of the table of a port of a VIP.
    #[inline(always)]
    pub const fn new(vip: u32, port_be: u16, protocol: u8) -> Self {
        Self(vip as u64 | (port_be as u64) << 32 | (protocol as u64) << 48)
    }

    /// The VIP.
    #[inline(always)]
    pub const fn vip(self) -> u32 {
        self.0 as u32
    }

    /// The Service's port.
    #[inline(always)]
    pub const fn port_be(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// TCP, UDP or SCTP, see [`protocol`](crate::layout::protocol).
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// The key of a part.
    #[inline(always)]
    #[must_use]
    pub const fn with_chunk(self, chunk: u32) -> Self {
        Self((self.0 & !(0xff << 56)) | (chunk as u64) << 56)
    }

    /// Which part of the table.
    #[inline(always)]
    pub const fn chunk(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The common form.
    #[inline(always)]
    pub const fn long(self) -> ServiceKey {
        ServiceKey {
            vip: mapped(self.vip()),
            port_be: self.port_be(),
            protocol: self.protocol(),
            chunk: self.chunk(),
        }
    }
}

impl ServiceKey {
    /// The short form of an IPv4 VIP's key.
    #[inline(always)]
    pub const fn short(&self) -> Option<ServiceKey4> {
        if !is_mapped(&self.vip) {
            return None;
        }
        let first = ServiceKey4::new(self.vip[3], self.port_be, self.protocol);
        Some(first.with_chunk(self.chunk as u32))
    }
}

/// One slot: where its flows go.
///
/// A slot is clean while both are the same, and its flows have no state. A dirty slot changed
/// less than a drain time ago: its flows are remembered in `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index into `BACKENDS`: where new flows go.
    pub current: u16,
    /// Index into `BACKENDS`: where flows go that were there before the change, or
    /// [`PREVIOUS_IS_CURRENT`].
    pub previous: u16,
}

/// `ServiceTable::flags`: all flows of a client go to one slot.
pub const CLIENT_AFFINITY: u32 = 1;
/// `ServiceTable::flags`: without a backend, a request is refused with an ICMP error.
pub const REJECT_WHEN_EMPTY: u32 = 2;
/// `ServiceTable::flags`: the backends in the table keep their flows and get no new ones; a packet
/// that opens a flow finds the service empty.
pub const DRAINS_ONLY: u32 = 4;

/// Value of the maps `SERVICES` and `SERVICES4`: a part of one service port's slot table, replaced
/// as one value, so that no packet sees half of an update.
///
/// A packet reads one part, in one look-up: the one its flow's hash names ([`chunk_of`]), if
/// [`Guess`] knows how many there are. All parts say the same but for their slots. The first says
/// how many there are and is written last; a slot of a larger table has the flows of the smaller
/// one's slot of the same low bits, so whoever still counts by the smaller finds the same backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTable {
    /// Backends in the table; with none, `slots` means nothing.
    pub backends: u32,
    /// How many entries of `local` count.
    pub local_count: u32,
    /// How many parts the table has, a power of two.
    pub chunks: u32,
    /// [`Guess::number`] of this table if the usual packet needs to know no more than its slot, or
    /// 0: no backends, sources to be looked up, backends that only drain.
    pub usual: u32,
    /// [`CLIENT_AFFINITY`], [`REJECT_WHEN_EMPTY`], [`DRAINS_ONLY`].
    pub flags: u32,
    /// Key in `SOURCES` of the networks that may ask; 0 if all may.
    pub sources: u32,
    /// Indices into `BACKENDS` of the backends on this node: what a frame from a peer may be
    /// given to when the two nodes' tables differ for a moment.
    pub local: [u16; LOCAL_SLOTS],
    /// The slots, by the low bits of their numbers.
    pub slots: [Slot; SLOTS],
}

/// Which part of a table of so many has the slot of a hash.
#[inline(always)]
pub const fn chunk_of(hash: u32, chunks: u32) -> u32 {
    (hash / SLOTS as u32) & chunks.wrapping_sub(1)
}

/// Numbers in the map `VIP_FILTER`, sixteen to a word.
pub const VIP_BUCKETS: u32 = 65_536;
/// Numbers in a word of it.
pub const GUESSES: u32 = 16;

/// What the map `VIP_FILTER` says of a VIP: an address that gets [`Guess::NONE`] is no Service's.
/// Else it says how many parts the table of some Service has whose VIP is of the same bucket, and
/// whether its flows go by client: enough to look up the right part at once in most cases, and a
/// part tells whether it was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guess(u32);

impl Guess {
    /// No Service's VIP.
    pub const NONE: Self = Self(0);

    /// For a table of so many parts, at most 64.
    pub const fn new(chunks: u32, has_affinity: bool) -> Self {
        let affinity = if has_affinity { BY_CLIENT } else { 0 };
        Self(affinity | ((1 + chunks.trailing_zeros()) & SIZE))
    }

    /// Where the VIP's number is, by the last word of its address.
    #[inline(always)]
    pub const fn bucket(last_word: u32) -> u32 {
        crate::flow::fmix32(last_word) & (VIP_BUCKETS - 1)
    }

    /// A bucket's number in its word.
    #[inline(always)]
    pub const fn read(word: u64, bucket: u32) -> Self {
        Self((word >> (bucket % GUESSES * 4)) as u32 & (BY_CLIENT | SIZE))
    }

    /// As a part has it, four bits.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// How many parts there are.
    #[inline(always)]
    pub const fn chunks(self) -> u32 {
        1 << ((self.0 & SIZE).wrapping_sub(1) & SIZE)
    }

    /// Whether all flows of a client go together.
    #[inline(always)]
    pub const fn is_by_client(self) -> bool {
        self.0 & BY_CLIENT != 0
    }
}

const SIZE: u32 = 7;
const BY_CLIENT: u32 = 8;

const _: () = {
    assert!(size_of::<ServiceKey4>() == 8);
    assert!(size_of::<ServiceKey>() == 16 + 4);
    assert!(size_of::<ServiceTable>() == 24 + 2 * LOCAL_SLOTS + 4 * SLOTS);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::protocol;

    #[test]
    fn a_guess_says_what_it_was_made_of() {
        for (chunks, has_affinity) in [(1, false), (4, true), (16, false), (64, true)] {
            let guess = Guess::new(chunks, has_affinity);
            assert_eq!((guess.chunks(), guess.is_by_client()), (chunks, has_affinity));
            for bucket in [0, 15, 16, 65_535] {
                let word = u64::from(guess.number()) << (bucket % GUESSES * 4);
                assert_eq!(Guess::read(word, bucket), guess);
                assert_eq!(Guess::read(!word, bucket + 1), Guess(15), "a neighbour");
            }
        }
    }

    #[test]
    fn a_short_key_has_all_of_the_long_one() {
        let key = ServiceKey {
            vip: mapped(0x0a00_0001),
            port_be: 80,
            protocol: protocol::UDP,
            chunk: 63,
        };
        assert_eq!(key.short().map(ServiceKey4::long), Some(key));
    }
}
