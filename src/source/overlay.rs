//! What a cluster would look like with some manifests applied to it: for `herald check`.
//!
//! Pure. Objects of the same identity are replaced, the others stay. An edit that
//! would be refused leaves the cluster as it is, with the problem that says so.

use std::sync::Arc;

use super::soft;
use crate::observed::{Observed, Pool, PoolKind, Service};
use crate::problem::{Level, Problem, Reason};

/// The cluster after `kubectl apply` of the manifests, and what is wrong with that.
pub fn overlay(cluster: &Observed, manifests: &Observed) -> (Observed, Vec<Problem>) {
    let mut after = cluster.clone();
    let mut problems = Vec::new();
    // Two pools may exchange ranges in one edit, so all of them are replaced before any is judged.
    let edited = manifests.pools.values().map(|pool| (pool.name.clone(), replaced(pool, cluster)));
    after.pools.extend(edited);
    for name in manifests.pools.keys() {
        let Some(other) = overlapping(&after, name) else { continue };
        problems.push(refused(name, &other));
        match cluster.pools.get(name) {
            Some(before) => after.pools.insert(name.clone(), before.clone()),
            None => after.pools.remove(name),
        };
    }
    for (name, service) in &manifests.services {
        let mut service = Service::clone(service);
        if let Some(before) = cluster.services.get(name) {
            service.reported = before.reported.clone();
            service.created.clone_from(&before.created);
            service.previous.clone_from(&before.previous);
            if service.ip_families.is_empty() {
                service.ip_families.clone_from(&before.ip_families);
            }
        }
        after.services.insert(name.clone(), Arc::new(service));
    }
    after.advertisements.extend(manifests.advertisements.clone());
    after.namespaces.extend(manifests.namespaces.clone());
    problems.extend(soft::mark(&mut after.pools));
    (after, problems)
}

/// The edited pool with what the API server knows about it. A new one is younger than all others.
fn replaced(pool: &Pool, cluster: &Observed) -> Pool {
    let before = cluster.pools.get(&pool.name);
    let created = before.map_or_else(|| "9999".to_owned(), |before| before.created.clone());
    Pool { created, ..pool.clone() }
}

fn overlapping(observed: &Observed, name: &str) -> Option<String> {
    let pool = observed.pools.get(name).filter(|pool| pool.kind == PoolKind::MetalLb)?;
    let mut others = observed
        .pools
        .values()
        .filter(|other| other.kind == PoolKind::MetalLb && other.name != pool.name);
    let overlaps = |other: &&Pool| {
        other.ranges.iter().any(|theirs| pool.ranges.iter().any(|ours| ours.overlaps(*theirs)))
    };
    others.find(overlaps).map(|other| other.name.clone())
}

fn refused(name: &str, other: &str) -> Problem {
    Problem {
        level: Level::Error,
        object: Some(format!("IPAddressPool {name}")),
        location: None,
        reason: Reason::PoolOverlap,
        message: format!(
            "IPAddressPool {name} would share addresses with {other}; it would be refused, and what \
             is in force would stay"
        ),
    }
}
