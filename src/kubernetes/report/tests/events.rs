//! Events, by MetalLB's reasons.

use herald_leader_election::NodeName;

use super::*;
use crate::allocator::{Assignment, Change, ChangeReason, Plan, Refusal, RefusalReason};
use crate::desired::{Ineligible, Vip};
use crate::observed::{FamilyPolicy, IpFamily};

fn reasons(writes: &[Write]) -> Vec<&'static str> {
    events(writes).into_iter().map(|(reason, _)| reason).collect()
}

/// What is told about the Service with this plan for it.
fn told(
    observed: &Observed,
    assignment: Option<&Assignment>,
    refusal: Option<RefusalReason>,
) -> Vec<(&'static str, String)> {
    let name = fixture::service_name();
    let mut plan = Plan::default();
    plan.assignments.extend(assignment.map(|it| (name.clone(), it.clone())));
    plan.refusals.extend(
        refusal.map(|reason| (name.clone(), Refusal { reason, message: "asks for x".into() })),
    );
    events(&writes(observed, &plan, NOW))
}

fn held(addresses: &[&str]) -> Assignment {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Assignment { pool: "first".into(), addresses }
}

#[test]
fn each_refusal_has_the_reason_that_metallb_gives() {
    let observed = settled();
    let one = held(&["192.168.1.240"]);
    let table = [
        (None, RefusalReason::PoolsExhausted, "AllocationFailed"),
        (None, RefusalReason::RequestContradictory, "AllocationFailed"),
        (Some(&one), RefusalReason::RequestContradictory, "LoadBalancerFailed"),
        (Some(&one), RefusalReason::AddressTaken, "AllocationFailed"),
        (None, RefusalReason::NotEnoughClusterIps, "not enough clusterips"),
        (None, RefusalReason::ClusterIpsOfOneFamily, "noclusterIPsIPFamily"),
    ];
    for (assignment, refusal, expected) in table {
        let told = told(&observed, assignment, Some(refusal));
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, expected, "{refusal:?}");
    }
    let message = told(&observed, None, Some(RefusalReason::PoolsExhausted)).remove(0).1;
    assert_eq!(message, "Failed to allocate IP for default/echo: asks for x");
}

#[test]
fn tells_when_the_second_family_cannot_be_added() {
    let mut observed = settled();
    edit(&mut observed, |service| {
        service.ip_families = vec![IpFamily::V4, IpFamily::V6];
        service.family_policy = FamilyPolicy::PreferDualStack;
    });
    let expected = "cannot assign additional IP in PreferDualStack: pool first has no IPv6 address";
    assert_eq!(
        told(&observed, Some(&held(&["192.168.1.240"])), None),
        [("AdditionalAssignFailed", expected.to_owned())]
    );
    assert_eq!(told(&observed, Some(&held(&["192.168.1.240", "fd00::1"])), None), []);
    edit(&mut observed, |service| service.family_policy = FamilyPolicy::RequireDualStack);
    assert_eq!(told(&observed, Some(&held(&["192.168.1.240"])), None), []);
}

#[test]
fn tells_of_two_addresses_of_one_family_and_of_a_pool_that_is_none() {
    let observed = settled();
    let two = held(&["192.168.1.240", "192.168.1.241"]);
    assert_eq!(told(&observed, Some(&two), None)[0].0, "nolbIPsIPFamily");
    let lost = Assignment { pool: "no-such".into(), ..held(&["192.168.1.240"]) };
    assert_eq!(told(&observed, Some(&lost), None)[0].0, "InternalError");
    let known = told(&observed, Some(&lost), Some(RefusalReason::InputIncomplete));
    assert_eq!(known[0].0, "AllocationFailed", "which says that the pool is unknown");
}

