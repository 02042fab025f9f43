//! An edit of one Service changes no address of those that share with it, by either kind's rules.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::observed::{CiliumSharing, PoolKind, Protocol, ServicePort, TargetPort};

const KINDS: [PoolKind; 2] = [PoolKind::MetalLb, PoolKind::Cilium];

fn of_kind(kind: PoolKind) -> Pool {
    let name = if kind == PoolKind::Cilium { "cilium.io/p" } else { "p" };
    Pool { kind, ..pool(name, &["192.0.2.1-192.0.2.9"]) }
}

fn ports(ports: &[u16]) -> Vec<ServicePort> {
    let target = TargetPort::Number(80);
    let one = |port: &u16| ServicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: *port,
        target: target.clone(),
    };
    ports.iter().map(one).collect()
}

fn keyed(service: Service, key: Option<&str>) -> Service {
    let sharing = |key: &str| CiliumSharing { key: key.to_owned(), ..CiliumSharing::default() };
    Service { sharing_key: key.map(str::to_owned), cilium_sharing: key.map(sharing), ..service }
}

/// Created in the order of the numbers, and written in that order.
fn sharer(number: u16) -> Service {
    let service = Service {
        ports: ports(&[number]),
        created: format!("2025-01-01T00:00:0{number}Z"),
        resource_version: number.to_string(),
        ..service(&format!("s{number}"))
    };
    keyed(service, Some("k"))
}

