//! A closer look at one packet of many: what became of it is written into the ring buffer
//! `SAMPLES`, with the beginning of the frame as it leaves the program. Userspace reads the rest
//! out of it.
//!
//! Never touched by a packet that is not due; whatever fails here, the verdict stays.

use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::sample::{FRAME, RATE, Sample};

use crate::maps::{REASONS, SAMPLER, SAMPLES, SAMPLING};

/// Settles whether a packet that is due is sampled, and does it.
///
/// A function of its own, as `ingress` is, so that its registers and stack are not the usual
/// packet's too.
#[inline(never)]
pub fn sample(ctx: &XdpContext, reason: u32) -> u64 {
    u64::from(take(ctx, reason).is_some())
}

#[inline(always)]
fn take(ctx: &XdpContext, reason: u32) -> Option<()> {
    let every = SAMPLING.get(0).copied()?;
    let counted = REASONS.get_ptr_mut(reason)?;
    let sampler = SAMPLER.get_ptr_mut(0)?;
    // SAFETY: per-CPU values that only this program, on this CPU, is writing now, and helpers
    // without arguments.
    let (counted, sampler, now) = unsafe {
        if !(*counted).settle(reason, every, bpf_get_prandom_u32()) {
            return None;
        }
        (&mut *counted, &mut *sampler, bpf_ktime_get_boot_ns())
    };
    if !sampler.budget.take(RATE, now) {
        sampler.limited += 1;
        return None;
    }
    // The compiler may not see that it is a difference of pointers, about which the verifier
    // concludes nothing from a comparison.
    let length = core::hint::black_box(ctx.data_end() - ctx.data());
    if length == 0 {
        return None;
    }
    let held = if length < FRAME { length } else { FRAME };
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        sampler.full += 1;
        return None;
    };
    let sample = entry.as_mut_ptr();
    // SAFETY: the entry is a sample's memory; the helper writes no more than its frame has room
    // for.
    let is_read = unsafe {
        (*sample).at = now;
        (*sample).packets = counted.weight();
        (*sample).reason = reason;
        (*sample).ifindex = ctx.ingress_ifindex() as u32;
        (*sample).length = length as u32;
        (*sample).held = held as u32;
        let frame = (&raw mut (*sample).frame).cast();
        bpf_xdp_load_bytes(ctx.ctx, 0, frame, held as u32) == 0
    };
    if !is_read {
        entry.discard(0);
        return None;
    }
    entry.submit(0);
    counted.note();
    sampler.written += 1;
    Some(())
}
