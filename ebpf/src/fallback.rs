//! Which VIP's port a pod's port is known as, kept up to date by differences (pure): what a reply
//! gets whose flow was evicted. A pod's port that serves several VIPs' ports is known as none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use herald_ebpf_common::{ReverseValue, ServiceKey};

use crate::picture::{Backend, Picture, Policy, Protocol, ServicePort};

/// What was known at the last update.
#[derive(Debug, Default)]
pub struct Fallback {
    /// This node's pods behind each service port.
    pods: BTreeMap<ServicePort, Pods>,
    /// The same from the other side.
    ports: HashMap<ServiceKey, BTreeSet<ServicePort>>,
}

/// This node's pods behind a service port, those that drain too, and what they were read from.
#[derive(Debug)]
struct Pods {
    set: Arc<BTreeSet<Backend>>,
    policy: Option<Arc<Policy>>,
    /// Their ports, in order.
    ports: Vec<ServiceKey>,
}

impl Fallback {
    /// Takes in a picture; the pods' ports for which something changed.
    pub fn update(&mut self, picture: &Picture) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        let wanted = picture.services.iter().filter(|_| picture.direct.is_some());
        let mut known = 0;
        for (port, set) in wanted {
            known += 1;
            let policy = picture.policies.get(port);
            let is_of = |pods: &Pods| pods.set == *set && pods.policy.as_ref() == policy;
            if !self.pods.get(port).is_some_and(is_of) {
                let pods = Pods::of(port.protocol, set, policy);
                self.replace(*port, Some(pods), &mut changed);
            }
        }
        if self.pods.len() > known {
            let is_gone = |port: &&ServicePort| known == 0 || !picture.services.contains_key(*port);
            let gone: Vec<_> = self.pods.keys().filter(is_gone).copied().collect();
            gone.into_iter().for_each(|port| self.replace(port, None, &mut changed));
        }
        changed
    }

    /// What a pod's port is known as.
    pub fn value(&self, pod: &ServiceKey) -> Option<ReverseValue> {
        let mut ports = self.ports.get(pod)?.iter();
        let port = ports.next().filter(|_| ports.len() == 0)?.key();
        Some(ReverseValue { vip: port.vip, port_be: port.port_be, reserved: 0 })
    }

    /// What all are known as.
    pub fn values(&self) -> BTreeMap<ServiceKey, ReverseValue> {
        self.ports.keys().filter_map(|pod| Some((*pod, self.value(pod)?))).collect()
    }

    fn replace(
        &mut self,
        port: ServicePort,
        pods: Option<Pods>,
        changed: &mut BTreeSet<ServiceKey>,
    ) {
        let ports = pods.as_ref().map(|pods| &pods.ports[..]).unwrap_or_default();
        for pod in ports {
            if self.ports.entry(*pod).or_default().insert(port) {
                changed.insert(*pod);
            }
        }
        let before = self.pods.remove(&port).map(|pods| pods.ports).unwrap_or_default();
        for pod in before.into_iter().filter(|pod| !ports.contains(pod)) {
            changed.insert(pod);
            if let Some(ports) = self.ports.get_mut(&pod) {
                ports.remove(&port);
                if ports.is_empty() {
                    self.ports.remove(&pod);
                }
            }
        }
        if let Some(pods) = pods {
            self.pods.insert(port, pods);
        }
    }
}

impl Pods {
    fn of(protocol: Protocol, set: &Arc<BTreeSet<Backend>>, policy: Option<&Arc<Policy>>) -> Self {
        let draining = policy.into_iter().flat_map(|policy| &policy.draining);
        let key = |backend: &Backend| {
            let (vip, port) = (backend.address.ip(), backend.address.port());
            ServicePort { vip, port, protocol }.key()
        };
        let local = set.iter().chain(draining).filter(|backend| backend.is_local);
        let mut ports: Vec<ServiceKey> = local.map(key).collect();
        ports.sort_unstable();
        ports.dedup();
        Self { set: Arc::clone(set), policy: policy.cloned(), ports }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::picture::{Backend, Policy, Protocol};

    fn port(number: u16) -> ServicePort {
        ServicePort { vip: [192, 0, 2, 1].into(), port: number, protocol: Protocol::Tcp }
    }

    fn pod(last: u8, is_local: bool) -> Backend {
        let address = SocketAddr::from(([10, 0, 0, last], 8080));
        Backend { address, node_mac: [2; 6], is_local }
    }

    fn key(last: u8) -> ServiceKey {
        ServicePort { vip: [10, 0, 0, last].into(), port: 8080, protocol: Protocol::Tcp }.key()
    }

    fn picture(services: &[(u16, &[Backend])]) -> Picture {
        let service = |(number, pods): &(u16, &[Backend])| {
            (port(*number), Arc::new(pods.iter().copied().collect()))
        };
        Picture {
            services: services.iter().map(service).collect(),
            direct: Some(BTreeSet::new()),
            ..Picture::default()
        }
    }

    /// Updates, and checks that the difference leads to where a fresh start does.
    fn update(fallback: &mut Fallback, picture: &Picture) -> Vec<ServiceKey> {
        let mut values = fallback.values();
        let changed = fallback.update(picture);
        for pod in &changed {
            match fallback.value(pod) {
                Some(value) => drop(values.insert(*pod, value)),
                None => drop(values.remove(pod)),
            }
        }
        let mut fresh = Fallback::default();
        fresh.update(picture);
        assert_eq!(values, fresh.values());
        assert_eq!(fallback.values(), fresh.values());
        changed.into_iter().collect()
    }

    #[test]
    fn a_pod_of_one_port_is_known_as_that_and_one_of_two_as_none() {
        let mut fallback = Fallback::default();
        let first = picture(&[(80, &[pod(1, true), pod(2, false)])]);
        assert_eq!(update(&mut fallback, &first), [key(1)]);
        assert_eq!(fallback.value(&key(1)).map(|it| it.port_be), Some(80_u16.to_be()));
        assert_eq!(update(&mut fallback, &first), []);
        let both = picture(&[(80, &[pod(1, true)]), (81, &[pod(1, true), pod(3, true)])]);
        assert_eq!(update(&mut fallback, &both), [key(1), key(3)]);
        assert_eq!(fallback.value(&key(1)), None);
        assert_eq!(update(&mut fallback, &first), [key(1), key(3)]);
        assert_eq!(fallback.value(&key(1)).map(|it| it.port_be), Some(80_u16.to_be()));
    }

    #[test]
    fn a_draining_pod_keeps_its_name_and_one_that_went_loses_it() {
        let mut fallback = Fallback::default();
        let mut drained = picture(&[(80, &[])]);
        let policy = Policy { draining: [pod(1, true)].into(), ..Policy::default() };
        drained.policies.insert(port(80), policy.into());
        update(&mut fallback, &picture(&[(80, &[pod(1, true)])]));
        assert_eq!(update(&mut fallback, &drained), []);
        assert_eq!(update(&mut fallback, &picture(&[(80, &[])])), [key(1)]);
        assert_eq!(update(&mut fallback, &picture(&[(81, &[pod(1, true)])])), [key(1)]);
        assert_eq!(update(&mut fallback, &picture(&[])), [key(1)]);
    }

    #[test]
    fn nothing_is_known_without_the_networks_that_reach_pods_directly() {
        let mut fallback = Fallback::default();
        let mut wanted = picture(&[(80, &[pod(1, true)])]);
        update(&mut fallback, &wanted);
        wanted.direct = None;
        assert_eq!(update(&mut fallback, &wanted), [key(1)]);
        assert!(fallback.values().is_empty());
    }
}
