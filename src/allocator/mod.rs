//! Service -> VIPs, from pools.
//!
//! Pure: the picture, what is assigned now and the configuration go in, a plan comes out. An
//! assignment that can stay stays, whatever else changes; that rule stands above all others, since
//! people write addresses into DNS. The order of work follows from it: holders first, then Services
//! that ask for certain addresses, then everybody else. Read `plan.rs` for what comes out and
//! `space.rs` for how free addresses are found.
//!
//! The rules are those of MetalLB for its pools, with two differences: pools are tried in the order
//! of their names and not at random, and a live Service whose edit asks for something impossible
//! keeps what it has, with a refusal, where MetalLB would take it away.

mod plan;
mod request;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use plan::{Assignment, Change, ChangeReason, Plan, Refusal, RefusalReason};

use crate::observed::{FamilyPolicy, IpFamily, Observed, Service, ServiceName};
use space::Space;

/// What the operator of the load balancer decides about allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The loadBalancerClass that is served; none means Services without a class.
    pub class: Option<String>,
}

impl Config {
    /// Whether the Service is to be given addresses.
    pub fn serves(&self, service: &Service) -> bool {
        service.load_balancer && service.class == self.class
    }
}

/// Plans who has which addresses.
///
/// Feeding the plan's assignments back as `current` changes nothing.
#[must_use]
pub fn allocate(
    observed: &Observed,
    current: &BTreeMap<ServiceName, Assignment>,
    config: &Config,
) -> Plan {
    let mut planner = Planner {
        observed,
        space: Space::new(&observed.pools),
        assignments: BTreeMap::new(),
        refusals: BTreeMap::new(),
        why: BTreeMap::new(),
    };
    let served: Vec<&Service> =
        observed.services.values().filter(|service| config.serves(service)).collect();
    planner.hold_current(&served, current);
    planner.adjust_holders(&served);
    planner.serve_pending(&served);
    planner.finish(current)
}

struct Planner<'a> {
    observed: &'a Observed,
    space: Space<'a>,
    assignments: BTreeMap<&'a ServiceName, Assignment>,
    refusals: BTreeMap<&'a ServiceName, Refusal>,
    /// Why a Service's assignment is not what it was.
    why: BTreeMap<&'a ServiceName, ChangeReason>,
}

