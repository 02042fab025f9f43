//! IPAddressPool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::tree::{FieldPath, quoted};
use super::{Findings, address};
use crate::api::IPAddressPoolSpec;
use crate::observed::{AddressRange, Pool};
use crate::problem::Reason;

/// A pool, and for each of its ranges the field that it came from.
pub fn pool(
    meta: &ObjectMeta,
    spec: &IPAddressPoolSpec,
    findings: &mut Findings,
) -> (Pool, Vec<FieldPath>) {
    if spec.service_allocation.is_some() {
        findings.refuse(FieldPath::spec("serviceAllocation"));
    }
    let (ranges, paths) = ranges(&spec.addresses, findings);
    let pool = Pool {
        name: meta.name.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        ranges,
        auto_assign: spec.auto_assign.unwrap_or(true),
        avoid_buggy: spec.avoid_buggy_ips.unwrap_or(false),
    };
    (pool, paths)
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
