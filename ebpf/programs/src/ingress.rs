//! From what a packet is to the part that handles it. Must stay cheap for packets that are not
//! for a VIP: they are most of a node's traffic. What it is, `herald_ebpf_common::parse` tells.

use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::parse::{self, Transport, Ways};
use herald_ebpf_common::{FragmentKey, Reason};

use crate::choose::Asked;
use crate::forward::{self, Request};
use crate::packet::{InPlace, Verdict, pass};
use crate::{icmp, neighbour, sctp};

/// What becomes of any packet, as [`Verdict::number`] has it.
///
/// A function of its own, so that its stack is not the usual packet's too; it returns a number
/// because the verifier refuses what a function that returns nothing leaves in its register.
#[inline(never)]
pub fn ingress(ctx: &XdpContext) -> u64 {
    let verdict = parse::walk(&InPlace(ctx), InPlace(ctx));
    if verdict.is_unfinished {
        // It was seen that there is room for it.
        let _ = sctp::finish(ctx);
    }
    verdict.number()
}

impl Ways for InPlace<'_> {
    type Verdict = Verdict;

    #[inline(always)]
    fn pass(self, reason: Reason) -> Verdict {
        pass(reason)
    }

    #[inline(always)]
    fn arp(self) -> Verdict {
        neighbour::arp(self.0)
    }

    #[inline(always)]
    fn request(self, transport: &Transport) -> Verdict {
        let Transport { key, client, client_port_be, l3, l4, is_v4, pieces } = *transport;
        let asked = Asked { key, client, client_port_be };
        forward::request(self.0, &Request { asked, l3, l4, is_v4, pieces })
    }

    #[inline(always)]
    fn later_fragment(self, l3: usize, is_v4: bool, key: &FragmentKey) -> Verdict {
        forward::follow(self.0, l3, is_v4, key)
    }

    #[inline(always)]
    fn icmp(self, l3: usize, l4: usize) -> Verdict {
        icmp::v4(self.0, l3, l4)
    }

    #[inline(always)]
    fn icmpv6(self, l3: usize, l4: usize) -> Verdict {
        icmp::v6(self.0, l3, l4)
    }

    #[inline(always)]
    fn solicitation(self) -> Verdict {
        neighbour::icmpv6(self.0)
    }
}
