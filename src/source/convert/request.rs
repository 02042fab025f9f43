//! What a Service asks for in annotations: addresses, a pool, sharing.
//!
//! Each product has its own annotations, and older spellings of them. They are read together, since
//! the kind of the pool that will hold the address decides which rules apply, and that is not known
//! here: a contradiction by one product's rules is noted, not judged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;

use super::super::tree::{FieldPath, quoted};
use super::{Findings, address};
use crate::observed::{CiliumSharing, Grants, IpFamily, PREVIOUS, Service};
use crate::problem::Reason;

const METALLB: [&str; 2] = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
const POOL: [&str; 2] = ["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
const SHARED: [&str; 2] = ["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
const CILIUM: [&str; 2] = ["lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"];
const CILIUM_KEY: [&str; 2] = ["lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"];
const CILIUM_GRANTS: [&str; 2] =
    ["lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"];
const CILIUM_PODS: &str = "lbipam.cilium.io/sharing-permit-different-pods";
/// Annotations of products whose pools Herald does not read; any pool may serve them.
const OTHERS: [&str; 2] =
    ["kube-vip.io/loadbalancerIPs", "serviceloadbalancer.kubernetes.io/ipaddress"];

/// Reads all requests into the Service.
pub fn requests(
    annotations: &BTreeMap<String, String>,
    spec: &ServiceSpec,
    service: &mut Service,
    findings: &mut Findings,
) {
    let annotations = Annotations(annotations);
    let mut reader = Reader { service, findings };
    let metallb = annotations.first(&METALLB, reader.findings);
    let field = spec.load_balancer_ip.as_deref().filter(|value| !value.is_empty());
    if let (Some((name, value)), Some(_)) = (metallb, field) {
        reader.contradiction_of_metallb(name, value);
    }
    if let Some((name, value)) = metallb {
        let before = reader.service.requested.len();
        reader.addresses(value, FieldPath::annotation(name));
        reader.check_families(before, value, FieldPath::annotation(name));
    }
    if let Some(value) = field {
        reader.addresses(value, FieldPath::spec("loadBalancerIP"));
    }
    for (name, value) in OTHERS.iter().filter_map(|name| annotations.get(name)) {
        reader.addresses(value, FieldPath::annotation(name));
    }
    if let Some((name, value)) = annotations.first(&CILIUM, &mut Findings::default()) {
        reader.addresses(value, FieldPath::annotation(name));
    }
    service.requested_pool = annotations.first(&POOL, findings).map(|(_, pool)| pool.to_owned());
    service.sharing_key = annotations.first(&SHARED, findings).map(|(_, key)| key.to_owned());
    service.cilium_sharing = cilium_sharing(&annotations);
    let old = [METALLB[1], POOL[1], SHARED[1]];
    service.deprecated = old.into_iter().filter(|name| annotations.get(name).is_some()).collect();
    let previous = annotations.get(PREVIOUS).map_or("", |(_, value)| value);
    service.previous = previous.split(',').filter_map(|text| text.trim().parse().ok()).collect();
}

fn cilium_sharing(annotations: &Annotations<'_>) -> Option<CiliumSharing> {
    let none = &mut Findings::default();
    let (_, key) = annotations.first(&CILIUM_KEY, none)?;
    let grants = annotations.first(&CILIUM_GRANTS, none).map_or("", |(_, value)| value);
    let names = grants.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: std::collections::BTreeSet<_> = names.map(str::to_owned).collect();
    let grants = if names.contains("*") { Grants::Every } else { Grants::Named(names) };
    let permits = annotations.get(CILIUM_PODS).is_some_and(|(_, value)| value == "true");
    Some(CiliumSharing { key: key.to_owned(), grants, permits_different_pods: permits })
}

struct Annotations<'a>(&'a BTreeMap<String, String>);

impl<'a> Annotations<'a> {
    /// An annotation that says something: an empty one is no request.
    fn get<'n>(&self, name: &'n str) -> Option<(&'n str, &'a str)> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some((name, value))
    }

    /// The current spelling, else the old one with a warning.
    fn first(
        &self,
        [current, old]: &[&'static str; 2],
        findings: &mut Findings,
    ) -> Option<(&'static str, &'a str)> {
        if let Some(found) = self.get(current) {
            return Some(found);
        }
        let found = self.get(old)?;
        let message = format!("expected the annotation {current}; this one is deprecated");
        findings.warning(FieldPath::annotation(old), Reason::Deprecated, message);
        Some(found)
    }
}

struct Reader<'a> {
    service: &'a mut Service,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn addresses(&mut self, list: &str, path: FieldPath) {
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match address::service_address(part) {
                Ok(address) if self.service.requested.contains(&address) => {}
                Ok(address) => self.service.requested.push(address),
                Err((reason, message)) => {
                    self.service.contradiction = Some(format!("asks for {message}"));
                    self.findings.error(path.clone(), reason, message);
                }
            }
        }
    }

    /// MetalLB knows at most one address of each family.
    fn check_families(&mut self, from: usize, value: &str, path: FieldPath) {
        let added = &self.service.requested[from..];
        let of = |family| added.iter().filter(|ip| IpFamily::of(**ip) == family).count();
        if of(IpFamily::V4) > 1 || of(IpFamily::V6) > 1 {
            let message = format!("{}: expected at most one address of each family", quoted(value));
            self.service.metallb_contradiction = Some(format!("asks for {message}"));
            self.findings.error(path, Reason::WrongFamily, message);
        }
    }

    /// MetalLB allows the annotation or the field, and not both even when they agree.
    fn contradiction_of_metallb(&mut self, name: &str, value: &str) {
        let message = format!(
            "{}: spec.loadBalancerIP asks for an address too; expected only one of the two",
            quoted(value)
        );
        self.service.metallb_contradiction = Some(format!("asks for {message}"));
        self.findings.error(FieldPath::annotation(name), Reason::RequestedTwice, message);
    }
}

/// The addresses that a status reports.
pub fn reported(texts: impl Iterator<Item = String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
