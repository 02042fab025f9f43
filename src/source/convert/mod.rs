//! Kubernetes API types into the values of `observed`.
//!
//! One file for each kind, all of the same form: metadata and spec in, the typed value out, and
//! whatever is wrong as findings that name the field. Nothing here knows whether the object came
//! from a file or from an API server. A field that is accepted but has no effect yet must leave a
//! finding, and one that restricts something must have an effect.

mod address;
mod advertisement;
mod cilium;
mod endpoints;
mod exclusion;
mod node;
mod pool;
mod request;
mod selector;
mod service;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::tree::FieldPath;
use crate::problem::{Level, Reason};

pub use advertisement::advertisement;
pub use cilium::{policy as cilium_policy, pool as cilium_pool};
pub use endpoints::{endpoints, merged};
pub use exclusion::exclusions;
pub use node::node;
pub use pool::pool;
pub use service::service;

/// When an object was created, as text that orders like time; empty when it does not say.
fn created(meta: &ObjectMeta) -> String {
    let created = meta.creation_timestamp.as_ref();
    created
        .and_then(|time| serde_json::to_value(time).ok()?.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// Something wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub path: FieldPath,
    pub reason: Reason,
    /// The value found and what was expected; the path is not repeated in it.
    pub message: String,
}

/// What was found while an object was converted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// The object cannot take effect.
    pub fn error(&mut self, path: FieldPath, reason: Reason, message: impl Into<String>) {
        self.0.push(Finding { level: Level::Error, path, reason, message: message.into() });
    }

    /// The object takes effect, but not as its author may expect.
    pub fn warning(&mut self, path: FieldPath, reason: Reason, message: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, path, reason, message: message.into() });
    }

    /// The field has no effect yet, and ignoring it restricts nothing less.
    pub fn ignore(&mut self, path: FieldPath) {
        let message = format!("not supported yet: {path}; the field has no effect");
        self.warning(path, Reason::NotSupportedYet, message);
    }
}
