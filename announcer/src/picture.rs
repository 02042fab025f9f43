//! Which VIPs are to be announced where, and what follows from that for each interface there is.
//!
//! Must never let an interface speak that cannot be heard or answered: absent, down, without
//! carrier or without a MAC. Read [`crate::links`] first for what is known of interfaces.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::conflict::{Intent, Want};
use crate::links::Links;
use crate::wire::MacAddr;

/// Who answers questions for a VIP on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// The XDP program does; we only announce.
    Datapath,
    /// We do, from a packet socket (mode `off`).
    Userspace,
}

/// The whole wanted picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Each VIP we hold, and the names of the interfaces it is announced on.
    pub vips: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Who answers on an interface, by its name, where it is not the way given at the start.
    pub answering: BTreeMap<String, Answering>,
}

/// What is known of the others on the links. Without it, nobody can be called foreign and nothing
/// is listened to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Each VIP we hold that nobody has announced yet, and the names of the interfaces on which to
    /// ask whether it is free. Nothing is announced of it until it is in [`Announced`] instead.
    pub probed: BTreeMap<IpAddr, BTreeSet<String>>,
    /// MACs of the other speakers of this cluster, on all their interfaces.
    pub peers: BTreeSet<MacAddr>,
}

/// The wanted picture, and when each part of it came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub announced: Arc<Announced>,
    /// `None` until there is one.
    pub neighbourhood: Option<Arc<Neighbourhood>>,
    /// Per VIP and interface, the number of the change that brought it. Without it, a VIP that was
    /// lost and gained again before the task looked would seem to have stayed, and would not be
    /// announced although another node may have spoken for it meanwhile.
    gained: BTreeMap<(IpAddr, String), u64>,
    /// Per VIP, probed or announced, the same.
    held: BTreeMap<IpAddr, u64>,
    changes: u64,
}

impl Picture {
    pub fn replace(&mut self, announced: Arc<Announced>, others: Option<Arc<Neighbourhood>>) {
        self.changes += 1;
        self.gained.retain(|(vip, interface), _| announced.has(*vip, interface));
        for (&vip, interfaces) in &announced.vips {
            for interface in interfaces {
                self.gained.entry((vip, interface.clone())).or_insert(self.changes);
            }
        }
        self.announced = announced;
        self.neighbourhood = others;
        let now: BTreeSet<IpAddr> = self.vips().map(|(vip, ..)| vip).collect();
        self.held.retain(|vip, _| now.contains(vip));
        for vip in now {
            self.held.entry(vip).or_insert(self.changes);
        }
    }

    /// Every VIP with what is wanted of it and the names of its interfaces. One that is both
    /// announced and probed is announced.
    fn vips(&self) -> impl Iterator<Item = (IpAddr, Intent, &BTreeSet<String>)> {
        let announced = self.announced.vips.iter().map(|(vip, i)| (*vip, Intent::Announce, i));
        let probed = self.neighbourhood.iter().flat_map(|others| &others.probed);
        let probed = probed
            .filter(|(vip, _)| !self.announced.vips.contains_key(vip))
            .map(|(vip, interfaces)| (*vip, Intent::Probe, interfaces));
        announced.chain(probed)
    }

    /// Whether the VIP is probed or announced on the interface.
    pub fn concerns(&self, vip: IpAddr, interface: &str) -> bool {
        self.announced.has(vip, interface)
            || self.neighbourhood.as_ref().is_some_and(|others| others.has(vip, interface))
    }
}

impl Neighbourhood {
    fn has(&self, vip: IpAddr, interface: &str) -> bool {
        self.probed.get(&vip).is_some_and(|interfaces| interfaces.contains(interface))
    }
}

impl Announced {
    /// Whether the VIP is announced on the interface.
    pub fn has(&self, vip: IpAddr, interface: &str) -> bool {
        self.vips.get(&vip).is_some_and(|interfaces| interfaces.contains(interface))
    }
}

/// What one interface shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: String,
    pub mac: MacAddr,
    pub answering: Answering,
    /// Whether claims of others are listened to.
    pub is_listening: bool,
    /// The VIPs to be announced, with the number of the change that brought each.
    pub vips: BTreeMap<IpAddr, u64>,
    /// The VIPs to be asked for.
    pub probed: BTreeSet<IpAddr>,
}

