//! `metallb.io/v1beta1`: the pools and announcements that MetalLB's users already have.
//!
//! All fields of MetalLB 0.16 are here, so that no manifest is refused for a field it may have and
//! the CRDs can be generated from these types. Which of them take effect is decided, and said, in
//! `source::convert`.
//!
//! `L2Advertisement` without a `spec` is valid and common. The derived root type wants one, so code
//! that reads objects reads metadata and spec apart.

#![expect(clippy::duplicated_attributes, reason = "columns of a CRD repeat their type")]

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::selector::{Condition, LabelSelector};

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
    #[schemars(schema_with = "ranges")]
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

/// At least one range, each such that a CIDR or a range of two addresses can stand in it. The rest,
/// such as a reversed range, needs more than a schema and is told by ConfigurationState.
fn ranges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3}| *- *[0-9a-fA-F:.]+ *)$"}
    })
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

/// Which node announces a Service, and with what.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ServiceL2Status",
    plural = "servicel2statuses",
    namespaced,
    status = "ServiceL2StatusStatus",
    printcolumn(name = "Allocated Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Service Name", type_ = "string", json_path = ".status.serviceName"),
    printcolumn(
        name = "Service Namespace",
        type_ = "string",
        json_path = ".status.serviceNamespace"
    ),
    derive = "PartialEq"
)]
pub struct ServiceL2StatusSpec {}

/// What is announced. The fields after `interfaces` are Herald's; where MetalLB's own CRD drops
/// them, they are kept in the annotation `herald.io/more-status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceL2StatusStatus {
    /// The node that announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The Service's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_namespace: Option<String>,
    /// The interfaces that are announced on; empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<InterfaceInfo>>,
    /// The addresses that are announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<AnnouncedAddress>>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceInfo {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An address that a node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedAddress {
    /// The address.
    pub ip: String,
    /// The MAC that is told to the neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The interface that has this MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Since when, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Whether a component could use the configuration it was given.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "ConfigurationState",
    plural = "configurationstates",
    namespaced,
    status = "ConfigurationStateStatus",
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(
        name = "Error",
        type_ = "string",
        json_path = ".status.errorSummary",
        priority = 10
    ),
    derive = "PartialEq"
)]
pub struct ConfigurationStateSpec {}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStateStatus {
    /// `Valid`, `Invalid` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What is wrong, all in one text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_summary: Option<String>,
    /// The same as conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn crds_have_the_names_that_metallb_uses() {
        let names = [
            IPAddressPool::crd(),
            L2Advertisement::crd(),
            ServiceL2Status::crd(),
            ConfigurationState::crd(),
        ]
        .map(|crd| (crd.metadata.name.unwrap_or_default(), crd.spec.scope));
        assert_eq!(
            names,
            [
                ("ipaddresspools.metallb.io".to_owned(), "Namespaced".to_owned()),
                ("l2advertisements.metallb.io".to_owned(), "Namespaced".to_owned()),
                ("servicel2statuses.metallb.io".to_owned(), "Namespaced".to_owned()),
                ("configurationstates.metallb.io".to_owned(), "Namespaced".to_owned()),
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
