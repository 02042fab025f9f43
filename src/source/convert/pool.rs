//! IPAddressPool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::tree::{FieldPath, quoted};
use super::selector::selectors;
use super::{Findings, address, created};
use crate::api::IPAddressPoolSpec;
use crate::api::metallb::ServiceAllocation;
use crate::observed::{AddressRange, Allocation, Pool, PoolKind};
use crate::problem::Reason;

/// A pool, and for each of its ranges the field that it came from.
pub fn pool(
    meta: &ObjectMeta,
    spec: &IPAddressPoolSpec,
    findings: &mut Findings,
) -> (Pool, Vec<FieldPath>) {
    let allocation = spec.service_allocation.as_ref().map(|given| allocation(given, findings));
    let (ranges, paths) = ranges(&spec.addresses, findings);
    let pool = Pool {
        kind: PoolKind::MetalLb,
        namespace: meta.namespace.clone().unwrap_or_default(),
        allocation,
        created: created(meta),
        name: meta.name.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        ranges,
        auto_assign: spec.auto_assign.unwrap_or(true),
        avoid_buggy: spec.avoid_buggy_ips.unwrap_or(false),
        ..Pool::default()
    };
    (pool, paths)
}

fn allocation(given: &ServiceAllocation, findings: &mut Findings) -> Allocation {
    let path = |name: &str| FieldPath::spec("serviceAllocation").field(name);
    let priority = u32::try_from(given.priority.unwrap_or(0)).unwrap_or_else(|_| {
        let message = format!("{}: expected 0 or more", given.priority.unwrap_or(0));
        findings.error(path("priority"), Reason::BadValue, message);
        0
    });
    let namespace_selectors = given.namespace_selectors.as_deref();
    let service_selectors = given.service_selectors.as_deref();
    Allocation {
        priority,
        is_namespaced: given.namespaces.iter().flatten().next().is_some()
            || namespace_selectors.is_some_and(|list| !list.is_empty()),
        namespaces: given.namespaces.iter().flatten().cloned().collect(),
        namespace_selectors: selectors(namespace_selectors, &path("namespaceSelectors"), findings),
        service_selectors: selectors(service_selectors, &path("serviceSelectors"), findings),
    }
}

fn ranges(addresses: &[String], findings: &mut Findings) -> (Vec<AddressRange>, Vec<FieldPath>) {
    let field = FieldPath::spec("addresses");
    if addresses.is_empty() {
        let message = "is empty; expected at least one CIDR or range of addresses";
        findings.error(field.clone(), Reason::MissingField, message);
    }
    let (mut ranges, mut paths) = (Vec::<AddressRange>::new(), Vec::new());
    for (index, text) in addresses.iter().enumerate() {
        let path = field.clone().index(index);
        match address::range(text) {
            Ok(range) => match ranges.iter().find(|known| known.overlaps(range)) {
                // MetalLB treats this as an error too, unlike Cilium, which tolerates it.
                Some(known) => {
                    let message = format!(
                        "{}: shares addresses with {known} of the same pool; expected ranges that \
                         do not overlap",
                        quoted(text)
                    );
                    findings.error(path, Reason::PoolOverlap, message);
                }
                None => {
                    ranges.push(range);
                    paths.push(path);
                }
            },
            Err((reason, message)) => findings.error(path, reason, message),
        }
    }
    (ranges, paths)
}
