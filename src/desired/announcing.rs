//! What announces a VIP at all (pure): the L2Advertisements or policies for its pool and Services.
//!
//! Configuration that cannot be read must not silence what it announced. A speaker that was running
//! keeps the last good state of every object; one that starts has none, and then goes by what is
//! left: the name of the pool, that Herald assigned the address, and that it was announced.

use std::net::IpAddr;

use super::eligibility::can_serve;
use super::{Context, Ineligible, Origin, Served, Uncertain};
use crate::observed::{Advertisement, CILIUM_PREFIX, Pool, PoolKind, Service};

/// What announces a VIP.
#[derive(Clone, Debug)]
pub(super) struct Announcing<'a> {
    pub advertisements: Vec<&'a Advertisement>,
    pub uncertain: Option<Uncertain>,
}

/// Stands in for announcements that cannot be read: any node, on the interfaces in a network that
/// contains the VIP.
#[derive(Clone, Debug)]
pub(super) struct StandIns([Advertisement; 2]);

impl StandIns {
    pub(super) fn new() -> Self {
        Self([PoolKind::MetalLb, PoolKind::Cilium].map(|kind| Advertisement {
            kind,
            load_balancer_ips: true,
            ..Advertisement::default()
        }))
    }

    const fn of(&self, kind: PoolKind) -> &Advertisement {
        let [metallb, cilium] = &self.0;
        match kind {
            PoolKind::MetalLb => metallb,
            PoolKind::Cilium => cilium,
        }
    }
}

impl Context<'_> {
    /// What announces the VIP.
    pub(super) fn announcing(
        &self,
        vip: IpAddr,
        origin: Origin<'_>,
        services: &[Served],
    ) -> Result<Announcing<'_>, Ineligible> {
        if self.ground.places.is_address_of_a_node(vip) {
            return Err(Ineligible::AddressOfNode);
        }
        let found = match origin {
            Origin::External => self.of_external(services),
            Origin::Pool(name) => match self.ground.pools.get(name) {
                Some(pool) => self.of_pool(vip, pool, services),
                None => self.of_unknown_pool(vip, name, services),
            }?,
        };
        let is_metallb = found.advertisements.iter().any(|ad| ad.kind == PoolKind::MetalLb);
        let can_serve = |it: &Served| it.endpoints().iter().any(can_serve);
        match is_metallb && !services.iter().any(can_serve) {
            true => Err(Ineligible::NoReadyEndpoint),
            false => Ok(found),
        }
    }

    fn of_external(&self, services: &[Served]) -> Announcing<'_> {
        let covers = |ad: &&Advertisement| services.iter().any(|s| ad.covers_external_ips(s));
        let advertisements = self.ground.advertisements.values().filter(covers).collect();
        Announcing { advertisements, uncertain: None }
    }

    fn of_pool(
        &self,
        vip: IpAddr,
        pool: &Pool,
        services: &[Served],
    ) -> Result<Announcing<'_>, Ineligible> {
        match self.covering(services, |ad| ad.covers(pool)) {
            Ok(advertisements) => Ok(Announcing { advertisements, uncertain: None }),
            Err(Ineligible::NoAdvertisement) if self.was_announced_by_hidden(vip) => {
                let advertisements = vec![self.stand_ins.of(pool.kind)];
                let uncertain = Some(Uncertain::AdvertisementUnknown);
                Ok(Announcing { advertisements, uncertain })
            }
            Err(why) => Err(why),
        }
    }

    /// The pool may be in what cannot be read. Then what certainly announced it does so on; else
    /// what may have, because it selects pools by labels; else any node.
    fn of_unknown_pool(
        &self,
        vip: IpAddr,
        name: &str,
        services: &[Served],
    ) -> Result<Announcing<'_>, Ineligible> {
        if !self.ground.pools_incomplete {
            return Err(Ineligible::NoAdvertisement);
        }
        if !services.iter().any(|service| has_from_us(service, vip)) {
            return Err(Ineligible::PoolUnknown);
        }
        let kind = kind_of(name);
        let certain = self.covering(services, |ad| ad.covers_unlabelled(kind, name));
        let certain = certain.or_else(|_| {
            self.covering(services, |ad| ad.kind == kind && !ad.pool_selectors.is_empty())
        });
        let advertisements = match certain {
            Err(Ineligible::NoAdvertisement) if self.was_announced_by_hidden(vip) => {
                vec![self.stand_ins.of(kind)]
            }
            found => found?,
        };
        Ok(Announcing { advertisements, uncertain: Some(Uncertain::PoolUnknown) })
    }

    fn was_announced_by_hidden(&self, vip: IpAddr) -> bool {
        self.ground.advertisements_incomplete && self.ground.announced.contains(&vip)
    }

    /// The advertisements that cover the pool and all the Services.
    fn covering(
        &self,
        services: &[Served],
        covers_pool: impl Fn(&Advertisement) -> bool,
    ) -> Result<Vec<&Advertisement>, Ineligible> {
        let covers = |ad: &&Advertisement| {
            covers_pool(ad) && services.iter().all(|service| ad.covers_service(service))
        };
        let covering: Vec<&Advertisement> =
            self.ground.advertisements.values().filter(covers).collect();
        if covering.is_empty() {
            return Err(Ineligible::NoAdvertisement);
        }
        let is_safe = |ad: &&Advertisement| services.len() == 1 || !ad.selects_services();
        let safe: Vec<&Advertisement> = covering.into_iter().filter(is_safe).collect();
        if safe.is_empty() { Err(Ineligible::SharedAddress) } else { Ok(safe) }
    }
}

/// Whose rules a pool follows of which only the name is known. Where the Service's status is the
/// database, only MetalLB's pools are named in it.
fn kind_of(pool: &str) -> PoolKind {
    match pool.is_empty() || pool.starts_with(CILIUM_PREFIX) {
        true => PoolKind::Cilium,
        false => PoolKind::MetalLb,
    }
}

/// Whether the address is from Herald, and not from another load balancer whose pools are unknown
/// here. What the election's records assign is not in the status at all.
fn has_from_us(service: &Service, vip: IpAddr) -> bool {
    let reported = &service.reported;
    let is_ours = reported.assigned.iter().flatten().any(|ours| *ours == vip);
    is_ours || !reported.addresses.contains(&vip)
}

#[cfg(test)]
mod tests;
