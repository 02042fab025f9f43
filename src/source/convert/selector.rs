//! Label selectors.

use std::collections::BTreeSet;

use super::super::tree::{FieldPath, quoted};
use super::Findings;
use crate::api::{LabelSelector, LabelSelectorRequirement};
use crate::observed::{Requirement, Selector};
use crate::problem::Reason;

/// A list of selectors; `path` leads to the list.
pub fn selectors(
    list: Option<&[LabelSelector]>,
    path: &FieldPath,
    findings: &mut Findings,
) -> Vec<Selector> {
    let list = list.unwrap_or_default().iter().enumerate();
    list.map(|(index, given)| selector(given, &path.clone().index(index), findings)).collect()
}

/// One selector; `path` leads to it.
pub fn selector(given: &LabelSelector, path: &FieldPath, findings: &mut Findings) -> Selector {
    let labels = given.match_labels.iter().flatten();
    let mut requirements: Vec<_> = labels
        .map(|(key, value)| Requirement::In(key.clone(), BTreeSet::from([value.clone()])))
        .collect();
    for (index, given) in given.match_expressions.iter().flatten().enumerate() {
        let path = path.clone().field("matchExpressions").index(index);
        requirements.extend(requirement(given, path, findings));
    }
    Selector { requirements }
}

fn requirement(
    given: &LabelSelectorRequirement,
    path: FieldPath,
    findings: &mut Findings,
) -> Option<Requirement> {
    let key = given.key.clone();
    let values: BTreeSet<_> = given.values.iter().flatten().cloned().collect();
    let wants_values = matches!(given.operator.as_str(), "In" | "NotIn");
    let requirement = match given.operator.as_str() {
        "In" => Requirement::In(key, values.clone()),
        "NotIn" => Requirement::NotIn(key, values.clone()),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::DoesNotExist(key),
        other => {
            let message = format!("{}: expected In, NotIn, Exists or DoesNotExist", quoted(other));
            findings.error(path.field("operator"), Reason::BadValue, message);
            return None;
        }
    };
    if wants_values == values.is_empty() {
        let expected = if wants_values { "at least one value" } else { "no values" };
        let message = format!("operator {}: expected {expected}", given.operator);
        findings.error(path.field("values"), Reason::BadValue, message);
        return None;
    }
    Some(requirement)
}