/// The picture by interface index, without the interfaces on which nothing can be announced now:
/// absent, down, without carrier or without a MAC.
pub(crate) fn wanted(
    picture: &Picture,
    links: &Links,
    default: Answering,
) -> BTreeMap<u32, Wanted> {
    let mut wanted = BTreeMap::new();
    for (vip, intent, names) in picture.vips() {
        for name in names {
            let Some((index, mac)) = speaking(links, name) else { continue };
            let interface = wanted.entry(index).or_insert_with(|| Wanted {
                name: name.clone(),
                mac,
                answering: picture.announced.answering.get(name).copied().unwrap_or(default),
                is_listening: picture.neighbourhood.is_some(),
                vips: BTreeMap::new(),
                probed: BTreeSet::new(),
            });
            match (intent, picture.gained.get(&(vip, name.clone()))) {
                (Intent::Announce, Some(&change)) => drop(interface.vips.insert(vip, change)),
                _ => drop(interface.probed.insert(vip)),
            }
        }
    }
    wanted
}

/// The picture by VIP, for [`crate::conflict`].
pub(crate) fn wants(picture: &Picture, links: &Links) -> BTreeMap<IpAddr, Want> {
    let want = |(vip, intent, names): (IpAddr, Intent, &BTreeSet<String>)| {
        let index = |name: &String| Some((speaking(links, name)?.0, name.clone()));
        let interfaces = names.iter().filter_map(index).collect();
        let since = picture.held.get(&vip).copied().unwrap_or_default();
        (vip, Want { since, intent, interfaces })
    };
    picture.vips().map(want).collect()
}

/// MACs whose claims are no conflict: all of this machine's, since two of its interfaces may be on
/// one segment, and the other speakers'.
pub(crate) fn ours(picture: &Picture, links: &Links) -> BTreeSet<MacAddr> {
    let own = links.by_name.values().filter_map(|link| link.mac);
    let peers = picture.neighbourhood.iter().flat_map(|others| others.peers.iter().copied());
    own.chain(peers).collect()
}

