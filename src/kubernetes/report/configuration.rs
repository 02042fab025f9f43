//! ConfigurationState: whether a component could use the configuration it was given.
//!
//! One object for each speaker, and one for whichever speaker allocates, under the name of
//! MetalLB's controller. What is wrong with an object is also told as an Event about it. Nothing is
//! said about Services here: theirs are told on the Services.

use serde_json::json;

use super::super::write::{Severity, Target, Write};
use crate::observed::Observed;
use crate::problem::{Level, Problem, Reason};

/// Who reports on the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component<'a> {
    /// The allocator.
    Controller,
    /// The speaker of a node.
    Speaker(&'a str),
}

/// What there is to say about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    result: &'static str,
    /// What is wrong, or why it cannot be said.
    summary: String,
    /// Since when, as RFC 3339.
    since: String,
}

impl Verdict {
    /// Before any of it has been read.
    pub fn unknown(now: &str) -> Self {
        let summary = "the configuration has not been read yet".to_owned();
        Self { result: UNKNOWN, summary, since: now.to_owned() }
    }

    /// The verdict by what is wrong with the input; the time is that of the last change of the
    /// result.
    #[must_use]
    pub fn next(&self, problems: &[Problem], now: &str) -> Self {
        let errors: Vec<_> = problems.iter().filter(is_error).map(ToString::to_string).collect();
        let blind: Vec<_> = problems.iter().filter(is_blind).map(ToString::to_string).collect();
        let (result, summary) = match (errors.is_empty(), blind.is_empty()) {
            (false, _) => (INVALID, errors.join("; ")),
            (true, false) => (UNKNOWN, blind.join("; ")),
            (true, true) => (VALID, String::new()),
        };
        let since = if result == self.result { self.since.clone() } else { now.to_owned() };
        Self { result, summary, since }
    }
}

fn is_error(problem: &&Problem) -> bool {
    let object = problem.object.as_deref().unwrap_or_default();
    problem.level == Level::Error && KINDS.iter().any(|kind| object.starts_with(kind))
}

/// Whether a part of the configuration cannot be read just now, so that nobody knows what it says.
fn is_blind(problem: &&Problem) -> bool {
    let place = problem.location.as_ref().map_or("", |location| &location.file);
    problem.reason == Reason::Unreadable && PLURALS.contains(&place)
}

/// The ConfigurationState of a component.
pub fn configuration(component: Component<'_>, namespace: &str, verdict: &Verdict) -> Write {
    let (name, labels) = match component {
        Component::Controller => {
            ("herald-controller".to_owned(), json!({"metallb.io/component-type": "controller"}))
        }
        Component::Speaker(node) => (
            format!("herald-speaker-{node}"),
            json!({"metallb.io/component-type": "speaker", "metallb.io/node-name": node}),
        ),
    };
    let target = Target {
        api_version: "metallb.io/v1beta1",
        kind: "ConfigurationState",
        plural: "configurationstates",
        namespace: Some(namespace.to_owned()),
        name,
    };
    let Verdict { result, summary, since } = verdict;
    let (status, reason) = match *result {
        VALID => ("True", "ConfigurationValid"),
        INVALID => ("False", CONFIGURATION_INVALID),
        _ => ("Unknown", "ConfigurationUnknown"),
    };
    let status = json!({
        "result": result,
        "errorSummary": summary,
        "conditions": [{
            "type": "Valid", "status": status, "reason": reason, "message": summary,
            "lastTransitionTime": since,
        }],
    });
    Write::Own { target, labels: labels.into(), status: status.into() }
}

/// The Events about objects of the configuration that cannot be used as they are. MetalLB has none;
/// their reason is that of its condition.
pub fn faults(observed: &Observed, problems: &[Problem]) -> Vec<Write> {
    let event = |problem: &Problem| {
        let faulty = observed.faulty.get(problem.object.as_deref()?)?;
        let effect = match faulty.kept {
            true => "what it said before stays in force",
            false => "it has no effect",
        };
        Some(Write::Event {
            about: Target {
                api_version: faulty.api_version,
                kind: faulty.kind,
                plural: faulty.plural,
                namespace: faulty.namespace.clone(),
                name: faulty.name.clone(),
            },
            uid: faulty.uid.clone(),
            severity: Severity::Warning,
            reason: CONFIGURATION_INVALID,
            message: format!("{}; {effect}", problem.message),
        })
    };
    problems.iter().filter(is_error).filter_map(event).collect()
}

const CONFIGURATION_INVALID: &str = "ConfigurationInvalid";
const VALID: &str = "Valid";
const INVALID: &str = "Invalid";
const UNKNOWN: &str = "Unknown";

/// What objects of the configuration are called in problems.
const KINDS: [&str; 4] = ["IPAddressPool", "L2Advertisement", "Cilium", "ConfigMap"];
/// What their lists are called there.
const PLURALS: [&str; 5] = [
    "ipaddresspools",
    "l2advertisements",
    "ciliumloadbalancerippools",
    "ciliuml2announcementpolicies",
    "configmaps",
];
