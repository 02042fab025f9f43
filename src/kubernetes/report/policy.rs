//! Cilium's conditions on policies: which part of one cannot be read.
//!
//! Such a policy has no effect, or goes on as it last was; Cilium's users look for the reason in
//! these conditions, which are there only while something is wrong.

use serde_json::{Value, json};

use super::super::write::{Target, Write};
use super::conditions::keep_time;
use crate::observed::Observed;
use crate::problem::{Level, Problem};

/// Conditions by the field that they are about.
const FAULTS: [(&str, &str); 3] = [
    ("spec.nodeSelector", "io.cilium/bad-node-selector"),
    ("spec.serviceSelector", "io.cilium/bad-service-selector"),
    ("spec.interfaces", "io.cilium/bad-interface-regex"),
];

/// The conditions of all policies that should be others than they are.
pub fn policies(observed: &Observed, problems: &[Problem], now: &str) -> Vec<Write> {
    let policies = observed.policies.iter();
    let write = |(name, known): (&String, &Vec<Value>)| {
        let wanted = wanted(name, known, problems, now);
        (wanted != *known).then(|| Write::Status {
            target: Target {
                api_version: "cilium.io/v2alpha1",
                kind: "CiliumL2AnnouncementPolicy",
                plural: "ciliuml2announcementpolicies",
                namespace: None,
                name: name.clone(),
            },
            patch: json!({"status": {"conditions": wanted}}).into(),
        })
    };
    policies.filter_map(write).collect()
}

fn wanted(name: &str, known: &[Value], problems: &[Problem], now: &str) -> Vec<Value> {
    let object = format!("CiliumL2AnnouncementPolicy {name}");
    let is_ours = |it: &&Value| FAULTS.iter().any(|(_, type_)| it["type"] == *type_);
    let mut conditions: Vec<_> = known.iter().filter(|it| !is_ours(it)).cloned().collect();
    for (field, type_) in FAULTS {
        // The message of a problem begins with the field that it is about.
        let messages: Vec<_> = problems
            .iter()
            .filter(|it| it.level == Level::Error && it.object.as_ref() == Some(&object))
            .filter(|it| it.message.starts_with(field))
            .map(|it| it.message.as_str())
            .collect();
        if messages.is_empty() {
            continue;
        }
        let condition = json!({
            "type": type_, "status": "True", "reason": "error", "message": messages.join("; "),
            "lastTransitionTime": now,
        });
        conditions.push(keep_time(condition, known.iter().find(|it| it["type"] == type_)));
    }
    conditions
}
