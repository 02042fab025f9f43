//! Service.
//!
//! Defaults are those that the API server would fill in, so that a manifest from a directory means
//! the same as the object it would become.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{self as core, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::tree::{FieldPath, quoted};
use super::{Findings, address};
use crate::observed::{
    FamilyPolicy, IpFamily, Protocol, Service, ServiceName, ServicePort, SessionAffinity,
    TargetPort, TrafficPolicy,
};
use crate::problem::Reason;

const REQUESTED: &str = "metallb.io/loadBalancerIPs";
const REQUESTED_LEGACY: &str = "metallb.universe.tf/loadBalancerIPs";
const POOL_ANNOTATIONS: [&str; 2] = ["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
/// What asks other load balancers for an address or for sharing one. Without it a Service still
/// gets an address, though perhaps not the one that its author thinks of.
const OTHER_ANNOTATIONS: [&str; 8] = [
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
    "serviceloadbalancer.kubernetes.io/ipaddress",
    "lbipam.cilium.io/ips",
    "io.cilium/lb-ipam-ips",
    "lbipam.cilium.io/sharing-key",
    "io.cilium/lb-ipam-sharing-key",
    "kube-vip.io/loadbalancerIPs",
];

/// A Service of any type.
pub fn service(service: &core::Service, findings: &mut Findings) -> Service {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let session_affinity = session_affinity(spec, findings);
    let mut requested = Vec::new();
    if load_balancer {
        let annotations = service.metadata.annotations.clone().unwrap_or_default();
        requested = self::requested(&annotations, spec, findings);
        limits(&annotations, spec, session_affinity, findings);
    }
    let (ip_families, family_policy) = families(spec, &requested, findings);
    Service {
        name: ServiceName::new(namespace, name),
        load_balancer,
        class: spec.load_balancer_class.clone().filter(|class| !class.is_empty()),
        ports: ports(spec, findings),
        ip_families,
        family_policy,
        requested,
        external_traffic_policy: traffic_policy(spec, findings),
        session_affinity,
    }
}

/// What a Service may ask for and does not get yet.
fn limits(
    annotations: &BTreeMap<String, String>,
    spec: &ServiceSpec,
    session_affinity: SessionAffinity,
    findings: &mut Findings,
) {
    let is_set = |name: &&str| annotations.get(*name).is_some_and(|value| !value.is_empty());
    if let Some(name) = POOL_ANNOTATIONS.iter().find(|name| is_set(name)) {
        findings.refuse(FieldPath::annotation(name));
    }
    for name in OTHER_ANNOTATIONS.iter().filter(|name| is_set(name)) {
        findings.ignore(FieldPath::annotation(name));
    }
    if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()) {
        findings.refuse(FieldPath::spec("loadBalancerSourceRanges"));
    }
    if session_affinity == SessionAffinity::ClientIp {
        findings.ignore(FieldPath::spec("sessionAffinity"));
    }
}

/// The addresses that the author asks for. The annotation may name one of each family, the field
/// only one at all; both at once contradict each other even when they agree, as in MetalLB.
fn requested(
    annotations: &BTreeMap<String, String>,
    spec: &ServiceSpec,
    findings: &mut Findings,
) -> Vec<IpAddr> {
    // An empty annotation is no request.
    let request = [REQUESTED, REQUESTED_LEGACY].into_iter().find_map(|name| {
        annotations.get(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value))
    });
    if let Some((REQUESTED_LEGACY, _)) = request {
        let message = format!("expected the annotation {REQUESTED}; this one is deprecated");
        findings.warning(FieldPath::annotation(REQUESTED_LEGACY), Reason::Deprecated, message);
    }
    let field = spec.load_balancer_ip.as_deref().filter(|value| !value.is_empty());
    match (request, field) {
        (Some((name, value)), Some(_)) => {
            let message = format!(
                "{}: spec.loadBalancerIP asks for an address too; expected only one of the two",
                quoted(value)
            );
            findings.error(FieldPath::annotation(name), Reason::RequestedTwice, message);
            Vec::new()
        }
        (Some((name, value)), None) => listed(value, FieldPath::annotation(name), findings),
        (None, Some(value)) => one(value, FieldPath::spec("loadBalancerIP"), findings),
        (None, None) => Vec::new(),
    }
}

fn listed(value: &str, path: FieldPath, findings: &mut Findings) -> Vec<IpAddr> {
    let parts = value.split(',').map(str::trim);
    let addresses: Vec<_> = parts.flat_map(|part| one(part, path.clone(), findings)).collect();
    let distinct = match addresses[..] {
        [] | [_] => true,
        [first, second] => first.is_ipv4() != second.is_ipv4(),
        _ => false,
    };
    if distinct {
        return addresses;
    }
    let message = format!("{}: expected at most one address of each family", quoted(value));
    findings.error(path, Reason::WrongFamily, message);
    Vec::new()
}

fn one(value: &str, path: FieldPath, findings: &mut Findings) -> Vec<IpAddr> {
    match address::service_address(value) {
        Ok(address) => vec![address],
        Err((reason, message)) => {
            findings.error(path, reason, message);
            Vec::new()
        }
    }
}

