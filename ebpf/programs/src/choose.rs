//! Which backend a flow has: its slot's, unless the slot changed a short time ago. Only then is
//! there a flow table, and only then does a packet write anything.
//!
//! That table is this node's. If the holder changes while slots are dirty, the next one knows no
//! flow that was opened since its slot changed: it takes it for one from before, and the former
//! backend resets it. That one's node does not send it on either. Only a mark in the frame could
//! keep a second hop from becoming a third where two nodes' tables differ, and flows of the former
//! backend that the node has no entry for any more would be sent away.

use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::XdpContext;
use herald_ebpf_common::flow::Flow;
use herald_ebpf_common::{
    Address, Backend, CLIENT_AFFINITY, FlowKey, IS_GONE, IS_LOCAL, LOCAL_SLOTS,
    PREVIOUS_IS_CURRENT, Remembered, SLOTS, ServiceKey, ServiceTable, Slot, chunk_of, protocol,
};

use crate::maps::{self, BACKENDS, FLOWS, OPENING};
use crate::packet::{read, words};

/// A flow as its client sends it.
pub struct Asked {
    pub key: ServiceKey,
    pub client: Address,
    pub client_port_be: u16,
}

/// What a packet says about its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It begins here.
    Opens,
    /// It may have begun long ago. UDP has no other sign.
    Continues,
    /// It is another's flow, quoted in an error: nothing is remembered.
    Quoted,
}

/// A backend and where it came from.
#[derive(Clone, Copy)]
pub struct Choice {
    pub index: u32,
    pub backend: &'static Backend,
    slot: Slot,
    hash: u32,
}

/// The backend of a clean slot of the part that has the flow's; none if the slot is dirty.
#[inline(always)]
pub fn clean(part: &ServiceTable, hash: u32) -> Option<&'static Backend> {
    let slot = slot(part, hash);
    if slot.current != slot.previous {
        return None;
    }
    BACKENDS.get(u32::from(slot.current))
}

/// The flow's backend, by the first part of its table. `l4` is where a packet of the flow itself
/// has its transport header.
#[inline(always)]
pub fn backend(
    ctx: &XdpContext,
    table: &'static ServiceTable,
    asked: &Asked,
    l4: Option<usize>,
) -> Option<Choice> {
    let flow = Flow {
        client: words(&asked.client),
        client_port_be: asked.client_port_be,
        port_be: asked.key.port_be,
    };
    let hash = match table.flags & CLIENT_AFFINITY {
        0 => flow.hash(),
        _ => flow.of_client().hash(),
    };
    let slot = slot(part(table, &asked.key, hash)?, hash);
    let index = match slot.current == slot.previous {
        true => u32::from(slot.current),
        false => dirty(ctx, slot, asked, l4)?,
    };
    let backend = BACKENDS.get(index)?;
    Some(Choice { index, backend, slot, hash })
}

/// A backend on this node for a flow that a peer sent here although its own choice is elsewhere:
/// the slot's other backend, if that is it, else any.
#[inline(always)]
pub fn local(table: &ServiceTable, choice: &Choice) -> Option<Choice> {
    let of = |index: u16| {
        let index = u32::from(index);
        let backend = BACKENDS.get(index).filter(|backend| backend.flags & IS_LOCAL != 0)?;
        Some(Choice { index, backend, ..*choice })
    };
    of(choice.slot.current).or_else(|| of(choice.slot.previous)).or_else(|| {
        if table.local_count == 0 {
            return None;
        }
        of(table.local[(choice.hash % table.local_count) as usize & (LOCAL_SLOTS - 1)])
    })
}

/// The part of the table that has the slot of a hash.
#[inline(always)]
fn part(
    first: &'static ServiceTable,
    key: &ServiceKey,
    hash: u32,
) -> Option<&'static ServiceTable> {
    let chunk = chunk_of(hash, first.chunks);
    if chunk == 0 {
        return Some(first);
    }
    let (vip, port_be, protocol) = (words(&key.vip), key.port_be, key.protocol);
    maps::service(&ServiceKey { vip, port_be, protocol, chunk: chunk as u8 })
}

