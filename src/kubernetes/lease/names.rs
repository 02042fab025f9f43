//! What the Lease objects are called (pure): `node-n1` is the session of n1, `vip-192.168.1.240`
//! the claim on that VIP, `allocator` the right to allocate.
//!
//! A name is an RFC 1123 subdomain, which knows no colons: those of an IPv6 address are written as
//! dashes, and one that would end with a dash gets the zero it left out. No two keys share a name.

use std::net::{IpAddr, Ipv6Addr};

use herald_leader_election::lease::ObjectKey;
use herald_leader_election::{ClaimKey, NodeName};

const NODE: &str = "node-";
const VIP: &str = "vip-";
const ALLOCATOR: &str = "allocator";

/// Longest name of an object (RFC 1123 subdomain as Kubernetes reads it).
const LONGEST: usize = 253;
/// Longest name of a node that has a Lease.
pub const LONGEST_NODE: usize = LONGEST - NODE.len();

/// The name of an object.
pub fn name(key: &ObjectKey) -> String {
    match key {
        ObjectKey::Session(node) => format!("{NODE}{node}"),
        ObjectKey::Claim(ClaimKey::Allocator) => ALLOCATOR.to_owned(),
        ObjectKey::Claim(ClaimKey::Vip(IpAddr::V4(vip))) => format!("{VIP}{vip}"),
        ObjectKey::Claim(ClaimKey::Vip(IpAddr::V6(vip))) => {
            let escaped = vip.to_string().replace(':', "-");
            let end = if escaped.ends_with('-') { "0" } else { "" };
            format!("{VIP}{escaped}{end}")
        }
    }
}

/// What an object of this name is about; none if it is nothing of ours.
pub fn key(name: &str) -> Option<ObjectKey> {
    if name == ALLOCATOR {
        return Some(ObjectKey::Claim(ClaimKey::Allocator));
    }
    if let Some(node) = name.strip_prefix(NODE) {
        return (!node.is_empty()).then(|| ObjectKey::Session(NodeName::from(node)));
    }
    let vip = name.strip_prefix(VIP)?;
    let vip: IpAddr = match vip.parse() {
        Ok(vip) => vip,
        Err(_) => vip.replace('-', ":").parse::<Ipv6Addr>().ok()?.into(),
    };
    let key = ObjectKey::Claim(ClaimKey::Vip(vip));
    // Another spelling of the same address is another object, and not ours.
    (self::name(&key) == name).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> ObjectKey {
        ObjectKey::Claim(ClaimKey::Vip(text.parse().unwrap()))
    }

    #[test]
    fn names_read_like_a_table_and_read_back() {
        for (object, wanted) in [
            (ObjectKey::Session("n1".into()), "node-n1"),
            (ObjectKey::Session("worker-1.example.com".into()), "node-worker-1.example.com"),
            (ObjectKey::Claim(ClaimKey::Allocator), "allocator"),
            (vip("192.168.1.240"), "vip-192.168.1.240"),
            (vip("fd00:1::f0"), "vip-fd00-1--f0"),
            (vip("fd00::"), "vip-fd00--0"),
            (vip("::1"), "vip---1"),
            (vip("::"), "vip---0"),
            (vip("::ffff:10.0.0.1"), "vip---ffff-10.0.0.1"),
            (vip("1:2:3:4:5:6:7:8"), "vip-1-2-3-4-5-6-7-8"),
        ] {
            assert_eq!(name(&object), wanted);
            assert_eq!(key(wanted), Some(object));
        }
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        for other in
            ["", "node-", "vip-", "vip-n1", "vip-fd00-0--1", "vip-fd00::1", "kube-scheduler"]
        {
            assert_eq!(key(other), None, "{other}");
        }
    }
}
