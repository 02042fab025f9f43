//! `metallb.io/v1beta1`: the pools and announcements that MetalLB's users already have.
//!
//! All fields of MetalLB 0.16 are here, so that no manifest is refused for a field it may have and
//! the CRDs can be generated from these types. Which of them take effect is decided, and said, in
//! `source::convert`.
//!
//! `L2Advertisement` without a `spec` is valid and common. The derived root type wants one, so code
//! that reads objects reads metadata and spec apart.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::selector::LabelSelector;

/// A named set of addresses that Services get theirs from.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    status = "IPAddressPoolStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolSpec {
    /// CIDRs or ranges `first-last`; both families may be mixed.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether Services that ask for nothing get an address from this pool; true when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_assign: Option<bool>,
    /// Whether IPv4 addresses that end in .0 and .255 are left out; false when absent.
    #[serde(default, rename = "avoidBuggyIPs", skip_serializing_if = "Option::is_none")]
    pub avoid_buggy_ips: Option<bool>,
    /// Which Services may use the pool, and how eagerly it is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Which Services may use a pool, and how eagerly it is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Lower is chosen first; 0 or absent is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Names of namespaces whose Services may use the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Labels of namespaces whose Services may use the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selectors: Option<Vec<LabelSelector>>,
    /// Labels of Services that may use the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selectors: Option<Vec<LabelSelector>>,
}

/// How much of a pool is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolStatus {
    /// IPv4 addresses in use.
    #[serde(default, rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// IPv6 addresses in use.
    #[serde(default, rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// IPv4 addresses that are free.
    #[serde(default, rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// IPv6 addresses that are free, at most the largest number that fits.
    #[serde(default, rename = "availableIPv6")]
    pub available_ipv6: i64,
}

/// Which pools are announced on the local network, by which nodes, on which interfaces.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    namespaced,
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Names of pools; with no names and no selectors, every pool is meant.
    #[serde(default, rename = "ipAddressPools", skip_serializing_if = "Option::is_none")]
    pub ip_address_pools: Option<Vec<String>>,
    /// Labels of pools, besides the named ones.
    #[serde(default, rename = "ipAddressPoolSelectors", skip_serializing_if = "Option::is_none")]
    pub ip_address_pool_selectors: Option<Vec<LabelSelector>>,
    /// Nodes that may announce; every node when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selectors: Option<Vec<LabelSelector>>,
    /// Exact names of interfaces to announce on; every interface when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,
    /// Services that are announced; every Service when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selectors: Option<Vec<LabelSelector>>,
    /// Nodes that should rather announce than others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_node_selectors: Option<Vec<PreferredNodeSelector>>,
}

/// How much a kind of node is preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferredNodeSelector {
    /// From 1 to 100; the sum over all matching selectors counts.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// The nodes that are meant.
    pub preference: LabelSelector,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn crds_have_the_names_that_metallb_uses() {
        let names = [IPAddressPool::crd(), L2Advertisement::crd()]
            .map(|crd| (crd.metadata.name.unwrap_or_default(), crd.spec.scope));
        assert_eq!(
            names,
            [
                ("ipaddresspools.metallb.io".to_owned(), "Namespaced".to_owned()),
                ("l2advertisements.metallb.io".to_owned(), "Namespaced".to_owned()),
            ]
        );
    }

    #[test]
    fn fields_keep_the_spelling_of_metallb() {
        let spec = IPAddressPoolSpec {
            addresses: vec!["192.0.2.0/24".into()],
            auto_assign: Some(false),
            avoid_buggy_ips: Some(true),
            service_allocation: None,
        };
        assert_eq!(
            serde_json::to_value(spec).unwrap(),
            serde_json::json!({
                "addresses": ["192.0.2.0/24"], "autoAssign": false, "avoidBuggyIPs": true
            })
        );
    }
}
