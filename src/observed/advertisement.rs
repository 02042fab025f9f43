//! Who announces which addresses, and where: MetalLB's L2Advertisement and Cilium's
//! CiliumL2AnnouncementPolicy as one type.
//!
//! A MetalLB announcement covers MetalLB's pools only, a policy of Cilium's covers Cilium's only.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Node, Pattern, Pool, PoolKind, Selector, Service};

/// Which pools are announced, by which nodes and on which interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Advertisement {
    /// Whose rules it follows.
    pub kind: PoolKind,
    /// The name, unique among announcements: `<namespace>/<name>` where there is a namespace, and
    /// `cilium.io/<name>` for Cilium's.
    pub name: String,
    /// MetalLB: pools by name.
    pub pools: BTreeSet<String>,
    /// MetalLB: pools by label, besides the named ones.
    pub pool_selectors: Vec<Selector>,
    /// Nodes that may announce; empty means all.
    pub node_selectors: Vec<Selector>,
    /// Nodes that should rather announce than others.
    pub preferred_nodes: Vec<PreferredNodes>,
    /// MetalLB: exact names of interfaces to announce on.
    pub interfaces: BTreeSet<String>,
    /// Cilium: patterns of interfaces to announce on.
    pub interface_patterns: Vec<Pattern>,
    /// Services that are announced; empty means all.
    pub service_selectors: Vec<Selector>,
    /// Cilium: whether addresses from pools are announced at all.
    pub load_balancer_ips: bool,
    /// Cilium: whether the Service's externalIPs are announced.
    pub external_ips: bool,
}

/// How much a kind of node is preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PreferredNodes {
    /// From 1 to 100.
    pub weight: u32,
    /// The nodes that are meant.
    pub selector: Selector,
}

impl Advertisement {
    /// Whether addresses of the pool are announced. MetalLB: neither names nor selectors means
    /// every pool.
    pub fn covers(&self, pool: &Pool) -> bool {
        let is_selected =
            || self.pool_selectors.iter().any(|selector| selector.matches(&pool.labels));
        self.covers_unlabelled(pool.kind, &pool.name)
            || (self.kind == PoolKind::MetalLb && pool.kind == self.kind && is_selected())
    }

    /// Whether addresses of a pool of that kind and name are announced, whatever its labels are.
    pub fn covers_unlabelled(&self, kind: PoolKind, pool: &str) -> bool {
        let is_every = self.pools.is_empty() && self.pool_selectors.is_empty();
        let covers = match kind {
            PoolKind::MetalLb => is_every || self.pools.contains(pool),
            PoolKind::Cilium => self.load_balancer_ips,
        };
        self.kind == kind && covers
    }

    /// Whether the Service's externalIPs are announced.
    pub fn covers_external_ips(&self, service: &Service) -> bool {
        self.kind == PoolKind::Cilium
            && self.external_ips
            && service.may_announce_external_ips()
            && self.covers_service(service)
    }

    /// Whether the Service is announced.
    pub fn covers_service(&self, service: &Service) -> bool {
        // BGP's class is allocated for, and announced by somebody else.
        if self.kind == PoolKind::Cilium && service.class.as_deref() == Some(super::service::BGP) {
            return false;
        }
        let labels = match self.kind {
            PoolKind::MetalLb => service.labels.clone(),
            PoolKind::Cilium => service.labels_with_pseudo(),
        };
        self.service_selectors.is_empty()
            || self.service_selectors.iter().any(|selector| selector.matches(&labels))
    }

    /// Whether it picks out Services, so that a shared address cannot be announced by it: the
    /// address would be announced for a Service that is not meant.
    pub const fn selects_services(&self) -> bool {
        matches!(self.kind, PoolKind::MetalLb) && !self.service_selectors.is_empty()
    }

    /// Whether the node may announce.
    pub fn selects_node(&self, node: &Node) -> bool {
        self.node_selectors.is_empty()
            || self.node_selectors.iter().any(|selector| selector.matches(&node.labels))
    }

    /// How much the node is preferred: the sum of the weights that match.
    pub fn preference(&self, labels: &BTreeMap<String, String>) -> u32 {
        let preferred = self.preferred_nodes.iter();
        preferred.filter(|it| it.selector.matches(labels)).map(|it| it.weight).sum()
    }

