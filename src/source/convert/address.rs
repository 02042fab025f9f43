//! Addresses and ranges as people write them.
//!
//! A CIDR, or two addresses with a dash; blanks around the dash are fine, any other blank is not
//! (that is how MetalLB reads them). The host bits of a CIDR are ignored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::super::tree::quoted;
use crate::observed::AddressRange;
use crate::problem::Reason;

/// What is wrong with an address: its kind, and the sentence that quotes the text.
pub type Wrong = (Reason, String);

/// One address.
pub fn address(text: &str) -> Result<IpAddr, Wrong> {
    let address: IpAddr = text.parse().map_err(|_| {
        let message = format!(
            "{}: not an IP address; expected one such as 192.0.2.10 or 2001:db8::10",
            quoted(text)
        );
        (Reason::BadAddress, message)
    })?;
    match address {
        // The same address in two spellings would be two addresses to everything that compares.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let message =
                format!("{}: IPv4 written as IPv6; expected the IPv4 address itself", quoted(text));
            Err((Reason::BadAddress, message))
        }
        address => Ok(address),
    }
}

/// One address that a Service can be reached at.
pub fn service_address(text: &str) -> Result<IpAddr, Wrong> {
    let address = address(text)?;
    if is_reachable(address) { Ok(address) } else { Err(unreachable(text)) }
}

/// A CIDR or a range of addresses that Services can be reached at.
pub fn range(text: &str) -> Result<AddressRange, Wrong> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (end(text, first.trim_end())?, end(text, last.trim_start())?),
        None => network(text)?,
    };
    if first.is_ipv4() != last.is_ipv4() {
        let message = format!(
            "{}: one end is IPv4 and the other IPv6; expected both of one family",
            quoted(text)
        );
        return Err((Reason::WrongFamily, message));
    }
    let Some(range) = AddressRange::new(first, last) else {
        let message =
            format!("{}: range is reversed; expected first address <= last", quoted(text));
        return Err((Reason::RangeReversed, message));
    };
    if special_ranges().any(|special| special.overlaps(range)) {
        return Err(unreachable(text));
    }
    Ok(range)
}

/// A network of clients, in CIDR notation; its host bits are ignored.
pub fn source_range(text: &str) -> Result<IpNetwork, Wrong> {
    let wrong = || {
        let message = format!(
            "{}: not a network; expected a CIDR such as 192.0.2.0/24 or 2001:db8::/32",
            quoted(text)
        );
        (Reason::BadAddress, message)
    };
    let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let base = address(base).map_err(|_| wrong())?;
    let network = IpNetwork::new(base, prefix.parse().map_err(|_| wrong())?);
    let network = network.map_err(|_| wrong())?;
    IpNetwork::new(network.network(), network.prefix()).map_err(|_| wrong())
}

/// Networks that no client is in: the unspecified addresses are nobody's source (RFC 1122 section
/// 3.2.1.3, RFC 4291 section 2.5.2).
pub fn nobody() -> [IpNetwork; 2] {
    [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].map(|ip: IpAddr| ip.into())
}

fn end(text: &str, end: &str) -> Result<IpAddr, Wrong> {
    address(end).map_err(|(reason, _)| (reason, expected_range(text)))
}

fn network(text: &str) -> Result<(IpAddr, IpAddr), Wrong> {
    let wrong = || (Reason::BadAddress, expected_range(text));
    let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let base = address(base).map_err(|_| wrong())?;
    // A mask in dots would be read as a prefix too, and nobody else reads it.
    let prefix = prefix.parse().map_err(|_| wrong())?;
    let network = IpNetwork::new(base, prefix).map_err(|_| wrong())?;
    Ok((network.network(), network.broadcast()))
}

fn expected_range(text: &str) -> String {
    format!(
        "{}: not a range of addresses; expected a CIDR such as 192.0.2.0/28 or a range such as \
         192.0.2.10-192.0.2.20",
        quoted(text)
    )
}

fn unreachable(text: &str) -> Wrong {
    let message = format!(
        "{}: holds loopback, multicast or unspecified addresses; expected addresses that a host \
         can have",
        quoted(text)
    );
    (Reason::BadAddress, message)
}

fn is_reachable(address: IpAddr) -> bool {
    !special_ranges().any(|special| special.contains(address))
}

/// What no host on a network has as its address (RFC 6890, RFC 4291 section 2.4).
fn special_ranges() -> impl Iterator<Item = AddressRange> {
    let v4 = [
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
        (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(127, 255, 255, 255)),
        (Ipv4Addr::new(224, 0, 0, 0), Ipv4Addr::new(239, 255, 255, 255)),
        (Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST),
    ];
    let v6 = [
        (Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), Ipv6Addr::from_bits(u128::MAX)),
    ];
    let v4 = v4.into_iter().map(|(first, last)| (IpAddr::V4(first), IpAddr::V4(last)));
    let v6 = v6.into_iter().map(|(first, last)| (IpAddr::V6(first), IpAddr::V6(last)));
    v4.chain(v6).filter_map(|(first, last)| AddressRange::new(first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, Reason> {
        range(text).map(|range| range.to_string()).map_err(|(reason, _)| reason)
    }

    #[test]
    fn reads_what_metallb_reads() {
        assert_eq!(read("192.0.2.1-192.0.2.9").as_deref(), Ok("192.0.2.1-192.0.2.9"));
        assert_eq!(read("192.0.2.1 - 192.0.2.9").as_deref(), Ok("192.0.2.1-192.0.2.9"));
        assert_eq!(read("192.0.2.77/24").as_deref(), Ok("192.0.2.0-192.0.2.255"));
        assert_eq!(read("192.0.2.0/31").as_deref(), Ok("192.0.2.0-192.0.2.1"));
        assert_eq!(
            read("2001:db8::/64").as_deref(),
            Ok("2001:db8::-2001:db8::ffff:ffff:ffff:ffff")
        );
        assert_eq!(read("2001:db8::1-2001:db8::f").as_deref(), Ok("2001:db8::1-2001:db8::f"));
    }

    #[test]
    fn refuses_what_metallb_refuses() {
        for text in [
            " 192.0.2.0/24",
            "192.0.2.0/33",
            "192.0.2.1",
            "192.0.2.0/255.255.255.0",
            "a-b",
            "-",
            "",
        ] {
            assert_eq!(read(text), Err(Reason::BadAddress), "{text:?}");
        }
        assert_eq!(read("192.0.2.9-192.0.2.1"), Err(Reason::RangeReversed));
        assert_eq!(read("192.0.2.1-2001:db8::1"), Err(Reason::WrongFamily));
    }

    #[test]
    fn refuses_addresses_that_no_host_has() {
        for text in ["127.0.0.0/24", "224.0.0.1-224.0.0.2", "0.0.0.0/0", "::/64", "ff02::1-ff02::2"]
        {
            assert_eq!(read(text), Err(Reason::BadAddress), "{text:?}");
        }
        assert!(service_address("255.255.255.255").is_err());
        assert!(address("::ffff:192.0.2.1").is_err());
    }
}
