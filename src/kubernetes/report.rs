//! What should stand in the cluster about Services and pools (pure): from the picture and the
//! allocator's plan to writes.
//!
//! The status of a Service is the database of assignments, so each write of one names the version
//! it was decided on. What stands there already is not written again. Time is an argument and only
//! appears in conditions that change. Read `conditions` and `policy` for Cilium's, `events` for
//! what is told once, `node` and `configuration` for what each speaker says about itself.

mod conditions;
mod configuration;
mod events;
mod node;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

pub use configuration::{Component, Verdict, configuration, faults};
pub use events::{Foreign, conflicts, unannounced};
pub use node::{Held, announced};
pub use policy::policies;

use super::write::{Target, Write};
use crate::allocator::{Assignment, Change, ChangeReason, Count, Plan};
use crate::observed::{
    ALLOCATED_FROM, ASSIGNED, Observed, PREVIOUS, Pool, PoolKind, Service, ServiceName,
};

/// Everything the allocator wants written. The plan must have been made from what is reported in
/// the same picture.
pub fn writes(observed: &Observed, plan: &Plan, now: &str) -> Vec<Write> {
    let changes: BTreeMap<&ServiceName, &Change> =
        plan.changes.iter().map(|change| (&change.service, change)).collect();
    let mut writes = Vec::new();
    for (name, service) in &observed.services {
        let reporter = Reporter { observed, plan, service, now };
        let change = changes.get(name).copied();
        writes.extend(reporter.status(change));
        writes.extend(events::of_service(observed, plan, service, change));
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
        } else if self.is_released() {
            self.release(&mut patch);
        } else {
            self.remember(&mut patch);
        }
        if let Some(conditions) = self.conditions() {
            patch["status"]["conditions"] = conditions;
        }
        if patch == json!({}) {
            return None;
        }
        patch["metadata"]["resourceVersion"] = json!(self.service.resource_version);
        Some(Write::Status { target: Target::service(&self.service.name), patch: patch.into() })
    }

    fn is_released(&self) -> bool {
        self.plan.released.contains(&self.service.name)
    }

    /// Conditions of Services that are nobody's concern here are left alone.
    fn conditions(&self) -> Option<Value> {
        let name = &self.service.name;
        let is_served =
            self.plan.assignments.contains_key(name) || self.plan.refusals.contains_key(name);
        let is_ours = is_served || (self.is_released() && self.has_what_was_assigned());
        let conditions =
            || conditions::of_service(self.observed, self.plan, self.service, self.now);
        is_ours.then(conditions).flatten()
    }

    /// Whether nobody else has given the Service other addresses since Herald did. (The API server
    /// takes them away by itself when the type changes.)
    fn has_what_was_assigned(&self) -> bool {
        let reported = &self.service.reported;
        let addresses: BTreeSet<_> = reported.addresses.iter().collect();
        let assigned: BTreeSet<_> = reported.assigned.iter().flatten().collect();
        addresses.is_empty() || addresses == assigned
    }

    /// Takes back what Herald gave to a Service that it does not serve any more, and only that.
    fn release(&self, patch: &mut Value) {
        patch["metadata"]["annotations"] = json!({ASSIGNED: null, PREVIOUS: null});
        if !self.has_what_was_assigned() {
            return;
        }
        patch["metadata"]["annotations"][ALLOCATED_FROM] = Value::Null;
        if !self.service.reported.addresses.is_empty() {
            patch["status"]["loadBalancer"] = json!({"ingress": null});
        }
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
        let assigned = change.to.as_ref().map(|to| list(&to.addresses));
        patch["metadata"]["annotations"][ASSIGNED] = json!(assigned);
        let was_lost = change.to.is_none() && change.reason == ChangeReason::PoolGone;
        let before = change.from.as_ref().filter(|_| was_lost);
        let had_note = !self.service.previous.is_empty();
        if let Some(before) = before {
            patch["metadata"]["annotations"][PREVIOUS] = json!(list(&before.addresses));
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

    /// Writes down where it is missing what is assigned and from which pool, for example after
    /// moving over from ServiceLB.
    fn remember(&self, patch: &mut Value) {
        let Some(assignment) = self.plan.assignments.get(&self.service.name) else { return };
        if !self.observed.pools.contains_key(&assignment.pool) {
            return;
        }
        let reported = &self.service.reported;
        let pool = self.pool_annotation(assignment);
        if pool.as_str() != reported.pool.as_deref() {
            patch["metadata"]["annotations"][ALLOCATED_FROM] = pool;
        }
        if reported.assigned.as_ref() != Some(&assignment.addresses) {
            patch["metadata"]["annotations"][ASSIGNED] = json!(list(&assignment.addresses));
        }
    }
}

/// Addresses as annotations have them.
fn list(addresses: &[IpAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    list.join(",")
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
    (!is_equal).then(|| Write::Status { target, patch: json!({"status": status}).into() })
}
