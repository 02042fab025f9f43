//! Node.

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;

use super::super::tree::{FieldPath, quoted};
use super::{Findings, address};
use crate::observed::{MOST_WEIGHT, Node, WEIGHT};
use crate::problem::Reason;

/// The label that keeps a node from carrying load balancer traffic, whatever its value
/// (Kubernetes, "well-known labels").
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A node with its internal addresses.
pub fn node(node: &core::Node, findings: &mut Findings) -> Node {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut addresses = Vec::new();
    for (index, listed) in listed.enumerate().filter(|(_, listed)| listed.type_ == "InternalIP") {
        match address::address(&listed.address) {
            Ok(address) => addresses.push(address),
            Err((reason, message)) => {
                let list = FieldPath::root().field("status").field("addresses");
                findings.error(list.index(index).field("address"), reason, message);
            }
        }
    }
    let spec = node.spec.as_ref();
    let weight = weight(node, findings);
    Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses,
        network_unavailable: condition(node, "NetworkUnavailable").is_some_and(|it| it == "True"),
        // Unknown is what the control plane says of a node it hears nothing of.
        not_ready: condition(node, "Ready").is_some_and(|it| it != "True"),
        cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        pod_networks: pod_networks(node, findings),
        excluded: labels.contains_key(EXCLUDE_LABEL),
        labels,
        weight: weight.as_ref().ok().copied().flatten(),
        bad_weight: weight.err(),
    }
}

/// What the annotation says; what it says that is no weight.
fn weight(node: &core::Node, findings: &mut Findings) -> Result<Option<u32>, String> {
    let annotations = node.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(WEIGHT)) else { return Ok(None) };
    // The sign that `parse` would take is nothing that a person writes.
    let digits = Some(text.trim()).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let weight = digits.and_then(|it| it.parse().ok()).filter(|weight| *weight <= MOST_WEIGHT);
    weight.map(Some).ok_or_else(|| {
        let message = format!("{}: expected a weight from 0 to {MOST_WEIGHT}", quoted(text));
        findings.error(FieldPath::annotation(WEIGHT), Reason::BadValue, message);
        text.clone()
    })
}

/// The status of a condition, if the node has it.
fn condition<'a>(node: &'a core::Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|it| it.type_ == kind).map(|it| it.status.as_str())
}

/// The networks of its pods; podCIDR repeats the first of podCIDRs (Node API), and is alone in
/// objects written by hand.
fn pod_networks(node: &core::Node, findings: &mut Findings) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.as_deref().unwrap_or(spec.pod_cidr.as_slice());
    let mut networks = Vec::new();
    for (index, text) in listed.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(_) => {
                let path = FieldPath::spec("podCIDRs").index(index);
                let message = format!("{}: expected a network such as 10.244.1.0/24", quoted(text));
                findings.error(path, Reason::BadAddress, message);
            }
        }
    }
    networks
}
