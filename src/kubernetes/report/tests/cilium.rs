//! Conditions of Cilium's policies, and the names that its older versions used.

use super::*;
use crate::allocator::{Plan, Refusal, RefusalReason};

fn problem(object: &str, message: &str) -> Problem {
    Problem {
        level: Level::Error,
        object: Some(object.into()),
        location: None,
        reason: Reason::BadValue,
        message: message.into(),
    }
}

#[test]
fn says_which_part_of_a_policy_cannot_be_read_and_takes_it_back() {
    let mut observed = observed();
    let other = json!({"type": "example.com/Other", "status": "True"});
    observed.policies.insert("p".into(), vec![other.clone()]);
    observed.policies.insert("good".into(), vec![]);
    let object = "CiliumL2AnnouncementPolicy p";
    let message = "spec.interfaces[1]: \"[\": not a regular expression: unclosed character class";
    let fields = [
        ("spec.nodeSelector.matchExpressions[0].operator: \"x\"", "io.cilium/bad-node-selector"),
        ("spec.serviceSelector.matchExpressions[0].values", "io.cilium/bad-service-selector"),
        (message, "io.cilium/bad-interface-regex"),
    ];
    for (message, type_) in fields {
        let problems = [
            problem(object, message),
            problem("CiliumL2AnnouncementPolicy q", message),
            problem("CiliumLoadBalancerIPPool p", "spec.serviceSelector: x"),
        ];
        let condition = json!({
            "type": type_, "status": "True", "reason": "error", "message": message,
            "lastTransitionTime": NOW,
        });
        let writes = policies(&observed, &problems, NOW);
        let [Write::Status { target, patch }] = &writes[..] else { panic!("{writes:?}") };
        assert_eq!((target.name.as_str(), target.api_version), ("p", "cilium.io/v2alpha1"));
        assert_eq!(patch.value()["status"]["conditions"], json!([other, condition]));
        // Said once, whatever the time is; and taken back when all is well.
        let mut after = observed.clone();
        after.policies.insert("p".into(), vec![other.clone(), condition]);
        assert_eq!(policies(&after, &problems, "2026-01-01T00:00:00Z"), []);
        let writes = policies(&after, &[], NOW);
        let [Write::Status { patch, .. }] = &writes[..] else { panic!("{writes:?}") };
        assert_eq!(patch.value()["status"]["conditions"], json!([other]));
    }
}

fn of_cilium(api_version: &'static str) -> Observed {
    let mut observed = observed();
    let mut pool = observed.pools.remove("first").unwrap();
    (pool.kind, pool.name, pool.api_version) =
        (PoolKind::Cilium, "cilium.io/p".into(), api_version);
    observed.pools.insert(pool.name.clone(), pool);
    observed
}

fn types(conditions: &Value) -> Vec<&str> {
    conditions.as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect()
}

const NEW: [&str; 4] =
    ["cilium.io/PoolConflict", "cilium.io/IPsTotal", "cilium.io/IPsAvailable", "cilium.io/IPsUsed"];

#[test]
fn writes_the_older_names_besides_where_only_the_older_version_is_served() {
    let old = [
        "io.cilium/conflict",
        "io.cilium/ips-total",
        "io.cilium/ips-available",
        "io.cilium/ips-used",
    ];
    for (version, has_old) in [("cilium.io/v2", false), ("cilium.io/v2alpha1", true)] {
        let writes = wanted(&of_cilium(version));
        let service = service_patch(&writes).unwrap();
        let pool = writes.iter().find_map(|write| match write {
            Write::Status { target, patch } if target.kind != "Service" => Some(patch.value()),
            _ => None,
        });
        let conditions = &pool.unwrap()["status"]["conditions"];
        let expected: Vec<_> = NEW.into_iter().chain(old.into_iter().filter(|_| has_old)).collect();
        assert_eq!(types(conditions), expected);
        let satisfied = &service["status"]["conditions"];
        match has_old {
            false => assert_eq!(types(satisfied), ["cilium.io/IPAMRequestSatisfied"]),
            true => {
                let both =
                    ["cilium.io/IPAMRequestSatisfied", "io.cilium/lb-ipam-request-satisfied"];
                assert_eq!(types(satisfied), both);
                assert_eq!(conditions[1]["message"], conditions[5]["message"], "the same number");
            }
        }
    }
}

