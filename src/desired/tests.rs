use herald_leader_election::SessionState;

use super::*;
use crate::fixture::{VIP, assignments, endpoint, mac, node, observed, service_name, view};
use crate::observed::{Advertisement, Endpoint};

fn the_vip(observed: &Observed, view: &View) -> Vip {
    let mut vips =
        desired(&node(1), observed, &assignments(), view, &facts(view), &BTreeSet::new());
    vips.remove(&IpAddr::from(VIP)).unwrap()
}

fn why_not(observed: &Observed, view: &View, n: u8) -> Option<Ineligible> {
    the_vip(observed, view).ineligible.get(&node(n)).copied()
}

#[test]
fn every_node_in_the_subnet_is_eligible_on_that_interface() {
    let vip = the_vip(&observed(), &view(1));
    let eth0 = BTreeSet::from(["eth0".to_owned()]);
    assert_eq!(vip.eligible, (1..=3).map(|n| (node(n), eth0.clone())).collect());
    assert_eq!(vip.ineligible, BTreeMap::new());
}

#[test]
fn every_reason_against_a_node_has_its_name() {
    let edit = |change: fn(&mut Observed)| {
        let mut observed = observed();
        change(&mut observed);
        observed
    };
    let advertisement = |change: fn(&mut Advertisement)| {
        let mut observed = observed();
        observed.advertisements.values_mut().for_each(change);
        observed
    };
    let none = edit(|o| o.advertisements.clear());
    assert_eq!(why_not(&none, &view(1), 2), Some(Ineligible::NoAdvertisement));
    let excluded = edit(|o| o.nodes.values_mut().for_each(|node| node.excluded = true));
    assert_eq!(why_not(&excluded, &view(1), 2), Some(Ineligible::Excluded));
    let elsewhere = advertisement(|ad| ad.interfaces = ["eth9".to_owned()].into());
    assert_eq!(why_not(&elsewhere, &view(1), 2), Some(Ineligible::NoSuchInterface));
    let nobody = advertisement(|ad| {
        let requirement = crate::observed::Requirement::Exists("gpu".into());
        ad.node_selectors = vec![crate::observed::Selector { requirements: vec![requirement] }];
    });
    assert_eq!(why_not(&nobody, &view(1), 2), Some(Ineligible::NotSelected));
    let mut state = view(1);
    state.sessions.get_mut(&node(2)).unwrap().state = SessionState::Revoked;
    assert_eq!(why_not(&observed(), &state, 2), Some(Ineligible::NoSession));
    let mut draining = view(1);
    draining.sessions.get_mut(&node(2)).unwrap().draining = true;
    assert_eq!(why_not(&observed(), &draining, 2), Some(Ineligible::Draining));
    let mut no_link = view(1);
    no_link.sessions.get_mut(&node(2)).unwrap().facts = Facts::default().encode().into();
    assert_eq!(why_not(&observed(), &no_link, 2), Some(Ineligible::NotInSubnet));
}

#[test]
fn a_named_interface_needs_no_subnet() {
    let mut observed = observed();
    for advertisement in observed.advertisements.values_mut() {
        advertisement.interfaces.insert("eth0".into());
    }
    let assignment = Assignment { pool: "first".into(), addresses: vec![[10, 9, 9, 9].into()] };
    let assignments = BTreeMap::from([(service_name(), assignment)]);
    let vips =
        desired(&node(1), &observed, &assignments, &view(1), &facts(&view(1)), &BTreeSet::new());
    assert_eq!(vips[&IpAddr::from([10, 9, 9, 9])].eligible.len(), 3);
}

#[test]
fn with_a_local_policy_only_nodes_with_a_ready_pod_are_eligible() {
    let mut observed = observed();
    for service in observed.services.values_mut() {
        service.external_traffic_policy = TrafficPolicy::Local;
    }
    let not_ready = Endpoint { ready: false, ..endpoint(2) };
    observed.endpoints.insert(service_name(), vec![endpoint(1), not_ready]);
    let vip = the_vip(&observed, &view(1));
    assert_eq!(vip.eligible.into_keys().collect::<Vec<_>>(), [node(1)]);
    let why = Ineligible::NoLocalEndpoint;
    assert_eq!(vip.ineligible, BTreeMap::from([(node(2), why), (node(3), why)]));
}

