//! Edge: the machine's network interfaces and their addresses, watched by netlink.
//!
//! An event is only a reason to look: every change is followed by a complete dump, so a lost event
//! (ENOBUFS), a partial one (wireless drivers send RTM_NEWLINK with two attributes) or one of the
//! bridge family (RTM_DELLINK there means "left the bridge") cannot leave a wrong picture behind.
//! Must never return before the first picture is complete. What is in a picture is read off
//! messages by the pure functions at the end of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::Error;
use crate::wire::MacAddr;

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name, like `eth0`.
    pub name: String,
    /// Its index; a new one when the interface is made anew.
    pub index: u32,
    /// Its Ethernet address, if it is an Ethernet device.
    pub mac: Option<MacAddr>,
    /// The administrator wants it up.
    pub up: bool,
    /// There is a link to the other end. Never while the interface is down.
    pub carrier: bool,
    /// Largest packet in octets.
    pub mtu: u32,
    /// The loopback interface.
    pub is_loopback: bool,
    /// It belongs to a bridge, a bond or the like, and does not receive for itself.
    pub is_enslaved: bool,
    /// ARP is switched off on it.
    pub no_arp: bool,
    /// Its own addresses with their subnets, in order.
    pub addresses: Vec<IpNetwork>,
}

impl Link {
    /// An Ethernet interface that is up, with a carrier and the usual MTU, and no addresses.
    pub fn ethernet(name: impl Into<String>, index: u32, mac: MacAddr) -> Self {
        Self {
            name: name.into(),
            index,
            mac: Some(mac),
            up: true,
            carrier: true,
            mtu: 1500,
            is_loopback: false,
            is_enslaved: false,
            no_arp: false,
            addresses: Vec::new(),
        }
    }
}

/// All network interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The interfaces by name.
    pub by_name: BTreeMap<String, Link>,
}

impl Links {
    /// The interface that has the address.
    pub fn with_address(&self, ip: IpAddr) -> Option<&Link> {
        self.by_name.values().find(|link| link.addresses.iter().any(|own| own.ip() == ip))
    }

    /// The interfaces with a subnet that contains the address, by name.
    pub fn with_subnet_of(&self, ip: IpAddr) -> impl Iterator<Item = &Link> {
        self.by_name.values().filter(move |link| link.addresses.iter().any(|own| own.contains(ip)))
    }
}

/// Starts the watch. The receiver holds a complete picture from the start; the task ends only with
/// an error, or when every receiver is gone.
///
/// # Errors
/// The kernel refuses the sockets or the first dump.
pub async fn watch() -> Result<(watch::Receiver<Arc<Links>>, JoinHandle<Result<(), Error>>), Error>
{
    // Events first, so that nothing changes unseen between the dump and them. Two sockets: a flood
    // of events must not make the answers to our own questions overflow.
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (listening, _, events) =
        rtnetlink::new_multicast_connection(&groups).map_err(Error::OpenNetlink)?;
    let (asking, handle, _) = rtnetlink::new_connection().map_err(Error::OpenNetlink)?;
    let mut connections = JoinSet::new();
    connections.spawn(listening);
    connections.spawn(asking);
    let first = dump(&handle).await?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    Ok((receiver, tokio::spawn(follow(sender, handle, events, connections))))
}

async fn follow(
    sender: watch::Sender<Arc<Links>>,
    handle: Handle,
    mut events: impl futures_util::Stream<Item = Event> + Unpin,
    mut connections: JoinSet<()>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            event = events.next() => {
                if event.is_none() {
                    return Err(Error::NetlinkEnded);
                }
            }
            _ = connections.join_next() => return Err(Error::NetlinkEnded),
        }
        // One dump answers all events that are already here.
        while let Some(event) = futures_util::FutureExt::now_or_never(events.next()) {
            if event.is_none() {
                return Err(Error::NetlinkEnded);
            }
        }
        let links = dump(&handle).await?;
        sender.send_if_modified(|current| {
            let changed = **current != links;
            if changed {
                *current = Arc::new(links);
            }
            changed
        });
    }
}

type Event = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

async fn dump(handle: &Handle) -> Result<Links, Error> {
    let failed = |what| move |source| Error::List { what, source };
    let links: Vec<_> =
        handle.link().get().execute().try_collect().await.map_err(failed("links"))?;
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.map_err(failed("addresses"))?;
    Ok(picture(&links, &addresses))
}

