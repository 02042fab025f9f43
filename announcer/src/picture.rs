//! Which VIPs are to be announced where, and what follows from that for each interface there is.
//!
//! Must never let an interface speak that cannot be heard or answered: absent, down, without carrier
//! or without a MAC. Read [`crate::links`] first for what is known of interfaces.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

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

/// The wanted picture, and when each part of it came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub announced: Arc<Announced>,
    /// Per VIP and interface, the number of the change that brought it. Without it, a VIP that was
    /// lost and gained again before the task looked would seem to have stayed, and would not be
    /// announced although another node may have spoken for it meanwhile.
    gained: BTreeMap<(IpAddr, String), u64>,
    changes: u64,
}

impl Picture {
    pub fn replace(&mut self, announced: Arc<Announced>) {
        self.changes += 1;
        self.gained.retain(|(vip, interface), _| announced.has(*vip, interface));
        for (&vip, interfaces) in &announced.vips {
            for interface in interfaces {
                self.gained.entry((vip, interface.clone())).or_insert(self.changes);
            }
        }
        self.announced = announced;
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
    /// The VIPs, with the number of the change that brought each.
    pub vips: BTreeMap<IpAddr, u64>,
}

/// The picture by interface index, without the interfaces on which nothing can be announced now:
/// absent, down, without carrier or without a MAC.
pub(crate) fn wanted(
    picture: &Picture,
    links: &Links,
    default: Answering,
) -> BTreeMap<u32, Wanted> {
    let mut wanted = BTreeMap::new();
    for ((vip, name), &change) in &picture.gained {
        let Some(link) = links.by_name.get(name) else { continue };
        let Some(mac) = link.mac.filter(|_| link.up && link.carrier) else { continue };
        let interface = wanted.entry(link.index).or_insert_with(|| Wanted {
            name: name.clone(),
            mac,
            answering: picture.announced.answering.get(name).copied().unwrap_or(default),
            vips: BTreeMap::new(),
        });
        interface.vips.insert(*vip, change);
    }
    wanted
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
        picture.replace(announced(pairs));
        picture
    }

    fn link(name: &str, index: u32) -> Link {
        Link {
            name: name.to_owned(),
            index,
            mac: Some(MacAddr([2, 0, 0, 0, 0, index as u8])),
            up: true,
            carrier: true,
            mtu: 1500,
            is_loopback: false,
            is_enslaved: false,
            no_arp: false,
            addresses: Vec::new(),
        }
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
        picture.replace(announced(&[(V4, "eth0")]));
        picture.replace(announced(&[(V4, "eth0"), (V6, "eth0")]));
        let expected = [(2, V4.to_owned(), 1), (2, V6.to_owned(), 3)];
        assert_eq!(vips(&picture, &links), expected);
    }

    #[test]
    fn an_interface_answers_as_told_or_by_default() {
        let mut told = (*announced(&[(V4, "eth0"), (V4, "eth1")])).clone();
        told.answering.insert("eth1".to_owned(), Answering::Userspace);
        let mut picture = Picture::default();
        picture.replace(Arc::new(told));
        let links = links(&[link("eth0", 2), link("eth1", 3)]);
        let answering: Vec<_> = wanted(&picture, &links, Answering::Datapath)
            .into_values()
            .map(|wanted| wanted.answering)
            .collect();
        assert_eq!(answering, [Answering::Datapath, Answering::Userspace]);
    }
}
