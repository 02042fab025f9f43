//! The maps, pinned by name, and how the programs read them. Keys and values are in
//! `herald_ebpf_common::layout`; the loader alone writes them, except `REVERSE`,
//! `REVERSE4`, `FLOWS`, `OPENING`, `FRAGMENTS`, `REPLY_FRAGMENTS`, `REASONS`,
//! `HELD_BACK`, `SAMPLER` and `SAMPLES`.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use herald_ebpf_common::budget::{self, Budget};
use herald_ebpf_common::reason::REASONS as REASON_COUNT;
use herald_ebpf_common::sample::{Counted, RING, Sampler};
use herald_ebpf_common::{
    Address, BACKENDS as BACKEND_COUNT, Backend, FlowKey, FragmentKey, GUESSES, Guess, HeldBackKey,
    Link, Node, Peer, PeerKey, Reason, Remembered, ReverseKey, ReverseKey4, ReverseValue,
    ReverseValue4, ServiceKey, ServiceKey4, ServiceTable, SourceKey, VIP_BUCKETS, VipKey, VipState,
    is_mapped, mapped,
};

#[map]
pub static VIPS: HashMap<VipKey, VipState> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);

/// Every VIP of the cluster: until when this node speaks for it on any interface; zero if it does
/// not.
#[map]
pub static FENCED: HashMap<Address, VipState> = HashMap::pinned(32_768, BPF_F_NO_PREALLOC);

/// One entry: boot-time nanoseconds until which this node's session lasts.
#[map]
pub static SESSION: Array<u64> = Array::pinned(1, 0);

#[map]
pub static LINKS: HashMap<u32, Link> = HashMap::pinned(64, BPF_F_NO_PREALLOC);

#[map]
pub static PEERS: HashMap<PeerKey, Peer> = HashMap::pinned(8_192, BPF_F_NO_PREALLOC);

/// One entry, see [`Node`].
#[map]
pub static NODE: Array<Node> = Array::pinned(1, 0);

/// See [`Guess`].
#[map]
pub static VIP_FILTER: Array<u64> = Array::pinned(VIP_BUCKETS / GUESSES, 0);

/// Of IPv6 VIPs.
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceTable> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);

#[map]
pub static SERVICES4: HashMap<ServiceKey4, ServiceTable> =
    HashMap::pinned(131_072, BPF_F_NO_PREALLOC);

/// Flows of dirty slots.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Remembered> = LruHashMap::pinned(32_768, 0);

/// Flows of dirty slots of which one packet was seen, or only such as open one. A flood of those
/// pushes out of it what it put there itself, and nothing of `FLOWS`.
#[map]
pub static OPENING: LruHashMap<FlowKey, Remembered> = LruHashMap::pinned(8_192, 0);

/// Packets of which a first fragment was seen.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Remembered> = LruHashMap::pinned(4_096, 0);

/// The VIP of replies of which a first fragment was seen; the key's VIP is the pod.
#[map]
pub static REPLY_FRAGMENTS: LruHashMap<FragmentKey, Address> = LruHashMap::pinned(4_096, 0);

/// What a pod's port is known as, where only one VIP's port has it; the key's VIP is the pod.
#[map]
pub static FALLBACK: HashMap<ServiceKey, ReverseValue> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);

/// Networks that may ask, by list. The key's type is a `SourceKey`, see [`contains`].
#[map]
pub static SOURCES: LpmTrie<[u32; 5], u32> = LpmTrie::pinned(65_536, BPF_F_NO_PREALLOC);

#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(BACKEND_COUNT, 0);

/// Of IPv6, and an eighth as many as of IPv4: an entry takes half as much again, and all are laid
/// out beforehand. An evicted flow's replies are restored by `FALLBACK`, unless two VIPs share the
/// pod's port.
#[map]
pub static REVERSE: LruHashMap<ReverseKey, ReverseValue> = LruHashMap::pinned(32_768, 0);

#[map]
pub static REVERSE4: LruHashMap<ReverseKey4, ReverseValue4> = LruHashMap::pinned(262_144, 0);

#[map]
pub static REASONS: PerCpuArray<Counted> = PerCpuArray::pinned(REASON_COUNT, 0);

/// One entry: one packet of how many is sampled; none if it is zero.
#[map]
pub static SAMPLING: Array<u32> = Array::pinned(1, 0);

/// One entry.
#[map]
pub static SAMPLER: PerCpuArray<Sampler> = PerCpuArray::pinned(1, 0);

/// See `herald_ebpf_common::sample::Sample`.
#[map]
pub static SAMPLES: RingBuf = RingBuf::pinned(RING, 0);

/// Frames the fence stopped, by interface. Nothing is ever removed, so that no element is recycled
/// under a program; when it is full, `REASONS` alone counts on.
#[map]
pub static HELD_BACK: PerCpuHashMap<HeldBackKey, u64> = PerCpuHashMap::pinned(1_024, 0);

/// One entry: how many ICMP errors this CPU may send now. Pinned only because every map is, by
/// which programs are known to work on the right ones.
#[map]
static REJECTIONS: PerCpuArray<Budget> = PerCpuArray::pinned(1, 0);

