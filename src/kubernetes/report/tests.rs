//! Exactly what is written for which picture.

use std::collections::BTreeSet;

use super::*;
use crate::allocator::{self, Config};
use crate::fixture;
use crate::problem::{Level, Problem, Reason};

const NOW: &str = "2025-01-01T00:00:00Z";

fn observed() -> Observed {
    let mut observed = fixture::observed();
    let service = observed.services.get_mut(&fixture::service_name()).unwrap();
    service.resource_version = "7".into();
    service.uid = "u".into();
    let pool = observed.pools.get_mut("first").unwrap();
    pool.namespace = "metallb-system".into();
    observed
}

fn edit(observed: &mut Observed, change: impl FnOnce(&mut Service)) {
    change(observed.services.get_mut(&fixture::service_name()).unwrap());
}

fn wanted(observed: &Observed) -> Vec<Write> {
    let config = Config::default();
    let current = allocator::reported(observed, &config);
    writes(observed, &allocator::allocate(observed, &current, &config), NOW)
}

fn service_patch(writes: &[Write]) -> Option<Value> {
    writes.iter().find_map(|write| match write {
        Write::Status { target, patch } if target.kind == "Service" => Some(patch.clone()),
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
            "metadata": {"resourceVersion": "7", "annotations": {ALLOCATED_FROM: "first"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.168.1.240", "ipMode": "VIP"}]}},
        }))
    );
    assert_eq!(events(&writes), [("IPAllocated", "Assigned IP [192.168.1.240]".to_owned())]);
    let pool = writes.iter().find_map(|write| match write {
        Write::Status { target, patch } if target.kind == "IPAddressPool" => Some((target, patch)),
        _ => None,
    });
    let (target, patch) = pool.unwrap();
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
                "annotations": {ALLOCATED_FROM: null, PREVIOUS: "192.168.1.240"},
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
fn clears_what_it_gave_to_a_service_that_is_no_load_balancer_any_more() {
    let mut observed = settled();
    edit(&mut observed, |service| service.load_balancer = false);
    let patch = service_patch(&wanted(&observed)).unwrap();
    assert_eq!(patch["status"]["loadBalancer"], json!({"ingress": null}));
    edit(&mut observed, |service| service.reported.pool = None);
    assert_eq!(service_patch(&wanted(&observed)), None, "somebody else's");
}

#[test]
fn leaves_the_services_of_another_class_alone() {
    let mut observed = settled();
    edit(&mut observed, |service| service.class = Some("example.com/lb".into()));
    assert_eq!(service_patch(&wanted(&observed)), None);
}

#[test]
fn says_what_cilium_says_about_its_pools_and_keeps_other_conditions() {
    let mut observed = observed();
    let mut pool = observed.pools.remove("first").unwrap();
    pool.kind = PoolKind::Cilium;
    pool.name = "cilium.io/ip-pool".into();
    pool.api_version = "cilium.io/v2alpha1";
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
    assert_eq!((target.name.as_str(), target.api_version), ("ip-pool", "cilium.io/v2alpha1"));
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
        service.reported.conditions = vec![other, satisfied];
    });
    let config = Config::default();
    let plan = allocator::allocate(&observed, &allocator::reported(&observed, &config), &config);
    assert_eq!(super::writes(&observed, &plan, "2026-01-01T00:00:00Z"), []);
}

#[test]
fn a_speaker_tells_what_it_announces_and_removes_what_it_no_longer_does() {
    let held = Held {
        service: fixture::service_name(),
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
    assert_eq!(labels["metallb.io/service-name"], "echo");
    assert_eq!(
        *status,
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
fn the_configuration_is_invalid_when_a_pool_is_and_not_when_a_service_is() {
    let problem = |object: &str, level| Problem {
        level,
        object: Some(object.into()),
        location: None,
        reason: Reason::BadAddress,
        message: "wrong".into(),
    };
    let result = |problem: Problem| {
        let write = configuration(Component::Speaker("n1"), "herald-system", &[problem]);
        let Write::Own { target, status, .. } = write else { panic!("{write:?}") };
        assert_eq!(target.name, "herald-speaker-n1");
        status["result"].as_str().unwrap().to_owned()
    };
    assert_eq!(result(problem("IPAddressPool metallb-system/a", Level::Error)), "Invalid");
    assert_eq!(result(problem("IPAddressPool metallb-system/a", Level::Warning)), "Valid");
    assert_eq!(result(problem("Service default/a", Level::Error)), "Valid");
}
