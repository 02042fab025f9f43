//! What a node publishes about itself with its session, for the others' data planes and for
//! placement: its usable interfaces. Carried as opaque bytes by the election.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_announcer::{Links, MacAddr};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A node's facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Interfaces that are up, have carrier and may carry announcements, by name.
    pub interfaces: Vec<Interface>,
    /// Interfaces that are there for announcements and cannot carry them now: without them, status
    /// could not tell a pulled cable from a node of another network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<Unusable>,
}

/// One usable interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name on that node.
    pub name: String,
    /// Its MAC, in colon form.
    pub mac: String,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNetwork>,
    /// Who carries its traffic. Speakers that are too old to say so are taken to use XDP.
    #[serde(default)]
    pub carrier: Carrier,
}

/// Who carries an interface's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// The XDP program, which also answers ARP and neighbour solicitations.
    #[default]
    Xdp,
    /// kube-proxy; the announcer answers from userspace.
    Off,
}

/// One interface that is down, has no carrier, belongs to another or speaks no ARP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// Its name on that node.
    pub name: String,
    /// Its addresses with their prefix lengths; the kernel takes those of IPv6 from one that is
    /// down.
    pub addresses: Vec<IpNetwork>,
}

impl Facts {
    /// The facts about those of the `served` interfaces that are there.
    pub fn of(links: &Links, served: &BTreeMap<String, Carrier>) -> Self {
        let mut facts = Self::default();
        let there =
            served.iter().filter_map(|(name, carrier)| Some((links.by_name.get(name)?, carrier)));
        for (link, carrier) in there {
            let (name, addresses, carrier) = (link.name.clone(), link.addresses.clone(), *carrier);
            let is_usable = link.up && link.carrier && !link.is_enslaved && !link.no_arp;
            match link.mac.filter(|_| is_usable) {
                Some(mac) => {
                    let mac = mac.to_string();
                    facts.interfaces.push(Interface { name, mac, addresses, carrier });
                }
                None => facts.unusable.push(Unusable { name, addresses }),
            }
        }
        facts
    }

    /// As published. Facts of another version that cannot be read count as none: such a node
    /// takes part in the election but carries no traffic.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// For publishing.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The interface at which this node is reached from `other`: one in a network both are in, else
    /// any; of those one where a program delivers, if there is one.
    pub fn towards(&self, other: &Self) -> Option<&Interface> {
        let is_shared = |ours: &Interface| {
            other.interfaces.iter().any(|theirs| ours.shares_network_with(theirs))
        };
        // Of equals, the first is taken.
        self.interfaces.iter().min_by_key(|ours| (!is_shared(ours), ours.carrier != Carrier::Xdp))
    }
}

impl Interface {
    /// The MAC as octets.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac.parse::<MacAddr>().ok().map(|mac| mac.0)
    }

    /// Whether one of its networks contains the address.
    pub fn is_in_network_of(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|network| network.contains(ip))
    }

    fn shares_network_with(&self, other: &Self) -> bool {
        let ours = self.addresses.iter().filter(|network| !is_link_local(network.ip()));
        ours.into_iter().any(|network| other.addresses.iter().any(|o| network.contains(o.ip())))
    }
}

/// Every interface has the network fe80::/64; it connects nothing.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, mac: &str, address: &str) -> Facts {
        let addresses = vec![address.parse().unwrap(), "fe80::1/64".parse().unwrap()];
        let (name, mac, carrier) = (name.into(), mac.into(), Carrier::Xdp);
        let interfaces = vec![Interface { name, mac, addresses, carrier }];
        Facts { interfaces, ..Facts::default() }
    }

    #[test]
    fn reads_back_what_it_published() {
        let mut facts = facts("eth0", "02:00:00:00:01:0b", "192.168.1.11/24");
        assert_eq!(Facts::decode(&facts.encode()), facts);
        let addresses = vec!["10.0.0.12/24".parse().unwrap()];
        facts.unusable = vec![Unusable { name: "eth1".into(), addresses }];
        assert_eq!(Facts::decode(&facts.encode()), facts);
        assert_eq!(Facts::decode(b"of a later version"), Facts::default());
    }

    #[test]
    fn an_older_speaker_that_does_not_say_who_carries_an_interface_uses_xdp() {
        let text = |carrier: &str| {
            let interface = r#""name":"eth0","mac":"02:00:00:00:01:0b","addresses":[]"#;
            format!(r#"{{"interfaces":[{{{interface}{carrier}}}]}}"#)
        };
        let carrier = |said: &str| Facts::decode(text(said).as_bytes()).interfaces[0].carrier;
        assert_eq!(carrier(""), Carrier::Xdp);
        assert_eq!(carrier(r#","carrier":"off""#), Carrier::Off);
    }

    #[test]
    fn interfaces_that_cannot_speak_are_published_as_such() {
        let names = |change: fn(&mut herald_announcer::Link)| {
            let mut links = crate::fixture::links(1);
            change(links.by_name.get_mut("eth0").unwrap());
            let served = ["eth0", "eth9"].map(|name| (name.to_owned(), Carrier::Xdp));
            let facts = Facts::of(&links, &served.into());
            let usable: Vec<_> = facts.interfaces.into_iter().map(|it| it.name).collect();
            let unusable: Vec<_> = facts.unusable.into_iter().map(|it| it.name).collect();
            (usable.join(" "), unusable.join(" "))
        };
        let [usable, unusable] = [("eth0", ""), ("", "eth0")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(names(|_| {}), usable);
        assert_eq!(names(|link| link.up = false), unusable);
        assert_eq!(names(|link| link.carrier = false), unusable);
        assert_eq!(names(|link| link.is_enslaved = true), unusable);
        assert_eq!(names(|link| link.no_arp = true), unusable);
        assert_eq!(names(|link| link.mac = None), unusable);
    }

    #[test]
    fn a_node_is_reached_on_the_network_both_are_in() {
        let us = facts("eth0", "02:00:00:00:01:0b", "192.168.1.11/24");
        let mut peer = facts("eth0", "02:00:00:00:02:0c", "10.0.0.12/24");
        peer.interfaces.extend(facts("eth1", "02:00:00:00:01:0c", "192.168.1.12/24").interfaces);
        let reached = |peer: &Facts| peer.towards(&us).and_then(Interface::mac);
        assert_eq!(reached(&peer), Some([2, 0, 0, 0, 1, 12]));
        peer.interfaces[1].carrier = Carrier::Off;
        assert_eq!(reached(&peer), Some([2, 0, 0, 0, 1, 12]), "the other leads elsewhere");
        peer.interfaces.extend(facts("eth2", "02:00:00:00:03:0c", "192.168.1.112/24").interfaces);
        assert_eq!(reached(&peer), Some([2, 0, 0, 0, 3, 12]), "a program delivers there");
    }
}
