//! Who keeps what is assigned now, before anybody is given anything.
//!
//! Services that share an address may come not to fit together any more, by an edit of one of them.
//! That must not cost another one its address. Where their ports still tell them apart and one node
//! can serve them, all of them keep it, and the one that does not fit is told so: two whose
//! policies or keys are edited one after the other are together again after the second edit. Else,
//! or where one has no key any more, the one that was edited last gives way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{Refusal, RefusalReason};
use super::space::Holder;
use super::{Assignment, ChangeReason, Planner, request, share};
use crate::observed::{PoolKind, Service, ServiceName};

impl<'a> Planner<'a> {
    /// Lets every holder keep what still lies in a pool, before anybody else is looked at.
    pub(super) fn hold_current(
        &mut self,
        served: &[&'a Service],
        current: &'a BTreeMap<ServiceName, Assignment>,
    ) {
        let holding = |service: &&'a Service| Some((*service, current.get(&service.name)?));
        let mut holding: Vec<_> = served.iter().filter_map(holding).collect();
        holding.sort_by_cached_key(|(service, held)| seniority(service, &held.pool));
        let crowded: BTreeSet<_> =
            holding.into_iter().flat_map(|(service, held)| self.hold(service, held)).collect();
        for (address, kind) in crowded {
            self.refuse_unfit(address, kind);
        }
        if self.observed.services_incomplete {
            self.reserve_for_hidden(current);
        }
    }

    /// Keeps away from addresses that another load balancer has given to Services of its class,
    /// and from those of Services that cannot be read.
    pub(super) fn reserve_for_others(&mut self) {
        let services = self.observed.services.values();
        for service in services.filter(|it| it.load_balancer && !self.config.serves(it)) {
            for address in &service.reported.addresses {
                if !self.space.is_held(*address) {
                    self.space.take(*address, Holder::Hidden(&service.name));
                }
            }
        }
        for (name, addresses) in &self.observed.hidden {
            for address in addresses {
                if !self.space.is_held(*address) {
                    self.space.take(*address, Holder::Hidden(name));
                }
            }
        }
    }

    /// Keeps the addresses of Services that may only seem to be gone.
    fn reserve_for_hidden(&mut self, current: &'a BTreeMap<ServiceName, Assignment>) {
        let known = &self.observed.services;
        for (name, held) in current.iter().filter(|(name, _)| !known.contains_key(*name)) {
            if held.addresses.iter().all(|address| !self.space.is_held(*address)) {
                self.refusals.insert(name, Refusal::input_incomplete("Service", &held.addresses));
                for address in &held.addresses {
                    self.space.take(*address, Holder::Hidden(name));
                }
                self.assignments.insert(name, held.clone());
            }
        }
    }

    /// Those of the addresses that others hold too who do not fit, and by whose rules not.
    fn hold(&mut self, service: &'a Service, current: &Assignment) -> Vec<(IpAddr, PoolKind)> {
        let home_of = |address: &IpAddr| self.space.home_of(service, *address, &current.pool);
        let kind_of = |address: &IpAddr| home_of(address).map_or(PoolKind::MetalLb, |it| it.kind);
        let is_mine = |address: &IpAddr| !self.space.clashes(service, kind_of(address), *address);
        let mine: Vec<_> = current.addresses.iter().copied().filter(is_mine).collect();
        let homes = || mine.iter().filter_map(home_of);
        let kind = PoolKind::of_name(&current.pool);
        // Where only some are in another kind's pools by now, those are the ones to give up.
        let home = homes().find(|home| home.kind == kind).or_else(|| homes().next());
        let is_home = |address: &IpAddr| {
            let pool = home_of(address);
            pool.is_some_and(|pool| home.is_some_and(|home| request::is_same_home(home, pool)))
        };
        let mut kept: Vec<_> = mine.iter().copied().filter(is_home).collect();
        let mut pool = home.map_or(&current.pool, |home| &home.name);
        if mine.len() < current.addresses.len() {
            self.why.insert(&service.name, ChangeReason::HeldTwice);
        }
        let is_lost = kept.len() < mine.len() || home.is_some_and(|home| home.kind != kind);
        if is_lost && self.observed.pools_incomplete {
            // The pool may be in the file that cannot be read just now.
            self.refusals.insert(&service.name, Refusal::input_incomplete("pool", &mine));
            (kept, pool) = (mine, &current.pool);
        } else if kept.len() < mine.len() {
            self.why.insert(&service.name, ChangeReason::PoolGone);
        } else if *pool != current.pool {
            self.why.insert(&service.name, ChangeReason::PoolRenamed);
        }
        let kinds = kept.iter().map(|address| (*address, kind_of(address)));
        let crowded = kinds
            .filter(|(address, kind)| self.space.obstacle(service, *kind, *address).is_some())
            .collect();
        if !kept.is_empty() {
            self.assign(service, Assignment { pool: pool.clone(), addresses: kept });
        }
        crowded
    }

    /// Names those who do not fit the others at an address: whoever fits the fewest, then who was
    /// edited last.
    fn refuse_unfit(&mut self, address: IpAddr, kind: PoolKind) {
        let mut classes = BTreeMap::<_, Vec<&'a Service>>::new();
        for service in self.space.holders_of(address) {
            classes.entry(share::Class::of(kind, service)).or_default().push(service);
        }
        let count = |service: &Service| {
            let of_class = |members: &Vec<&Service>| {
                let other = members.iter().find(|member| member.name != service.name);
                let is_misfit = |other: &&Service| share::misfit(kind, service, other).is_some();
                other.copied().filter(is_misfit).map_or(0, |_| members.len())
            };
            classes.values().map(of_class).sum::<usize>()
        };
        let mut holders: Vec<_> = classes.values().flatten().copied().collect();
        holders.sort_by_cached_key(|it| (count(it), edited(it), &it.created, &it.name));
        let mut fit: Vec<&Service> = Vec::new();
        for service in holders {
            let misfit =
                |other: &&Service| Some((other.name.clone(), share::misfit(kind, service, other)?));
            match fit.iter().find_map(misfit) {
                Some((other, why)) => {
                    let message = format!(
                        "keeps {address}, which {other} has too; they cannot share it, because {why}"
                    );
                    let refusal = Refusal::new(RefusalReason::AddressNotShared, message);
                    self.unfit.insert(&service.name, refusal);
                }
                // All of a class are alike to a third, so that two of each will do.
                None => {
                    let class = share::Class::of(kind, service);
                    let is_alike = |it: &&&Service| share::Class::of(kind, it) == class;
                    if fit.iter().filter(is_alike).count() < 2 {
                        fit.push(service);
                    }
                }
            }
        }
    }

    /// What the Service is told that does not fit the others at an address of its own.
    pub(super) fn unfit(&self, service: &Service) -> Option<Refusal> {
        let refusal = self.unfit.get(&service.name)?;
        let has = self.assignments.get(&service.name)?;
        let is_crowded = |address: &IpAddr| {
            let home = self.space.home_of(service, *address, &has.pool);
            let kind = home.map_or(PoolKind::MetalLb, |home| home.kind);
            self.space.obstacle(service, kind, *address).is_some()
        };
        has.addresses.iter().any(is_crowded).then(|| refusal.clone())
    }
}

/// Who keeps an address before whom. Without a key nobody shares, so who has none gives way; and
/// who was edited last is the one whose edit it must have been, since they shared before. Where
/// nobody ever shared, who came first is served first.
fn seniority(service: &Service, pool: &str) -> impl Ord + use<> {
    let has_key = share::key(PoolKind::of_name(pool), service).is_some();
    let edited = has_key.then(|| edited(service));
    (Reverse(has_key), edited, service.created.clone(), service.name.clone())
}

/// A number that grows with each edit; nothing where the Service is not from an API server.
/// (Kubernetes lets them be compared as whole numbers, KEP-5504.)
fn edited(service: &Service) -> Option<u128> {
    service.resource_version.parse().ok()
}
