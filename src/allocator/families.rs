//! Which address families a Service is to have, by the rules of the kind of pool.
//!
//! MetalLB goes by the addresses that the Service has within the cluster, which the API server has
//! chosen by `ipFamilies` and `ipFamilyPolicy`; the picture has them in `ip_families`. Cilium goes
//! by the fields themselves and by which families the cluster has. Cilium is told by its options;
//! here a family counts as enabled if a Node has an address of it or the Service has one within the
//! cluster, and both do where neither is known.

use crate::observed::{FamilyPolicy, IpFamily, Observed, PoolKind, Service};

/// Families that Nodes have addresses of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFamilies {
    v4: bool,
    v6: bool,
}

impl NodeFamilies {
    /// Of all Nodes.
    pub fn of(observed: &Observed) -> Self {
        let addresses = || observed.nodes.values().flat_map(|node| &node.addresses);
        Self {
            v4: addresses().any(std::net::IpAddr::is_ipv4),
            v6: addresses().any(std::net::IpAddr::is_ipv6),
        }
    }

    fn enables(self, family: IpFamily, service: &Service) -> bool {
        let is_known = self.v4 || self.v6 || !service.cluster_ips.is_empty();
        let by_nodes = match family {
            IpFamily::V4 => self.v4,
            IpFamily::V6 => self.v6,
        };
        let by_service = service.cluster_ips.iter().any(|ip| IpFamily::of(*ip) == family);
        !is_known || by_nodes || by_service
    }
}

/// The families that the Service is to have, the preferred one first; never none.
pub(super) fn wanted(service: &Service, kind: PoolKind, nodes: NodeFamilies) -> Vec<IpFamily> {
    match kind {
        PoolKind::MetalLb => of_metallb(service),
        PoolKind::Cilium => of_cilium(service, nodes),
    }
}

/// By MetalLB's rules.
pub(super) fn of_metallb(service: &Service) -> Vec<IpFamily> {
    let families = match service.ip_families[..] {
        [] => &[IpFamily::V4],
        [first, ..] if service.family_policy == FamilyPolicy::SingleStack => &[first][..],
        ref families => families,
    };
    families.to_vec()
}

/// By Cilium's: SingleStack is the first family listed even where that is not enabled,
/// PreferDualStack those listed that are enabled, RequireDualStack whatever is enabled.
fn of_cilium(service: &Service, nodes: NodeFamilies) -> Vec<IpFamily> {
    let is_enabled = |family: &IpFamily| nodes.enables(*family, service);
    let listed = of_metallb(service);
    let first = listed[0];
    let mut families = match service.family_policy {
        FamilyPolicy::SingleStack if service.has_default_families => {
            vec![IpFamily::V4, IpFamily::V6]
        }
        FamilyPolicy::SingleStack => return vec![first],
        FamilyPolicy::PreferDualStack => listed,
        FamilyPolicy::RequireDualStack => vec![first, first.other()],
    };
    families.retain(is_enabled);
    if families.is_empty() {
        families.push(first);
    }
    if service.family_policy == FamilyPolicy::SingleStack {
        families.truncate(1);
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    use IpFamily::{V4, V6};

    const NEITHER: NodeFamilies = NodeFamilies { v4: false, v6: false };
    const ONLY_V4: NodeFamilies = NodeFamilies { v4: true, v6: false };
    const ONLY_V6: NodeFamilies = NodeFamilies { v4: false, v6: true };

    fn service(family_policy: FamilyPolicy, families: &[IpFamily]) -> Service {
        let has_default_families = families.is_empty();
        let ip_families = if has_default_families { vec![V4] } else { families.to_vec() };
        Service { ip_families, family_policy, has_default_families, ..Service::default() }
    }

    #[test]
    fn cilium_goes_by_what_is_listed_and_what_is_enabled() {
        let table: [(FamilyPolicy, &[IpFamily], NodeFamilies, &[IpFamily]); 11] = [
            (SingleStack, &[], NEITHER, &[V4]),
            (SingleStack, &[], ONLY_V4, &[V4]),
            (SingleStack, &[], ONLY_V6, &[V6]),
            (SingleStack, &[V6], ONLY_V4, &[V6]),
            (SingleStack, &[V4, V6], ONLY_V6, &[V4]),
            (PreferDualStack, &[V6, V4], NEITHER, &[V6, V4]),
            (PreferDualStack, &[V4, V6], ONLY_V6, &[V6]),
            (PreferDualStack, &[V4], NEITHER, &[V4]),
            (RequireDualStack, &[V4, V6], NEITHER, &[V4, V6]),
            (RequireDualStack, &[V6], NEITHER, &[V6, V4]),
            (RequireDualStack, &[V4, V6], ONLY_V4, &[V4]),
        ];
        for (policy, listed, nodes, expected) in table {
            let service = service(policy, listed);
            let found = wanted(&service, PoolKind::Cilium, nodes);
            assert_eq!(found, expected, "{policy:?} {listed:?} {nodes:?}");
        }
    }

    #[test]
    fn an_address_within_the_cluster_shows_that_its_family_is_enabled() {
        let mut service = service(RequireDualStack, &[V4, V6]);
        service.cluster_ips = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(wanted(&service, PoolKind::Cilium, ONLY_V4), [V4, V6]);
    }

    #[test]
    fn metallb_does_not_ask_which_families_are_enabled() {
        let service = service(RequireDualStack, &[V4, V6]);
        assert_eq!(wanted(&service, PoolKind::MetalLb, ONLY_V4), [V4, V6]);
    }
}
