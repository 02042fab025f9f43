//! L2Advertisement.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::tree::FieldPath;
use super::Findings;
use super::selector::{selector, selectors};
use crate::api::L2AdvertisementSpec;
use crate::observed::{Advertisement, PreferredNodes};
use crate::problem::Reason;

/// Which pools are announced by whom and where.
pub fn advertisement(
    meta: &ObjectMeta,
    spec: &L2AdvertisementSpec,
    findings: &mut Findings,
) -> Advertisement {
    let path = FieldPath::spec;
    let mut preferred_nodes = Vec::new();
    let preferred = spec.preferred_node_selectors.iter().flatten();
    for (index, preferred) in preferred.enumerate() {
        let path = path("preferredNodeSelectors").index(index);
        let weight = match u32::try_from(preferred.weight) {
            Ok(weight) if (1..=100).contains(&weight) => weight,
            _ => {
                let message = format!("{}: expected a weight from 1 to 100", preferred.weight);
                findings.error(path.clone().field("weight"), Reason::BadValue, message);
                continue;
            }
        };
        let selector = selector(&preferred.preference, &path.field("preference"), findings);
        preferred_nodes.push(PreferredNodes { weight, selector });
    }
    let pool_selectors = spec.ip_address_pool_selectors.as_deref();
    let node_selectors = spec.node_selectors.as_deref();
    Advertisement {
        name: name(meta),
        pools: spec.ip_address_pools.iter().flatten().cloned().collect(),
        pool_selectors: selectors(pool_selectors, &path("ipAddressPoolSelectors"), findings),
        node_selectors: selectors(node_selectors, &path("nodeSelectors"), findings),
        interfaces: spec.interfaces.iter().flatten().cloned().collect(),
        service_selectors: selectors(
            spec.service_selectors.as_deref(),
            &path("serviceSelectors"),
            findings,
        ),
        preferred_nodes,
        ..Advertisement::default()
    }
}

/// Those of one name in different namespaces all count.
fn name(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
