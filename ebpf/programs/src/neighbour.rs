//! Answers for held VIPs, in place: ARP (RFC 826, RFC 5227) and neighbour solicitations
//! (RFC 4861 7.2). The announcer's userspace responder gives byte for byte the same answers.
//!
//! The fence stands here: an answer leaves only before the VIP's and the session's deadline, on
//! the kernel's own boot clock, so that a frozen speaker falls silent in time.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_ktime_get_boot_ns, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::checksum::fold;
use herald_ebpf_common::{Address, Mac, Reason, VipKey, mapped, protocol};

use crate::maps::{self, LINKS, SESSION, VIPS};
use crate::packet::{
    BROADCAST, ETH_IPV4_BE, ETH_LEN, Ethernet, Ipv6, VERSION_6_BE, Verdict, at, drop, is_host,
    mac_number, pass, read, set_mac, set_mac_number, transmit,
};

/// An ARP packet for IPv4 over Ethernet (RFC 826). Addresses in halves: they are not aligned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arp {
    hardware_be: u16,
    protocol_be: u16,
    lengths_be: u16,
    operation_be: u16,
    sender_mac: Mac,
    pub sender_ip: [u16; 2],
    target_mac: Mac,
    target_ip: [u16; 2],
}

const HARDWARE_ETHERNET_BE: u16 = 1_u16.to_be();
/// Hardware addresses of 6 bytes, protocol addresses of 4.
const LENGTHS_BE: u16 = 0x0604_u16.to_be();
const REQUEST_BE: u16 = 1_u16.to_be();
const REPLY_BE: u16 = 2_u16.to_be();

/// A neighbour solicitation or advertisement up to its options (RFC 4861 4.3, 4.4).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Neighbour {
    pub kind: u8,
    code: u8,
    checksum: u16,
    flags_be: u32,
    pub target: Address,
}

/// A link-layer address option (RFC 4861 4.6.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkLayerOption {
    kind: u8,
    length: u8,
    mac: Mac,
}

pub use herald_ebpf_common::parse::SOLICITATION;
pub const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Octets of a solicitation without options.
const BARE: usize = size_of::<Neighbour>();
/// Octets of a solicitation or advertisement with one link-layer address.
const WITH_OPTION: usize = BARE + size_of::<LinkLayerOption>();
/// Options looked at, in units of 8 octets; a longer solicitation goes to the stack.
const OPTION_UNITS: usize = 4;
const SOLICITED_BE: u32 = 0x4000_0000_u32.to_be();
const OVERRIDE_BE: u32 = 0x2000_0000_u32.to_be();
/// ff02::1, all nodes.
const ALL_NODES: Address = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];
/// The Ethernet address of ff02::1 (RFC 2464 7).
const ALL_NODES_MAC: Mac = [0x3333_u16.to_be(), 0x0000, 0x0001_u16.to_be()];

/// Whether this node may speak for a VIP on an interface.
pub enum Voice {
    NotOurs,
    Silent,
    Speaks,
}

#[inline(always)]
pub fn voice(address: Address, ifindex: u32) -> Voice {
    let Some(vip) = maps::lookup(&VIPS, &VipKey { address, ifindex }) else {
        return Voice::NotOurs;
    };
    match is_before(vip.valid_until) {
        true => Voice::Speaks,
        false => Voice::Silent,
    }
}

/// Whether neither a VIP's deadline nor the session's has passed.
#[inline(always)]
pub fn is_before(valid_until: u64) -> bool {
    let session = SESSION.get(0).copied().unwrap_or(0);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    now < valid_until && now < session
}

