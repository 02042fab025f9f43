use std::sync::{Arc, LazyLock};

use herald_leader_election::SessionState;

use super::*;
use crate::facts::Unusable;
use crate::fixture::{
    VIP, assignments, endpoint, node, not_ready, observed, service_name, terminating, view,
};
use crate::observed::{
    Advertisement, Exclusions, Pattern, Pool, PoolKind, Requirement, Selector, TrafficPolicy,
};

pub(super) fn the_vip(observed: &Observed, view: &View) -> Vip {
    Vip::clone(&all_vips(observed, &assignments(), view)[&IpAddr::from(VIP)])
}

/// As node 1 sees them, with every node answering, and nothing announced yet.
fn all_vips(
    observed: &Observed,
    assignments: &BTreeMap<ServiceName, Assignment>,
    view: &View,
) -> BTreeMap<IpAddr, Arc<Vip>> {
    let nobody = BTreeSet::new();
    let facts = facts(view);
    desired(&seen(observed, assignments, view, &facts, &nobody), &mut Memory::default())
}

pub(super) fn seen<'a>(
    observed: &'a Observed,
    assignments: &'a BTreeMap<ServiceName, Assignment>,
    view: &'a View,
    facts: &'a BTreeMap<NodeName, Facts>,
    gone: &'a BTreeSet<NodeName>,
) -> Seen<'a> {
    static ME: LazyLock<NodeName> = LazyLock::new(|| node(1));
    static NOTHING: BTreeSet<IpAddr> = BTreeSet::new();
    Seen { me: &ME, observed, assignments, view, facts, gone, announced: &NOTHING }
}

fn why_not(observed: &Observed, view: &View, n: u8) -> Option<Ineligible> {
    the_vip(observed, view).ineligible.get(&node(n)).copied()
}

#[test]
fn every_node_in_the_subnet_is_eligible_on_that_interface() {
    let vip = the_vip(&observed(), &view(1));
    let eth0 = BTreeSet::from(["eth0".to_owned()]);
    assert_eq!(*vip.eligible, (1..=3).map(|n| (node(n), eth0.clone())).collect());
    assert_eq!(*vip.ineligible, BTreeMap::new());
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
    let unavailable =
        edit(|o| o.nodes.values_mut().for_each(|node| node.network_unavailable = true));
    assert_eq!(why_not(&unavailable, &view(1), 2), Some(Ineligible::NetworkUnavailable));
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

/// Node 2's interface has no carrier, or is down and has but these addresses left.
#[test]
fn an_interface_that_would_do_and_cannot_be_used_is_the_reason() {
    let with = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        let unusable = vec![Unusable { name: "eth0".into(), addresses }];
        let facts = Facts { unusable, ..Facts::default() };
        let mut state = view(1);
        state.sessions.get_mut(&node(2)).unwrap().facts = facts.encode().into();
        state
    };
    let here = with(&["192.168.1.12/24"]);
    assert_eq!(why_not(&observed(), &here, 2), Some(Ineligible::NoUsableInterface));
    let elsewhere = with(&["10.0.0.12/24"]);
    assert_eq!(why_not(&observed(), &elsewhere, 2), Some(Ineligible::NotInSubnet));

    let mut named = observed();
    for (name, why) in
        [("eth0", Ineligible::NoUsableInterface), ("eth9", Ineligible::NoSuchInterface)]
    {
        for advertisement in named.advertisements.values_mut() {
            advertisement.interfaces = [name.to_owned()].into();
        }
        assert_eq!(why_not(&named, &elsewhere, 2), Some(why));
    }

    let v6: IpAddr = "fd00:1::f0".parse().unwrap();
    let assignment = Assignment { pool: "first".into(), addresses: vec![v6] };
    let assignments = BTreeMap::from([(service_name(), assignment)]);
    for (left, why) in [
        (&["192.168.1.12/24"][..], Ineligible::NoUsableInterface),
        (&["192.168.1.12/24", "fd00:1::12/64"], Ineligible::NoUsableInterface),
        (&["192.168.1.12/24", "fe80::12/64"], Ineligible::NotInSubnet),
    ] {
        let vips = all_vips(&observed(), &assignments, &with(left));
        assert_eq!(vips[&v6].ineligible[&node(2)], why, "{left:?}");
    }
}

#[test]
fn an_excluded_interface_is_not_announced_on_whoever_names_it() {
    let mut observed = observed();
    observed.exclusions = Exclusions(vec![Pattern::new("^eth").unwrap()]);
    for interfaces in [BTreeSet::new(), BTreeSet::from(["eth0".to_owned()])] {
        observed.advertisements.get_mut("all").unwrap().interfaces = interfaces;
        let vip = the_vip(&observed, &view(1));
        assert_eq!(vip.ineligible[&node(1)], Ineligible::InterfaceExcluded);
        assert!(vip.eligible.is_empty());
    }
    observed.exclusions = Exclusions(vec![Pattern::new("^veth").unwrap()]);
    assert_eq!(the_vip(&observed, &view(1)).eligible.len(), 3);
}

