//! SCTP's checksum, CRC32c (RFC 9260 6.8 and appendix A), for changing a port in place: the
//! checksum follows without the payload being read.
//!
//! A CRC is the remainder of the packet as a polynomial, so of two packets equally long the
//! checksums differ by the remainder of their difference; the initial and final complement cancel
//! out. Where one 16-bit word differs, that is the word times the power of x that its place in the
//! packet gives it.
//!
//! All polynomials are reflected: the highest bit is the coefficient of x^0.

/// The checksum of an SCTP packet of which one 16-bit word was `old` and becomes `new`, all three
/// as they lie in the packet. `reach` is the number of octets from the word, itself included, to
/// the packet's end.
///
/// A function of its own, because eBPF programs shall have it once and their usual path not at all.
#[inline(never)]
pub fn after(checksum: u32, old: u16, new: u16, reach: u16) -> u32 {
    let [low, high] = reach.to_le_bytes();
    let difference = u32::from(u16::from_le(old ^ new));
    let moved = product(product(difference, POWERS[low as usize]), POWERS_256[high as usize]);
    checksum ^ moved.to_le()
}

/// Castagnoli's polynomial, without its x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// x^8n.
static POWERS: [u32; 256] = powers(ONE >> 8);
/// x^(8 * 256 * n).
static POWERS_256: [u32; 256] = powers(product(POWERS[255], POWERS[1]));

const fn powers(base: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = product(powers[n - 1], base);
        n += 1;
    }
    powers
}

/// The product of two polynomials, modulo the generator. Without branches: a random bit is what no
/// processor predicts.
#[inline(always)]
const fn product(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut sum) = (a, b, 0);
    let mut bit = 0;
    while bit < u32::BITS {
        sum ^= b & mask(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & mask(b & 1));
        bit += 1;
    }
    sum
}

/// All ones if the bit is.
#[inline(always)]
const fn mask(bit: u32) -> u32 {
    0_u32.wrapping_sub(bit)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::after;
    use crate::flow::fmix32;

    /// Bit by bit, as RFC 9260 appendix A has it.
    fn crc32c(octets: &[u8]) -> u32 {
        !octets.iter().fold(u32::MAX, |crc, octet| {
            (0..8).fold(crc ^ u32::from(*octet), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
            })
        })
    }

    #[test]
    fn the_reference_is_crc32c() {
        // RFC 3720 B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Writes the checksum of a packet; returns it as it lies there.
    fn seal(packet: &mut [u8]) -> u32 {
        packet[8..12].fill(0);
        let checksum = crc32c(packet).to_le_bytes();
        packet[8..12].copy_from_slice(&checksum);
        u32::from_ne_bytes(checksum)
    }

    fn follows_both_ports(length: usize, random: &mut impl FnMut() -> u32) {
        let mut packet: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        let mut checksum = seal(&mut packet);
        for at in [0, 2] {
            let old = u16::from_ne_bytes([packet[at], packet[at + 1]]);
            let new = random() as u16;
            packet[at..at + 2].copy_from_slice(&new.to_ne_bytes());
            let followed = after(checksum, old, new, (length - at) as u16);
            checksum = seal(&mut packet);
            assert_eq!(followed, checksum, "{length} octets, {old:04x} -> {new:04x} at {at}");
        }
    }

    #[test]
    fn follows_a_changed_port_as_a_full_computation_would() {
        let mut state = 0;
        let mut random = || {
            state += 1;
            fmix32(state)
        };
        for length in (12..600).chain([1_480, 9_000, 65_279, 65_280, 65_535]) {
            follows_both_ports(length, &mut random);
        }
        for _ in 0..100 {
            follows_both_ports(12 + random() as usize % 1_500, &mut random);
        }
    }

    #[test]
    fn a_change_to_the_same_port_keeps_the_checksum() {
        assert_eq!(after(0x1234_5678, 80, 80, 1_480), 0x1234_5678);
    }
}