fn picture(links: &[LinkMessage], addresses: &[AddressMessage]) -> Links {
    let mut by_index: BTreeMap<u32, Link> =
        links.iter().filter_map(link).map(|link| (link.index, link)).collect();
    for message in addresses {
        // An address of an interface that was gone by the time of the dump of links belongs to
        // nobody; the event of its removal is on its way.
        if let Some(link) = by_index.get_mut(&message.header.index)
            && let Some(address) = address(message)
        {
            link.addresses.push(address);
        }
    }
    let mut by_name = BTreeMap::new();
    for mut link in by_index.into_values() {
        link.addresses.sort();
        by_name.insert(link.name.clone(), link);
    }
    Links { by_name }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut name = None;
    let mut mac = None;
    let mut mtu = 0;
    let mut is_enslaved = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(octets) if is_ethernet => {
                mac = octets.as_slice().try_into().ok().map(MacAddr);
            }
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::Controller(index) => is_enslaved = *index != 0,
            _ => {}
        }
    }
    Some(Link {
        name: name?,
        index: message.header.index,
        mac,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mtu,
        is_loopback: flags.contains(LinkFlags::Loopback),
        is_enslaved,
        no_arp: flags.contains(LinkFlags::Noarp),
        addresses: Vec::new(),
    })
}

/// On a point-to-point link IFA_ADDRESS is the other end's and IFA_LOCAL our own; IPv6 has only
/// the former otherwise (linux/if_addr.h).
fn address(message: &AddressMessage) -> Option<IpNetwork> {
    let mut local = None;
    let mut other = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            _ => {}
        }
    }
    IpNetwork::new(local.or(other)?, message.header.prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(index: u32, name: &str, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
            LinkAttribute::Mtu(1500),
        ];
        message
    }

    fn own(index: u32, attributes: Vec<AddressAttribute>, prefix: u8) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message.attributes = attributes;
        message
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_a_link_with_its_addresses() {
        let mut port = ethernet(2, "eth0", LinkFlags::Up | LinkFlags::LowerUp);
        port.attributes.push(LinkAttribute::Controller(7));
        let addresses = [
            own(2, vec![AddressAttribute::Address(ip("fd00:1::11"))], 64),
            own(2, vec![AddressAttribute::Local(ip("192.168.1.11"))], 24),
            own(9, vec![AddressAttribute::Local(ip("192.168.9.9"))], 24),
        ];
        let expected = Link {
            name: "eth0".to_owned(),
            index: 2,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 2])),
            up: true,
            carrier: true,
            mtu: 1500,
            is_loopback: false,
            is_enslaved: true,
            no_arp: false,
            addresses: vec!["192.168.1.11/24".parse().unwrap(), "fd00:1::11/64".parse().unwrap()],
        };
        let links = picture(&[port], &addresses);
        assert_eq!(links.by_name.into_values().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn own_end_of_a_point_to_point_link_is_the_local_address() {
        let both = vec![
            AddressAttribute::Address(ip("10.0.0.2")),
            AddressAttribute::Local(ip("10.0.0.1")),
        ];
        let links = picture(&[ethernet(2, "ppp0", LinkFlags::Up)], &[own(2, both, 32)]);
        assert!(links.with_address(ip("10.0.0.1")).is_some());
        assert!(links.with_address(ip("10.0.0.2")).is_none());
    }

    #[test]
    fn finds_links_by_address_and_by_subnet() {
        let links = picture(
            &[ethernet(2, "eth0", LinkFlags::Up), ethernet(3, "eth1", LinkFlags::Up)],
            &[
                own(2, vec![AddressAttribute::Local(ip("192.168.1.11"))], 24),
                own(3, vec![AddressAttribute::Local(ip("192.168.2.11"))], 24),
            ],
        );
        let names =
            |at: &str| links.with_subnet_of(ip(at)).map(|l| l.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names("192.168.2.240"), ["eth1"]);
        assert_eq!(names("192.168.3.240"), Vec::<&str>::new());
        assert_eq!(links.with_address(ip("192.168.1.11")).map(|l| l.index), Some(2));
    }

    #[test]
    fn an_infiniband_address_is_no_mac() {
        let mut message = ethernet(2, "ib0", LinkFlags::Up);
        message.header.link_layer_type = LinkLayerType::Infiniband;
        message.attributes.push(LinkAttribute::Address(vec![0; 20]));
        assert_eq!(picture(&[message], &[]).by_name["ib0"].mac, None);
    }
}