impl<'a> Planner<'a> {
    /// Lets every holder keep what still lies in a pool, before anybody else is looked at.
    fn hold_current(
        &mut self,
        served: &[&'a Service],
        current: &'a BTreeMap<ServiceName, Assignment>,
    ) {
        for service in served {
            if let Some(assignment) = current.get(&service.name) {
                self.hold(service, assignment);
            }
        }
        if self.observed.services_incomplete {
            self.reserve_for_hidden(current);
        }
    }

    /// Keeps the addresses of Services that may only seem to be gone.
    fn reserve_for_hidden(&mut self, current: &'a BTreeMap<ServiceName, Assignment>) {
        let known = &self.observed.services;
        for (name, held) in current.iter().filter(|(name, _)| !known.contains_key(*name)) {
            if held.addresses.iter().all(|address| self.space.holder(*address).is_none()) {
                self.refusals.insert(name, Refusal::input_incomplete("Service", &held.addresses));
                self.assign(name, held.clone());
            }
        }
    }

    fn hold(&mut self, service: &'a Service, current: &Assignment) {
        let held = current.addresses.iter().copied();
        let mine: Vec<_> = held.filter(|held| self.space.holder(*held).is_none()).collect();
        if mine.len() < current.addresses.len() {
            self.why.insert(&service.name, ChangeReason::HeldTwice);
        }
        let home = mine.iter().find_map(|address| self.space.pool_of(*address));
        let is_home = |address: &IpAddr| {
            let pool = self.space.pool_of(*address);
            pool.is_some_and(|pool| home.is_some_and(|home| home.name == pool.name))
        };
        let mut kept: Vec<_> = mine.iter().copied().filter(is_home).collect();
        let mut pool = home.map_or(&current.pool, |home| &home.name);
        if kept.len() < mine.len() && self.observed.pools_incomplete {
            // The pool may be in the file that cannot be read just now.
            self.refusals.insert(&service.name, Refusal::input_incomplete("pool", &mine));
            (kept, pool) = (mine, &current.pool);
        } else if kept.len() < mine.len() {
            self.why.insert(&service.name, ChangeReason::PoolGone);
        } else if *pool != current.pool {
            self.why.insert(&service.name, ChangeReason::PoolRenamed);
        }
        if !kept.is_empty() {
            self.assign(&service.name, Assignment { pool: pool.clone(), addresses: kept });
        }
    }

    /// Gives holders what they want by now, where it differs from what they have. An address that
    /// one of them gives up may be what another waits for, so this goes on while it helps.
    fn adjust_holders(&mut self, served: &[&'a Service]) {
        let mut waiting: Vec<_> = served
            .iter()
            .copied()
            .filter(|service| self.assignments.contains_key(&service.name))
            .filter(|service| !self.refusals.contains_key(&service.name))
            .collect();
        loop {
            let before = waiting.len();
            waiting.retain(|service| !self.adjust(service));
            if waiting.is_empty() || waiting.len() == before {
                return;
            }
        }
    }

    /// Whether the Service has what it wants; if not, there is a refusal.
    fn adjust(&mut self, service: &'a Service) -> bool {
        self.refusals.remove(&service.name);
        let Some(held) = self.assignments.get(&service.name).cloned() else { return true };
        let (wanted, reason) = if service.requested.is_empty() {
            (self.suiting(service, &held), ChangeReason::Families)
        } else {
            (self.requested(service, &held), ChangeReason::Requested)
        };
        match wanted {
            Ok(wanted) if wanted == held => {}
            Ok(wanted) => {
                self.why.entry(&service.name).or_insert(reason);
                self.assign(&service.name, wanted);
            }
            Err(refusal) => {
                self.refusals.insert(&service.name, refusal);
                return false;
            }
        }
        true
    }

    /// What the Service asks for by address, given what it has.
    fn requested(
        &mut self,
        service: &'a Service,
        held: &Assignment,
    ) -> Result<Assignment, Refusal> {
        let has_all = service.requested.iter().all(|address| held.addresses.contains(address));
        if has_all && self.suits(service, held) {
            return Ok(self.extended(service, held.clone()));
        }
        let wanted = request::requested(service, &self.space)?;
        Ok(self.extended(service, wanted))
    }

    /// What fits the Service's families, as near as possible to what it has.
    fn suiting(&mut self, service: &'a Service, held: &Assignment) -> Result<Assignment, Refusal> {
        let families = request::wanted(service);
        let mut near = held.clone();
        near.addresses.retain(|address| families.contains(&IpFamily::of(*address)));
        if !near.addresses.is_empty() {
            let near = self.extended(service, near);
            if self.suits(service, &near) {
                return Ok(near);
            }
        }
        // The same pool first, even if it does not assign by itself: the Service is there already.
        let pools = &self.observed.pools;
        if let Some(pool) = pools.get(&held.pool)
            && let Some(found) = request::all_of(pool, &families, &mut self.space)
        {
            return Ok(found);
        }
        request::automatic(service, self.observed, &mut self.space)
    }

    /// Whether the families are such that the Service needs nothing more and has nothing too much.
    fn suits(&self, service: &Service, held: &Assignment) -> bool {
        let families = request::wanted(service);
        let enough = match service.family_policy {
            FamilyPolicy::PreferDualStack => !held.addresses.is_empty(),
            FamilyPolicy::SingleStack | FamilyPolicy::RequireDualStack => {
                families.iter().all(|family| held.has_family(*family))
            }
        };
        enough && held.addresses.iter().all(|address| families.contains(&IpFamily::of(*address)))
    }

    /// With the second family added, if one is wanted and the pool has a free address of it.
    fn extended(&mut self, service: &Service, mut near: Assignment) -> Assignment {
        let Some(pool) = self.observed.pools.get(&near.pool) else { return near };
        for family in request::wanted(service) {
            if !near.has_family(family)
                && let Some(address) = self.space.next_free(pool, family)
            {
                near.addresses.push(address);
            }
        }
        near
    }

    /// Serves those without addresses: first who asks for certain ones, so that nobody else is
    /// given them by chance.
    fn serve_pending(&mut self, served: &[&'a Service]) {
        let pending = served
            .iter()
            .copied()
            .filter(|service| !self.assignments.contains_key(&service.name))
            .collect::<Vec<_>>();
        let (asking, any): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|service| !service.requested.is_empty());
        for service in asking {
            let found = request::requested(service, &self.space)
                .map(|wanted| self.extended(service, wanted));
            self.settle(service, found);
        }
        for service in any {
            let found = request::automatic(service, self.observed, &mut self.space);
            self.settle(service, found);
        }
    }

    fn settle(&mut self, service: &'a Service, found: Result<Assignment, Refusal>) {
        match found {
            Ok(assignment) => self.assign(&service.name, assignment),
            Err(refusal) => {
                self.refusals.insert(&service.name, refusal);
            }
        }
    }

    fn assign(&mut self, name: &'a ServiceName, assignment: Assignment) {
        let before = self.assignments.get(name);
        for address in before.iter().flat_map(|before| &before.addresses) {
            self.space.release(*address);
        }
        for address in &assignment.addresses {
            self.space.take(*address, name);
        }
        self.assignments.insert(name, assignment);
    }

    fn finish(self, current: &BTreeMap<ServiceName, Assignment>) -> Plan {
        let names: BTreeSet<_> = current.keys().chain(self.assignments.keys().copied()).collect();
        let changes = names
            .into_iter()
            .filter(|name| current.get(*name) != self.assignments.get(*name))
            .map(|name| Change {
                service: name.clone(),
                from: current.get(name).cloned(),
                to: self.assignments.get(name).cloned(),
                reason: self.reason(name, current),
            })
            .collect();
        let owned = |(name, assignment): (&ServiceName, _)| (name.clone(), assignment);
        Plan {
            assignments: self.assignments.into_iter().map(owned).collect(),
            refusals: self
                .refusals
                .into_iter()
                .map(|(name, refusal)| (name.clone(), refusal))
                .collect(),
            changes,
        }
    }

    fn reason(
        &self,
        name: &ServiceName,
        current: &BTreeMap<ServiceName, Assignment>,
    ) -> ChangeReason {
        if let Some(reason) = self.why.get(name) {
            return *reason;
        }
        match (current.contains_key(name), self.observed.services.contains_key(name)) {
            (false, _) => ChangeReason::Pending,
            (true, true) => ChangeReason::NotServed,
            (true, false) => ChangeReason::ServiceGone,
        }
    }
}
