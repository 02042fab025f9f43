//! Label selectors, parsed: which labels an object must have.
//!
//! The meaning is that of Kubernetes (labels.Selector): all requirements must hold, an empty
//! selector matches everything, and `NotIn` holds for objects that lack the label.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// All of these requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Requirement {
    /// The label has one of the values.
    In(String, BTreeSet<String>),
    /// The label has none of the values, or is absent.
    NotIn(String, BTreeSet<String>),
    /// The label is present.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

impl Selector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !labels.get(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(requirement: Requirement) -> bool {
        let labels = BTreeMap::from([("zone".to_owned(), "cellar".to_owned())]);
        Selector { requirements: vec![requirement] }.matches(&labels)
    }

    #[test]
    fn means_what_kubernetes_means() {
        let values = |value: &str| BTreeSet::from([value.to_owned()]);
        assert!(selects(Requirement::In("zone".into(), values("cellar"))));
        assert!(!selects(Requirement::In("zone".into(), values("attic"))));
        assert!(!selects(Requirement::In("rack".into(), values("cellar"))));
        assert!(selects(Requirement::NotIn("zone".into(), values("attic"))));
        assert!(!selects(Requirement::NotIn("zone".into(), values("cellar"))));
        assert!(selects(Requirement::NotIn("rack".into(), values("cellar"))));
        assert!(selects(Requirement::Exists("zone".into())));
        assert!(!selects(Requirement::DoesNotExist("zone".into())));
        assert!(selects(Requirement::DoesNotExist("rack".into())));
        assert!(Selector::default().matches(&BTreeMap::new()));
    }
}
