//! A regular expression for names of interfaces, compared by its text.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// An unanchored regular expression, as Cilium's policies have them.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// The text is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("not a regular expression: {0}")]
pub struct PatternError(String);

impl Pattern {
    /// Reads one. The syntax of Go's package and of this one is RE2's, up to rare escapes.
    ///
    /// # Errors
    ///
    /// If it is malformed, or so large that it could stall the process.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let built = RegexBuilder::new(text).size_limit(1 << 16).build();
        // The library's message draws the expression over several lines; the last has the cause.
        built.map(Self).map_err(|error| {
            let text = error.to_string();
            let cause = text.lines().last().unwrap_or_default();
            PatternError(cause.trim_start_matches("error: ").to_owned())
        })
    }

    /// Whether it is found anywhere in the name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}