#[test]
fn a_named_interface_needs_no_subnet() {
    let mut observed = observed();
    for advertisement in observed.advertisements.values_mut() {
        advertisement.interfaces.insert("eth0".into());
    }
    let assignment = Assignment { pool: "first".into(), addresses: vec![[10, 9, 9, 9].into()] };
    let assignments = BTreeMap::from([(service_name(), assignment)]);
    let vips = all_vips(&observed, &assignments, &view(1));
    assert_eq!(vips[&IpAddr::from([10, 9, 9, 9])].eligible.len(), 3);
}

#[test]
fn with_a_local_policy_only_nodes_with_a_ready_pod_are_eligible() {
    let mut observed = observed();
    for service in observed.services.values_mut().map(Arc::make_mut) {
        service.external_traffic_policy = TrafficPolicy::Local;
    }
    observed.endpoints.insert(service_name(), vec![endpoint(1), not_ready(2)].into());
    let vip = the_vip(&observed, &view(1));
    assert_eq!(vip.eligible.keys().cloned().collect::<Vec<_>>(), [node(1)]);
    let why = Ineligible::NoLocalEndpoint;
    assert_eq!(*vip.ineligible, BTreeMap::from([(node(2), why), (node(3), why)]));
}

/// The fixture with a second Service that shares the VIP; its pod is on the first node.
fn shared() -> (Observed, BTreeMap<ServiceName, Assignment>, ServiceName) {
    let mut observed = observed();
    let other = ServiceName::new("default", "other");
    let mut service = Service::clone(&observed.services[&service_name()]);
    service.name = other.clone();
    service.ports.iter_mut().for_each(|port| port.port += 1000);
    observed.services.insert(other.clone(), Arc::new(service));
    observed.endpoints.insert(other.clone(), vec![endpoint(1)].into());
    let mut assigned = assignments();
    assigned.insert(other.clone(), assigned[&service_name()].clone());
    (observed, assigned, other)
}

