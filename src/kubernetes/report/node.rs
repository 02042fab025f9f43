//! What each speaker says about itself: which Services it announces, where and since when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::write::{Severity, Target, Write};
use crate::observed::{Observed, ServiceName};

/// A VIP that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its Services; several, where they share it.
    pub services: Vec<ServiceName>,
    /// The interfaces that it is announced on, each with its MAC.
    pub interfaces: BTreeMap<String, Option<String>>,
    /// Since when, as RFC 3339.
    pub since: String,
}

/// The ServiceL2Status objects of a node, the removal of those it had for other Services, and the
/// Events that say so. `known` are the names of those that exist.
pub fn announced(
    node: &str,
    namespace: &str,
    observed: &Observed,
    held: &BTreeMap<IpAddr, Held>,
    known: &BTreeSet<String>,
) -> Vec<Write> {
    let mut by_service = BTreeMap::<&ServiceName, Vec<(&IpAddr, &Held)>>::new();
    for (address, held) in held {
        for service in &held.services {
            by_service.entry(service).or_default().push((address, held));
        }
    }
    let mut writes = Vec::new();
    let mut names = BTreeSet::new();
    for (service, held) in by_service {
        let name = name(node, service);
        let labels = json!({
            "metallb.io/node": node,
            "metallb.io/service-name": service.name,
            "metallb.io/service-namespace": service.namespace,
        });
        let target = target(namespace, &name);
        let status = status(node, service, &held).into();
        writes.push(Write::Own { target, labels: labels.into(), status });
        let uid = observed.services.get(service).map_or(String::new(), |it| it.uid.clone());
        writes.push(Write::Event {
            about: Target::service(service),
            uid,
            severity: Severity::Normal,
            reason: "nodeAssigned",
            message: format!("announcing from node {node:?} with protocol \"layer2\""),
        });
        names.insert(name);
    }
    writes.extend(known.difference(&names).map(|name| Write::Gone(target(namespace, name))));
    writes
}

fn status(node: &str, service: &ServiceName, held: &[(&IpAddr, &Held)]) -> Value {
    let interfaces: BTreeSet<_> = held.iter().flat_map(|(_, it)| it.interfaces.keys()).collect();
    let interfaces: Vec<_> = interfaces.into_iter().map(|name| json!({"name": name})).collect();
    let addresses: Vec<_> = held
        .iter()
        .flat_map(|(address, held)| {
            held.interfaces.iter().map(move |(name, mac)| {
                let ip = address.to_string();
                json!({"ip": ip, "mac": mac, "interface": name, "since": held.since})
            })
        })
        .collect();
    json!({
        "node": node,
        "serviceName": service.name,
        "serviceNamespace": service.namespace,
        "interfaces": interfaces,
        "addresses": addresses,
    })
}

fn target(namespace: &str, name: &str) -> Target {
    Target {
        api_version: "metallb.io/v1beta1",
        kind: "ServiceL2Status",
        plural: "servicel2statuses",
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    }
}

/// MetalLB's names are `l2-` and something random; this one is always the same for the same.
fn name(node: &str, service: &ServiceName) -> String {
    // FNV-1a, 64 bit: no secret, just short and stable.
    let text = format!("{node}/{service}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("l2-{hash:016x}")
}
