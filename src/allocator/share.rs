//! When two Services may have one address: MetalLB's rule and Cilium's, by the kind of the pool.

use std::collections::{BTreeMap, BTreeSet};

use crate::observed::{CiliumSharing, Grants, PoolKind, Service, TrafficPolicy};

/// Why two Services may not share, in words that follow "because".
pub(super) fn obstacle(kind: PoolKind, one: &Service, other: &Service) -> Option<&'static str> {
    let same_port = || (!one.ports_differ(other)).then_some("both listen on the same port");
    misfit(kind, one, other).or_else(same_port)
}

/// Why two Services may not share whatever their ports are: by their classes.
pub(super) fn misfit(kind: PoolKind, one: &Service, other: &Service) -> Option<&'static str> {
    #[cfg(test)]
    work::COMPARED.set(work::COMPARED.get() + 1);
    match kind {
        PoolKind::MetalLb => of_metallb(one, other),
        PoolKind::Cilium => of_cilium(one, other),
    }
}

/// Whether the policy of both is Local for pods that are not the same: there may be no node that
/// serves both.
pub(super) fn are_apart(kind: PoolKind, one: &Service, other: &Service) -> bool {
    let is_local = |it: &Service| it.external_traffic_policy == TrafficPolicy::Local;
    is_local(one)
        && is_local(other)
        && match kind {
            PoolKind::MetalLb => backend_key(one)
                .zip(backend_key(other))
                .is_some_and(|(ours, theirs)| ours != theirs),
            PoolKind::Cilium => {
                let permits = |it: &Service| {
                    it.cilium_sharing.as_ref().is_some_and(|it| it.permits_different_pods)
                };
                !(are_same_pods(one, other) || permits(one) && permits(other))
            }
        }
}

fn are_same_pods(one: &Service, other: &Service) -> bool {
    !one.selector.is_empty() && one.selector == other.selector
}

/// Whether the Service shares at all, by the rules of that kind.
pub(super) fn key(kind: PoolKind, service: &Service) -> Option<&str> {
    match kind {
        PoolKind::MetalLb => service.sharing_key.as_deref(),
        PoolKind::Cilium => service.cilium_sharing.as_ref().map(|sharing| sharing.key.as_str()),
    }
}

/// What counts about a Service besides its ports: Services of one class are alike to any third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class<'a> {
    /// It shares with nobody.
    Alone,
    /// MetalLB: the key, and the pods that must be the same.
    MetalLb(&'a str, Option<&'a Labels>),
    /// Cilium: the key, the namespace, namespaces it grants (none: all), whether it permits other
    /// pods, and its own if its policy is Local.
    Cilium(&'a str, &'a str, Option<&'a BTreeSet<String>>, bool, Option<&'a Labels>),
}

type Labels = BTreeMap<String, String>;

impl<'a> Class<'a> {
    pub fn of(kind: PoolKind, service: &'a Service) -> Self {
        let is_local = service.external_traffic_policy == TrafficPolicy::Local;
        match (kind, key(kind, service), &service.cilium_sharing) {
            (PoolKind::MetalLb, Some(key), _) => Self::MetalLb(key, backend_key(service)),
            (PoolKind::Cilium, Some(key), Some(sharing)) => {
                let grants = match &sharing.grants {
                    Grants::Every => None,
                    Grants::Named(names) => Some(names),
                };
                let pods = is_local.then_some(&service.selector);
                let namespace = &service.name.namespace;
                Self::Cilium(key, namespace, grants, sharing.permits_different_pods, pods)
            }
            _ => Self::Alone,
        }
    }
}

/// Services that do not share a group share no address. Those of MetalLB's that do share one if
/// their ports differ, those of Cilium's may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group<'a> {
    MetalLb(&'a str, Option<&'a Labels>),
    Cilium(&'a str, bool),
}

impl<'a> Group<'a> {
    pub fn of(kind: PoolKind, service: &'a Service) -> Option<Self> {
        match Class::of(kind, service) {
            Class::Alone => None,
            Class::MetalLb(key, pods) => Some(Self::MetalLb(key, pods)),
            Class::Cilium(key, .., pods) => Some(Self::Cilium(key, pods.is_some())),
        }
    }
}

/// Namespaces do not count here, in MetalLB.
fn of_metallb(one: &Service, other: &Service) -> Option<&'static str> {
    match (&one.sharing_key, &other.sharing_key) {
        (Some(one), Some(other)) if one == other => {}
        _ => return Some("their allow-shared-ip keys are not the same"),
    }
    let is_same_pods = backend_key(one) == backend_key(other);
    (!is_same_pods).then_some("their traffic policies differ, or are Local for different pods")
}