#[inline(always)]
pub fn arp(ctx: &XdpContext) -> Verdict {
    let (Some(ethernet), Some(arp)) = (at::<Ethernet>(ctx, 0), at::<Arp>(ctx, ETH_LEN)) else {
        return pass(Reason::Truncated);
    };
    // SAFETY: both lie within the packet, see `at`, and do not overlap.
    let (ethernet, arp) = unsafe { (&mut *ethernet, &mut *arp) };
    let is_request = arp.hardware_be == HARDWARE_ETHERNET_BE
        && arp.protocol_be == ETH_IPV4_BE
        && arp.lengths_be == LENGTHS_BE
        && arp.operation_be == REQUEST_BE;
    // Sender and target alike: an announcement (RFC 5227 2.3), which nobody answers.
    let is_asker =
        is_station(&arp.sender_mac) && !is_group(&ethernet.source) && is_host(word(arp.sender_ip));
    if !is_request || arp.sender_ip == arp.target_ip || !is_asker {
        return pass(Reason::ArpPassed);
    }
    let ifindex = ctx.ingress_ifindex() as u32;
    let Some(own) = maps::lookup(&LINKS, &ifindex) else {
        return pass(Reason::ArpPassed);
    };
    if ethernet.destination != BROADCAST && ethernet.destination != own.mac {
        return pass(Reason::ArpPassed);
    }
    let target = word(arp.target_ip);
    match voice(mapped(target), ifindex) {
        Voice::NotOurs => return pass(Reason::ArpPassed),
        Voice::Silent => return drop(Reason::ArpExpired),
        Voice::Speaks => {}
    }
    set_mac(&mut ethernet.destination, &arp.sender_mac);
    set_mac(&mut ethernet.source, &own.mac);
    arp.operation_be = REPLY_BE;
    set_mac(&mut arp.target_mac, &arp.sender_mac);
    set_mac(&mut arp.sender_mac, &own.mac);
    core::mem::swap(&mut arp.sender_ip, &mut arp.target_ip);
    transmit(Reason::ArpAnswered)
}

/// A 32-bit word from its two halves, in the order they lie in memory.
#[inline(always)]
pub fn word(halves: [u16; 2]) -> u32 {
    u32::from(halves[0]) | u32::from(halves[1]) << 16
}

/// The group bit of an Ethernet address: the lowest bit of its first octet.
#[inline(always)]
pub fn is_group(mac: &Mac) -> bool {
    mac[0] & 1_u16.to_le() != 0
}

/// One machine's MAC: no group's, and not zero.
#[inline(always)]
fn is_station(mac: &Mac) -> bool {
    !is_group(mac) && mac[0] | mac[1] | mac[2] != 0
}

/// A solicitation that RFC 4861 7.1.1 lets through.
struct Solicitation {
    /// Who asks; zeros while it tests the address for itself (RFC 4862 5.4).
    asker: Address,
    /// As `mac_number` has it.
    asker_mac: u64,
    target: Address,
}

#[inline(always)]
pub fn icmpv6(ctx: &XdpContext) -> Verdict {
    let Some(header) = read::<Neighbour>(ctx, ETH_LEN + size_of::<Ipv6>()) else {
        return pass(Reason::NotForVip);
    };
    if header.kind != SOLICITATION {
        return pass(Reason::NotForVip);
    }
    let ifindex = ctx.ingress_ifindex() as u32;
    match voice(header.target, ifindex) {
        Voice::NotOurs => return pass(Reason::NsPassed),
        Voice::Silent => return drop(Reason::NsExpired),
        Voice::Speaks => {}
    }
    let Some(own) = maps::lookup(&LINKS, &ifindex) else {
        return pass(Reason::NsPassed);
    };
    match solicitation(ctx, &own.mac).and_then(|asked| advertise(ctx, &asked, &own.mac)) {
        Some(()) => transmit(Reason::NsAnswered),
        None => pass(Reason::NsPassed),
    }
}

#[inline(always)]
fn solicitation(ctx: &XdpContext, own: &Mac) -> Option<Solicitation> {
    let ethernet = read::<Ethernet>(ctx, 0)?;
    let ip = read::<Ipv6>(ctx, ETH_LEN)?;
    let start = ETH_LEN + size_of::<Ipv6>();
    let header = read::<Neighbour>(ctx, start)?;
    let length = u16::from_be(ip.payload_length_be) as usize;
    let is_unspecified = ip.source == [0; 4];
    let low_24 = header.target[3] & 0x00ff_ffff_u32.to_be();
    // ff02::1:ffXX:XXXX (RFC 4291 2.7.1).
    let group = [0xff02_0000_u32.to_be(), 0, 1_u32.to_be(), 0xff00_0000_u32.to_be() | low_24];
    let to_group = ip.destination == group;
    // 33:33 and the group's last four octets (RFC 2464 7).
    let group_mac = [0x3333_u16.to_be(), group[3] as u16, (group[3] >> 16) as u16];
    let to_us = ethernet.destination == *own;
    let valid = ip.hop_limit == 255
        && header.code == 0
        // A group's packet in a unicast frame is legal (RFC 6085): access points convert it so.
        && (to_group && (to_us || ethernet.destination == group_mac)
            || ip.destination == header.target && to_us)
        && (!is_unspecified || to_group)
        && !is_group(&ethernet.source)
        && ip.source[0] & 0xff00_0000_u32.to_be() != 0xff00_0000_u32.to_be()
        && header.target[0] & 0xff00_0000_u32.to_be() != 0xff00_0000_u32.to_be();
    if !valid || length < BARE || length % 8 != 0 || length > BARE + 8 * OPTION_UNITS {
        return None;
    }
    let mut sum = pseudo_header(ip, length);
    let mut asker_mac = mac_number(&ethernet.source);
    let body = at::<[u32; BARE / 4]>(ctx, start)?;
    // SAFETY: a helper on this program's packet with its checked length.
    sum += unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, body.cast(), BARE as u32, 0) } as u64;
    // The unit at which the next option begins.
    let mut next = 0;
    for unit in 0..OPTION_UNITS {
        let offset = BARE + unit * 8;
        if offset >= length {
            break;
        }
        let option = read::<LinkLayerOption>(ctx, start + offset)?;
        let words = read::<[u32; 2]>(ctx, start + offset)?;
        sum += u64::from(words[0]) + u64::from(words[1]);
        if unit == next {
            if option.length == 0 {
                return None;
            }
            if option.kind == SOURCE_LINK_LAYER {
                if is_unspecified || option.length != 1 || !is_station(&option.mac) {
                    return None;
                }
                asker_mac = mac_number(&option.mac);
            }
            next += option.length as usize;
        }
    }
    let units = (length - BARE) / 8;
    // All ones: the sum over a correct checksum (RFC 1071 1).
    if next != units || fold(sum) != 0xffff {
        return None;
    }
    Some(Solicitation { asker: ip.source, asker_mac, target: header.target })
}

