//! What a Service wants, checked against what the pools have.
//!
//! These functions look and answer; they take nothing. The planner does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::families::{NodeFamilies, wanted};
use super::plan::{Refusal, RefusalReason, list};
use super::space::{Space, is_left_out};
use super::{Assignment, families};
use crate::observed::{FamilyPolicy, IpFamily, Observed, Pool, PoolKind, Service};

/// Whether the pool may serve the Service.
pub(super) fn admits(pool: &Pool, service: &Service, observed: &Observed) -> bool {
    let none = BTreeMap::new();
    let namespace = observed.namespaces.get(&service.name.namespace).unwrap_or(&none);
    pool.admits(service, namespace)
}

/// Whether it can be said which families the Service has within the cluster. MetalLB's rule; the
/// API server lets neither case come to be.
pub(super) fn has_families(service: &Service) -> Result<(), Refusal> {
    let families: Vec<_> = service.cluster_ips.iter().map(|ip| IpFamily::of(*ip)).collect();
    let found = list(&service.cluster_ips);
    match families[..] {
        [_] if service.family_policy == FamilyPolicy::RequireDualStack => {
            let message = format!("requires dual stack, but its only cluster address is {found}");
            Err(Refusal::new(RefusalReason::NotEnoughClusterIps, message))
        }
        [one, other] if one == other => {
            let message = format!("has the cluster addresses {found}, which are of one family");
            Err(Refusal::new(RefusalReason::ClusterIpsOfOneFamily, message))
        }
        _ => Ok(()),
    }
}

/// Exactly the addresses that the Service asks for; `held` is what it has already.
pub(super) fn requested(
    service: &Service,
    observed: &Observed,
    space: &Space<'_>,
    held: &Assignment,
) -> Result<Assignment, Refusal> {
    let mut addresses = service.requested.clone();
    addresses.sort_by_key(|address| rank(service, IpFamily::of(*address)));
    let mut home: Option<&Pool> = None;
    for address in addresses.iter().copied() {
        let is_held = held.addresses.contains(&address);
        let pool = match is_held {
            true => space.home_of(service, address, &held.pool),
            false => space.pool_of(address),
        };
        let Some(pool) = pool else {
            return Err(outside(observed, address));
        };
        if let Some(home) = home.filter(|home| !is_same_home(home, pool)) {
            let message = format!(
                "asks for {}, which are in the pools {} and {}; one pool must hold both",
                list(&addresses),
                home.name,
                pool.name
            );
            return Err(Refusal::new(RefusalReason::AddressesInDifferentPools, message));
        }
        if home.is_none() && pool.kind == PoolKind::MetalLb {
            check_by_metallb(service, pool)?;
        }
        let asked = Asked { service, observed, space, is_held };
        asked.check(pool, address)?;
        home = home.or(Some(pool));
    }
    let pool = home.map(|pool| pool.name.clone()).unwrap_or_default();
    Ok(Assignment { pool, addresses })
}

/// MetalLB takes both addresses from one pool, Cilium each from any.
pub(super) fn is_same_home(one: &Pool, other: &Pool) -> bool {
    one.kind == other.kind && (one.kind == PoolKind::Cilium || one.name == other.name)
}

fn outside(observed: &Observed, address: IpAddr) -> Refusal {
    match observed.pools.values().find(|pool| pool.contains(address)) {
        Some(pool) => closed(pool, &format!("asks for {address}, but ")),
        None => {
            let message = format!("asks for {address}, which is in no pool");
            Refusal::new(RefusalReason::AddressOutsidePools, message)
        }
    }
}

fn closed(pool: &Pool, before: &str) -> Refusal {
    let why = match &pool.conflict {
        Some(other) => format!("is in conflict with {other}"),
        None => "is disabled".to_owned(),
    };
    Refusal::new(RefusalReason::PoolClosed, format!("{before}pool {} {why}", pool.name))
}

/// One requested address, looked at.
struct Asked<'a> {
    service: &'a Service,
    observed: &'a Observed,
    space: &'a Space<'a>,
    is_held: bool,
}

impl Asked<'_> {
    fn check(&self, pool: &Pool, address: IpAddr) -> Result<(), Refusal> {
        if !self.is_held && !pool.is_open() {
            return Err(closed(pool, &format!("asks for {address}, but ")));
        }
        if !admits(pool, self.service, self.observed) {
            let message = format!("asks for {address}, but pool {} is not for it", pool.name);
            return Err(Refusal::new(RefusalReason::PoolNotForService, message));
        }
        if is_left_out(pool, address) {
            let option = match pool.kind {
                PoolKind::MetalLb => "avoidBuggyIPs",
                PoolKind::Cilium => "allowFirstLastIPs",
            };
            let message =
                format!("asks for {address}, which pool {} leaves out ({option})", pool.name);
            return Err(Refusal::new(RefusalReason::AddressAvoided, message));
        }
        let obstacle = self.space.obstacle(self.service, pool.kind, address);
        // Whether it may keep what it holds is decided already (`hold`).
        let Some(found) = obstacle.filter(|_| !self.is_held) else { return Ok(()) };
        let message = format!("asks for {address}, which {} has", found.holder);
        Err(match found.why {
            None => Refusal::new(RefusalReason::AddressTaken, message),
            Some(why) => {
                let message = format!("{message}; they cannot share it, because {why}");
                Refusal::new(RefusalReason::AddressNotShared, message)
            }
        })
    }
}

