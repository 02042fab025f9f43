//! Cilium's conditions on Services and pools, by the types and reasons that its tools look for.
//!
//! Versions of Cilium before the pools' `cilium.io/v2` used other types. Where only the older
//! version is served, or an object carries an older type already, that is written besides the
//! newer: the columns that the installed definition prints, and whoever waits for one of them, find
//! what they look for.

use serde_json::{Value, json};

use crate::allocator::{Count, Plan, RefusalReason};
use crate::observed::{
    OLD_REQUEST_SATISFIED as OLD_SATISFIED, Observed, Pool, PoolKind,
    REQUEST_SATISFIED as SATISFIED, Service,
};

const INCOMPATIBLE: &str = "already_allocated_incompatible_service";
const OLD_INCOMPATIBLE: &str = "already_allocated_different_sharing_key";
const CONFLICT: &str = "cilium.io/PoolConflict";
/// The types of a pool's conditions, each with its older name.
const POOL_TYPES: [(&str, &str); 4] = [
    (CONFLICT, "io.cilium/conflict"),
    ("cilium.io/IPsTotal", "io.cilium/ips-total"),
    ("cilium.io/IPsAvailable", "io.cilium/ips-available"),
    ("cilium.io/IPsUsed", "io.cilium/ips-used"),
];
/// The version of the API in which pools were served before.
const OLD_VERSION: &str = "cilium.io/v2alpha1";

/// The Service's conditions, if they should be others than they are. Only Services that Cilium's
/// pools serve, or would have to, get one.
pub fn of_service(observed: &Observed, plan: &Plan, service: &Service, now: &str) -> Option<Value> {
    if keeps_what_it_has_meanwhile(plan, service) {
        return None;
    }
    let known = &service.reported.conditions;
    let is_ours = |it: &&Value| it["type"] == SATISFIED || it["type"] == OLD_SATISFIED;
    let is_old = observed.pools.values().any(|pool| pool.api_version == OLD_VERSION)
        || has_type(known, OLD_SATISFIED);
    let types = [SATISFIED].into_iter().chain(is_old.then_some(OLD_SATISFIED));
    let wanted: Vec<_> = wanted(observed, plan, service, now)
        .into_iter()
        .flat_map(|wanted| types.clone().map(move |type_| of_type(&wanted, type_)))
        .map(|wanted| keep_time(wanted.clone(), with_type(known, &wanted["type"])))
        .collect();
    let before: Vec<_> = known.iter().filter(is_ours).cloned().collect();
    let is_equal =
        before.len() == wanted.len() && wanted.iter().all(|wanted| before.contains(wanted));
    let others = known.iter().filter(|it| !is_ours(it));
    (!is_equal).then(|| others.cloned().chain(wanted).collect())
}

/// Whether it is unknown for a while where its addresses come from: that says nothing about what it
/// asked for, so that what was said before stands.
fn keeps_what_it_has_meanwhile(plan: &Plan, service: &Service) -> bool {
    let refusal = plan.refusals.get(&service.name);
    let is_unknown = refusal.is_some_and(|it| it.reason == RefusalReason::InputIncomplete);
    is_unknown && plan.assignments.contains_key(&service.name)
}

fn has_type(conditions: &[Value], type_: &str) -> bool {
    conditions.iter().any(|it| it["type"] == type_)
}

fn with_type<'a>(conditions: &'a [Value], type_: &Value) -> Option<&'a Value> {
    conditions.iter().find(|it| it["type"] == *type_)
}

fn of_type(condition: &Value, type_: &str) -> Value {
    let mut condition = condition.clone();
    condition["type"] = json!(type_);
    if type_ == OLD_SATISFIED && condition["reason"] == INCOMPATIBLE {
        condition["reason"] = json!(OLD_INCOMPATIBLE);
    }
    condition
}

