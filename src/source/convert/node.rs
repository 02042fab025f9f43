//! Node.

use k8s_openapi::api::core::v1 as core;

use super::super::tree::FieldPath;
use super::{Findings, address};
use crate::observed::Node;

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
    Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses,
        network_unavailable: is_network_unavailable(node),
        excluded: labels.contains_key(EXCLUDE_LABEL),
        labels,
    }
}

/// What a node says of itself before its network is set up, and what MetalLB leaves out for.
fn is_network_unavailable(node: &core::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|it| it.type_ == "NetworkUnavailable" && it.status == "True")
}
