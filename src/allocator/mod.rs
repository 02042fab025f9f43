//! Service -> VIPs, from pools.
//!
//! Pure: the picture, what is assigned now and the configuration go in, a plan comes out. An
//! assignment that can stay stays, whatever else changes; that rule stands above all others, since
//! people write addresses into DNS. The order of work follows from it: holders first, then Services
//! that ask for certain addresses, then everybody else. Read `plan.rs` for what comes out and
//! `space.rs` for how free addresses are found.
//!
//! There are two rule sets, MetalLB's and Cilium's, and the kind of the pool that supplies the
//! address says which applies (`share.rs` has the widest difference). Herald differs from both in
//! two points: pools of equal rank are tried in the order of their names and not at random, and a
//! live Service keeps what it has: without a word if its pool closes, and with a refusal, which
//! people see in its status and as an Event, if its edit asks for something impossible or its pool
//! no longer selects it.

mod count;
mod families;
mod held;
mod hold;
mod plan;
mod request;
mod share;
mod shared;
mod space;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use count::Count;
pub use plan::{Assignment, Change, ChangeReason, Plan, Refusal, RefusalReason};

use crate::observed::{
    BGP, FamilyPolicy, HERALD, IpFamily, L2_ANNOUNCER, Observed, Pool, PoolKind, Service,
    ServiceName,
};
use families::NodeFamilies;
use space::{Holder, Space};

/// What the operator of the load balancer decides about allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The loadBalancerClass that is served; none means Services without a class.
    pub class: Option<String>,
    /// What becomes of Services without a class where no class is named above.
    pub classless: Classless,
}

/// What becomes of Services without a loadBalancerClass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Classless {
    /// They are given addresses.
    #[default]
    Served,
    /// They are left to others (Cilium's `default-lb-service-ipam: none`).
    Ignored,
}

impl Config {
    /// Whether the Service is to be given addresses. Without a class of their own choice, people
    /// get what they have today: Services without a class, and Cilium's classes for its pools.
    pub fn serves(&self, service: &Service) -> bool {
        let is_ours = match (&self.class, service.class.as_deref()) {
            (Some(ours), class) => class == Some(ours),
            (None, None) => self.classless == Classless::Served,
            (None, Some(class)) => matches!(class, HERALD | L2_ANNOUNCER | BGP),
        };
        service.load_balancer && is_ours
    }
}

/// What is assigned by what was reported back to Kubernetes: there the Service's status is the
/// database.
pub fn reported(observed: &Observed, config: &Config) -> BTreeMap<ServiceName, Assignment> {
    let space = Space::new(&observed.pools);
    let services = observed.services.values().filter(|service| config.serves(service));
    services
        .filter_map(|service| {
            let addresses = service.reported.addresses.clone();
            let pool = reported_pool(service, *addresses.first()?, &space, observed);
            Some((service.name.clone(), Assignment { pool, addresses }))
        })
        .collect()
}

/// The pool that the reported addresses come from, the first one's if there are several. Only a
/// pool of MetalLB's is written down at the Service; without that note, what Herald or Cilium has
/// given comes from a pool of Cilium's, also where one of MetalLB's holds the address by now. Empty
/// if that pool is not known.
fn reported_pool(
    service: &Service,
    first: IpAddr,
    space: &Space<'_>,
    observed: &Observed,
) -> String {
    let reported = &service.reported;
    let from = reported.pool.as_deref();
    let (home, kind) = match from {
        Some(from) => (space.home_of(service, first, from), Some(PoolKind::of_name(from))),
        None if reported.assigned.is_some() || reported.has_cilium_condition() => {
            let mut addresses = reported.addresses.iter();
            let of_cilium = addresses.find_map(|it| space.of_cilium(service, *it));
            (of_cilium.or_else(|| space.any_of(first)), Some(PoolKind::Cilium))
        }
        None => (space.any_of(first), None),
    };
    // While a pool may be in what cannot be read, none of the other kind takes its place.
    let is_stopgap =
        |home: &&Pool| observed.pools_incomplete && kind.is_some_and(|kind| kind != home.kind);
    let home = home.filter(|home| !is_stopgap(home));
    home.map_or_else(|| from.unwrap_or_default().to_owned(), |pool| pool.name.clone())
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
        nodes: NodeFamilies::of(observed),
        config,
        unfit: BTreeMap::new(),
    };
    let mut served: Vec<&Service> =
        observed.services.values().map(Arc::as_ref).filter(|it| config.serves(it)).collect();
    // Who came first is served first.
    served.sort_by_key(|service| (&service.created, &service.name));
    planner.hold_current(&served, current);
    planner.reserve_for_others();
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
    nodes: NodeFamilies,
    config: &'a Config,
    /// Addresses that several hold who do not fit together, and who of them cannot share.
    unfit: BTreeMap<&'a ServiceName, Refusal>,
}