#[test]
fn local_services_that_share_a_vip_are_served_where_the_most_of_them_can_be() {
    type Row<'a> = (&'a str, [bool; 2], [&'a [u8]; 2], &'a [u8]);
    let table: [Row<'_>; 6] = [
        ("one node has both", [true, true], [&[1, 2], &[2, 3]], &[2]),
        ("no node has both", [true, true], [&[1], &[2]], &[1, 2]),
        ("one has none anywhere", [true, true], [&[3], &[]], &[3]),
        ("neither has any", [true, true], [&[], &[]], &[]),
        ("only one is Local", [false, true], [&[1], &[2]], &[2]),
        ("and that has none anywhere", [false, true], [&[1], &[]], &[1, 2, 3]),
    ];
    for (what, local, pods, expected) in table {
        let (mut observed, assigned, other) = shared();
        for ((name, is_local), pods) in [service_name(), other].iter().zip(local).zip(pods) {
            let service = Arc::make_mut(observed.services.get_mut(name).unwrap());
            if is_local {
                service.external_traffic_policy = TrafficPolicy::Local;
            }
            let pods: Vec<_> = pods.iter().map(|n| endpoint(*n)).collect();
            observed.endpoints.insert(name.clone(), pods.into());
        }
        let vips = all_vips(&observed, &assigned, &view(1));
        let eligible: Vec<_> = vips[&IpAddr::from(VIP)].eligible.keys().cloned().collect();
        assert_eq!(eligible, expected.iter().map(|n| node(*n)).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn a_policy_that_selects_one_of_the_services_announces_the_vip_and_all_of_its_ports() {
    for (kind, expected) in [(PoolKind::Cilium, 3), (PoolKind::MetalLb, 0)] {
        let (mut observed, mut assigned, other) = shared();
        let name = if kind == PoolKind::Cilium { "cilium.io/first" } else { "first" };
        let pool = observed.pools.remove("first").unwrap();
        observed.pools.insert(name.into(), Pool { kind, name: name.into(), ..pool });
        assigned.values_mut().for_each(|it| it.pool = name.into());
        let is_one = Requirement::In("app".into(), ["one".to_owned()].into());
        for policy in observed.advertisements.values_mut() {
            (policy.kind, policy.load_balancer_ips) = (kind, true);
            policy.service_selectors = vec![Selector { requirements: vec![is_one.clone()] }];
        }
        let vip = |observed: &Observed| {
            all_vips(observed, &assigned, &view(1)).remove(&IpAddr::from(VIP)).unwrap()
        };
        assert!(vip(&observed).eligible.is_empty(), "{kind:?}: it selects neither");
        Arc::make_mut(observed.services.get_mut(&other).unwrap())
            .labels
            .insert("app".into(), "one".into());
        let vip = vip(&observed);
        assert_eq!(vip.eligible.len(), expected, "{kind:?}");
        let ports: BTreeSet<u16> = vip.backends.iter().map(|backend| backend.port).collect();
        assert_eq!(ports, BTreeSet::from([53, 80, 1053, 1080]));
    }
}

#[test]
fn services_that_share_an_address_share_its_vip() {
    let (mut observed, assigned, other) = shared();
    let vips = all_vips(&observed, &assigned, &view(1));
    let vip = &vips[&IpAddr::from(VIP)];
    assert_eq!(vip.services, [service_name(), other]);
    let ports: BTreeSet<u16> = vip.backends.iter().map(|backend| backend.port).collect();
    assert_eq!(ports, BTreeSet::from([53, 80, 1053, 1080]));
    for advertisement in observed.advertisements.values_mut() {
        advertisement.service_selectors = vec![crate::observed::Selector::default()];
    }
    let vips = all_vips(&observed, &assigned, &view(1));
    let why = vips[&IpAddr::from(VIP)].ineligible.get(&node(1));
    assert_eq!(why, Some(&Ineligible::SharedAddress));
}

/// Names of nodes, for short.
fn names(nodes: impl IntoIterator<Item = NodeName>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_preference_is_the_sum_over_selectors_and_advertisements_that_select_the_node() {
    let mut observed = observed();
    let labels = [("zone", "a"), ("disk", "ssd")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    observed.nodes.get_mut("n2").unwrap().labels = labels.into();
    let selector = |key: &str, value: &str| crate::observed::Selector {
        requirements: vec![crate::observed::Requirement::In(key.into(), [value.into()].into())],
    };
    let prefer = |weight, key, value| crate::observed::PreferredNodes {
        weight,
        selector: selector(key, value),
    };
    let all = observed.advertisements["all"].clone();
    let zones = vec![prefer(10, "zone", "a"), prefer(99, "zone", "b"), prefer(1, "disk", "ssd")];
    let of = |name: &str, preferred_nodes| Advertisement {
        name: name.into(),
        preferred_nodes,
        ..all.clone()
    };
    let elsewhere = Advertisement {
        node_selectors: vec![selector("zone", "b")],
        ..of("elsewhere", vec![prefer(50, "disk", "ssd")])
    };
    for ad in [of("zones", zones), of("disks", vec![prefer(7, "disk", "ssd")]), elsewhere] {
        observed.advertisements.insert(ad.name.clone(), ad);
    }
    assert_eq!(the_vip(&observed, &view(1)).preference, BTreeMap::from([(node(2), 18)]));
}

#[test]
fn a_cordoned_node_is_spared_where_another_can_have_the_vip() {
    let eligible = |cordoned: &[&str], drained: &[u8], dead: &[u8]| {
        let mut observed = observed();
        for name in cordoned {
            observed.nodes.get_mut(*name).unwrap().cordoned = true;
        }
        let mut view = view(1);
        view.drained = drained.iter().map(|n| node(*n)).collect();
        for n in dead {
            view.sessions.get_mut(&node(*n)).unwrap().state = SessionState::Revoked;
        }
        names(the_vip(&observed, &view).eligible.keys().cloned())
    };
    assert_eq!(eligible(&["n1"], &[], &[]), "n2 n3");
    assert_eq!(eligible(&["n1", "n3"], &[], &[]), "n2");
    assert_eq!(eligible(&["n1", "n2", "n3"], &[], &[]), "n1 n2 n3", "somebody has to");
    assert_eq!(eligible(&["n1", "n3"], &[], &[2]), "n1 n3", "n2 is dead");
    assert_eq!(eligible(&["n1"], &[2, 3], &[]), "n1 n2 n3", "drained nodes take nothing");
    let mut observed = observed();
    observed.nodes.get_mut("n1").unwrap().cordoned = true;
    assert_eq!(why_not(&observed, &view(1), 1), Some(Ineligible::Cordoned));
}

#[test]
fn with_a_local_policy_an_endpoint_counts_on_its_node_or_on_all_if_it_is_on_none() {
    let eligible = |endpoints: Vec<Endpoint>| {
        let mut observed = observed();
        for service in observed.services.values_mut().map(Arc::make_mut) {
            service.external_traffic_policy = TrafficPolicy::Local;
        }
        observed.endpoints.insert(service_name(), endpoints.into());
        names(the_vip(&observed, &view(1)).eligible.keys().cloned())
    };
    let nowhere =
        |address: [u8; 4]| Endpoint { node: None, address: address.into(), ..endpoint(1) };
    assert_eq!(eligible(vec![terminating(3), not_ready(2)]), "n3", "it serves its last");
    assert_eq!(eligible(vec![endpoint(1), terminating(3)]), "n1 n3");
    assert_eq!(eligible(vec![nowhere([192, 192, 192, 192])]), "n1 n2 n3", "a Gateway's");
    assert_eq!(eligible(vec![nowhere([192, 168, 1, 13])]), "n3", "that node's own address");
}

#[test]
fn without_any_endpoint_that_serves_metallb_announces_nothing_and_cilium_does() {
    let why = |endpoints: Option<Vec<Endpoint>>, kind: crate::observed::PoolKind| {
        let mut observed = observed();
        observed.endpoints.clear();
        observed.endpoints.extend(endpoints.map(|it| (service_name(), it.into())));
        observed.pools.values_mut().for_each(|pool| pool.kind = kind);
        for ad in observed.advertisements.values_mut() {
            (ad.kind, ad.load_balancer_ips) = (kind, true);
        }
        let vip = the_vip(&observed, &view(1));
        vip.ineligible.values().copied().map(Ineligible::label).collect::<BTreeSet<_>>()
    };
    use crate::observed::PoolKind::{Cilium, MetalLb};
    let no = BTreeSet::from(["no_ready_endpoint"]);
    assert_eq!(why(None, MetalLb), no);
    assert_eq!(why(Some(vec![not_ready(1), not_ready(2)]), MetalLb), no);
    assert_eq!(why(Some(vec![not_ready(1), terminating(2)]), MetalLb), BTreeSet::new());
    assert_eq!(why(None, Cilium), BTreeSet::new());
}

#[test]
fn says_which_services_are_announced_although_nothing_of_theirs_is_ready() {
    let mut observed = observed();
    assert_eq!(the_vip(&observed, &view(1)).kept, BTreeSet::new());
    for endpoint in Arc::make_mut(observed.endpoints.get_mut(&service_name()).unwrap()) {
        endpoint.kept = true;
    }
    let vip = the_vip(&observed, &view(1));
    assert_eq!((vip.eligible.len(), vip.kept), (3, BTreeSet::from([service_name()])));
}

mod external {
    use super::*;
    use crate::observed::PoolKind;

    const OURS: [u8; 4] = [192, 168, 1, 77];

    /// A ClusterIP Service that names `address`, and a policy that announces externalIPs.
    fn named(address: [u8; 4]) -> Observed {
        let mut observed = observed();
        let mut service = Service::clone(&observed.services[&service_name()]);
        service.name = ServiceName::new("default", "inside");
        (service.load_balancer, service.external_ips) = (false, vec![address.into()]);
        observed.endpoints.insert(service.name.clone(), vec![endpoint(2)].into());
        observed.services.insert(service.name.clone(), Arc::new(service));
        let policy = Advertisement {
            kind: PoolKind::Cilium,
            name: "cilium.io/p".into(),
            external_ips: true,
            ..Advertisement::default()
        };
        observed.advertisements.insert(policy.name.clone(), policy);
        observed
    }

    fn all(observed: &Observed) -> BTreeMap<IpAddr, Arc<Vip>> {
        all_vips(observed, &assignments(), &view(1))
    }

    #[test]
    fn a_policy_has_them_announced_as_vips() {
        let vips = all(&named(OURS));
        let vip = &vips[&IpAddr::from(OURS)];
        assert_eq!((vip.pool.as_str(), vip.eligible.len()), (EXTERNAL, 3));
        assert_eq!(vip.services, [ServiceName::new("default", "inside")]);
        assert_eq!(vip.backends.len(), 2, "one pod at two ports");
        let mut silent = named(OURS);
        silent.advertisements.get_mut("cilium.io/p").unwrap().external_ips = false;
        assert!(!all(&silent).contains_key(&IpAddr::from(OURS)));
    }

    #[test]
    fn an_address_that_somebody_was_given_is_not_taken_by_naming_it() {
        let vips = all(&named(VIP));
        assert_eq!(vips[&IpAddr::from(VIP)].services, [service_name()]);
    }

    #[test]
    fn a_nodes_own_address_is_announced_by_nobody() {
        let vips = all(&named([192, 168, 1, 12]));
        let vip = &vips[&IpAddr::from([192, 168, 1, 12])];
        assert!(vip.eligible.is_empty() && vip.is_address_of_a_node());
        let why: BTreeSet<_> = vip.ineligible.values().map(|why| why.label()).collect();
        assert_eq!(why, BTreeSet::from(["address_of_a_node"]));
    }
}
