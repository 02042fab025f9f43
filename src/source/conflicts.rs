//! What no two objects may share: an identity, and the addresses of a pool of MetalLB's. (Cilium's
//! pools may; `soft` says what follows.)
//!
//! An index answers this in logarithmic time, so that ten thousand files can be checked against
//! each other at every edit. It holds only objects that are free of conflicts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::object::{Kind, Object, ObjectKey, Placed};
use super::tree::Position;
use crate::observed::AddressRange;
use crate::problem::{Level, Problem, Reason};

/// Everything in force, by what must be unique about it.
#[derive(Clone, Debug, Default)]
pub struct Index {
    identities: BTreeMap<(Kind, String, String), Owner>,
    /// Ranges by their first address. They are disjoint, so order by first is order by last.
    ranges: BTreeMap<IpAddr, (AddressRange, Owner)>,
}

/// Who holds an entry, for messages.
#[derive(Clone, Debug)]
struct Owner {
    key: ObjectKey,
    file: String,
    position: Position,
}

impl Index {
    /// Adds all objects of a file, or none.
    ///
    /// # Errors
    ///
    /// Each conflict, with what is in the index already or within the file itself.
    pub fn add(&mut self, file: &str, objects: &[Placed]) -> Result<(), Vec<Problem>> {
        let mut conflicts = Vec::new();
        let mut identities = Vec::new();
        let mut ranges = Vec::new();
        for placed in objects {
            let owner =
                Owner { key: placed.key.clone(), file: file.to_owned(), position: placed.position };
            let identity = identity(&placed.key);
            if let Some(known) = self.identities.get(&identity) {
                conflicts.push(duplicate(placed, file, known));
                continue;
            }
            identities.push(identity.clone());
            self.identities.insert(identity, owner.clone());
            for (range, position) in ranges_of(placed) {
                match self.overlapping(range) {
                    Some(known) => conflicts.push(overlap(placed, file, (range, position), known)),
                    None => {
                        ranges.push(range.first());
                        self.ranges.insert(range.first(), (range, owner.clone()));
                    }
                }
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        for identity in &identities {
            self.identities.remove(identity);
        }
        for first in &ranges {
            self.ranges.remove(first);
        }
        Err(conflicts)
    }

    /// Takes out what `add` of the same objects put in.
    pub fn remove(&mut self, objects: &[Placed]) {
        for placed in objects {
            self.identities.remove(&identity(&placed.key));
            for (range, _) in ranges_of(placed) {
                self.ranges.remove(&range.first());
            }
        }
    }

    fn overlapping(&self, range: AddressRange) -> Option<&(AddressRange, Owner)> {
        let (_, nearest) = self.ranges.range(..=range.last()).next_back()?;
        nearest.0.overlaps(range).then_some(nearest)
    }
}

fn identity(key: &ObjectKey) -> (Kind, String, String) {
    let (kind, namespace, name) = key.identity();
    (kind, namespace.to_owned(), name.to_owned())
}

fn ranges_of(placed: &Placed) -> impl Iterator<Item = (AddressRange, Position)> {
    let pairs = match &placed.object {
        Object::Pool { pool, positions } => (pool.ranges.as_slice(), positions.as_slice()),
        _ => Default::default(),
    };
    pairs.0.iter().copied().zip(pairs.1.iter().copied())
}

fn place(owner: &Owner) -> String {
    format!("{}:{}", owner.file, owner.position.line)
}

fn duplicate(placed: &Placed, file: &str, known: &Owner) -> Problem {
    let is_elsewhere = placed.key.namespace != known.key.namespace;
    let more =
        if is_elsewhere { ", in whichever namespace: pools are known by name alone" } else { "" };
    let message = format!(
        "{} is defined at {} already; expected every {} once{more}",
        known.key,
        place(known),
        known.key.kind.name()
    );
    placed.problem(Level::Error, file, placed.position, Reason::DuplicateObject, message)
}

fn overlap(
    placed: &Placed,
    file: &str,
    (range, position): (AddressRange, Position),
    (known_range, known): &(AddressRange, Owner),
) -> Problem {
    let message = format!(
        "spec.addresses: {range} shares addresses with {known_range} of {} at {}; expected pools \
         that do not overlap",
        known.key,
        place(known)
    );
    placed.problem(Level::Error, file, position, Reason::PoolOverlap, message)
}
