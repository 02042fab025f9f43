//! L2Advertisement.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::tree::FieldPath;
use super::Findings;
use super::selector::selectors;
use crate::api::L2AdvertisementSpec;
use crate::observed::Advertisement;
use crate::problem::Reason;

/// Which pools are announced by whom and where.
pub fn advertisement(
    meta: &ObjectMeta,
    spec: &L2AdvertisementSpec,
    findings: &mut Findings,
) -> Advertisement {
    let path = FieldPath::spec;
    if spec.service_selectors.as_ref().is_some_and(|list| !list.is_empty()) {
        findings.refuse(path("serviceSelectors"));
    }
    let preferred = spec.preferred_node_selectors.as_deref().unwrap_or_default();
    if !preferred.is_empty() {
        findings.ignore(path("preferredNodeSelectors"));
    }
    for (index, preferred) in preferred.iter().enumerate() {
        if !(1..=100).contains(&preferred.weight) {
            let path = path("preferredNodeSelectors").index(index).field("weight");
            let message = format!("{}: expected a weight from 1 to 100", preferred.weight);
            findings.error(path, Reason::BadValue, message);
        }
    }
    let pool_selectors = spec.ip_address_pool_selectors.as_deref();
    let node_selectors = spec.node_selectors.as_deref();
    Advertisement {
        name: meta.name.clone().unwrap_or_default(),
        pools: spec.ip_address_pools.iter().flatten().cloned().collect(),
        pool_selectors: selectors(pool_selectors, &path("ipAddressPoolSelectors"), findings),
        node_selectors: selectors(node_selectors, &path("nodeSelectors"), findings),
        interfaces: spec.interfaces.iter().flatten().cloned().collect(),
    }
}
