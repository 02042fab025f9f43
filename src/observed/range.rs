//! Ranges of addresses.
//!
//! A range is two ends and arithmetic between them. Nothing here may walk through a range: an IPv6
//! /64 has more addresses than a lifetime has nanoseconds.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family that this one is not.
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Consecutive addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// A range, if both ends are of one family and the first does not lie after the last.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (IpFamily::of(first) == IpFamily::of(last) && first <= last).then_some(Self { first, last })
    }

    /// The lowest address.
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub const fn last(self) -> IpAddr {
        self.last
    }

    /// The family of all its addresses.
    pub const fn family(self) -> IpFamily {
        IpFamily::of(self.first)
    }

    /// Whether the address lies in the range.
    pub fn contains(self, address: IpAddr) -> bool {
        // Both ends are of one family, and addresses of different families never lie between.
        self.first <= address && address <= self.last
    }

    /// Whether any address lies in both ranges.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The address after this one, if that lies in the range too.
    pub fn after(self, address: IpAddr) -> Option<IpAddr> {
        let next = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into(),
        };
        self.contains(next).then_some(next)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> Option<AddressRange> {
        AddressRange::new(first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn has_one_family_and_a_direction() {
        assert!(range("192.0.2.1", "192.0.2.1").is_some());
        assert!(range("192.0.2.2", "192.0.2.1").is_none());
        assert!(range("192.0.2.1", "2001:db8::1").is_none());
    }

    #[test]
    fn never_contains_an_address_of_the_other_family() {
        let all_v4 = range("0.0.0.0", "255.255.255.255").unwrap();
        let all_v6 = range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").unwrap();
        assert!(!all_v4.contains("::1".parse().unwrap()));
        assert!(!all_v6.contains("192.0.2.1".parse().unwrap()));
        assert!(!all_v4.overlaps(all_v6));
    }

    #[test]
    fn ends_where_it_ends() {
        let top = range("255.255.255.254", "255.255.255.255").unwrap();
        let last = top.after(top.first()).unwrap();
        assert_eq!(last, top.last());
        assert_eq!(top.after(last), None);
    }
}