impl<'a> Planner<'a> {
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
        if let Err(refusal) = request::has_families(service) {
            self.refusals.insert(&service.name, refusal);
            return false;
        }
        let Some(held) = self.assignments.get(&service.name).cloned() else { return true };
        let is_elsewhere = service.requested_pool.as_ref().is_some_and(|pool| *pool != held.pool);
        let (wanted, reason) = if !service.requested.is_empty() || service.contradiction.is_some() {
            (self.requested(service, &held), ChangeReason::Requested)
        } else if is_elsewhere {
            let found = request::automatic(service, self.observed, &mut self.space, self.nodes);
            (found, ChangeReason::Requested)
        } else {
            (self.suiting(service, &held), ChangeReason::Families)
        };
        if wanted.as_ref().is_ok_and(|wanted| *wanted != held) {
            self.why.entry(&service.name).or_insert(reason);
        }
        self.settle(service, wanted.map(|wanted| (wanted != held).then_some(wanted)))
    }

    /// What the Service asks for by address, given what it has.
    fn requested(
        &mut self,
        service: &'a Service,
        held: &Assignment,
    ) -> Result<Assignment, Refusal> {
        if let Some(message) = &service.contradiction {
            return Err(Refusal::new(RefusalReason::RequestContradictory, message));
        }
        let wanted = request::requested(service, self.observed, &self.space, held)?;
        Ok(self.extended(service, wanted, held))
    }

    /// What fits the Service's families, as near as possible to what it has.
    fn suiting(&mut self, service: &'a Service, held: &Assignment) -> Result<Assignment, Refusal> {
        let families = self.wanted(service, &held.pool);
        let mut near = held.clone();
        near.addresses.retain(|address| families.contains(&IpFamily::of(*address)));
        if !near.addresses.is_empty() {
            let near = self.extended(service, near, held);
            if self.suits(service, &near) {
                return Ok(near);
            }
        }
        // The same pool first, even if it does not assign by itself: the Service is there already.
        let pools = &self.observed.pools;
        if let Some(pool) = pools.get(&held.pool)
            && pool.is_open()
            && let Some(found) = request::all_of(service, pool, &families, &mut self.space)
        {
            return Ok(found);
        }
        request::automatic(service, self.observed, &mut self.space, self.nodes)
    }

    /// Whether the families are such that the Service needs nothing more and has nothing too much.
    fn suits(&self, service: &Service, held: &Assignment) -> bool {
        let families = self.wanted(service, &held.pool);
        let is_cilium = self.kind_of(&held.pool) == Some(PoolKind::Cilium);
        if is_cilium && !service.requested.is_empty() {
            return true;
        }
        // By Cilium's rules a family that is not to be had takes nothing away.
        let any_will_do = is_cilium || service.family_policy == FamilyPolicy::PreferDualStack;
        let enough = match any_will_do {
            true => !held.addresses.is_empty(),
            false => families.iter().all(|family| held.has_family(*family)),
        };
        enough && held.addresses.iter().all(|address| families.contains(&IpFamily::of(*address)))
    }

    /// The families that the Service is to have while it has addresses of the pool.
    fn wanted(&self, service: &Service, pool: &str) -> Vec<IpFamily> {
        families::wanted(service, self.kind_of(pool).unwrap_or_default(), self.nodes)
    }

    fn kind_of(&self, pool: &str) -> Option<PoolKind> {
        self.observed.pools.get(pool).map(|pool| pool.kind)
    }

    /// With the second family added, if one is wanted: the one that is held, else a new one. By
    /// MetalLB's rules it comes from the same pool, by Cilium's from any of its pools, and only if
    /// no address was asked for.
    fn extended(
        &mut self,
        service: &Service,
        mut near: Assignment,
        held: &Assignment,
    ) -> Assignment {
        let Some(home) = self.observed.pools.get(&near.pool) else { return near };
        let pools: Vec<&Pool> = match home.kind {
            PoolKind::MetalLb => vec![home],
            PoolKind::Cilium if !service.requested.is_empty() => return near,
            PoolKind::Cilium => {
                let pools = self.observed.pools.values().filter(|pool| pool.kind == home.kind);
                pools.filter(|pool| request::admits(pool, service, self.observed)).collect()
            }
        };
        for family in families::wanted(service, home.kind, self.nodes) {
            if near.has_family(family) {
                continue;
            }
            let is_fit = |address: &&IpAddr| {
                IpFamily::of(**address) == family
                    && pools.iter().any(|pool| pool.contains(**address))
            };
            let kept = held.addresses.iter().find(is_fit).copied();
            let next = kept.or_else(|| {
                let open: Vec<_> = pools.iter().copied().filter(|pool| pool.is_open()).collect();
                self.space.next_of(service, &open, family).map(|(_, address)| address)
            });
            near.addresses.extend(next);
        }
        near
    }

    /// Serves those without addresses: first who asks for certain ones, so that nobody else is
    /// given them by chance.
    fn serve_pending(&mut self, served: &[&'a Service]) {
        let mut pending = Vec::new();
        for service in served.iter().copied() {
            match request::has_families(service) {
                _ if self.assignments.contains_key(&service.name) => {}
                Ok(()) => pending.push(service),
                Err(refusal) => drop(self.refusals.insert(&service.name, refusal)),
            }
        }
        let is_asking =
            |service: &Service| !service.requested.is_empty() || service.contradiction.is_some();
        let (asking, mut any): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|service| is_asking(service));
        let nothing = Assignment { pool: String::new(), addresses: Vec::new() };
        for service in asking {
            let found = self.requested(service, &nothing);
            let _ = self.settle(service, found.map(Some));
        }
        // Then who only wants back what it had.
        any.sort_by_key(|service| service.previous.is_empty());
        for service in any {
            let found = request::automatic(service, self.observed, &mut self.space, self.nodes);
            let found = found.map(|found| self.extended(service, found, &nothing));
            let _ = self.settle(service, found.map(Some));
        }
    }

    /// Gives the Service what was found, where that is not what it has; whether it then has all
    /// that it wants. If not, there is a refusal.
    fn settle(&mut self, service: &'a Service, found: Result<Option<Assignment>, Refusal>) -> bool {
        let refusal = match found {
            Ok(found) => {
                found.into_iter().for_each(|found| self.assign(service, found));
                let has = self.assignments.get(&service.name);
                has.and_then(|has| {
                    request::lacking(service, self.observed, has, self.nodes)
                        .or_else(|| self.unfit(service))
                        .or_else(|| request::misplaced(service, self.observed, has, &self.space))
                })
            }
            Err(refusal) => Some(refusal),
        };
        match refusal {
            Some(refusal) => {
                self.refusals.insert(&service.name, refusal);
                false
            }
            None => true,
        }
    }

    fn assign(&mut self, service: &'a Service, assignment: Assignment) {
        let before = self.assignments.get(&service.name);
        for address in before.iter().flat_map(|before| &before.addresses) {
            self.space.release(*address, &service.name);
        }
        for address in &assignment.addresses {
            self.space.take(*address, Holder::Known(service));
        }
        self.assignments.insert(&service.name, assignment);
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
        let services = self.observed.services.values();
        let is_released =
            |it: &&Arc<Service>| it.reported.assigned.is_some() && !self.config.serves(it);
        let released = services.filter(is_released).map(|it| it.name.clone()).collect();
        let owned = |(name, assignment): (&ServiceName, _)| (name.clone(), assignment);
        Plan {
            assignments: self.assignments.into_iter().map(owned).collect(),
            refusals: self
                .refusals
                .into_iter()
                .map(|(name, refusal)| (name.clone(), refusal))
                .collect(),
            changes,
            released,
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
