//! What a Service wants, checked against what the pools have.
//!
//! These functions look and answer; they take nothing. The planner does.

use std::net::IpAddr;

use super::Assignment;
use super::plan::{Refusal, RefusalReason, list};
use super::space::{Space, is_left_out};
use crate::observed::{FamilyPolicy, IpFamily, Observed, Pool, Service};

/// Exactly the addresses that the Service asks for.
pub(super) fn requested(service: &Service, space: &Space<'_>) -> Result<Assignment, Refusal> {
    check_families(service)?;
    let mut addresses = service.requested.clone();
    addresses.sort_by_key(|address| rank(service, IpFamily::of(*address)));
    let mut home: Option<&Pool> = None;
    for address in addresses.iter().copied() {
        let Some(pool) = space.pool_of(address) else {
            let message = format!("asks for {address}, which is in no pool");
            return Err(Refusal::new(RefusalReason::AddressOutsidePools, message));
        };
        if let Some(home) = home.filter(|home| home.name != pool.name) {
            let message = format!(
                "asks for {}, which are in the pools {} and {}; one pool must hold both",
                list(&addresses),
                home.name,
                pool.name
            );
            return Err(Refusal::new(RefusalReason::AddressesInDifferentPools, message));
        }
        if is_left_out(pool, address) {
            let message =
                format!("asks for {address}, which pool {} leaves out (avoidBuggyIPs)", pool.name);
            return Err(Refusal::new(RefusalReason::AddressAvoided, message));
        }
        if let Some(holder) = space.holder(address).filter(|holder| **holder != service.name) {
            let message = format!("asks for {address}, which {holder} has");
            return Err(Refusal::new(RefusalReason::AddressTaken, message));
        }
        home = Some(pool);
    }
    let pool = home.map(|pool| pool.name.clone()).unwrap_or_default();
    Ok(Assignment { pool, addresses })
}

fn check_families(service: &Service) -> Result<(), Refusal> {
    let wanted = wanted(service);
    let fits = service.requested.iter().all(|address| wanted.contains(&IpFamily::of(*address)));
    let enough = match service.family_policy {
        FamilyPolicy::RequireDualStack => service.requested.len() == wanted.len(),
        FamilyPolicy::SingleStack | FamilyPolicy::PreferDualStack => true,
    };
    if fits && enough {
        return Ok(());
    }
    let families: Vec<_> = wanted.iter().map(IpFamily::to_string).collect();
    let message = format!(
        "asks for {}, but its address families are {}",
        list(&service.requested),
        families.join(" and ")
    );
    Err(Refusal::new(RefusalReason::RequestedWrongFamily, message))
}

/// Addresses from the first pool that has what the Service needs.
pub(super) fn automatic(
    service: &Service,
    observed: &Observed,
    space: &mut Space<'_>,
) -> Result<Assignment, Refusal> {
    let wanted = wanted(service);
    let mut pools = observed.pools.values().filter(|pool| pool.auto_assign);
    if let Some(found) = pools.find_map(|pool| all_of(pool, &wanted, space)) {
        return Ok(found);
    }
    if service.family_policy == FamilyPolicy::PreferDualStack {
        let mut pools = observed.pools.values().filter(|pool| pool.auto_assign);
        if let Some(found) = pools.find_map(|pool| all_of(pool, &wanted[..1], space)) {
            return Ok(found);
        }
        return Err(why_none(observed, &wanted[..1]));
    }
    Err(why_none(observed, &wanted))
}

/// One free address of each family, from this pool.
pub(super) fn all_of(
    pool: &Pool,
    families: &[IpFamily],
    space: &mut Space<'_>,
) -> Option<Assignment> {
    let addresses: Option<Vec<IpAddr>> =
        families.iter().map(|family| space.next_free(pool, *family)).collect();
    Some(Assignment { pool: pool.name.clone(), addresses: addresses? })
}

fn why_none(observed: &Observed, wanted: &[IpFamily]) -> Refusal {
    if observed.pools.is_empty() {
        return Refusal::new(RefusalReason::NoPool, "there is no pool of addresses");
    }
    let automatic: Vec<_> = observed.pools.values().filter(|pool| pool.auto_assign).collect();
    if automatic.is_empty() {
        let message = "no pool assigns addresses by itself (autoAssign); the Service can ask for \
                       an address of a pool";
        return Refusal::new(RefusalReason::NoAutomaticPool, message);
    }
    let fitting: Vec<_> = automatic
        .iter()
        .filter(|pool| wanted.iter().all(|family| pool.has_family(*family)))
        .map(|pool| pool.name.as_str())
        .collect();
    if !fitting.is_empty() {
        let message = format!("no address is free in {}", fitting.join(", "));
        return Refusal::new(RefusalReason::PoolsExhausted, message);
    }
    match wanted {
        [family] => {
            let message = format!("no pool that assigns by itself has {family} addresses");
            Refusal::new(RefusalReason::NoPoolOfFamily, message)
        }
        _ => {
            let message = "no single pool that assigns by itself has both IPv4 and IPv6 addresses";
            Refusal::new(RefusalReason::NoDualStackPool, message)
        }
    }
}

/// The families that the Service is to have, the preferred one first; never none.
pub(super) fn wanted(service: &Service) -> Vec<IpFamily> {
    let families = match service.ip_families[..] {
        [] => &[IpFamily::V4],
        [first, ..] if service.family_policy == FamilyPolicy::SingleStack => &[first][..],
        ref families => families,
    };
    families.to_vec()
}

fn rank(service: &Service, family: IpFamily) -> usize {
    service.ip_families.iter().position(|known| *known == family).unwrap_or(usize::MAX)
}
