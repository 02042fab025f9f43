//! Keys and values of the maps. A change here is a change of the pinned format: raise
//! [`PIN_FORMAT`], so that a new speaker does not adopt maps it would misread.

use core::net::{IpAddr, Ipv6Addr};

/// Names the format of everything pinned; part of the pin directory's path.
pub const PIN_FORMAT: &str = "v7";

/// Distinct backends on one node's tables: what a `u16` can name, without
/// [`PREVIOUS_IS_CURRENT`](crate::service::PREVIOUS_IS_CURRENT).
pub const BACKENDS: u32 = 65_535;

/// `VipState::valid_until` of a VIP that is spoken for as long as the session lasts.
pub const WHILE_SESSION: u64 = u64::MAX;

/// IP protocol numbers (IANA), as the `protocol` fields hold them.
pub mod protocol {
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
}

/// An address as four words in network order; IPv4 in the mapped form `::ffff:a.b.c.d`
/// (RFC 4291 2.5.5.2), so that both families share one map.
pub type Address = [u32; 4];

/// The third word of an IPv4-mapped address.
pub const V4_MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// An IPv4 address (network order) in the common form.
#[inline(always)]
pub const fn mapped(v4_be: u32) -> Address {
    [0, 0, V4_MAPPED, v4_be]
}

/// Whether an address is an IPv4 address in the common form.
#[inline(always)]
pub const fn is_mapped(address: &Address) -> bool {
    address[2] == V4_MAPPED && address[0] | address[1] == 0
}

/// The common form of any address.
pub const fn address(ip: IpAddr) -> Address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        words[i] = u32::from_ne_bytes([
            octets[4 * i],
            octets[4 * i + 1],
            octets[4 * i + 2],
            octets[4 * i + 3],
        ]);
        i += 1;
    }
    words
}

/// The address that a common form stands for.
pub fn ip(address: &Address) -> IpAddr {
    let octets = address.map(u32::to_ne_bytes);
    Ipv6Addr::from_octets(core::array::from_fn(|i| octets[i / 4][i % 4])).to_canonical()
}

/// A MAC address as three words, so that it moves as words and not as bytes.
pub type Mac = [u16; 3];

/// The word form of six octets.
pub const fn mac(octets: [u8; 6]) -> Mac {
    [
        u16::from_ne_bytes([octets[0], octets[1]]),
        u16::from_ne_bytes([octets[2], octets[3]]),
        u16::from_ne_bytes([octets[4], octets[5]]),
    ]
}

/// Key of the map `VIPS`: a VIP on one interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// The VIP.
    pub address: Address,
    /// Index of the interface it is announced on.
    pub ifindex: u32,
}

/// Value of the maps `VIPS` and `FENCED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipState {
    /// Boot-time nanoseconds until which the VIP is spoken for, or [`WHILE_SESSION`]. The
    /// session's own deadline (map `SESSION`) bounds it in any case.
    pub valid_until: u64,
}

/// Key of the map `HELD_BACK`: what the fence stopped, and where.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeldBackKey {
    /// Index of the interface the frame would have left by.
    pub ifindex: u32,
    /// The number of its `Reason`.
    pub reason: u32,
}

/// Value of the map `LINKS`, keyed by interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface's own MAC.
    pub mac: Mac,
    /// No meaning; keeps the size explicit.
    pub reserved: u16,
}

/// Our interfaces that [`Node`] has room for.
pub const NODE_LINKS: usize = 64;
/// Bits of [`Node::peers`].
pub const PEER_BITS: u32 = 2048;

/// The one value of the array `NODE`: the maps `LINKS` and `PEERS` in a form that takes no hash
/// look-up, for the usual packet. What it does not answer, those maps do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// By the low bits of the interface's index; another interface may be in the place.
    pub links: [NodeLink; NODE_LINKS],
    /// A Bloom filter of one hash: a MAC whose bit ([`peer_bit`]) is not set is no peer's.
    pub peers: [u64; PEER_BITS as usize / 64],
}

/// An entry of [`Node::links`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLink {
    /// The interface's own MAC, see [`mac_number`].
    pub mac: u64,
    /// The interface; 0 is none.
    pub ifindex: u32,
    /// No meaning; keeps the size explicit.
    pub reserved: u32,
}

/// A MAC as one number: its octets as they lie in a packet, the first lowest.
#[inline(always)]
pub const fn mac_number(mac: &Mac) -> u64 {
    mac[0] as u64 | (mac[1] as u64) << 16 | (mac[2] as u64) << 32
}

/// The bit of a peer's MAC in [`Node::peers`].
#[inline(always)]
pub const fn peer_bit(mac: u64) -> u32 {
    crate::flow::fmix32(mac as u32 ^ (mac >> 16) as u32) & (PEER_BITS - 1)
}

/// Key of the map `PEERS`: the MAC another speaker forwards with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The peer's MAC.
    pub mac: Mac,
    /// No meaning; keeps the size explicit.
    pub reserved: u16,
}

/// Value of the map `PEERS`: the peer's own addresses. A frame from a peer's MAC is final unless
/// the peer itself is the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's IPv4 address in the common form, or zeros.
    pub v4: Address,
    /// The peer's IPv6 address, or zeros.
    pub v6: Address,
}

/// Key of the map `SOURCES`, a longest-prefix-match trie (`struct bpf_lpm_trie_key`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    /// How many bits of what follows count: at least the 32 of `list`.
    pub prefix_bits: u32,
    /// `ServiceTable::sources`.
    pub list: u32,
    /// A network's address.
    pub address: Address,
}

/// `SourceKey::list` of the networks whose clients speak to pods under the pods' own addresses.
pub const DIRECT: u32 = u32::MAX;

/// Bits of a [`SourceKey`] that a whole address makes.
pub const WHOLE_SOURCE: u32 = 32 + 128;

