//! Exactly what is written for which picture.

mod cilium;
mod configuration;
mod events;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::allocator::{self, Config};
use crate::fixture;
use crate::kubernetes::write::Severity;
use crate::problem::{Level, Problem, Reason};

const NOW: &str = "2025-01-01T00:00:00Z";

fn observed() -> Observed {
    let mut observed = fixture::observed();
    let service = Arc::make_mut(observed.services.get_mut(&fixture::service_name()).unwrap());
    service.resource_version = "7".into();
    service.uid = "u".into();
    let pool = observed.pools.get_mut("first").unwrap();
    pool.namespace = "metallb-system".into();
    observed
}

fn edit(observed: &mut Observed, change: impl FnOnce(&mut Service)) {
    change(Arc::make_mut(observed.services.get_mut(&fixture::service_name()).unwrap()));
}

fn wanted(observed: &Observed) -> Vec<Write> {
    let config = Config::default();
    let current = allocator::reported(observed, &config);
    writes(observed, &allocator::allocate(observed, &current, &config), NOW)
}

fn service_patch(writes: &[Write]) -> Option<Value> {
    writes.iter().find_map(|write| match write {
        Write::Status { target, patch } if target.kind == "Service" => Some(patch.value()),
        _ => None,
    })
}

fn events(writes: &[Write]) -> Vec<(&'static str, String)> {
    let event = |write: &Write| match write {
        Write::Event { reason, message, .. } => Some((*reason, message.clone())),
        _ => None,
    };
    writes.iter().filter_map(event).collect()
}