#[inline(always)]
fn slot(part: &ServiceTable, hash: u32) -> Slot {
    part.slots[hash as usize & (SLOTS - 1)]
}

/// The backend of a flow whose slot changed within the drain time.
#[inline(always)]
fn dirty(ctx: &XdpContext, slot: Slot, asked: &Asked, l4: Option<usize>) -> Option<u32> {
    let sign = match l4 {
        Some(l4) => sign(ctx, asked.key.protocol, l4)?,
        None => Sign::Quoted,
    };
    let flow = FlowKey {
        vip: words(&asked.key.vip),
        client: words(&asked.client),
        port_be: asked.key.port_be,
        client_port_be: asked.client_port_be,
        protocol: u32::from(asked.key.protocol),
    };
    let known = FLOWS.get_ptr(&flow);
    if sign != Sign::Opens {
        if let Some(backend) = living(known) {
            return Some(backend);
        }
        if let Some(backend) = living(OPENING.get_ptr(&flow)) {
            if sign == Sign::Continues {
                // Its second packet: it is no part of a flood of first ones.
                remember(&FLOWS, &flow, backend)?;
            }
            return Some(backend);
        }
    }
    let current = u32::from(slot.current);
    let previous = u32::from(slot.previous);
    let lives = |index| BACKENDS.get(index).is_some_and(|backend| backend.flags & IS_GONE == 0);
    let follows = sign != Sign::Opens && slot.previous != PREVIOUS_IS_CURRENT && lives(previous);
    let index = if follows { previous } else { current };
    if sign != Sign::Quoted {
        if known.is_some() {
            // An old flow of the same ports, which must not be found any more.
            remember(&FLOWS, &flow, index)?;
        }
        remember(&OPENING, &flow, index)?;
    }
    Some(index)
}

/// What a flow is remembered to have, if that is there.
#[inline(always)]
fn living(known: Option<*const Remembered>) -> Option<u32> {
    // SAFETY: an LRU element may be recycled while it is read; the identity tells whether what was
    // read belongs together.
    let known = known.map(|known| unsafe { *known })?;
    let backend = BACKENDS.get(known.backend)?;
    let is_there = backend.identity == known.identity && backend.flags & IS_GONE == 0;
    is_there.then_some(known.backend)
}

/// Remembers a flow's backend; none if there is no such backend. Without the entry the flow is
/// looked up in the slot again, which is right for one that was there before the slot changed.
#[inline(always)]
fn remember(map: &LruHashMap<FlowKey, Remembered>, flow: &FlowKey, index: u32) -> Option<()> {
    let remembered = Remembered { backend: index, identity: BACKENDS.get(index)?.identity };
    let _ = map.insert(flow, &remembered, 0);
    Some(())
}

/// Whether a packet may begin its flow. One of UDP always may.
#[inline(always)]
pub fn may_open(ctx: &XdpContext, protocol: u8, l4: usize) -> bool {
    protocol == protocol::UDP || matches!(sign(ctx, protocol, l4), Some(Sign::Opens))
}

/// Whether a packet begins its flow: a SYN without ACK (RFC 9293 3.5), an INIT (RFC 9260 5.1).
#[inline(always)]
fn sign(ctx: &XdpContext, protocol: u8, l4: usize) -> Option<Sign> {
    // TCP's data offset and flags, or the type and flags of SCTP's first chunk. Two octets, because
    // the verifier does not follow the check for one.
    const DECISIVE: usize = 12;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const INIT: u8 = 1;
    if protocol == protocol::UDP {
        return Some(Sign::Continues);
    }
    let [first, second] = read::<[u8; 2]>(ctx, l4 + DECISIVE)?;
    let opens = match protocol {
        protocol::TCP => second & (SYN | ACK) == SYN,
        protocol::SCTP => *first == INIT,
        _ => false,
    };
    Some(if opens { Sign::Opens } else { Sign::Continues })
}