#[inline(always)]
fn advertise(ctx: &XdpContext, asked: &Solicitation, own: &Mac) -> Option<()> {
    let want = ETH_LEN + size_of::<Ipv6>() + WITH_OPTION;
    let change = want as i64 - (ctx.data_end() - ctx.data()) as i64;
    // SAFETY: a helper on this program's own context; every pointer is taken anew after it.
    if change != 0 && unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), change as i32) } != 0 {
        return None;
    }
    let ethernet = at::<Ethernet>(ctx, 0)?;
    let ip = at::<Ipv6>(ctx, ETH_LEN)?;
    let header = at::<Neighbour>(ctx, ETH_LEN + size_of::<Ipv6>())?;
    let option = at::<LinkLayerOption>(ctx, ETH_LEN + size_of::<Ipv6>() + BARE)?;
    // SAFETY: all four lie within the packet, see `at`, and do not overlap.
    let (ethernet, ip, header, option) =
        unsafe { (&mut *ethernet, &mut *ip, &mut *header, &mut *option) };
    // One who tests the address is told with everybody else (RFC 4861 7.2.4).
    let is_test = asked.asker == [0; 4];
    let asker_mac = if is_test { mac_number(&ALL_NODES_MAC) } else { asked.asker_mac };
    set_mac_number(&mut ethernet.destination, asker_mac);
    set_mac(&mut ethernet.source, own);
    ip.version_class_flow_be = VERSION_6_BE;
    ip.payload_length_be = (WITH_OPTION as u16).to_be();
    ip.hop_limit = 255;
    ip.source = asked.target;
    ip.destination = if is_test { ALL_NODES } else { asked.asker };
    header.kind = ADVERTISEMENT;
    header.code = 0;
    header.checksum = 0;
    header.flags_be = if is_test { OVERRIDE_BE } else { SOLICITED_BE | OVERRIDE_BE };
    header.target = asked.target;
    option.kind = TARGET_LINK_LAYER;
    option.length = 1;
    set_mac(&mut option.mac, own);
    let mut sum = pseudo_header(ip, WITH_OPTION);
    let body = at::<[u32; WITH_OPTION / 4]>(ctx, ETH_LEN + size_of::<Ipv6>())?;
    // SAFETY: a helper on this program's packet with its checked length.
    sum += unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, body.cast(), WITH_OPTION as u32, 0) }
        as u64;
    header.checksum = !fold(sum);
    Some(())
}

/// The sum of the pseudo-header (RFC 8200 8.1) of an ICMPv6 message of `length` octets.
#[inline(always)]
pub fn pseudo_header(ip: &Ipv6, length: usize) -> u64 {
    let mut sum =
        u64::from((length as u32).to_be()) + u64::from(u32::from(protocol::ICMPV6).to_be());
    sum += u64::from(ip.source[0]) + u64::from(ip.source[1]);
    sum += u64::from(ip.source[2]) + u64::from(ip.source[3]);
    sum += u64::from(ip.destination[0]) + u64::from(ip.destination[1]);
    sum + u64::from(ip.destination[2]) + u64::from(ip.destination[3])
}