/// `Backend::flags`: the pod lives on this node.
pub const IS_LOCAL: u32 = 1;
/// `Backend::flags`: no service has it any more; flows that remember it choose again.
pub const IS_GONE: u32 = 2;

/// Value of the array `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The pod's address.
    pub address: Address,
    /// MAC of the pod's node on the LAN.
    pub node_mac: Mac,
    /// The pod's port.
    pub port_be: u16,
    /// [`IS_LOCAL`], [`IS_GONE`].
    pub flags: u32,
    /// Tells the backend from the next one of its index.
    pub identity: u32,
}

/// Key of the maps `FLOWS` and `OPENING`: a flow of a dirty slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The VIP.
    pub vip: Address,
    /// The client's address.
    pub client: Address,
    /// The Service's port.
    pub port_be: u16,
    /// The client's port.
    pub client_port_be: u16,
    /// TCP, UDP or SCTP, see [`protocol`].
    pub protocol: u32,
}

/// A backend as a flow or a fragmented packet remembers it; values of `FLOWS`,
/// `OPENING` and `FRAGMENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// `Backend::identity` at the time.
    pub identity: u32,
}

/// Key of the map `FRAGMENTS`: a packet that arrives in pieces (RFC 791 3.2, RFC 8200 4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey {
    /// The VIP.
    pub vip: Address,
    /// The client's address.
    pub client: Address,
    /// The packet's identification, as it lies in it.
    pub identification: u32,
    /// Of an IPv4 packet: TCP, UDP or SCTP. See [`of_pieces`](crate::parse::of_pieces).
    pub protocol: u32,
}

/// Key of the map `REVERSE`: a flow as the pod's node sends its replies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReverseKey {
    /// The pod's address.
    pub pod: Address,
    /// The client's address.
    pub client: Address,
    /// The pod's port.
    pub pod_port_be: u16,
    /// The client's port.
    pub client_port_be: u16,
    /// TCP, UDP or SCTP, see [`protocol`].
    pub protocol: u32,
}

/// Key of the map `REVERSE4`: as [`ReverseKey`], over IPv4. The map holds a quarter of a million
/// flows, so a short key is also less memory to miss the cache on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReverseKey4 {
    addresses: u64,
    ports_and_protocol: u64,
}

impl ReverseKey4 {
    /// The key of a flow.
    #[inline(always)]
    pub const fn new(
        (pod, pod_port_be): (u32, u16),
        (client, client_port_be): (u32, u16),
        protocol: u8,
    ) -> Self {
        let ports = pod_port_be as u64 | (client_port_be as u64) << 16;
        Self {
            addresses: pod as u64 | (client as u64) << 32,
            ports_and_protocol: ports | (protocol as u64) << 32,
        }
    }
}

/// Value of the map `REVERSE4`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseValue4(u64);

impl ReverseValue4 {
    /// What the client knows the pod as.
    #[inline(always)]
    pub const fn new(vip: u32, port_be: u16) -> Self {
        Self(vip as u64 | (port_be as u64) << 32)
    }

    /// The VIP.
    #[inline(always)]
    pub const fn vip(self) -> u32 {
        self.0 as u32
    }

    /// The Service's port.
    #[inline(always)]
    pub const fn port_be(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// Value of the map `REVERSE`: what the client knows the pod as.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseValue {
    /// The VIP.
    pub vip: Address,
    /// The Service's port.
    pub port_be: u16,
    /// No meaning; keeps the size explicit.
    pub reserved: u16,
}

#[cfg(feature = "user")]
mod user {
    use super::{
        Backend, FlowKey, FragmentKey, HeldBackKey, Link, Node, Peer, PeerKey, Remembered,
        ReverseKey, ReverseKey4, ReverseValue, ReverseValue4, SourceKey, VipKey, VipState,
    };
    use crate::service::{ServiceKey, ServiceKey4, ServiceTable};

    macro_rules! plain {
        ($($name:ident)*) => {$(
            // SAFETY: `repr(C)` of integers without padding (asserted below): any bytes are valid.
            unsafe impl aya::Pod for $name {}
        )*};
    }
    plain!(VipKey VipState Link PeerKey Peer ServiceKey ServiceTable Backend);
    plain!(Node ServiceKey4 ReverseKey4 ReverseValue4);
    plain!(ReverseKey ReverseValue FlowKey FragmentKey Remembered SourceKey HeldBackKey);
}

// No struct has padding: its size is the sum of its fields.
const _: () = {
    assert!(size_of::<VipKey>() == 16 + 4);
    assert!(size_of::<HeldBackKey>() == 4 + 4);
    assert!(size_of::<Link>() == 8);
    assert!(size_of::<NodeLink>() == 16);
    assert!(size_of::<Node>() == 16 * NODE_LINKS + PEER_BITS as usize / 8);
    assert!(size_of::<ReverseKey4>() == 16);
    assert!(size_of::<ReverseValue4>() == 8);
    assert!(size_of::<PeerKey>() == 8);
    assert!(size_of::<Peer>() == 32);
    assert!(size_of::<SourceKey>() == 4 + 4 + 16);
    assert!(size_of::<FlowKey>() == 16 + 16 + 2 + 2 + 4);
    assert!(size_of::<FragmentKey>() == 16 + 16 + 4 + 4);
    assert!(size_of::<Remembered>() == 8);
    assert!(size_of::<Backend>() == 16 + 6 + 2 + 4 + 4);
    // The usual packet's MAC and port are read as one word.
    assert!(core::mem::offset_of!(Backend, node_mac) == 16);
    assert!(size_of::<ReverseKey>() == 16 + 16 + 2 + 2 + 4);
    assert!(size_of::<ReverseValue>() == 16 + 4);
};