type Edit = (&'static str, fn(&Service) -> Service, &'static [&'static str]);

/// What becomes of the edited one.
const EDITS: [Edit; 4] = [
    ("key removed", |it| keyed(it.clone(), None), &["moves"]),
    ("key changed", |it| keyed(it.clone(), Some("l")), &["address_not_shared"]),
    (
        "policy changed",
        |it| Service {
            external_traffic_policy: TrafficPolicy::Local,
            selector: [("app".to_owned(), "x".to_owned())].into(),
            ..it.clone()
        },
        &["address_not_shared"],
    ),
    ("port added", |it| Service { ports: ports(&[1, 2, 3]), ..it.clone() }, &["moves"]),
];

/// Three share an address, and one of them is edited: what becomes of each of them.
fn after(kind: PoolKind, edited: u16, versions: bool, edit: &Edit) -> (Vec<String>, Plan) {
    let mut services: Vec<_> = (1..=3).map(sharer).collect();
    let before = plan(&[of_kind(kind)], &services, &NOBODY).assignments;
    let all: BTreeSet<_> = before.values().flat_map(|it| &it.addresses).collect();
    assert_eq!(all.len(), 1, "they share");
    let one = &mut services[usize::from(edited) - 1];
    *one = Service { resource_version: "10".into(), ..(edit.1)(one) };
    if !versions {
        services.iter_mut().for_each(|service| service.resource_version.clear());
    }
    let plan = plan(&[of_kind(kind)], &services, &before);
    let again =
        allocate(&observed(&[of_kind(kind)], &services), &plan.assignments, &Config::default());
    assert_eq!((&again.changes, &again.refusals), (&vec![], &plan.refusals));
    let became = |name: &ServiceName| match plan.refusals.get(name) {
        _ if plan.assignments.get(name) != before.get(name) => "moves",
        Some(refusal) => refusal.reason.label(),
        None => "stays",
    };
    (before.keys().map(|name| format!("{}: {}", name.name, became(name))).collect(), plan)
}

#[test]
fn an_edit_that_ends_sharing_costs_nobody_else_an_address() {
    for kind in KINDS {
        for edit in &EDITS {
            for edited in 1..=3 {
                let (found, _) = after(kind, edited, true, edit);
                let expected: Vec<_> = (1..=3)
                    .map(|number| {
                        let is_edited = number == edited;
                        format!("s{number}: {}", if is_edited { edit.2[0] } else { "stays" })
                    })
                    .collect();
                assert_eq!(found, expected, "{kind:?}, {}", edit.0);
                // Without versions it is seen by the others, except which one has got a port.
                if edit.0 != "port added" {
                    assert_eq!(
                        after(kind, edited, false, edit).0,
                        expected,
                        "{kind:?}, {}",
                        edit.0
                    );
                }
            }
        }
    }
}

#[test]
fn two_that_become_local_one_after_the_other_stay_together_and_other_pods_part_them() {
    for kind in KINDS {
        let mut services: Vec<_> = (1..=2).map(sharer).collect();
        let pools = [of_kind(kind)];
        let mut before = plan(&pools, &services, &NOBODY).assignments;
        for number in 0..2 {
            services[number] = (EDITS[2].1)(&services[number]);
            let plan = plan(&pools, &services, &before);
            assert_eq!((plan.changes.len(), plan.refusals.len()), (0, 1 - number), "{kind:?}");
            before = plan.assignments;
        }
        let pods = [("app".to_owned(), "y".to_owned())].into();
        services[0] =
            Service { selector: pods, resource_version: "9".into(), ..services[0].clone() };
        let plan = plan(&pools, &services, &before);
        let moved: Vec<_> = plan.changes.iter().map(|it| &it.service.name[..]).collect();
        assert_eq!(moved, ["s1"], "{kind:?}: the other is older, but it was not edited");
    }
}

#[test]
fn says_with_whom_an_address_cannot_be_shared_and_gives_it_to_nobody_else() {
    let (_, plan) = after(PoolKind::MetalLb, 1, true, &EDITS[1]);
    let refusal = plan.refusals.values().next().unwrap();
    assert_eq!(
        refusal.message,
        "keeps 192.0.2.1, which default/s2 has too; they cannot share it, because their \
         allow-shared-ip keys are not the same"
    );
    let mut services: Vec<_> = (1..=3).map(sharer).collect();
    services[0] = (EDITS[1].1)(&services[0]);
    for key in ["k", "l"] {
        let new = keyed(sharer(4), Some(key));
        let services: Vec<_> = services.iter().cloned().chain([new]).collect();
        let plan = self::plan(&[of_kind(PoolKind::MetalLb)], &services, &plan.assignments);
        let given = &plan.assignments[&ServiceName::new("default", "s4")];
        assert_eq!(given.addresses, [ip("192.0.2.2")], "{key}");
    }
}

#[test]
fn who_does_not_fit_still_gets_another_address_that_it_asks_for() {
    let (_, plan) = after(PoolKind::MetalLb, 3, true, &EDITS[1]);
    let mut services: Vec<_> = (1..=3).map(sharer).collect();
    services[2] = (EDITS[1].1)(&services[2]);
    // The others ask for what they have, and are not refused it for the third one's sake.
    for service in &mut services[..2] {
        service.requested = vec![ip("192.0.2.1")];
    }
    let refused = self::plan(&[of_kind(PoolKind::MetalLb)], &services, &plan.assignments);
    assert_eq!(refused.refusals, plan.refusals);
    services[2].requested = vec![ip("192.0.2.7")];
    let moved = self::plan(&[of_kind(PoolKind::MetalLb)], &services, &refused.assignments);
    let changed = &show(&moved)[2..];
    assert_eq!(changed, ["s3 192.0.2.7 from pool p", "s3! requested"]);
}

#[derive(Clone, Debug)]
struct Change {
    which: usize,
    key: Option<&'static str>,
    is_local: bool,
    pods: &'static str,
    ports: BTreeSet<u16>,
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = prop::sample::select(vec![None, Some("k"), Some("k"), Some("l")]);
    let ports = prop::collection::btree_set(1..6u16, 1..3);
    let pods = prop::sample::select(vec!["x", "y"]);
    (0..5usize, key, prop::bool::weighted(0.3), pods, ports).prop_map(
        |(which, key, is_local, pods, ports)| Change { which, key, is_local, pods, ports },
    )
}

fn changed(service: &Service, change: &Change, version: usize) -> Service {
    let policy = if change.is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let service = Service {
        external_traffic_policy: policy,
        selector: [("app".to_owned(), change.pods.to_owned())].into(),
        ports: ports(&change.ports.iter().copied().collect::<Vec<_>>()),
        resource_version: version.to_string(),
        ..service.clone()
    };
    keyed(service, change.key)
}

proptest! {
    /// However many edits there were, none changes the address of another Service; and no two that
    /// have an address listen at one port of it, nor has anybody one who does not share it.
    #[test]
    fn an_edit_of_one_never_changes_the_address_of_another(
        is_cilium in any::<bool>(),
        edits in prop::collection::vec(any_change(), 1..25),
    ) {
        let kind = KINDS[usize::from(is_cilium)];
        let mut services: Vec<_> = (1..=5).map(sharer).collect();
        let mut before = plan(&[of_kind(kind)], &services, &NOBODY).assignments;
        for (number, edit) in edits.iter().enumerate() {
            services[edit.which] = changed(&services[edit.which], edit, 100 + number);
            let after = plan(&[of_kind(kind)], &services, &before).assignments;
            for (place, service) in services.iter().enumerate() {
                if place != edit.which {
                    prop_assert_eq!(after.get(&service.name), before.get(&service.name));
                }
            }
            for (one, other) in
                services.iter().flat_map(|it| services.iter().map(move |other| (it, other)))
            {
                if one.name < other.name && after[&one.name] == after[&other.name] {
                    prop_assert!(one.ports_differ(other));
                    prop_assert!(one.sharing_key.is_some() && other.sharing_key.is_some());
                    let is_local = |it: &Service| it.external_traffic_policy == TrafficPolicy::Local;
                    let are_local = is_local(one) && is_local(other);
                    prop_assert!(!are_local || one.selector == other.selector, "no node has both");
                }
            }
            before = after;
        }
    }
}
