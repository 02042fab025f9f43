//! EndpointSlice.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use super::super::tree::{FieldPath, quoted};
use super::service::{port_number, protocol};
use super::{Findings, address};
use crate::observed::{Endpoint, EndpointPort, IpFamily, ServiceName};
use crate::problem::Reason;

/// The label that says which Service a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The Service that the slice belongs to and the endpoints in it; nothing if it belongs to none.
pub fn endpoints(
    slice: &EndpointSlice,
    findings: &mut Findings,
) -> Option<(ServiceName, Arc<[Endpoint]>)> {
    let family = family(slice, findings)?;
    let labels = slice.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)) else {
        let path = FieldPath::root().field("metadata").field("labels");
        let message = format!("label {SERVICE_LABEL} is missing; the slice belongs to no Service");
        findings.warning(path, Reason::MissingField, message);
        return None;
    };
    let namespace = slice.metadata.namespace.as_deref().unwrap_or("default");
    let ports: Arc<[EndpointPort]> = ports(slice, findings).into();
    let listed = slice.endpoints.iter().enumerate();
    let endpoints = listed
        .filter_map(|(index, listed)| {
            let address = first_address(index, listed, family, findings)?;
            let conditions = listed.conditions.clone().unwrap_or_default();
            // Absent means ready (EndpointSlice API: "nil should be interpreted as true"), and
            // that it serves if it is ready ("consumers should defer to the ready condition").
            let ready = conditions.ready.unwrap_or(true);
            Some(Endpoint {
                address,
                node: listed.node_name.clone().filter(|node| !node.is_empty()),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                kept: false,
                ports: Arc::clone(&ports),
            })
        })
        .collect();
    Some((ServiceName::new(namespace, service), merged(endpoints)))
}

/// In order; joins endpoints of the same address and ports. While a pod moves between slices it may
/// briefly be in two (EndpointSlice concepts, "Duplicate endpoints"). Slices that differ in their
/// ports are different places on the same pod, each ready or not by itself: so it is while a
/// Service's `targetPort` changes.
pub fn merged(mut endpoints: Vec<Endpoint>) -> Arc<[Endpoint]> {
    endpoints.sort_by(|a, b| (a.address, &a.ports).cmp(&(b.address, &b.ports)));
    endpoints.dedup_by(|next, kept| {
        let same = (next.address, &next.ports) == (kept.address, &kept.ports);
        if same {
            kept.ready |= next.ready;
            kept.serving |= next.serving;
            kept.terminating &= next.terminating;
            kept.node = kept.node.take().or_else(|| next.node.take());
        }
        same
    });
    endpoints.into()
}

fn family(slice: &EndpointSlice, findings: &mut Findings) -> Option<IpFamily> {
    let path = FieldPath::root().field("addressType");
    match slice.address_type.as_str() {
        "IPv4" => return Some(IpFamily::V4),
        "IPv6" => return Some(IpFamily::V6),
        "FQDN" => {
            let message = "\"FQDN\": endpoints by name are not carried; the slice has no effect";
            findings.warning(path, Reason::NotSupportedYet, message);
        }
        "" => findings.error(path, Reason::MissingField, "is missing; expected IPv4 or IPv6"),
        other => {
            let message = format!("{}: expected IPv4 or IPv6", quoted(other));
            findings.error(path, Reason::BadValue, message);
        }
    }
    None
}

/// The address of an endpoint. All addresses of one entry reach the same pod, and consumers take
/// the first (EndpointSlice API: "defined as fungible").
fn first_address(
    index: usize,
    listed: &discovery::Endpoint,
    family: IpFamily,
    findings: &mut Findings,
) -> Option<IpAddr> {
    let path = FieldPath::root().field("endpoints").index(index).field("addresses");
    let Some(text) = listed.addresses.first() else {
        findings.error(path, Reason::MissingField, "is empty; expected an address");
        return None;
    };
    match address::service_address(text) {
        Ok(address) if IpFamily::of(address) == family => return Some(address),
        Ok(_) => {
            let message =
                format!("{}: wrong family; expected {family}, as addressType says", quoted(text));
            findings.error(path.index(0), Reason::WrongFamily, message);
        }
        Err((reason, message)) => findings.error(path.index(0), reason, message),
    }
    None
}

fn ports(slice: &EndpointSlice, findings: &mut Findings) -> Vec<EndpointPort> {
    let mut ports = Vec::new();
    for (index, listed) in slice.ports.iter().flatten().enumerate() {
        let path = FieldPath::root().field("ports").index(index);
        let protocol =
            protocol(listed.protocol.as_deref(), path.clone().field("protocol"), findings);
        let path = path.field("port");
        let Some(number) = listed.port else {
            // No number means every port, which no load balancer can forward to.
            let message = "has no number; the port has no effect";
            findings.warning(path, Reason::MissingField, message);
            continue;
        };
        let number = port_number(number, path, findings);
        if let (Some(protocol), Some(port)) = (protocol, number) {
            let name = listed.name.clone().unwrap_or_default();
            ports.push(EndpointPort { name, protocol, port });
        }
    }
    ports.sort();
    ports
}