/// The picture after the writes took effect.
fn settled() -> Observed {
    let mut observed = observed();
    edit(&mut observed, |service| {
        service.reported.addresses = vec![fixture::VIP.into()];
        service.reported.pool = Some("first".into());
        service.reported.assigned = Some(vec![fixture::VIP.into()]);
    });
    let count =
        json!({"assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 10, "availableIPv6": 0});
    observed.pools.get_mut("first").unwrap().status = count;
    observed
}

#[test]
fn writes_the_assignment_on_the_version_it_was_decided_on() {
    let writes = wanted(&observed());
    assert_eq!(
        service_patch(&writes),
        Some(json!({
            "metadata": {"resourceVersion": "7", "annotations": {ALLOCATED_FROM: "first", ASSIGNED: "192.168.1.240"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.240", "ipMode": "VIP"}]}},
        }))
    );
    assert_eq!(events(&writes), [("IPAllocated", "Assigned IP [192.168.1.240]".to_owned())]);
    let pool = writes.iter().find_map(|write| match write {
        Write::Status { target, patch } if target.kind == "IPAddressPool" => Some((target, patch)),
        _ => None,
    });
    let (target, patch) = pool.unwrap();
    let patch = patch.value();
    assert_eq!(target.namespace.as_deref(), Some("metallb-system"));
    assert_eq!(
        (&patch["status"]["assignedIPv4"], &patch["status"]["availableIPv4"]),
        (&json!(1), &json!(10))
    );
}

#[test]
fn writes_nothing_when_all_is_as_it_should_be() {
    assert_eq!(wanted(&settled()), []);
}

#[test]
fn remembers_what_a_service_had_when_its_last_pool_disappears() {
    let mut observed = settled();
    observed.pools.clear();
    let writes = wanted(&observed);
    assert_eq!(
        service_patch(&writes),
        Some(json!({
            "metadata": {
                "resourceVersion": "7",
                "annotations": {
                    ALLOCATED_FROM: null, ASSIGNED: null, PREVIOUS: "192.168.1.240",
                },
            },
            "status": {"loadBalancer": {"ingress": null}},
        }))
    );
    let reasons: Vec<_> = events(&writes).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["ClearAssignment", "AllocationFailed"]);
    observed.pools_incomplete = true;
    assert_eq!(service_patch(&wanted(&observed)), None, "not while a pool may only be missing");
}

#[test]
fn takes_back_what_it_gave_to_a_service_that_it_does_not_serve_any_more() {
    let leave: [fn(&mut Service); 2] = [
        |service| service.load_balancer = false,
        |service| service.class = Some("example.com/lb".into()),
    ];
    for leave in leave {
        let mut observed = settled();
        edit(&mut observed, leave);
        let patch = service_patch(&wanted(&observed)).unwrap();
        let annotations = json!({ALLOCATED_FROM: null, ASSIGNED: null, PREVIOUS: null});
        assert_eq!(patch["metadata"]["annotations"], annotations);
        assert_eq!(patch["status"]["loadBalancer"], json!({"ingress": null}));
        // Once its annotation is gone the Service is nobody's concern here.
        edit(&mut observed, |service| {
            service.reported.assigned = None;
            service.reported.addresses.clear();
        });
        assert_eq!(service_patch(&wanted(&observed)), None);
    }
}

#[test]
fn leaves_what_another_controller_gave_to_a_service_alone() {
    let mut observed = settled();
    let condition = json!({"type": "cilium.io/IPAMRequestSatisfied", "status": "True"});
    edit(&mut observed, |service| {
        service.class = Some("example.com/lb".into());
        service.reported.conditions = vec![condition];
        service.reported.addresses = vec!["203.0.113.9".parse().unwrap()];
    });
    let patch = service_patch(&wanted(&observed)).unwrap();
    assert_eq!(
        patch,
        json!({"metadata": {
            "resourceVersion": "7", "annotations": {ASSIGNED: null, PREVIOUS: null},
        }}),
        "it only forgets that it was ours"
    );
    edit(&mut observed, |service| service.reported.assigned = None);
    assert_eq!(service_patch(&wanted(&observed)), None, "one that never was ours");
}

#[test]
fn takes_ciliums_condition_back_with_the_address() {
    let mut observed = settled();
    let other = json!({"type": "example.com/Other", "status": "True"});
    edit(&mut observed, |service| {
        service.class = Some("example.com/lb".into());
        service.reported.conditions = vec![
            json!({"type": "cilium.io/IPAMRequestSatisfied", "status": "True"}),
            other.clone(),
        ];
    });
    let patch = service_patch(&wanted(&observed)).unwrap();
    assert_eq!(patch["status"]["conditions"], json!([other]));
}

#[test]
fn writes_down_what_it_finds_assigned_from_its_pools() {
    let mut observed = settled();
    edit(&mut observed, |service| service.reported.assigned = None);
    let annotations = json!({ASSIGNED: "192.168.1.240"});
    let patch = json!({"metadata": {"resourceVersion": "7", "annotations": annotations}});
    assert_eq!(service_patch(&wanted(&observed)), Some(patch));
    observed.pools.clear();
    observed.pools_incomplete = true;
    assert_eq!(service_patch(&wanted(&observed)), None, "not while nobody knows whose it is");
}

#[test]
fn says_what_cilium_says_about_its_pools_and_keeps_other_conditions() {
    let mut observed = observed();
    let mut pool = observed.pools.remove("first").unwrap();
    pool.kind = PoolKind::Cilium;
    pool.name = "cilium.io/ip-pool".into();
    pool.api_version = "cilium.io/v2";
    observed.pools.insert(pool.name.clone(), pool);
    let other = json!({"type": "example.com/Other", "status": "True"});
    edit(&mut observed, |service| service.reported.conditions = vec![other.clone()]);
    let writes = wanted(&observed);
    let patch = service_patch(&writes).unwrap();
    assert_eq!(patch["metadata"]["annotations"][ALLOCATED_FROM], Value::Null, "not for its pools");
    let satisfied = json!({
        "type": "cilium.io/IPAMRequestSatisfied", "status": "True", "reason": "satisfied",
        "message": "", "lastTransitionTime": NOW,
    });
    assert_eq!(patch["status"]["conditions"], json!([other, satisfied]));
    let Some(Write::Status { target, patch }) = writes.last() else { panic!("no pool status") };
    assert_eq!((target.name.as_str(), target.api_version), ("ip-pool", "cilium.io/v2"));
    let patch = patch.value();
    let of = |field: &str| -> Vec<_> {
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        conditions.iter().map(|it| it[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("status"), ["False", "Unknown", "Unknown", "Unknown"]);
    assert_eq!(of("reason"), ["resolved", "noreason", "noreason", "noreason"]);
    assert_eq!(of("message"), ["", "11", "10", "1"]);
    // With that in place nothing is left to write, whatever the time is.
    observed.pools.get_mut("cilium.io/ip-pool").unwrap().status = patch["status"].clone();
    edit(&mut observed, |service| {
        service.reported.addresses = vec![fixture::VIP.into()];
        service.reported.assigned = Some(vec![fixture::VIP.into()]);
        service.reported.conditions = vec![other, satisfied];
    });
    let config = Config::default();
    let plan = allocator::allocate(&observed, &allocator::reported(&observed, &config), &config);
    assert_eq!(super::writes(&observed, &plan, "2026-01-01T00:00:00Z"), []);
}

#[test]
fn a_speaker_tells_what_it_announces_and_removes_what_it_no_longer_does() {
    let held = Held {
        services: vec![fixture::service_name()],
        interfaces: [("eth0".to_owned(), Some("02:00:00:00:01:01".to_owned()))].into(),
        since: NOW.into(),
    };
    let held = BTreeMap::from([(fixture::VIP.into(), held)]);
    let stale = BTreeSet::from(["l2-stale".to_owned()]);
    let writes = announced("n1", "herald-system", &observed(), &held, &stale);
    let [
        Write::Own { target, labels, status },
        Write::Event { reason, message, .. },
        Write::Gone(gone),
    ] = &writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!(labels.value()["metallb.io/service-name"], "echo");
    assert_eq!(
        status.value(),
        json!({
            "node": "n1", "serviceName": "echo", "serviceNamespace": "default",
            "interfaces": [{"name": "eth0"}],
            "addresses": [{
                "ip": "192.168.1.240", "mac": "02:00:00:00:01:01", "interface": "eth0", "since": NOW,
            }],
        })
    );
    assert_eq!(
        (*reason, message.as_str()),
        ("nodeAssigned", "announcing from node \"n1\" with protocol \"layer2\"",)
    );
    assert_eq!(gone.name, "l2-stale");
    let same = BTreeSet::from([target.name.clone()]);
    assert_eq!(announced("n1", "herald-system", &observed(), &held, &same).len(), 2);
}

#[test]
fn each_service_that_shares_a_vip_has_a_status_of_its_own() {
    let other = ServiceName::new("default", "other");
    let held = Held {
        services: vec![fixture::service_name(), other],
        interfaces: [("eth0".to_owned(), None)].into(),
        since: NOW.into(),
    };
    let held = BTreeMap::from([(fixture::VIP.into(), held)]);
    let writes = announced("n1", "herald-system", &observed(), &held, &BTreeSet::new());
    let name = |write: &Write| match write {
        Write::Own { status, .. } => status.value()["serviceName"].as_str().map(str::to_owned),
        _ => None,
    };
    assert_eq!(writes.iter().filter_map(name).collect::<Vec<_>>(), ["echo", "other"]);
}
