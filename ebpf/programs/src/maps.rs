//! The maps, pinned by name, and how the programs read them. Keys and values are in
//! `herald_ebpf_common::layout`; the loader alone writes them, except `REVERSE` and `REASONS`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use herald_ebpf_common::reason::REASONS as REASON_COUNT;
use herald_ebpf_common::{
    BACKENDS as BACKEND_COUNT, Backend, Link, Peer, PeerKey, Reason, ReverseKey, ReverseValue,
    ServiceKey, ServiceTable, VipKey, VipState,
};

#[map]
pub static VIPS: HashMap<VipKey, VipState> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);

/// One entry: boot-time nanoseconds until which this node's session lasts.
#[map]
pub static SESSION: Array<u64> = Array::pinned(1, 0);

#[map]
pub static LINKS: HashMap<u32, Link> = HashMap::pinned(64, BPF_F_NO_PREALLOC);

#[map]
pub static PEERS: HashMap<PeerKey, Peer> = HashMap::pinned(8_192, BPF_F_NO_PREALLOC);

#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceTable> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);

#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(BACKEND_COUNT, 0);

#[map]
pub static REVERSE: LruHashMap<ReverseKey, ReverseValue> = LruHashMap::pinned(262_144, 0);

#[map]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::pinned(REASON_COUNT, 0);

/// Adds one to the reason's counter on this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU value that only this program, on this CPU, is writing now.
        unsafe { *counter += 1 }
    }
}

/// The value of a map without preallocation: valid until the program ends (RCU).
#[inline(always)]
pub fn lookup<K, V>(map: &HashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: all hash maps here are BPF_F_NO_PREALLOC, so a removed element is freed only after
    // the programs that see it have ended, and is never recycled under them.
    map.get_ptr(key).map(|value| unsafe { &*value })
}