/// One entry: the packet of this CPU that `sctp::finish` is to finish. Pinned as `REJECTIONS` is.
#[map]
static UNFINISHED: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);

/// Leaves a number to [`unfinished`]; false if there is no room.
#[inline(always)]
pub fn set_unfinished(number: u64) -> bool {
    let Some(entry) = UNFINISHED.get_ptr_mut(0) else { return false };
    // SAFETY: a per-CPU value that only this program, on this CPU, is using now.
    unsafe { *entry = number };
    true
}

/// The number that was left on this CPU.
#[inline(always)]
pub fn unfinished() -> u64 {
    // SAFETY: as above.
    UNFINISHED.get_ptr(0).map_or(0, |entry| unsafe { *entry })
}

/// Whether one more packet may be answered with an ICMP error.
#[inline(always)]
pub fn may_reject() -> bool {
    let Some(budget) = REJECTIONS.get_ptr_mut(0) else { return false };
    // SAFETY: a helper without arguments, and a per-CPU value that only this program, on this CPU,
    // is writing now.
    unsafe { (*budget).take(budget::REJECTIONS, bpf_ktime_get_ns()) }
}

/// Adds one to the counter of what the fence stopped at an interface.
#[inline(always)]
pub fn count_held_back(ifindex: u32, reason: Reason) {
    let key = HeldBackKey { ifindex, reason: reason as u32 };
    let is_counted = add_one(&key) || HELD_BACK.insert(&key, &1_u64, BPF_NOEXIST.into()).is_ok();
    if !is_counted {
        // Another CPU has made the element in the meantime; a full map stays as it is.
        add_one(&key);
    }
}

#[inline(always)]
fn add_one(key: &HeldBackKey) -> bool {
    let Some(counter) = HELD_BACK.get_ptr_mut(key) else { return false };
    // SAFETY: a per-CPU value that only this program, on this CPU, is writing now, in an element
    // that is never removed.
    unsafe { *counter += 1 };
    true
}

/// Adds one to the reason's counter on this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    // What leaves is not sampled.
    let _ = count_number(reason as u32);
}

/// Adds one to the counter of the reason of this number on this CPU; true if the packet is due to
/// be looked at by [`crate::sample`].
#[inline(always)]
#[must_use]
pub fn count_number(reason: u32) -> bool {
    match REASONS.get_ptr_mut(reason) {
        // SAFETY: a per-CPU value that only this program, on this CPU, is writing now.
        Some(counted) => unsafe { (*counted).count() },
        None => false,
    }
}

/// The value of a map without preallocation: valid until the program ends (RCU).
#[inline(always)]
pub fn lookup<K, V>(map: &HashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: all hash maps here are BPF_F_NO_PREALLOC, so a removed element is freed only after
    // the programs that see it have ended, and is never recycled under them.
    map.get_ptr(key).map(|value| unsafe { &*value })
}

/// A part of a service port's table.
#[inline(always)]
pub fn service(key: &ServiceKey) -> Option<&'static ServiceTable> {
    match key.short() {
        Some(short) => lookup(&SERVICES4, &short),
        None => lookup(&SERVICES, key),
    }
}

/// What is known of an address before a Service of its is looked up.
#[inline(always)]
pub fn guess(last_word: u32) -> Guess {
    let bucket = Guess::bucket(last_word);
    match VIP_FILTER.get(bucket / GUESSES) {
        Some(word) => Guess::read(*word, bucket),
        None => Guess::NONE,
    }
}

/// What a client knows a pod as. Copied at once: an LRU element may be recycled while it is read,
/// and an active flow is the last to be.
#[inline(always)]
pub fn reverse(key: &ReverseKey) -> Option<ReverseValue> {
    if !is_mapped(&key.pod) {
        // SAFETY: a map's value; see above.
        return REVERSE.get_ptr(key).map(|value| unsafe { *value });
    }
    // SAFETY: as above.
    let known = REVERSE4.get_ptr(&short(key)).map(|value| unsafe { *value })?;
    Some(ReverseValue { vip: mapped(known.vip()), port_be: known.port_be(), reserved: 0 })
}

/// Remembers what a client knows a pod as; false if there is no room.
#[inline(always)]
pub fn set_reverse(key: &ReverseKey, value: &ReverseValue) -> bool {
    if !is_mapped(&key.pod) {
        return REVERSE.insert(key, value, 0).is_ok();
    }
    let known = ReverseValue4::new(value.vip[3], value.port_be);
    REVERSE4.insert(&short(key), &known, 0).is_ok()
}

#[inline(always)]
fn short(key: &ReverseKey) -> ReverseKey4 {
    let (pod, client) = (key.pod[3], key.client[3]);
    ReverseKey4::new((pod, key.pod_port_be), (client, key.client_port_be), key.protocol as u8)
}

/// Whether a prefix of `key` is in the trie.
#[inline(always)]
pub fn contains(trie: &LpmTrie<[u32; 5], u32>, key: &SourceKey) -> bool {
    // SAFETY: the same 24 octets; the trie's own type is packed, and would be filled by octets.
    let key = unsafe { &*core::ptr::from_ref(key).cast::<Key<[u32; 5]>>() };
    trie.get(key).is_some()
}
