//! One wanted write to an API server, as data.
//!
//! Writes are wanted states, not steps: performing one twice does no harm, and what is no longer in
//! the list is no longer wanted.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Group and version, `v1` for the core group.
    pub api_version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The name of the kind in addresses.
    pub plural: &'static str,
    /// The namespace; none for kinds without.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A merge patch of the status; metadata in it is written too, where the kind allows it. A
    /// `metadata.resourceVersion` in it makes it fail on any other version.
    Status {
        /// Which object.
        target: Target,
        /// The patch.
        patch: Json,
    },
    /// An object of our own: created if it is missing, and its status made equal to this.
    Own {
        /// Which object.
        target: Target,
        /// Its labels.
        labels: Json,
        /// Its status.
        status: Json,
    },
    /// An object of our own is gone.
    Gone(Target),
    /// Something worth telling about an object; told once for each text.
    Event {
        /// The object.
        about: Target,
        /// Its identity through time.
        uid: String,
        /// Whether it is a warning.
        severity: Severity,
        /// One word that tools look for.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
}

/// JSON as the text that is sent. A tree of it takes ten times the room, and ten thousand may wait.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

/// How much an Event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Something is not as its author wants.
    Warning,
}

impl Json {
    /// The tree.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Severity {
    /// As Kubernetes writes it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

impl Target {
    /// Whether it is a Service.
    pub fn is_service(&self) -> bool {
        (self.api_version, self.kind) == ("v1", "Service")
    }

    /// A Service.
    pub fn service(name: &crate::observed::ServiceName) -> Self {
        Self {
            api_version: "v1",
            kind: "Service",
            plural: "services",
            namespace: Some(name.namespace.clone()),
            name: name.name.clone(),
        }
    }
}