#[test]
fn services_that_share_an_address_share_its_vip() {
    let mut observed = observed();
    let other = ServiceName::new("default", "other");
    let mut service = observed.services[&service_name()].clone();
    service.name = other.clone();
    service.ports.iter_mut().for_each(|port| port.port += 1000);
    observed.services.insert(other.clone(), service);
    observed.endpoints.insert(other.clone(), vec![endpoint(1)]);
    let mut assigned = assignments();
    assigned.insert(other.clone(), assigned[&service_name()].clone());
    let vips =
        desired(&node(1), &observed, &assigned, &view(1), &facts(&view(1)), &BTreeSet::new());
    let vip = &vips[&IpAddr::from(VIP)];
    assert_eq!(vip.services, [service_name(), other]);
    let ports: BTreeSet<u16> = vip.backends.iter().map(|backend| backend.port).collect();
    assert_eq!(ports, BTreeSet::from([53, 80, 1053, 1080]));
    for advertisement in observed.advertisements.values_mut() {
        advertisement.service_selectors = vec![crate::observed::Selector::default()];
    }
    let vips =
        desired(&node(1), &observed, &assigned, &view(1), &facts(&view(1)), &BTreeSet::new());
    let why = vips[&IpAddr::from(VIP)].ineligible.get(&node(1));
    assert_eq!(why, Some(&Ineligible::SharedAddress));
}

#[test]
fn leaves_a_service_with_source_ranges_to_kube_proxy() {
    let mut observed = observed();
    for service in observed.services.values_mut() {
        service.source_ranges = ["192.0.2.0/24".parse().unwrap()].into();
    }
    let vip = the_vip(&observed, &view(1));
    assert!(vip.backends.iter().all(|b| b.target == Err(Unused::SourceRanges)));
}

#[test]
fn a_pod_that_is_not_ready_keeps_its_flows() {
    let mut observed = observed();
    let not_ready = Endpoint { ready: false, ..endpoint(2) };
    observed.endpoints.insert(service_name(), vec![not_ready]);
    let vip = the_vip(&observed, &view(1));
    let backend = &vip.backends[0];
    assert_eq!((backend.target, backend.draining), (Err(Unused::NotReady), Some(mac(2))));
}

#[test]
fn sends_to_ready_pods_by_their_nodes_mac() {
    let vip = the_vip(&observed(), &view(1));
    let targets: Vec<_> = vip.backends.iter().map(|b| (b.port, b.protocol, b.target)).collect();
    let expected =
        (1..=3).flat_map(|n| [(80, Protocol::Tcp, Ok(mac(n))), (53, Protocol::Udp, Ok(mac(n)))]);
    assert_eq!(targets, expected.collect::<Vec<_>>());
}

#[test]
fn every_unused_endpoint_has_its_reason() {
    let mut observed = observed();
    let not_ready = Endpoint { ready: false, ..endpoint(1) };
    let nowhere = Endpoint { node: None, ..endpoint(2) };
    observed.endpoints.insert(service_name(), vec![not_ready, nowhere, endpoint(3)]);
    let mut view = view(1);
    let reasons = |view: &View, gone: &[NodeName]| -> Vec<_> {
        let gone = gone.iter().cloned().collect();
        let mut vips = desired(&node(1), &observed, &assignments(), view, &facts(view), &gone);
        let (_, vip) = vips.pop_first().unwrap();
        vip.backends.iter().map(|b| b.target.err()).step_by(2).collect()
    };
    let (not_ready, nowhere) = (Some(Unused::NotReady), Some(Unused::NoNode));
    for state in [SessionState::Revoked, SessionState::Closed] {
        view.sessions.get_mut(&node(3)).unwrap().state = state;
        assert_eq!(reasons(&view, &[]), [not_ready, nowhere, None], "its kernel still delivers");
        let lost = Some(Unused::NodeSessionLost);
        assert_eq!(reasons(&view, &[node(3)]), [not_ready, nowhere, lost]);
    }
    view.sessions.remove(&node(3));
    assert_eq!(reasons(&view, &[]), [not_ready, nowhere, Some(Unused::NodeSessionLost)]);
}
