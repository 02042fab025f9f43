//! Objects of the configuration that cannot be used as they are, so that their authors can be told
//! where they look.

use serde::Serialize;

/// An object of an API server, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Faulty {
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
    /// Its identity through time.
    pub uid: String,
    /// Whether what it said before is in force.
    pub kept: bool,
}
