//! The chunks of a slot table: where each is, and how they are read back as one (pure).

use std::ops::Range;

use herald_ebpf_common::{PREVIOUS_IS_CURRENT, ServiceKey, ServiceTable, Slot};

/// All slots of a table, by its first chunk and how to find the others.
pub(super) fn read_slots<'a>(
    key: ServiceKey,
    first: &'a ServiceTable,
    part: impl Fn(ServiceKey) -> Option<&'a ServiceTable>,
) -> Vec<Slot> {
    if first.backends == 0 {
        return Vec::new();
    }
    let others: Option<Vec<_>> = keys(key, 1..first.chunks).map(part).collect();
    let parts = std::iter::once(first).chain(others.unwrap_or_default());
    // A process that was stopped while a table changed its size left parts of another size: what
    // they had before is what the table of the first part's size has.
    let slot = |part: &ServiceTable, slot: Slot| match part.chunks == first.chunks {
        true => slot,
        false if slot.previous == PREVIOUS_IS_CURRENT => clean(slot.current),
        false => clean(slot.previous),
    };
    parts.flat_map(|part| part.slots.map(|read| slot(part, read))).collect()
}

const fn clean(index: u16) -> Slot {
    Slot { current: index, previous: index }
}

/// The keys of some chunks of a table.
pub(super) fn keys(
    key: ServiceKey,
    chunks: Range<u32>,
) -> impl DoubleEndedIterator<Item = ServiceKey> + ExactSizeIterator {
    let chunks = chunks.start as u8..chunks.end as u8;
    chunks.map(move |chunk| ServiceKey { chunk, ..key })
}
