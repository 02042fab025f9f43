//! Herald's programs in the kernel: `herald_xdp` on each announced interface's ingress and
//! `herald_egress` on its tc egress. Compiled for `bpfel-unknown-none`; loaded by `herald-ebpf`.
//!
//! The path of a packet: [`usual`] handles most of them in a few steps; [`ingress`] tells the
//! others apart; [`neighbour`] answers ARP and neighbour solicitations for held VIPs; [`forward`]
//! sends a request to a pod's node or to a pod here, as [`choose`] says; [`icmp`] does so for
//! errors and answers echo requests; [`fence`] keeps this node from claiming what it does not
//! hold; [`egress`] gives the pod's reply the VIP as its source, [`unusual`] one that leaves behind
//! tags or extension headers, and [`quote`] the errors about requests to it; [`sample`] tells
//! userspace of a few packets what became of them.
//!
//! These programs must never answer for a VIP past its deadline, never forward a frame twice,
//! and pass on to the stack whatever they do not understand.

#![no_std]
#![no_main]

mod choose;
mod deliver;
mod egress;
mod fence;
mod forward;
mod icmp;
mod ingress;
mod maps;
mod neighbour;
mod packet;
mod quote;
mod reject;
mod sample;
mod sctp;
mod unusual;
mod usual;

use aya_ebpf::bindings::{TC_ACT_PIPE, TC_ACT_SHOT};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

#[xdp]
fn herald_xdp(ctx: XdpContext) -> u32 {
    let number = match usual::usual(&ctx) {
        Some(verdict) => verdict.number(),
        None => ingress::ingress(&ctx),
    };
    let reason = number as u32;
    if maps::count_number(reason) {
        sample::sample(&ctx, reason);
    }
    (number >> 32) as u32
}

#[classifier]
fn herald_egress(ctx: TcContext) -> i32 {
    if let Some(reason) = fence::fence(&ctx) {
        maps::count(reason);
        return TC_ACT_SHOT;
    }
    let mut number = egress::restore(&ctx);
    if number >> 32 == egress::UNUSUAL {
        number = unusual::unusual(&ctx);
    }
    if number >> 32 == egress::UNTOUCHED {
        return TC_ACT_PIPE;
    }
    // What leaves is not sampled.
    let _ = maps::count_number(number as u32);
    match number >> 32 {
        egress::FAILED => TC_ACT_SHOT,
        _ => TC_ACT_PIPE,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // No code path panics: the verifier would refuse an endless loop that can be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
