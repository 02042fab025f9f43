//! A 48-bit Ethernet address. Knows its text form and which addresses are groups; must never guess
//! an address from anything else.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A MAC address, in the order it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The address of nobody: "unknown" in an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether this is a group address; broadcast is one (IEEE 802.3 3.2.3).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether one machine can be reached at this address.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// The group address that carries an IPv6 multicast address (RFC 2464 7).
    pub const fn of_ipv6_multicast(group: Ipv6Addr) -> Self {
        let octets = group.octets();
        Self([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits separated by colons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a MAC address; expected six pairs like 02:00:00:00:00:01")]
pub struct MacAddrError(String);

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || MacAddrError(text.to_owned());
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or_else(refused)?;
            // `from_str_radix` alone would take a sign.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refused());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        if pairs.next().is_some() {
            return Err(refused());
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let mac = MacAddr([0x02, 0, 0x5e, 0xab, 0x0c, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:ab:0c:ff");
        assert_eq!("02:00:5E:ab:0c:FF".parse(), Ok(mac));
    }

    #[test]
    fn refuses_what_is_not_six_pairs() {
        for text in
            ["", "02", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "+2:00:00:00:00:00"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError(text.to_owned())));
        }
    }

    #[test]
    fn maps_ipv6_groups_to_33_33() {
        let group = "ff02::1:ff00:00f0".parse().unwrap();
        assert_eq!(MacAddr::of_ipv6_multicast(group).to_string(), "33:33:ff:00:00:f0");
        assert!(MacAddr::of_ipv6_multicast(group).is_multicast());
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_multicast() && !MacAddr::ZERO.is_unicast());
    }
}