#[test]
fn an_address_that_is_taken_away_is_told_also_when_there_is_another() {
    let observed = settled();
    let change = |from: Option<&str>, to: Option<&str>, reason| Change {
        service: fixture::service_name(),
        from: from.map(|it| held(&[it])),
        to: to.map(|it| held(&[it])),
        reason,
    };
    let (old, new) = (Some("192.168.1.1"), Some("192.168.1.240"));
    let table = [
        (change(None, new, ChangeReason::Pending), vec!["IPAllocated"]),
        (change(old, new, ChangeReason::PoolGone), vec!["ClearAssignment", "IPAllocated"]),
        (change(old, new, ChangeReason::Requested), vec!["IPAllocated"]),
        (change(old, None, ChangeReason::PoolGone), vec!["ClearAssignment"]),
    ];
    for (change, expected) in table {
        let plan = Plan { changes: vec![change], ..Plan::default() };
        assert_eq!(reasons(&writes(&observed, &plan, NOW)), expected);
    }
}

#[test]
fn tells_its_author_what_to_write_in_another_way_and_only_of_its_own_services() {
    let mut observed = settled();
    edit(&mut observed, |service| {
        service.deprecated = vec!["metallb.universe.tf/a", "metallb.universe.tf/b"];
        service.bad_source_ranges = vec!["the-office".into()];
    });
    let one = held(&["192.168.1.240"]);
    let told_ours = told(&observed, Some(&one), None);
    assert_eq!(told_ours[0].0, "deprecatedAnnotation");
    assert!(told_ours[0].1.contains("metallb.universe.tf/a, metallb.universe.tf/b"));
    assert_eq!(told_ours[1].0, "InvalidSourceRanges");
    assert_eq!(told(&observed, None, None), [], "of another class");
}

fn vip(ineligible: &[(&str, Ineligible)]) -> BTreeMap<IpAddr, Arc<Vip>> {
    let nodes = ineligible.iter().map(|(node, why)| (NodeName::from(*node), *why));
    let vip = Vip {
        services: vec![fixture::service_name()],
        pool: "first".into(),
        eligible: Arc::default(),
        ineligible: Arc::new(nodes.collect()),
        preference: BTreeMap::new(),
        backends: vec![],
        kept: BTreeSet::new(),
        uncertain: None,
    };
    BTreeMap::from([(fixture::VIP.into(), Arc::new(vip))])
}

#[test]
fn tells_of_a_vip_that_no_node_can_announce_but_not_while_nodes_come_and_go() {
    let observed = settled();
    let faulty = vip(&[("n1", Ineligible::NoSuchInterface), ("n2", Ineligible::NotSelected)]);
    let expected = "no node can announce 192.168.1.240 (n1: no_such_interface, n2: \
                    node_not_selected)";
    assert_eq!(events(&unannounced(&observed, &faulty)), [("announceFailed", expected.to_owned())]);
    for ineligible in [
        &[("n1", Ineligible::NoSuchInterface), ("n2", Ineligible::NoSession)][..],
        &[("n1", Ineligible::NoAdvertisement)],
        &[("n1", Ineligible::NoLocalEndpoint)],
    ] {
        assert_eq!(unannounced(&observed, &vip(ineligible)), [], "{ineligible:?}");
    }
    let mut held = faulty;
    let held_vip = Arc::make_mut(held.get_mut(&IpAddr::from(fixture::VIP)).unwrap());
    Arc::make_mut(&mut held_vip.eligible).insert(NodeName::from("n3"), BTreeSet::new());
    assert_eq!(unannounced(&observed, &held), []);
}

#[test]
fn tells_of_a_foreign_machine_that_uses_a_vip() {
    let found =
        Foreign { mac: "02:00:00:00:09:09".into(), interface: "eth0".into(), state: "blocked" };
    let foreign = BTreeMap::from([(fixture::VIP.into(), found)]);
    let writes = conflicts("n1", &settled(), &vip(&[]), &foreign);
    let [Write::Event { about, severity, reason, message, .. }] = &writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!(about.name, "echo");
    assert_eq!((*severity, *reason), (Severity::Warning, "AddressConflict"));
    assert_eq!(message, "02:00:00:00:09:09 on eth0 of n1 uses 192.168.1.240 too (blocked)");
}