/// Index and MAC of an interface on which something can be announced.
fn speaking(links: &Links, name: &str) -> Option<(u32, MacAddr)> {
    let link = links.by_name.get(name).filter(|link| link.up && link.carrier)?;
    Some((link.index, link.mac?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Link;

    const V4: &str = "192.168.1.240";
    const V6: &str = "fd00:1::f0";

    fn announced(pairs: &[(&str, &str)]) -> Arc<Announced> {
        let mut announced = Announced::default();
        for (vip, interface) in pairs {
            let interfaces = announced.vips.entry(vip.parse().unwrap()).or_default();
            interfaces.insert((*interface).to_owned());
        }
        Arc::new(announced)
    }

    fn picture(pairs: &[(&str, &str)]) -> Picture {
        let mut picture = Picture::default();
        picture.replace(announced(pairs), None);
        picture
    }

    fn link(name: &str, index: u32) -> Link {
        Link::ethernet(name, index, MacAddr([2, 0, 0, 0, 0, index as u8]))
    }

    fn links(links: &[Link]) -> Links {
        Links { by_name: links.iter().map(|link| (link.name.clone(), link.clone())).collect() }
    }

    /// Which VIPs are wanted on which index, and by which change.
    fn vips(picture: &Picture, links: &Links) -> Vec<(u32, String, u64)> {
        let by_interface = wanted(picture, links, Answering::Datapath).into_iter();
        by_interface
            .flat_map(|(index, wanted)| {
                wanted.vips.into_iter().map(move |(vip, change)| (index, vip.to_string(), change))
            })
            .collect()
    }

    #[test]
    fn sorts_vips_by_interface() {
        let picture = picture(&[(V4, "eth0"), (V6, "eth0"), (V4, "eth1")]);
        let links = links(&[link("eth0", 2), link("eth1", 3)]);
        let expected = [(2, V4.to_owned(), 1), (2, V6.to_owned(), 1), (3, V4.to_owned(), 1)];
        assert_eq!(vips(&picture, &links), expected);
    }

    #[test]
    fn leaves_out_interfaces_that_cannot_speak() {
        let good = link("eth0", 2);
        let unable = [
            Link { up: false, ..good.clone() },
            Link { carrier: false, ..good.clone() },
            Link { mac: None, ..good.clone() },
            Link { name: "eth9".to_owned(), ..good.clone() },
        ];
        let picture = picture(&[(V4, "eth0")]);
        assert_eq!(vips(&picture, &links(&[good])).len(), 1);
        for link in unable {
            assert_eq!(vips(&picture, &links(std::slice::from_ref(&link))), [], "{link:?}");
        }
    }

    #[test]
    fn a_vip_that_stays_keeps_its_change_and_one_that_returns_does_not() {
        let links = links(&[link("eth0", 2)]);
        let mut picture = picture(&[(V4, "eth0"), (V6, "eth0")]);
        picture.replace(announced(&[(V4, "eth0")]), None);
        picture.replace(announced(&[(V4, "eth0"), (V6, "eth0")]), None);
        let expected = [(2, V4.to_owned(), 1), (2, V6.to_owned(), 3)];
        assert_eq!(vips(&picture, &links), expected);
    }

    #[test]
    fn an_interface_answers_as_told_or_by_default() {
        let mut told = (*announced(&[(V4, "eth0"), (V4, "eth1")])).clone();
        told.answering.insert("eth1".to_owned(), Answering::Userspace);
        let mut picture = Picture::default();
        picture.replace(Arc::new(told), None);
        let links = links(&[link("eth0", 2), link("eth1", 3)]);
        let answering: Vec<_> = wanted(&picture, &links, Answering::Datapath)
            .into_values()
            .map(|wanted| wanted.answering)
            .collect();
        assert_eq!(answering, [Answering::Datapath, Answering::Userspace]);
    }

    #[test]
    fn a_probed_vip_is_asked_for_and_one_in_both_is_announced() {
        let others = |probed: &[(&str, &str)]| {
            let probed = announced(probed).vips.clone();
            Some(Arc::new(Neighbourhood { probed, ..Neighbourhood::default() }))
        };
        let links = links(&[link("eth0", 2)]);
        let intents = |picture: &Picture| -> Vec<(String, Intent, u64)> {
            let wants = wants(picture, &links).into_iter();
            wants.map(|(vip, want)| (vip.to_string(), want.intent, want.since)).collect()
        };
        let mut picture = Picture::default();
        picture.replace(announced(&[]), others(&[(V4, "eth0")]));
        assert_eq!(intents(&picture), [(V4.to_owned(), Intent::Probe, 1)]);
        let interface = wanted(&picture, &links, Answering::Datapath).remove(&2).unwrap();
        assert!(interface.is_listening && interface.vips.is_empty());
        assert_eq!(interface.probed, BTreeSet::from([V4.parse().unwrap()]));
        assert!(picture.concerns(V4.parse().unwrap(), "eth0"));

        picture.replace(announced(&[(V4, "eth0")]), others(&[(V4, "eth0")]));
        assert_eq!(intents(&picture), [(V4.to_owned(), Intent::Announce, 1)], "it has stayed");
        assert_eq!(vips(&picture, &links), [(2, V4.to_owned(), 2)], "but its burst is new");

        picture.replace(announced(&[]), others(&[]));
        picture.replace(announced(&[]), others(&[(V4, "eth0")]));
        assert_eq!(intents(&picture), [(V4.to_owned(), Intent::Probe, 4)], "gained again");
    }

    #[test]
    fn every_interface_of_the_machine_is_ours_and_so_are_the_peers() {
        let peer = MacAddr([2, 0, 0, 0, 0, 0x77]);
        let peers = BTreeSet::from([peer]);
        let mut picture = Picture::default();
        let others = Neighbourhood { peers, ..Neighbourhood::default() };
        picture.replace(announced(&[(V4, "eth0")]), Some(Arc::new(others)));
        let links = links(&[link("eth0", 2), link("eth9", 9)]);
        let expected = [2, 9, 0x77].map(|last| MacAddr([2, 0, 0, 0, 0, last]));
        assert_eq!(ours(&picture, &links), BTreeSet::from(expected));
    }
}