fn wanted(observed: &Observed, plan: &Plan, service: &Service, now: &str) -> Option<Value> {
    let refusal = plan.refusals.get(&service.name);
    let assignment = plan.assignments.get(&service.name);
    let pool = assignment.and_then(|assignment| observed.pools.get(&assignment.pool));
    let is_cilium = match pool {
        Some(pool) => pool.kind == PoolKind::Cilium,
        None => {
            let has_metallb = observed.pools.values().any(|pool| pool.kind == PoolKind::MetalLb);
            refusal.is_some()
                && (service.is_of_cilium_class() || !(has_metallb || observed.pools.is_empty()))
        }
    };
    if !is_cilium {
        return None;
    }
    let (status, reason, message) = match refusal {
        None => ("True", "satisfied", ""),
        Some(refusal) => ("False", reason(refusal.reason), refusal.message.as_str()),
    };
    Some(condition(SATISFIED, status, reason, message, now))
}

/// The nearest of the reasons that Cilium's tools know (reference, section 2c).
const fn reason(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NoPool
        | RefusalReason::NoAutomaticPool
        | RefusalReason::NoPoolOfFamily
        | RefusalReason::NoDualStackPool
        | RefusalReason::AddressOutsidePools
        | RefusalReason::UnknownPool
        | RefusalReason::PoolClosed
        | RefusalReason::InputIncomplete
        // Cilium has no name for a request that cannot be granted whatever the pools are.
        | RefusalReason::AddressesInDifferentPools
        | RefusalReason::RequestedWrongFamily
        | RefusalReason::NotEnoughClusterIps
        | RefusalReason::ClusterIpsOfOneFamily
        | RefusalReason::RequestContradictory => "no_pool",
        RefusalReason::PoolNotForService => "pool_selector_mismatch",
        RefusalReason::AddressTaken | RefusalReason::AddressAvoided => "already_allocated",
        RefusalReason::AddressNotShared => INCOMPATIBLE,
        RefusalReason::PoolsExhausted => "out_of_ips",
    }
}

/// All conditions of a pool; those that say the same as before keep their time.
pub fn of_pool(pool: &Pool, count: &Count, now: &str) -> Value {
    let (total, used) = count.sums();
    let conflict = match &pool.conflict {
        Some(other) => {
            let message = format!("shares addresses with {other}");
            condition(CONFLICT, "True", "cidr_overlap", &message, now)
        }
        None => condition(CONFLICT, "False", "resolved", "", now),
    };
    let number = |type_: &str, number: u128| {
        condition(type_, "Unknown", "noreason", &number.to_string(), now)
    };
    let [_, (totals, _), (available, _), (in_use, _)] = POOL_TYPES;
    let mut ours = vec![
        conflict,
        number(totals, total),
        number(available, total.saturating_sub(used)),
        number(in_use, used),
    ];
    let known = pool.status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let olds = POOL_TYPES
        .iter()
        .filter(|(_, old)| pool.api_version == OLD_VERSION || has_type(known, old));
    let olds: Vec<_> =
        olds.filter_map(|(new, old)| Some(of_type(with_type(&ours, &json!(new))?, old))).collect();
    ours.extend(olds);
    for condition in &mut ours {
        let before = with_type(known, &condition["type"]);
        *condition = keep_time(condition.take(), before);
    }
    let is_other = |known: &&Value| with_type(&ours, &known["type"]).is_none();
    // Our order first and always the same, so that an equal state compares equal.
    let others: Vec<_> = known.iter().filter(is_other).cloned().collect();
    ours.into_iter().chain(others).collect()
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now,
    })
}

/// The condition with the time of the one before, if that says the same.
pub(super) fn keep_time(mut condition: Value, before: Option<&Value>) -> Value {
    let Some(before) = before else { return condition };
    let is_same = ["status", "reason", "message"]
        .iter()
        .all(|field| condition[*field].as_str() == Some(before[*field].as_str().unwrap_or("")));
    if is_same {
        condition = before.clone();
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_reason_of_ciliums() {
        let known = [
            "no_pool",
            "pool_selector_mismatch",
            "already_allocated",
            "already_allocated_incompatible_service",
            "out_of_ips",
        ];
        for refusal in RefusalReason::ALL {
            assert!(known.contains(&reason(*refusal)), "{refusal:?}");
        }
    }
}
