//! What should stand in the cluster about Services and pools (pure): from the picture and the
//! allocator's plan to writes.
//!
//! The status of a Service is the database of assignments, so each write of one names the version it
//! was decided on. What stands there already is not written again. Time is an argument and only
//! appears in conditions that change. Read `conditions` for Cilium's, `node` for what each speaker
//! says about itself.

mod conditions;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use node::{Component, Held, announced, configuration};

use super::write::{Severity, Target, Write};
use crate::allocator::{Assignment, Change, ChangeReason, Count, Plan};
use crate::observed::{ALLOCATED_FROM, Observed, PREVIOUS, Pool, PoolKind, Service, ServiceName};

/// Everything the allocator wants written. The plan must have been made from what is reported in
/// the same picture.
pub fn writes(observed: &Observed, plan: &Plan, now: &str) -> Vec<Write> {
    let changes: BTreeMap<&ServiceName, &Change> =
        plan.changes.iter().map(|change| (&change.service, change)).collect();
    let mut writes = Vec::new();
    for (name, service) in &observed.services {
        let reporter = Reporter { observed, plan, service, now };
        writes.extend(reporter.status(changes.get(name).copied()));
        writes.extend(reporter.events(changes.get(name).copied()));
    }
    writes.extend(observed.pools.values().filter_map(|pool| pool_status(plan, pool, now)));
    writes
}

struct Reporter<'a> {
    observed: &'a Observed,
    plan: &'a Plan,
    service: &'a Service,
    now: &'a str,
}

impl Reporter<'_> {
    fn status(&self, change: Option<&Change>) -> Option<Write> {
        let mut patch = json!({});
        if let Some(change) = change {
            self.assign(change, &mut patch);
        } else if !self.service.load_balancer && self.service.reported.pool.is_some() {
            // It was one of ours before its type changed.
            patch["metadata"]["annotations"] = json!({ALLOCATED_FROM: null, PREVIOUS: null});
            patch["status"]["loadBalancer"] = json!({"ingress": null});
        } else {
            self.remember_pool(&mut patch);
        }
        if let Some(conditions) =
            conditions::of_service(self.observed, self.plan, self.service, self.now)
        {
            patch["status"]["conditions"] = conditions;
        }
        if patch == json!({}) {
            return None;
        }
        patch["metadata"]["resourceVersion"] = json!(self.service.resource_version);
        Some(Write::Status { target: Target::service(&self.service.name), patch })
    }

    fn assign(&self, change: &Change, patch: &mut Value) {
        let addresses = change.to.iter().flat_map(|to| &to.addresses);
        // The API server's default for ipMode, stated so that nobody has to know it.
        let ingress: Vec<_> =
            addresses.map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
        let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        patch["status"]["loadBalancer"]["ingress"] = ingress;
        patch["metadata"]["annotations"][ALLOCATED_FROM] =
            change.to.as_ref().map_or(Value::Null, |to| self.pool_annotation(to));
        let was_lost = change.to.is_none() && change.reason == ChangeReason::PoolGone;
        let before = change.from.as_ref().filter(|_| was_lost);
        let had_note = !self.service.previous.is_empty();
        if let Some(before) = before {
            let list: Vec<_> = before.addresses.iter().map(ToString::to_string).collect();
            patch["metadata"]["annotations"][PREVIOUS] = json!(list.join(","));
        } else if had_note {
            patch["metadata"]["annotations"][PREVIOUS] = Value::Null;
        }
    }

    /// The pool's name where MetalLB's tools look for it; they know nothing of Cilium's pools.
    fn pool_annotation(&self, assignment: &Assignment) -> Value {
        let pool = self.observed.pools.get(&assignment.pool);
        let is_metallb = pool.is_none_or(|pool| pool.kind == PoolKind::MetalLb);
        if is_metallb { json!(assignment.pool) } else { Value::Null }
    }

    /// Writes the pool down where it is missing, for example after moving over from ServiceLB.
    fn remember_pool(&self, patch: &mut Value) {
        let Some(assignment) = self.plan.assignments.get(&self.service.name) else { return };
        let wanted = self.pool_annotation(assignment);
        let is_known = self.observed.pools.contains_key(&assignment.pool);
        if is_known && wanted.as_str() != self.service.reported.pool.as_deref() {
            patch["metadata"]["annotations"][ALLOCATED_FROM] = wanted;
        }
    }

    fn events(&self, change: Option<&Change>) -> Vec<Write> {
        let mut events = Vec::new();
        let mut event = |severity, reason, message| {
            let about = Target::service(&self.service.name);
            let uid = self.service.uid.clone();
            events.push(Write::Event { about, uid, severity, reason, message });
        };
        match change {
            Some(Change { from, to: Some(to), reason, .. }) => {
                let list: Vec<_> = to.addresses.iter().map(|ip| format!("{ip:?}")).collect();
                let why = match from {
                    None => String::new(),
                    Some(_) => format!(" ({})", reason.label()),
                };
                let message = format!("Assigned IP [{}]{why}", list.join(" "));
                event(Severity::Normal, "IPAllocated", message);
            }
            Some(change @ Change { from: Some(_), to: None, .. }) => {
                event(Severity::Warning, "ClearAssignment", change.to_string());
            }
            _ => {}
        }
        if let Some(refusal) = self.plan.refusals.get(&self.service.name) {
            let message =
                format!("Failed to allocate IP for {}: {}", self.service.name, refusal.message);
            event(Severity::Warning, "AllocationFailed", message);
        }
        for name in &self.service.deprecated {
            let message = format!("the annotation {name} is deprecated; use the one of metallb.io");
            event(Severity::Warning, "deprecatedAnnotation", message);
        }
        events
    }
}

fn pool_status(plan: &Plan, pool: &Pool, now: &str) -> Option<Write> {
    let count = Count::of(pool, plan);
    let status = match pool.kind {
        PoolKind::MetalLb => count.metallb(),
        PoolKind::Cilium => json!({"conditions": conditions::of_pool(pool, &count, now)}),
    };
    let is_equal = status.as_object().is_some_and(|fields| {
        fields.iter().all(|(name, value)| pool.status.get(name) == Some(value))
    });
    let target = match pool.kind {
        PoolKind::MetalLb => Target {
            api_version: "metallb.io/v1beta1",
            kind: "IPAddressPool",
            plural: "ipaddresspools",
            namespace: Some(pool.namespace.clone()),
            name: pool.name.clone(),
        },
        PoolKind::Cilium => Target {
            api_version: pool.api_version,
            kind: "CiliumLoadBalancerIPPool",
            plural: "ciliumloadbalancerippools",
            namespace: None,
            name: pool.object_name().to_owned(),
        },
    };
    (!is_equal).then(|| Write::Status { target, patch: json!({"status": status}) })
}
