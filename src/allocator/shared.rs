//! Where Services of one group look for an address to share: at the addresses that others of the
//! group have, in order.
//!
//! Where ten thousand Services listen at port 80, each has an address of its own, and none may be
//! shared with the next. So a cursor for each listener remembers below what every address of the
//! group has that listener already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::observed::{AddressRange, Listener, Service};

/// The addresses of a group.
#[derive(Default)]
pub(super) struct Shared {
    addresses: BTreeSet<IpAddr>,
    /// By the first address of a range, and listener: every address of the group below is in use
    /// there. None means all of the range.
    cursors: BTreeMap<(IpAddr, Listener), Option<IpAddr>>,
}

impl Shared {
    /// An address is one of the group's from now on.
    pub fn add(&mut self, address: IpAddr, range: Option<AddressRange>) {
        if let Some(range) = range.filter(|_| self.addresses.insert(address)) {
            for cursor in self.cursors_in(range) {
                lower(cursor, address);
            }
        }
    }

    /// Nobody has the address any more.
    pub fn remove(&mut self, address: IpAddr) {
        self.addresses.remove(&address);
    }

    /// Somebody gave the address up and with it these listeners.
    pub fn release(
        &mut self,
        address: IpAddr,
        range: AddressRange,
        listeners: impl Iterator<Item = Listener>,
    ) {
        for listener in listeners {
            if let Some(cursor) = self.cursors.get_mut(&(range.first(), listener)) {
                lower(cursor, address);
            }
        }
    }

    /// The first address of the range that is fit. `look` says of an address whether it is, and if
    /// not, whether others have a listener there.
    pub fn next<U: Fn(Listener) -> bool>(
        &mut self,
        service: &Service,
        range: AddressRange,
        look: impl Fn(IpAddr) -> (bool, U),
    ) -> Option<IpAddr> {
        let first = range.first();
        let cursor = |listener| self.cursors.get(&(first, listener)).copied();
        let known: Vec<_> =
            service.listeners().map(|it| (it, cursor(it).unwrap_or(Some(first)))).collect();
        // One that is past the end sorts first, and is the furthest of all.
        if known.iter().any(|(_, cursor)| cursor.is_none()) {
            return None;
        }
        let begin = known.iter().filter_map(|(_, cursor)| *cursor).max().unwrap_or(first);
        let furthest = known.iter().filter(|(_, cursor)| *cursor == Some(begin));
        let mut in_all: Vec<Listener> = furthest.map(|(listener, _)| *listener).collect();
        let mut moves = BTreeMap::new();
        let mut found = None;
        for address in self.addresses.range(begin..=range.last()).copied() {
            let (is_fit, is_in_use) = look(address);
            if is_fit {
                found = Some(address);
                break;
            }
            in_all.retain(|listener| is_in_use(*listener));
            moves.extend(in_all.iter().map(|it| ((first, *it), range.after(address))));
        }
        self.cursors.extend(moves);
        found
    }

    fn cursors_in(&mut self, range: AddressRange) -> impl Iterator<Item = &mut Option<IpAddr>> {
        let first = range.first();
        let of_range = move |((range, _), _): &(&(IpAddr, Listener), &mut _)| *range == first;
        let from = (first, (crate::observed::Protocol::Tcp, 0));
        self.cursors.range_mut(from..).take_while(of_range).map(|(_, cursor)| cursor)
    }
}

fn lower(cursor: &mut Option<IpAddr>, to: IpAddr) {
    *cursor = Some(cursor.map_or(to, |cursor| cursor.min(to)));
}