/// Families in order of preference. Where the API server has decided, cluster addresses say so;
/// else its defaults apply, for a cluster that has both families with IPv4 first.
fn families(
    spec: &ServiceSpec,
    requested: &[IpAddr],
    findings: &mut Findings,
) -> (Vec<IpFamily>, FamilyPolicy) {
    let cluster_ips = spec.cluster_ips.as_deref().unwrap_or(spec.cluster_ip.as_slice());
    let decided: Vec<_> =
        cluster_ips.iter().filter_map(|text| text.parse().ok()).map(IpFamily::of).collect();
    let listed = listed_families(spec, findings);
    let policy = match spec.ip_family_policy.as_deref() {
        None if decided.len() > 1 || listed.len() > 1 => FamilyPolicy::RequireDualStack,
        None if decided.is_empty() && listed.is_empty() && requested.len() > 1 => {
            FamilyPolicy::RequireDualStack
        }
        None | Some("SingleStack") => FamilyPolicy::SingleStack,
        Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
        Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
        Some(other) => {
            let message = format!(
                "{}: expected SingleStack, PreferDualStack or RequireDualStack",
                quoted(other)
            );
            findings.error(FieldPath::spec("ipFamilyPolicy"), Reason::BadValue, message);
            FamilyPolicy::SingleStack
        }
    };
    let is_decided = !decided.is_empty();
    let mut families = if is_decided { decided } else { listed };
    families.dedup();
    if families.is_empty() {
        let first = requested.first().map_or(IpFamily::V4, |first| IpFamily::of(*first));
        families.push(first);
    }
    if policy == FamilyPolicy::SingleStack {
        families.truncate(1);
    } else if families.len() == 1 && !is_decided {
        families.push(families[0].other());
    }
    (families, policy)
}

fn listed_families(spec: &ServiceSpec, findings: &mut Findings) -> Vec<IpFamily> {
    let mut families = Vec::new();
    for (index, text) in spec.ip_families.iter().flatten().enumerate() {
        let path = FieldPath::spec("ipFamilies").index(index);
        let family = match text.as_str() {
            "IPv4" => IpFamily::V4,
            "IPv6" => IpFamily::V6,
            other => {
                let message = format!("{}: expected IPv4 or IPv6", quoted(other));
                findings.error(path, Reason::BadValue, message);
                continue;
            }
        };
        if families.contains(&family) {
            let message = format!("{}: is listed twice; expected each family once", quoted(text));
            findings.error(path, Reason::BadValue, message);
            continue;
        }
        families.push(family);
    }
    families
}

fn ports(spec: &ServiceSpec, findings: &mut Findings) -> Vec<ServicePort> {
    let mut ports = Vec::<ServicePort>::new();
    for (index, listed) in spec.ports.iter().flatten().enumerate() {
        let path = FieldPath::spec("ports").index(index);
        let protocol =
            protocol(listed.protocol.as_deref(), path.clone().field("protocol"), findings);
        let port = port_number(listed.port, path.clone().field("port"), findings);
        let target = match &listed.target_port {
            None => port.map(TargetPort::Number),
            Some(IntOrString::Int(number)) => {
                port_number(*number, path.clone().field("targetPort"), findings)
                    .map(TargetPort::Number)
            }
            Some(IntOrString::String(name)) => Some(TargetPort::Name(name.clone())),
        };
        let (Some(protocol), Some(port), Some(target)) = (protocol, port, target) else {
            continue;
        };
        if ports.iter().any(|known| (known.protocol, known.port) == (protocol, port)) {
            let message =
                format!("{port}: the protocol and port are listed twice; expected them once");
            findings.error(path.field("port"), Reason::BadValue, message);
            continue;
        }
        let name = listed.name.clone().unwrap_or_default();
        ports.push(ServicePort { name, protocol, port, target });
    }
    ports
}

/// A port number as the Kubernetes types have it.
pub fn port_number(number: i32, path: FieldPath, findings: &mut Findings) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        let message = format!("{number}: expected a port from 1 to 65535");
        findings.error(path, Reason::BadValue, message);
    }
    port
}

/// A protocol as the Kubernetes types have it; TCP when absent.
pub fn protocol(text: Option<&str>, path: FieldPath, findings: &mut Findings) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => {
            let message = format!("{}: expected TCP, UDP or SCTP", quoted(other));
            findings.error(path, Reason::BadValue, message);
            None
        }
    }
}

fn traffic_policy(spec: &ServiceSpec, findings: &mut Findings) -> TrafficPolicy {
    match spec.external_traffic_policy.as_deref() {
        None | Some("Cluster" | "") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let message = format!("{}: expected Cluster or Local", quoted(other));
            findings.error(FieldPath::spec("externalTrafficPolicy"), Reason::BadValue, message);
            TrafficPolicy::Cluster
        }
    }
}

fn session_affinity(spec: &ServiceSpec, findings: &mut Findings) -> SessionAffinity {
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => SessionAffinity::None,
        Some("ClientIP") => SessionAffinity::ClientIp,
        Some(other) => {
            let message = format!("{}: expected None or ClientIP", quoted(other));
            findings.error(FieldPath::spec("sessionAffinity"), Reason::BadValue, message);
            SessionAffinity::None
        }
    }
}