#[test]
fn keeps_an_older_condition_true_that_an_object_carries() {
    let mut observed = of_cilium("cilium.io/v2");
    let old = json!({
        "type": "io.cilium/ips-used", "status": "Unknown", "reason": "noreason", "message": "7",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    });
    observed.pools.get_mut("cilium.io/p").unwrap().status = json!({"conditions": [old]});
    let old = json!({"type": "io.cilium/lb-ipam-request-satisfied", "status": "False"});
    edit(&mut observed, |service| service.reported.conditions = vec![old]);
    let writes = wanted(&observed);
    let satisfied = &service_patch(&writes).unwrap()["status"]["conditions"];
    assert_eq!(satisfied[1]["type"], "io.cilium/lb-ipam-request-satisfied");
    assert_eq!((&satisfied[1]["status"], satisfied.as_array().unwrap().len()), (&json!("True"), 2));
    let Some(Write::Status { patch, .. }) = writes.last() else { panic!("no pool status") };
    let conditions = &patch.value()["status"]["conditions"];
    let expected: Vec<_> = NEW.into_iter().chain(["io.cilium/ips-used"]).collect();
    assert_eq!((types(conditions), &conditions[4]["message"]), (expected, &json!("1")));
}

#[test]
fn each_refusal_has_the_reason_that_cilium_gives() {
    let observed = of_cilium("cilium.io/v2alpha1");
    let table = [
        (RefusalReason::NoPool, "no_pool", "no_pool"),
        (RefusalReason::PoolClosed, "no_pool", "no_pool"),
        (RefusalReason::PoolNotForService, "pool_selector_mismatch", "pool_selector_mismatch"),
        (RefusalReason::AddressTaken, "already_allocated", "already_allocated"),
        (
            RefusalReason::AddressNotShared,
            "already_allocated_incompatible_service",
            "already_allocated_different_sharing_key",
        ),
        (RefusalReason::PoolsExhausted, "out_of_ips", "out_of_ips"),
    ];
    for (reason, new, old) in table {
        let refusal = Refusal { reason, message: "why".into() };
        let refusals = [(fixture::service_name(), refusal)].into();
        let plan = Plan { refusals, ..Plan::default() };
        let patch = service_patch(&writes(&observed, &plan, NOW)).unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let found: Vec<_> =
            conditions.iter().map(|it| (&it["status"], &it["reason"], &it["message"])).collect();
        let (status, message) = (json!("False"), json!("why"));
        assert_eq!(
            found,
            [(&status, &json!(new), &message), (&status, &json!(old), &message)],
            "{reason:?}"
        );
    }
}

#[test]
fn a_pool_that_cannot_be_read_leaves_the_condition_as_it_is() {
    let readable = of_cilium("cilium.io/v2");
    let first = wanted(&readable);
    let satisfied = service_patch(&first).unwrap()["status"]["conditions"].clone();
    assert_eq!(satisfied[0]["status"], "True");
    let refused = json!([{
        "type": "cilium.io/IPAMRequestSatisfied", "status": "False", "reason": "out_of_ips",
        "message": "why", "lastTransitionTime": "2020-01-01T00:00:00Z",
    }]);
    let metallb = observed().pools;
    for (conditions, pools) in
        [(&satisfied, Default::default()), (&satisfied, metallb), (&refused, Default::default())]
    {
        let mut unreadable = readable.clone();
        unreadable.pools = pools;
        unreadable.pools_incomplete = true;
        edit(&mut unreadable, |service| {
            service.reported.addresses = vec![fixture::VIP.into()];
            service.reported.assigned = Some(vec![fixture::VIP.into()]);
            service.reported.conditions = conditions.as_array().unwrap().clone();
        });
        let config = Config::default();
        let current = allocator::reported(&unreadable, &config);
        let plan = allocator::allocate(&unreadable, &current, &config);
        let refusal = plan.refusals.values().next().unwrap();
        assert_eq!(refusal.reason, RefusalReason::InputIncomplete);
        let patch = service_patch(&writes(&unreadable, &plan, NOW));
        let written = patch.as_ref().and_then(|patch| patch.get("status"));
        assert_eq!(written, None, "{conditions}");
    }
}
