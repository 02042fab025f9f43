//! The fence on the way out: a frame that would tell the neighbourhood "this VIP is here" leaves
//! only while this node holds the VIP and its deadline has not passed, whoever sent the frame: a
//! frozen announcer's late burst, or the kernel itself because kube-proxy's IPVS mode bound the
//! address to an interface of its own.
//!
//! A frame speaks for the address that its receivers learn from it: an ARP packet for its
//! sender's, a neighbour advertisement for its target, a neighbour solicitation for its source.
//! Questions from nobody's address (ARP probes, duplicate address detection) speak for none.
//!
//! Must never stop a frame that speaks for an address that is no VIP. The same question on the
//! way in is asked by [`crate::neighbour`].

use aya_ebpf::programs::TcContext;
use herald_ebpf_common::{Address, Reason, VipKey, mapped, protocol};

use crate::maps::{self, FENCED, VIPS};
use crate::neighbour::{ADVERTISEMENT, Arp, Neighbour, SOLICITATION, is_before, word};
use crate::packet::{
    ETH_ARP_BE, ETH_IPV4_BE, ETH_IPV6_BE, ETH_LEN, Ethernet, Ipv6, TAG_LEN, Tag, is_tag, tc_read,
    words,
};

/// Octets that must be linear for the longest frame this file reads.
const PULL: u32 = (ETH_LEN + 2 * TAG_LEN + size_of::<Ipv6>() + size_of::<Neighbour>()) as u32;

/// Why a frame must not leave, counted for its interface; `None` lets it go on.
#[inline(always)]
pub fn fence(ctx: &TcContext) -> Option<Reason> {
    let reason = refusal(ctx)?;
    maps::count_held_back(ifindex(ctx), reason);
    Some(reason)
}

#[inline(always)]
fn refusal(ctx: &TcContext) -> Option<Reason> {
    let ethernet = tc_read::<Ethernet>(ctx, 0)?;
    // SAFETY: the context is valid for the whole run of the program.
    let offloaded = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    match ethernet.ether_type_be {
        // The usual frame costs no more than this.
        ETH_IPV4_BE => None,
        ETH_ARP_BE | ETH_IPV6_BE => judge(ctx, ETH_LEN, ethernet.ether_type_be, offloaded),
        other if is_tag(other) => {
            let outer = tc_read::<Tag>(ctx, ETH_LEN)?;
            if !is_tag(outer.ether_type_be) {
                return judge(ctx, ETH_LEN + TAG_LEN, outer.ether_type_be, true);
            }
            let inner = tc_read::<Tag>(ctx, ETH_LEN + TAG_LEN)?;
            judge(ctx, ETH_LEN + 2 * TAG_LEN, inner.ether_type_be, true)
        }
        _ => None,
    }
}

#[inline(always)]
fn judge(ctx: &TcContext, l3: usize, ether_type_be: u16, is_tagged: bool) -> Option<Reason> {
    match ether_type_be {
        ETH_ARP_BE => {
            if ctx.data() + l3 + size_of::<Arp>() > ctx.data_end() {
                let _ = ctx.pull_data(PULL.min(ctx.len()));
            }
            // The sender's address is what neighbours learn, in requests and replies alike
            // (RFC 826; an announcement is either, RFC 5227 3).
            let arp = tc_read::<Arp>(ctx, l3)?;
            let speaks_for = mapped(word(arp.sender_ip));
            must_be_silent(ctx, speaks_for, is_tagged).then_some(Reason::FenceDroppedArp)
        }
        ETH_IPV6_BE => {
            let ip = tc_read::<Ipv6>(ctx, l3)?;
            if ip.next_header != protocol::ICMPV6 {
                return None;
            }
            if ctx.data() + l3 + size_of::<Ipv6>() + size_of::<Neighbour>() > ctx.data_end() {
                let _ = ctx.pull_data(PULL.min(ctx.len()));
            }
            let header = tc_read::<Neighbour>(ctx, l3 + size_of::<Ipv6>())?;
            let (speaks_for, reason) = match header.kind {
                ADVERTISEMENT => (header.target, Reason::FenceDroppedNa),
                // Who is asked learns the asker's address (RFC 4861 7.2.3). That of duplicate
                // address detection is unspecified (RFC 4862 5.4.2), which is no VIP.
                SOLICITATION => (words(&tc_read::<Ipv6>(ctx, l3)?.source), Reason::FenceDroppedNs),
                _ => return None,
            };
            must_be_silent(ctx, speaks_for, is_tagged).then_some(reason)
        }
        _ => None,
    }
}

/// Whether the address is a VIP that this node must be silent for.
#[inline(always)]
fn must_be_silent(ctx: &TcContext, address: Address, is_tagged: bool) -> bool {
    let Some(anywhere) = maps::lookup(&FENCED, &address) else {
        return false;
    };
    if is_tagged {
        // On the parent of the VLAN's interface, whose index is not the one the VIP is held on.
        return !is_before(anywhere.valid_until);
    }
    let held = maps::lookup(&VIPS, &VipKey { address, ifindex: ifindex(ctx) });
    !held.is_some_and(|held| is_before(held.valid_until))
}

/// The interface the frame leaves by.
#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole run of the program.
    unsafe { (*ctx.skb.skb).ifindex }
}
