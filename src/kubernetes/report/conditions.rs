//! Cilium's conditions on Services and pools, by the types and reasons that its tools look for.

use serde_json::{Value, json};

use crate::allocator::{Count, Plan, RefusalReason};
use crate::observed::{Observed, Pool, PoolKind, Service};

const SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";
const CONFLICT: &str = "cilium.io/PoolConflict";

/// The Service's conditions, if they should be others than they are. Only Services that Cilium's
/// pools serve, or would have to, get one.
pub fn of_service(observed: &Observed, plan: &Plan, service: &Service, now: &str) -> Option<Value> {
    let known = &service.reported.conditions;
    let others = known.iter().filter(|condition| condition["type"] != SATISFIED);
    let wanted = wanted(observed, plan, service, now);
    let before = known.iter().find(|condition| condition["type"] == SATISFIED);
    if wanted.is_none() && before.is_none() {
        return None;
    }
    let wanted = wanted.map(|wanted| keep_time(wanted, before));
    let is_equal = wanted.as_ref() == before;
    (!is_equal).then(|| others.cloned().chain(wanted).collect())
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

const fn reason(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::NoPool
        | RefusalReason::NoAutomaticPool
        | RefusalReason::NoPoolOfFamily
        | RefusalReason::NoDualStackPool
        | RefusalReason::AddressOutsidePools
        | RefusalReason::UnknownPool
        | RefusalReason::PoolClosed
        | RefusalReason::InputIncomplete => "no_pool",
        RefusalReason::PoolNotForService => "pool_selector_mismatch",
        RefusalReason::AddressTaken | RefusalReason::AddressAvoided => "already_allocated",
        RefusalReason::AddressNotShared => "already_allocated_incompatible_service",
        RefusalReason::PoolsExhausted => "out_of_ips",
        RefusalReason::AddressesInDifferentPools
        | RefusalReason::RequestedWrongFamily
        | RefusalReason::RequestContradictory => "invalid_request",
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
    let ours = [
        conflict,
        number("cilium.io/IPsTotal", total),
        number("cilium.io/IPsAvailable", total.saturating_sub(used)),
        number("cilium.io/IPsUsed", used),
    ];
    let known = pool.status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let ours = ours.map(|condition| {
        let before = known.iter().find(|before| before["type"] == condition["type"]);
        keep_time(condition, before)
    });
    let is_other = |known: &&Value| !ours.iter().any(|ours| ours["type"] == known["type"]);
    // Our order first and always the same, so that an equal state compares equal.
    let others: Vec<_> = known.iter().filter(is_other).cloned().collect();
    ours.iter().cloned().chain(others).collect()
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now,
    })
}

/// The condition with the time of the one before, if that says the same.
fn keep_time(mut condition: Value, before: Option<&Value>) -> Value {
    let Some(before) = before else { return condition };
    let is_same = ["status", "reason", "message"]
        .iter()
        .all(|field| condition[*field].as_str() == Some(before[*field].as_str().unwrap_or("")));
    if is_same {
        condition = before.clone();
    }
    condition
}
