//! The benchmark's programs: a source that writes a fresh packet of a random flow and hands it to
//! the program under test, what the test is compared with, and the far ends of the wires of its
//! live part. No part of the product.
//!
//! `BPF_PROG_TEST_RUN` does not restore a packet between repetitions, so a program under test
//! would see its own work; hence the source. It reads no memory per flow: all cache misses are
//! those of the program under test.

#![no_std]
#![no_main]

use aya_ebpf::bindings::{TC_ACT_PIPE, xdp_action};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use herald_ebpf_common::bench::{BATCH, FLOOD, FRAME, Load, Shape, client};
use herald_ebpf_common::checksum::fold;

#[map]
static BENCH_LOAD: Array<Load> = Array::with_max_entries(1, 0);

/// How many packets this CPU has written.
#[map]
static BENCH_SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How many arrived at the far end.
#[map]
static BENCH_SEEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// When this CPU wrote the first and the last packet of those whose number is a multiple of
/// [`BATCH`], in nanoseconds. Userspace sets the first to zero before it sends.
#[map]
static BENCH_TIMES: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The interface a MAC's last octet is behind, for `bench_switch`.
#[map]
static BENCH_PORTS: Array<u32> = Array::with_max_entries(256, 0);

#[map]
static BENCH_XDP: ProgramArray = ProgramArray::with_max_entries(2, 0);

#[map]
static BENCH_TC: ProgramArray = ProgramArray::with_max_entries(2, 0);

#[xdp]
fn bench_source(ctx: XdpContext) -> u32 {
    if let Some(load) = BENCH_LOAD.get(0)
        && write(load, ctx.data(), ctx.data_end())
    {
        // SAFETY: a tail call does not return, and nothing here needs dropping.
        unsafe { BENCH_XDP.tail_call(&ctx, load.program) };
    }
    xdp_action::XDP_ABORTED
}

#[classifier]
fn bench_source_tc(ctx: TcContext) -> i32 {
    if let Some(load) = BENCH_LOAD.get(0)
        && write(load, ctx.data(), ctx.data_end())
    {
        // SAFETY: as above.
        unsafe { BENCH_TC.tail_call(&ctx, load.program) };
    }
    -2
}

/// What the XDP programs are compared with.
#[xdp]
fn bench_transmit(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// What the tc program is compared with.
#[classifier]
fn bench_nothing(_ctx: TcContext) -> i32 {
    TC_ACT_PIPE
}

/// Sends out of the interface it runs on (`BPF_F_TEST_XDP_LIVE_FRAMES`).
#[xdp]
fn bench_generator(ctx: XdpContext) -> u32 {
    match BENCH_LOAD.get(0) {
        Some(load) if write(load, ctx.data(), ctx.data_end()) => {
            note_time();
            xdp_action::XDP_TX
        }
        _ => xdp_action::XDP_ABORTED,
    }
}

/// All packets before a batch have been taken from this CPU when the batch begins.
#[inline(always)]
fn note_time() {
    let (Some(sent), Some(times)) = (BENCH_SENT.get_ptr(0), BENCH_TIMES.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: per-CPU values; a helper without arguments.
    unsafe {
        if (*sent - 1) & (BATCH - 1) == 0 {
            let now = bpf_ktime_get_ns();
            if (*times)[0] == 0 {
                (*times)[0] = now;
            }
            (*times)[1] = now;
        }
    }
}

/// Counts and drops IPv4's TCP.
#[xdp]
fn bench_sink(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: within the packet.
    let (kind, protocol) = unsafe { (*((start + 12) as *const u16), *((start + 23) as *const u8)) };
    if kind != 0x0800_u16.to_be() || protocol != 6 {
        return xdp_action::XDP_PASS;
    }
    if let Some(seen) = BENCH_SEEN.get_ptr_mut(0) {
        // SAFETY: a per-CPU value.
        unsafe { *seen += 1 };
    }
    xdp_action::XDP_DROP
}

/// Sends a frame to the interface its destination is behind.
#[xdp]
fn bench_switch(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 14 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: within the packet.
    let last = unsafe { *((start + 5) as *const u8) };
    match BENCH_PORTS.get(u32::from(last)) {
        // SAFETY: takes an interface's index.
        Some(port) if *port != 0 => unsafe { bpf_redirect(*port, 0) as u32 },
        _ => xdp_action::XDP_PASS,
    }
}

/// Writes the next packet; false if there is no room for it.
#[inline(always)]
fn write(load: &Load, start: usize, end: usize) -> bool {
    if start + FRAME > end {
        return false;
    }
    let Some(sent) = BENCH_SENT.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a per-CPU value.
    let count = unsafe {
        let count = *sent;
        *sent = count + 1;
        count
    };
    let is_flood = load.flood != 0 && count & 1 == 1;
    let (flow, opens) = if load.flows == 0 {
        (count as u32 & (FLOOD - 1), true)
    } else if is_flood {
        (FLOOD + scaled(count, load.flood), true)
    } else {
        (scaled(count, load.flows), false)
    };
    let (address, port) = client(flow);
    let (address_be, port_be) = (address.to_be(), port.to_be());
    // As they lie in the packet: data offset and flags.
    let (ack_be, syn_be) = (0x5010_u16.to_be(), 0x5002_u16.to_be());
    let words = (address_be & 0xffff) + (address_be >> 16);
    let l3_sum = u64::from(load.l3_sum) + u64::from(words);
    let mut l4_sum = u64::from(load.l4_sum) + u64::from(words) + u64::from(port_be);
    if opens {
        l4_sum += u64::from(!ack_be) + u64::from(syn_be);
    }
    let (at_address, at_port, at_l4) = match load.shape {
        shape if shape == Shape::RequestV4 as u32 => (26, 34, 34),
        shape if shape == Shape::RequestV6 as u32 => (34, 54, 54),
        _ => (30, 36, 34),
    };
    // SAFETY: all offsets are below `FRAME`, which was checked above.
    unsafe {
        let frame = start as *mut u64;
        let mut word = 0;
        while word < FRAME / 8 {
            *frame.add(word) = load.template[word];
            word += 1;
        }
        *((start + at_address) as *mut u32) = address_be;
        *((start + at_port) as *mut u16) = port_be;
        if opens {
            *((start + at_l4 + 12) as *mut u16) = syn_be;
        }
        *((start + at_l4 + 16) as *mut u16) = !fold(l4_sum);
        if load.shape != Shape::RequestV6 as u32 {
            *((start + 24) as *mut u16) = !fold(l3_sum);
        }
    }
    true
}

/// A number below `range` that looks random (splitmix64's finalizer).
#[inline(always)]
fn scaled(count: u64, range: u32) -> u32 {
    let mut x = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (((x >> 33) * u64::from(range)) >> 31) as u32
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
