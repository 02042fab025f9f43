//! CiliumLoadBalancerIPPool and CiliumL2AnnouncementPolicy.
//!
//! Cilium tolerates more than MetalLB: overlapping blocks are a conflict of the pool, found later,
//! and no error of the object.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::tree::{FieldPath, quoted};
use super::selector::selector;
use super::{Findings, address, created};
use crate::api::cilium::Block;
use crate::api::{CiliumL2AnnouncementPolicySpec, CiliumLoadBalancerIPPoolSpec};
use crate::observed::{AddressRange, Advertisement, CILIUM_PREFIX, Pattern, Pool, PoolKind};
use crate::problem::Reason;

/// A pool.
pub fn pool(
    meta: &ObjectMeta,
    spec: &CiliumLoadBalancerIPPoolSpec,
    findings: &mut Findings,
) -> Pool {
    let allows_ends = match spec.allow_first_last_ips.as_deref() {
        None | Some("Yes" | "") => true,
        Some("No") => false,
        Some(other) => {
            let message = format!("{}: expected Yes or No", quoted(other));
            findings.error(FieldPath::spec("allowFirstLastIPs"), Reason::BadValue, message);
            true
        }
    };
    let (mut ranges, mut left_out) = (Vec::new(), BTreeSet::new());
    for (list, field) in [(&spec.blocks, "blocks"), (&spec.cidrs, "cidrs")] {
        for (index, block) in list.iter().flatten().enumerate() {
            let path = FieldPath::spec(field).index(index);
            let Some(range) = range(block, &path, findings) else { continue };
            ranges.push(range);
            // Only a network has ends that old devices take for its own addresses, and one of one
            // or two addresses has none to spare.
            let is_small = range.after(range.first()).is_none_or(|next| next == range.last());
            if block.cidr.is_some() && !allows_ends && !is_small {
                left_out.extend([range.first(), range.last()]);
            }
        }
    }
    let path = FieldPath::spec("serviceSelector");
    let service_selector =
        spec.service_selector.as_ref().map(|given| selector(given, &path, findings));
    Pool {
        kind: PoolKind::Cilium,
        name: name(meta),
        labels: meta.labels.clone().unwrap_or_default(),
        ranges,
        auto_assign: true,
        left_out,
        service_selector,
        disabled: spec.disabled.unwrap_or(false),
        created: created(meta),
        ..Pool::default()
    }
}

fn range(block: &Block, path: &FieldPath, findings: &mut Findings) -> Option<AddressRange> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (text, field) = match (given(&block.cidr), given(&block.start), given(&block.stop)) {
        (Some(cidr), None, None) => {
            // An address alone is a network of one address here.
            let prefix = if cidr.contains(':') { 128 } else { 32 };
            let cidr = if cidr.contains('/') { cidr } else { format!("{cidr}/{prefix}") };
            (cidr, "cidr")
        }
        (None, Some(start), stop) => {
            (format!("{start}-{}", stop.as_ref().unwrap_or(&start)), "start")
        }
        _ => {
            let message = "expected either cidr, or start with or without stop";
            findings.error(path.clone(), Reason::BadValue, message);
            return None;
        }
    };
    match address::range(&text) {
        Ok(range) => Some(range),
        Err((reason, message)) => {
            findings.error(path.clone().field(field), reason, message);
            None
        }
    }
}

/// A policy.
pub fn policy(
    meta: &ObjectMeta,
    spec: &CiliumL2AnnouncementPolicySpec,
    findings: &mut Findings,
) -> Advertisement {
    let mut interface_patterns = Vec::new();
    for (index, text) in spec.interfaces.iter().flatten().enumerate() {
        match Pattern::new(text) {
            Ok(pattern) => interface_patterns.push(pattern),
            Err(error) => {
                let message = format!("{}: {error}", quoted(text));
                let path = FieldPath::spec("interfaces").index(index);
                findings.error(path, Reason::BadValue, message);
            }
        }
    }
    let path = FieldPath::spec;
    let service = spec.service_selector.as_ref();
    let node = spec.node_selector.as_ref();
    let service = service.map(|given| selector(given, &path("serviceSelector"), findings));
    let node = node.map(|given| selector(given, &path("nodeSelector"), findings));
    Advertisement {
        kind: PoolKind::Cilium,
        name: name(meta),
        node_selectors: node.into_iter().collect(),
        service_selectors: service.into_iter().collect(),
        interface_patterns,
        external_ips: spec.external_ips.unwrap_or(false),
        load_balancer_ips: spec.load_balancer_ips.unwrap_or(false),
        ..Advertisement::default()
    }
}

fn name(meta: &ObjectMeta) -> String {
    format!("{CILIUM_PREFIX}{}", meta.name.as_deref().unwrap_or_default())
}
