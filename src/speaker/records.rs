//! What the election's records keep. The records are the database: after a restart no address
//! changes.
//!
//! - `assignment/<namespace>/<name>`: the Service's assignment as JSON.
//! - `announced/<address>`: the VIP was announced since it was assigned; the value is the node that
//!   did so first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::allocator::Assignment;
use crate::observed::ServiceName;

const PREFIX: &str = "assignment/";
const ANNOUNCED: &str = "announced/";

/// The record that a VIP was announced.
pub fn announced_key(vip: IpAddr) -> String {
    format!("{ANNOUNCED}{vip}")
}

/// The VIPs that were announced since they were assigned.
pub fn announced(records: &BTreeMap<String, Vec<u8>>) -> BTreeSet<IpAddr> {
    records.keys().filter_map(|key| key.strip_prefix(ANNOUNCED)?.parse().ok()).collect()
}

/// The assignments in the records. A record that cannot be read is left alone and counts as none:
/// it was written by another version.
pub fn assignments(records: &BTreeMap<String, Vec<u8>>) -> BTreeMap<ServiceName, Assignment> {
    records.iter().filter_map(|(key, value)| Some((service(key)?, decode(value)?))).collect()
}

/// The writes that make the records equal to `wanted`: new values by key, `None` to remove.
pub fn difference(
    records: &BTreeMap<String, Vec<u8>>,
    wanted: &BTreeMap<ServiceName, Assignment>,
) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut writes = BTreeMap::new();
    for (name, assignment) in wanted {
        let current = records.get(&key(name)).and_then(|value| decode(value));
        if current.as_ref() != Some(assignment) {
            writes.insert(key(name), serde_json::to_vec(assignment).ok());
        }
    }
    let is_stale = |key: &String| service(key).is_some_and(|name| !wanted.contains_key(&name));
    writes.extend(records.keys().filter(|key| is_stale(key)).map(|key| (key.clone(), None)));
    writes.extend(stale_marks(records, wanted));
    writes
}

/// The removal of marks of VIPs that no assignment has.
pub fn stale_marks(
    records: &BTreeMap<String, Vec<u8>>,
    wanted: &BTreeMap<ServiceName, Assignment>,
) -> BTreeMap<String, Option<Vec<u8>>> {
    let vips: BTreeSet<String> = wanted
        .values()
        .flat_map(|assignment| assignment.addresses.iter().copied().map(announced_key))
        .collect();
    let is_stale = |key: &&String| key.starts_with(ANNOUNCED) && !vips.contains(*key);
    records.keys().filter(is_stale).map(|key| (key.clone(), None)).collect()
}

fn key(name: &ServiceName) -> String {
    format!("{PREFIX}{name}")
}

fn service(key: &str) -> Option<ServiceName> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

fn decode(value: &[u8]) -> Option<Assignment> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(address: &str) -> Assignment {
        Assignment { pool: "first".into(), addresses: vec![address.parse().unwrap()] }
    }

    #[test]
    fn writes_only_what_differs_and_removes_what_is_not_wanted() {
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let same = (name("default/same"), assignment("192.168.1.240"));
        let gone = (name("default/gone"), assignment("192.168.1.241"));
        let new = (name("default/new"), assignment("192.168.1.242"));
        let empty = BTreeMap::new();
        let written = difference(&empty, &BTreeMap::from([same.clone(), gone.clone()]));
        let mut records: BTreeMap<_, _> =
            written.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        records.insert("other/record".into(), vec![1]);
        records.insert(announced_key(same.1.addresses[0]), vec![]);
        records.insert(announced_key(gone.1.addresses[0]), vec![]);
        assert_eq!(assignments(&records), BTreeMap::from([same.clone(), gone]));
        let writes = difference(&records, &BTreeMap::from([same, new.clone()]));
        let value = serde_json::to_vec(&new.1).unwrap();
        assert_eq!(
            writes,
            BTreeMap::from([
                ("announced/192.168.1.241".into(), None),
                ("assignment/default/gone".into(), None),
                ("assignment/default/new".into(), Some(value)),
            ])
        );
    }
}