    /// Whether it says anything about interfaces.
    pub fn names_interfaces(&self) -> bool {
        !self.interfaces.is_empty() || !self.interface_patterns.is_empty()
    }

    /// Whether to announce on the interface.
    pub fn selects_interface(&self, interface: &str) -> bool {
        !self.names_interfaces()
            || self.interfaces.contains(interface)
            || self.interface_patterns.iter().any(|pattern| pattern.matches(interface))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Requirement, ServiceName};

    fn selector(key: &str, value: &str) -> Selector {
        Selector { requirements: vec![Requirement::In(key.into(), [value.to_owned()].into())] }
    }

    fn pool(kind: PoolKind) -> Pool {
        Pool { kind, name: "p".into(), ..Pool::default() }
    }

    #[test]
    fn covers_the_pools_of_its_own_kind() {
        let metallb = Advertisement::default();
        let cilium = Advertisement { kind: PoolKind::Cilium, ..Advertisement::default() };
        assert!(
            metallb.covers(&pool(PoolKind::MetalLb)) && !metallb.covers(&pool(PoolKind::Cilium))
        );
        assert!(!cilium.covers(&pool(PoolKind::Cilium)), "loadBalancerIPs is false by default");
        let cilium = Advertisement { load_balancer_ips: true, ..cilium };
        assert!(cilium.covers(&pool(PoolKind::Cilium)) && !cilium.covers(&pool(PoolKind::MetalLb)));
    }

    #[test]
    fn pseudo_labels_overwrite_labels_in_cilium_policies_only() {
        let fake = "io.kubernetes.service.namespace".to_owned();
        let service = Service {
            name: ServiceName::new("real", "web"),
            labels: [(fake.clone(), "fake".to_owned())].into(),
            ..Service::default()
        };
        let mut ad = Advertisement {
            kind: PoolKind::Cilium,
            service_selectors: vec![selector(&fake, "real")],
            ..Advertisement::default()
        };
        assert!(ad.covers_service(&service));
        ad.kind = PoolKind::MetalLb;
        assert!(!ad.covers_service(&service));
    }

    #[test]
    fn interface_patterns_are_not_anchored_and_exact_names_are() {
        let mut ad = Advertisement::default();
        assert!(ad.selects_interface("eth0"));
        ad.interface_patterns = vec![Pattern::new("th[0-9]").unwrap()];
        assert!(ad.selects_interface("eth0") && !ad.selects_interface("wlan0"));
        ad.interface_patterns.clear();
        ad.interfaces = ["eth".to_owned()].into();
        assert!(!ad.selects_interface("eth0"));
    }

    #[test]
    fn adds_up_the_weights_that_match() {
        let prefer = |weight, value| PreferredNodes { weight, selector: selector("zone", value) };
        let preferred_nodes = vec![prefer(10, "a"), prefer(5, "a"), prefer(70, "b")];
        let ad = Advertisement { preferred_nodes, ..Advertisement::default() };
        assert_eq!(ad.preference(&[("zone".to_owned(), "a".to_owned())].into()), 15);
    }

    #[test]
    fn only_a_policy_that_says_so_covers_external_ips() {
        let policy = Advertisement { kind: PoolKind::Cilium, ..Advertisement::default() };
        let service = Service::default();
        assert!(!policy.covers_external_ips(&service), "externalIPs is false by default");
        let policy = Advertisement { external_ips: true, ..policy };
        assert!(policy.covers_external_ips(&service));
        assert!(!policy.covers(&pool(PoolKind::Cilium)), "and says nothing about pools");
        let metallb = Advertisement { external_ips: true, ..Advertisement::default() };
        assert!(!metallb.covers_external_ips(&service));
        let of_others = Service { class: Some("example.com/lb".into()), ..Service::default() };
        assert!(!policy.covers_external_ips(&of_others));
        let picky = Advertisement { service_selectors: vec![selector("app", "web")], ..policy };
        assert!(!picky.covers_external_ips(&service));
    }

    #[test]
    fn a_policy_leaves_the_class_of_bgp_alone() {
        let ad = Advertisement { kind: PoolKind::Cilium, ..Advertisement::default() };
        let class = |class: &str| Service { class: Some(class.into()), ..Service::default() };
        assert!(ad.covers_service(&class("io.cilium/l2-announcer")));
        assert!(!ad.covers_service(&class("io.cilium/bgp-control-plane")));
    }
}
