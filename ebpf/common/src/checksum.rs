//! Internet checksum arithmetic (RFC 1071) for rewriting a packet in place: the checksum follows
//! a change without the payload being read (RFC 1624).
//!
//! One's complement sums do not depend on byte order (RFC 1071 2 (B)), so all words are taken as
//! they lie in the packet.

/// A pending change: what must be added to a checksum's complement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// A change of nothing.
    #[inline(always)]
    pub const fn none() -> Self {
        Self(0)
    }

    /// One 32-bit word was `old` and becomes `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// One 16-bit word was `old` and becomes `new`.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a sum of 32 bits, as the kernel's helpers take it.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        ((sum >> 32) + (sum & 0xffff_ffff)) as u32
    }

    /// The checksum after the change: RFC 1624, equation 3.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }
}

/// The one's complement sum of 64 bits of sums, as 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::{Change, fold};

    fn checksum(words: &[u16]) -> u16 {
        !fold(words.iter().map(|w| u64::from(*w)).sum())
    }

    #[test]
    fn follows_a_changed_word_as_a_full_sum_would() {
        let mut words = [0x4500, 0x0054, 0x1c46, 0x4000, 0x4006, 0xac10, 0x0a63, 0xac10, 0x0a0c];
        let before = checksum(&words);
        let change = Change::none().word(0xac10_0a0c, 0x0af4_0102).half(0x0054, 0x0101);
        words[7] = 0x0af4;
        words[8] = 0x0102;
        words[1] = 0x0101;
        assert_eq!(change.apply(before), checksum(&words));
    }

    #[test]
    fn a_sum_of_32_bits_says_the_same() {
        let change = Change::none().word(0xac10_0a0c, 0x0af4_0102).word(3, 0xffff_fff0).half(1, 7);
        for before in [0, 1, 0x1234, 0xfffe, 0xffff] {
            let sum = u64::from(change.sum()) + u64::from(!before);
            assert_eq!(!fold(sum), change.apply(before));
        }
    }

    #[test]
    fn a_change_to_the_same_value_keeps_the_checksum() {
        assert_eq!(Change::none().word(7, 7).half(9, 9).apply(0x1234), 0x1234);
    }
}
