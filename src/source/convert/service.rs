//! Service.
//!
//! Defaults are those that the API server would fill in, so that a manifest from a directory means
//! the same as the object it would become.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{self as core, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::tree::{FieldPath, quoted};
use super::request::{reported, requests};
use super::{Findings, address, created};
use crate::observed::{
    ALLOCATED_FROM, ASSIGNED, FamilyPolicy, IpFamily, Protocol, Service, ServiceName, ServicePort,
    SessionAffinity, TargetPort, TrafficPolicy,
};
use crate::problem::Reason;

/// A Service of any type.
pub fn service(service: &core::Service, findings: &mut Findings) -> Service {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let annotations = service.metadata.annotations.clone().unwrap_or_default();
    let session_affinity = session_affinity(spec, findings);
    let mut typed = Service {
        name: ServiceName::new(namespace, name),
        load_balancer,
        class: spec.load_balancer_class.clone().filter(|class| !class.is_empty()),
        labels: service.metadata.labels.clone().unwrap_or_default(),
        selector: spec.selector.clone().unwrap_or_default(),
        ports: ports(spec, findings),
        external_traffic_policy: traffic_policy(spec, findings),
        session_affinity,
        external_ips: external_ips(spec),
        created: created(&service.metadata),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        resource_version: service.metadata.resource_version.clone().unwrap_or_default(),
        ..Service::default()
    };
    if load_balancer {
        requests(&annotations, spec, &mut typed, findings);
        source_ranges(spec, &mut typed, findings);
    }
    status(service, &mut typed);
    let cluster_ips = spec.cluster_ips.as_deref().unwrap_or(spec.cluster_ip.as_slice());
    typed.cluster_ips = reported(cluster_ips.iter().cloned());
    typed.has_default_families = spec.ip_family_policy.is_none()
        && spec.ip_families.iter().flatten().next().is_none()
        && typed.cluster_ips.is_empty();
    let (families, policy) = families(spec, &typed, findings);
    (typed.ip_families, typed.family_policy) = (families, policy);
    typed
}

fn status(service: &core::Service, typed: &mut Service) {
    let annotation = |name: &str| service.metadata.annotations.as_ref()?.get(name);
    typed.reported.pool = annotation(ALLOCATED_FROM).filter(|pool| !pool.is_empty()).cloned();
    let list = |text: &String| reported(text.split(',').map(|part| part.trim().to_owned()));
    typed.reported.assigned = annotation(ASSIGNED).map(list);
    let Some(status) = &service.status else { return };
    let ingress = status.load_balancer.iter().flat_map(|it| it.ingress.iter().flatten());
    typed.reported.addresses = reported(ingress.filter_map(|it| it.ip.clone()));
    let conditions = status.conditions.iter().flatten();
    typed.reported.conditions = conditions.filter_map(|it| serde_json::to_value(it).ok()).collect();
}

/// The clients that may reach the Service. What cannot be read admits nobody, and never everybody.
fn source_ranges(spec: &ServiceSpec, typed: &mut Service, findings: &mut Findings) {
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        // The API server and kube-proxy trim blanks too.
        match address::source_range(text.trim()) {
            Ok(range) => drop(typed.source_ranges.insert(range)),
            Err((reason, message)) => {
                let path = FieldPath::spec("loadBalancerSourceRanges").index(index);
                findings.error(path, reason, message);
                typed.bad_source_ranges.push(text.clone());
            }
        }
    }
    if typed.source_ranges.is_empty() && !typed.bad_source_ranges.is_empty() {
        typed.source_ranges.extend(address::nobody());
    }
}

/// Those that a host on a network can have; the API server admits no others.
fn external_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.external_ips.iter().flatten();
    listed.filter_map(|text| address::service_address(text).ok()).collect()
}

/// Families in order of preference. Where the API server has decided, cluster addresses say so;
/// else its defaults apply, for a cluster that has both families with IPv4 first.
fn families(
    spec: &ServiceSpec,
    typed: &Service,
    findings: &mut Findings,
) -> (Vec<IpFamily>, FamilyPolicy) {
    let requested = &typed.requested;
    let decided: Vec<_> = typed.cluster_ips.iter().copied().map(IpFamily::of).collect();
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
        None | Some("None" | "") => {
            if spec.session_affinity_config.is_some() {
                let message = "has no meaning without affinity; expected sessionAffinity ClientIP";
                let path = FieldPath::spec("sessionAffinityConfig");
                findings.error(path, Reason::BadValue, message);
            }
            SessionAffinity::None
        }
        Some("ClientIP") => SessionAffinity::ClientIp { timeout: affinity_timeout(spec, findings) },
        Some(other) => {
            let message = format!("{}: expected None or ClientIP", quoted(other));
            findings.error(FieldPath::spec("sessionAffinity"), Reason::BadValue, message);
            SessionAffinity::None
        }
    }
}

/// How long a client stays, by the API's default and bounds (ClientIPConfig).
fn affinity_timeout(spec: &ServiceSpec, findings: &mut Findings) -> Duration {
    const DEFAULT: i32 = 10_800;
    const MOST: i32 = 86_400;
    let config = spec.session_affinity_config.as_ref().and_then(|it| it.client_ip.as_ref());
    let seconds = config.and_then(|it| it.timeout_seconds).unwrap_or(DEFAULT);
    if !(1..=MOST).contains(&seconds) {
        let path = FieldPath::spec("sessionAffinityConfig").field("clientIP");
        let message = format!("{seconds}: expected a number of seconds from 1 to {MOST}");
        findings.error(path.field("timeoutSeconds"), Reason::BadValue, message);
    }
    Duration::from_secs(seconds.clamp(1, MOST).unsigned_abs().into())
}