fn check_by_metallb(service: &Service, pool: &Pool) -> Result<(), Refusal> {
    if let Some(message) = &service.metallb_contradiction {
        return Err(Refusal::new(RefusalReason::RequestContradictory, message));
    }
    if let Some(wanted) = service.requested_pool.as_ref().filter(|wanted| **wanted != pool.name) {
        let message = format!(
            "asks for {} and for pool {wanted}, but the address is in pool {}",
            list(&service.requested),
            pool.name
        );
        return Err(Refusal::new(RefusalReason::RequestContradictory, message));
    }
    check_families(service)
}

fn check_families(service: &Service) -> Result<(), Refusal> {
    let wanted = families::of_metallb(service);
    let of = |family| service.requested.iter().filter(|ip| IpFamily::of(**ip) == family).count();
    let fits = service.requested.iter().all(|address| wanted.contains(&IpFamily::of(*address)));
    let enough = match service.family_policy {
        FamilyPolicy::RequireDualStack => wanted.iter().all(|family| of(*family) > 0),
        FamilyPolicy::SingleStack | FamilyPolicy::PreferDualStack => true,
    };
    if fits && enough && wanted.iter().all(|family| of(*family) <= 1) {
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

/// Addresses from the first pool that has what the Service needs: the pool it names, else pinned
/// pools by priority, else pools for everybody, else Cilium's.
pub(super) fn automatic(
    service: &Service,
    observed: &Observed,
    space: &mut Space<'_>,
    nodes: NodeFamilies,
) -> Result<Assignment, Refusal> {
    let pools = candidates(service, observed)?;
    if let Some(found) = previous(service, &pools, nodes, space) {
        return Ok(found);
    }
    for group in pools.chunk_by(|one, other| group(one) == group(other)) {
        let wanted = wanted(service, group[0].kind, nodes);
        let found = match group[0].kind {
            PoolKind::MetalLb => from_one_pool(service, group, &wanted, space),
            PoolKind::Cilium => from_any_pools(service, group, &wanted, space),
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let kind = pools.first().map_or(PoolKind::MetalLb, |pool| pool.kind);
    let wanted = wanted(service, kind, nodes);
    let first = &wanted[..1];
    let any_will_do =
        service.family_policy == FamilyPolicy::PreferDualStack || kind == PoolKind::Cilium;
    let needed = if any_will_do { first } else { &wanted };
    Err(why_none(service, observed, &pools, needed))
}

fn group(pool: &Pool) -> (PoolKind, bool) {
    (pool.kind, pool.allocation.is_some())
}

/// The pools that may serve a Service that asks for no address, in the order in which to try them.
fn candidates<'a>(service: &Service, observed: &'a Observed) -> Result<Vec<&'a Pool>, Refusal> {
    let Some(name) = &service.requested_pool else {
        let pools = observed.pools.values().filter(|pool| pool.auto_assign && pool.is_open());
        let mut pools: Vec<_> = pools.filter(|pool| admits(pool, service, observed)).collect();
        pools.sort_by_key(|pool| (pool.rank(), &pool.name));
        return Ok(pools);
    };
    let Some(pool) = observed.pools.get(name).filter(|pool| pool.kind == PoolKind::MetalLb) else {
        let message = format!("asks for pool {name}, which does not exist");
        return Err(Refusal::new(RefusalReason::UnknownPool, message));
    };
    if !admits(pool, service, observed) {
        let message = format!("asks for pool {name}, which is not for it");
        return Err(Refusal::new(RefusalReason::PoolNotForService, message));
    }
    Ok(vec![pool])
}

/// What the Service had before its pool disappeared, if that can be had again.
fn previous(
    service: &Service,
    pools: &[&Pool],
    nodes: NodeFamilies,
    space: &Space<'_>,
) -> Option<Assignment> {
    let first = service.previous.first()?;
    let pool = pools.iter().find(|pool| pool.contains(*first))?;
    let wanted = wanted(service, pool.kind, nodes);
    let is_fit = |address: &IpAddr| {
        pool.contains(*address)
            && wanted.contains(&IpFamily::of(*address))
            && !is_left_out(pool, *address)
            && space.obstacle(service, pool.kind, *address).is_none()
    };
    let families: Vec<_> = service.previous.iter().map(|it| IpFamily::of(*it)).collect();
    let enough = service.family_policy != FamilyPolicy::RequireDualStack
        || pool.kind == PoolKind::Cilium
        || wanted.iter().all(|family| families.contains(family));
    let mut addresses = service.previous.clone();
    addresses.sort_by_key(|address| rank(service, IpFamily::of(*address)));
    (enough && addresses.iter().all(is_fit))
        .then(|| Assignment { pool: pool.name.clone(), addresses })
}

fn from_one_pool(
    service: &Service,
    pools: &[&Pool],
    wanted: &[IpFamily],
    space: &mut Space<'_>,
) -> Option<Assignment> {
    let found = pools.iter().find_map(|pool| all_of(service, pool, wanted, space));
    if found.is_some() || service.family_policy != FamilyPolicy::PreferDualStack {
        return found;
    }
    pools.iter().find_map(|pool| all_of(service, pool, &wanted[..1], space))
}

/// Each family from the first pool that has it, as Cilium does: also where another family is to be
/// had nowhere. An address to share comes before a free one, in whichever pool it is.
fn from_any_pools(
    service: &Service,
    pools: &[&Pool],
    wanted: &[IpFamily],
    space: &mut Space<'_>,
) -> Option<Assignment> {
    let mut found: Option<Assignment> = None;
    for family in wanted {
        match (space.next_of(service, pools, *family), &mut found) {
            (Some((_, address)), Some(found)) => found.addresses.push(address),
            (Some((pool, address)), None) => {
                found = Some(Assignment { pool: pool.name.clone(), addresses: vec![address] });
            }
            (None, _) => {}
        }
    }
    found
}

/// What is missing to what the Service has from Cilium's pools, if it requires more. MetalLB's give
/// both families or nothing.
pub(super) fn lacking(
    service: &Service,
    observed: &Observed,
    has: &Assignment,
    nodes: NodeFamilies,
) -> Option<Refusal> {
    let pool = observed.pools.get(&has.pool).filter(|pool| pool.kind == PoolKind::Cilium)?;
    if service.family_policy != FamilyPolicy::RequireDualStack || !service.requested.is_empty() {
        return None;
    }
    let mut missing = wanted(service, pool.kind, nodes);
    missing.retain(|family| !has.has_family(*family));
    let missing = missing.first()?;
    let mut pools = candidates(service, observed).unwrap_or_default();
    pools.retain(|pool| pool.kind == PoolKind::Cilium);
    Some(why_none(service, observed, &pools, &[*missing]))
}

/// What the Service keeps although the pool is not for it any more. Nothing new would come to it
/// from there, so whoever edited its labels, its namespace's or the pool should know.
pub(super) fn misplaced(
    service: &Service,
    observed: &Observed,
    has: &Assignment,
    space: &Space<'_>,
) -> Option<Refusal> {
    let addresses = has.addresses.iter();
    let mut homes = addresses.filter_map(|it| Some((it, space.home_of(service, *it, &has.pool)?)));
    let (address, pool) = homes.find(|(_, pool)| !admits(pool, service, observed))?;
    let message = format!("keeps {address}, but pool {} is not for it any more", pool.name);
    Some(Refusal::new(RefusalReason::PoolNotForService, message))
}

/// One address of each family, from this pool.
pub(super) fn all_of(
    service: &Service,
    pool: &Pool,
    families: &[IpFamily],
    space: &mut Space<'_>,
) -> Option<Assignment> {
    let addresses: Option<Vec<IpAddr>> =
        families.iter().map(|family| space.next_for(service, pool, *family)).collect();
    Some(Assignment { pool: pool.name.clone(), addresses: addresses? })
}

fn why_none(
    service: &Service,
    observed: &Observed,
    pools: &[&Pool],
    wanted: &[IpFamily],
) -> Refusal {
    if observed.pools.is_empty() {
        return Refusal::new(RefusalReason::NoPool, "there is no pool of addresses");
    }
    if pools.is_empty() {
        let all = observed.pools.values();
        let automatic: Vec<_> = all.filter(|pool| pool.auto_assign).collect();
        if automatic.is_empty() {
            let message = "no pool assigns addresses by itself (autoAssign); the Service can ask \
                           for an address of a pool";
            return Refusal::new(RefusalReason::NoAutomaticPool, message);
        }
        return match automatic.iter().find(|pool| !pool.is_open()) {
            Some(pool) if automatic.iter().all(|pool| !pool.is_open()) => closed(pool, ""),
            _ => {
                let message = "no pool is for it: each selects other Services or namespaces";
                Refusal::new(RefusalReason::PoolNotForService, message)
            }
        };
    }
    let fitting: Vec<_> = pools
        .iter()
        .filter(|pool| wanted.iter().all(|family| pool.has_family(*family)))
        .map(|pool| pool.name.as_str())
        .collect();
    if !fitting.is_empty() {
        let message = format!("no address is free in {}", fitting.join(", "));
        return Refusal::new(RefusalReason::PoolsExhausted, message);
    }
    let which = match &service.requested_pool {
        Some(name) => format!("pool {name} does not have"),
        None if wanted.len() > 1 => "no single pool that assigns by itself has both".to_owned(),
        None => "no pool that assigns by itself has".to_owned(),
    };
    match wanted {
        [family] => {
            Refusal::new(RefusalReason::NoPoolOfFamily, format!("{which} {family} addresses"))
        }
        _ => {
            let message = format!("{which} IPv4 and IPv6 addresses");
            Refusal::new(RefusalReason::NoDualStackPool, message)
        }
    }
}

fn rank(service: &Service, family: IpFamily) -> usize {
    service.ip_families.iter().position(|known| *known == family).unwrap_or(usize::MAX)
}