/// The pods that must be the same: with the policy Local the node of the address must have pods of
/// both. A Local Service without selector counts as one of the policy Cluster, as in MetalLB.
fn backend_key(service: &Service) -> Option<&Labels> {
    let is_local = service.external_traffic_policy == TrafficPolicy::Local;
    (is_local && !service.selector.is_empty()).then_some(&service.selector)
}

fn of_cilium(one: &Service, other: &Service) -> Option<&'static str> {
    let (Some(ours), Some(theirs)) = (&one.cilium_sharing, &other.cilium_sharing) else {
        return Some("their sharing keys are not the same");
    };
    if ours.key != theirs.key {
        return Some("their sharing keys are not the same");
    }
    let is_same_namespace = one.name.namespace == other.name.namespace;
    let do_both_grant = grants(ours, other) && grants(theirs, one);
    if !is_same_namespace && !do_both_grant {
        return Some("their namespaces do not both allow it");
    }
    if one.external_traffic_policy != other.external_traffic_policy {
        return Some("their traffic policies differ");
    }
    are_apart(PoolKind::Cilium, one, other)
        .then_some("their traffic policy is Local and their pods are not the same")
}

fn grants(sharing: &CiliumSharing, to: &Service) -> bool {
    match &sharing.grants {
        Grants::Every => true,
        Grants::Named(names) => names.contains(&to.name.namespace),
    }
}

/// Counts comparisons, so that tests of scale need no clock.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        pub static COMPARED: Cell<usize> = const { Cell::new(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Protocol, ServiceName, ServicePort, TargetPort};

    fn service(namespace: &str, protocol: Protocol, key: &str) -> Service {
        let target = TargetPort::Number(80);
        Service {
            name: ServiceName::new(namespace, format!("{protocol:?}")),
            ports: vec![ServicePort { name: String::new(), protocol, port: 53, target }],
            sharing_key: Some(key.into()),
            cilium_sharing: Some(CiliumSharing { key: key.into(), ..CiliumSharing::default() }),
            selector: [("app".to_owned(), "dns".to_owned())].into(),
            ..Service::default()
        }
    }

    fn pair() -> (Service, Service) {
        (service("a", Protocol::Tcp, "k"), service("a", Protocol::Udp, "k"))
    }

    fn may(one: &Service, other: &Service) -> [bool; 2] {
        let both = [PoolKind::MetalLb, PoolKind::Cilium];
        for kind in both {
            assert_eq!(obstacle(kind, one, other), obstacle(kind, other, one), "symmetric");
        }
        both.map(|kind| obstacle(kind, one, other).is_none())
    }

    #[test]
    fn needs_the_same_key_and_different_ports() {
        let (one, other) = pair();
        assert_eq!(may(&one, &other), [true, true]);
        assert_eq!(may(&one, &one.clone()), [false, false]);
        assert_eq!(may(&one, &service("a", Protocol::Udp, "l")), [false, false]);
        assert_eq!(may(&Service::default(), &Service::default()), [false, false]);
    }

    #[test]
    fn namespaces_count_only_for_cilium_which_needs_both_to_agree() {
        let (mut one, mut other) = pair();
        other.name = ServiceName::new("b", &other.name.name);
        let grant = |service: &mut Service, grants| {
            service.cilium_sharing.as_mut().unwrap().grants = grants;
        };
        assert_eq!(may(&one, &other), [true, false]);
        grant(&mut one, Grants::Every);
        assert_eq!(may(&one, &other), [true, false], "only one side agrees");
        grant(&mut other, Grants::Named(["a".to_owned()].into()));
        assert_eq!(may(&one, &other), [true, true]);
    }

    #[test]
    fn local_services_need_the_same_pods() {
        let (mut one, mut other) = pair();
        one.external_traffic_policy = TrafficPolicy::Local;
        assert_eq!(may(&one, &other), [false, false], "Cluster and Local");
        other.external_traffic_policy = TrafficPolicy::Local;
        assert_eq!(may(&one, &other), [true, true]);
        other.selector.insert("app".into(), "other".into());
        assert_eq!(may(&one, &other), [false, false]);
        for service in [&mut one, &mut other] {
            service.cilium_sharing.as_mut().unwrap().permits_different_pods = true;
        }
        assert_eq!(may(&one, &other), [false, true]);
        one.selector.clear();
        other.selector.clear();
        other.external_traffic_policy = TrafficPolicy::Cluster;
        assert_eq!(may(&one, &other), [true, false], "MetalLB's quirk");
    }
}
