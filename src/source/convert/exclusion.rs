//! The ConfigMap of interfaces that nothing is announced on.

use k8s_openapi::api::core::v1::ConfigMap;

use super::super::tree::{FieldPath, quoted};
use super::super::yaml;
use super::Findings;
use crate::observed::{Exclusions, Pattern};
use crate::problem::Reason;

const LIST: &str = "announcedInterfacesToExclude";

/// The patterns in it. Without its key it excludes nothing.
pub fn exclusions(map: &ConfigMap, findings: &mut Findings) -> Exclusions {
    let path = FieldPath::root().field("data").field(Exclusions::KEY);
    let Some(text) = map.data.as_ref().and_then(|data| data.get(Exclusions::KEY)) else {
        return Exclusions::default();
    };
    let documents = match yaml::documents(text.as_bytes()) {
        Ok(documents) => documents,
        Err(error) => {
            let line = error.position.line;
            let message = format!("cannot read YAML, line {line}: {}", error.message);
            findings.error(path, Reason::YamlSyntax, message);
            return Exclusions::default();
        }
    };
    let mut patterns = Vec::new();
    for list in documents.iter().filter_map(|document| document.field(LIST)) {
        let Some(items) = list.items() else {
            let message = format!("{LIST}: {}: expected a list", list.found());
            findings.error(path.clone(), Reason::WrongType, message);
            continue;
        };
        for item in items {
            match item.text().map(Pattern::new) {
                Some(Ok(pattern)) => patterns.push(pattern),
                Some(Err(error)) => {
                    let text = quoted(item.text().unwrap_or_default());
                    let message = format!("{LIST}: {text}: {error}");
                    findings.error(path.clone(), Reason::BadValue, message);
                }
                None => {
                    let message = format!("{LIST}: {}: expected a pattern", item.found());
                    findings.error(path.clone(), Reason::WrongType, message);
                }
            }
        }
    }
    Exclusions(patterns)
}
