//! Pools: MetalLB's and Cilium's, as one type that remembers whose rules it follows.
//!
//! The two products mean different things by sharing, requests and overlap. `PoolKind` is the key
//! by which `allocator` tells them apart; nothing here decides anything that needs more than one
//! pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::{AddressRange, IpFamily, Selector, Service};

/// Whose rules a pool follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PoolKind {
    /// `metallb.io` IPAddressPool.
    #[default]
    MetalLb,
    /// `cilium.io` CiliumLoadBalancerIPPool.
    Cilium,
}

impl PoolKind {
    /// Whose rules a pool follows of which only the name is known. Where the Service's status is
    /// the database, only MetalLB's pools are named in it, so that no name means one of Cilium's.
    pub fn of_name(pool: &str) -> Self {
        match pool.is_empty() || pool.starts_with(CILIUM_PREFIX) {
            true => Self::Cilium,
            false => Self::MetalLb,
        }
    }
}

/// A named set of ranges VIPs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Whose rules it follows.
    pub kind: PoolKind,
    /// The name, unique among pools: the object's own for MetalLB's, `cilium.io/<name>` for
    /// Cilium's, which no object of Kubernetes can be named.
    pub name: String,
    /// The namespace of the object; empty for Cilium's.
    pub namespace: String,
    /// Labels, for announcements that select pools.
    pub labels: BTreeMap<String, String>,
    /// The ranges in the order in which they are used; they do not overlap, except within a pool
    /// of Cilium's that is in conflict with itself.
    pub ranges: Vec<AddressRange>,
    /// Whether Services that ask for nothing get an address from here.
    pub auto_assign: bool,
    /// Whether IPv4 addresses ending in .0 and .255 are left out.
    pub avoid_buggy: bool,
    /// Single addresses that are left out.
    pub left_out: BTreeSet<IpAddr>,
    /// Which Services may use it; absent means all.
    pub allocation: Option<Allocation>,
    /// Cilium: which Services may use it; absent means all.
    pub service_selector: Option<Selector>,
    /// Cilium: no new address comes from here. What is assigned stays.
    pub disabled: bool,
    /// Cilium: the pool it shares addresses with. No new address comes from here while it does.
    pub conflict: Option<String>,
    /// When it was created, as RFC 3339 in UTC; empty when unknown.
    pub created: String,
    /// The version of the API it was read in.
    pub api_version: &'static str,
    /// Its status as last seen.
    pub status: serde_json::Value,
}

/// MetalLB's serviceAllocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// Lower is chosen first; 0 is last.
    pub priority: u32,
    /// Whether namespaces are restricted at all.
    pub is_namespaced: bool,
    /// Namespaces by name.
    pub namespaces: BTreeSet<String>,
    /// Namespaces by label, besides the named ones.
    pub namespace_selectors: Vec<Selector>,
    /// Services by label; empty means all.
    pub service_selectors: Vec<Selector>,
}

impl Pool {
    /// Whether one of the ranges holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether any range is of the family.
    pub fn has_family(&self, family: IpFamily) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }

    /// Whether new addresses come from here at all.
    pub const fn is_open(&self) -> bool {
        !self.disabled && self.conflict.is_none()
    }

    /// Whether the Service may use the pool, given the labels of its namespace.
    pub fn admits(&self, service: &Service, namespace: &BTreeMap<String, String>) -> bool {
        if self.kind == PoolKind::MetalLb && service.is_of_cilium_class() {
            return false;
        }
        let metallb = self.allocation.as_ref().is_none_or(|it| it.admits(service, namespace));
        let cilium = self.service_selector.as_ref();
        metallb && cilium.is_none_or(|it| it.matches(&service.labels_with_pseudo()))
    }

    /// Its place among the pools that are tried for a Service that asks for nothing: pinned pools
    /// by priority, then those for everybody; Cilium's after MetalLB's. Ties go by name.
    pub fn rank(&self) -> (PoolKind, bool, u32) {
        let priority = self.allocation.as_ref().map_or(0, |allocation| allocation.priority);
        let last = if priority == 0 { u32::MAX } else { priority };
        (self.kind, self.allocation.is_none(), last)
    }

    /// The name of the object in Kubernetes.
    pub fn object_name(&self) -> &str {
        self.name.strip_prefix(CILIUM_PREFIX).unwrap_or(&self.name)
    }
}

impl Allocation {
    fn admits(&self, service: &Service, namespace: &BTreeMap<String, String>) -> bool {
        // A selector that matches no namespace means nobody.
        let in_namespace = !self.is_namespaced
            || self.namespaces.contains(&service.name.namespace)
            || self.namespace_selectors.iter().any(|selector| selector.matches(namespace));
        let selected = self.service_selectors.is_empty()
            || self.service_selectors.iter().any(|selector| selector.matches(&service.labels));
        in_namespace && selected
    }
}

/// What names of Cilium's objects begin with here.
pub const CILIUM_PREFIX: &str = "cilium.io/";
