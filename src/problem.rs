//! What is wrong with the input, told to a person: where it is, what was found, what was expected.
//!
//! A problem is data. Nothing here decides what a problem leads to; `source` decides which objects
//! stay in force and `cli` how a list of problems is printed. Every problem has a named reason, so
//! that status and metrics can count it by a fixed label.

use std::fmt;

use serde::{Serialize, Serializer};

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something the author wrote does not take effect.
    Error,
    /// It takes effect, but not wholly as its author may expect.
    Warning,
    /// Worth knowing; nothing is wrong.
    Notice,
}

impl Level {
    /// The word that is printed before a message.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// A place in a manifest file; line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Location {
    /// The file, as it was named by whoever asked for it to be read.
    pub file: String,
    /// The line in the file, not in the document; 0 when the file as a whole is meant.
    pub line: u32,
    /// The column in characters; 0 when the file as a whole is meant.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{}:{}", self.file, line, self.column),
        }
    }
}

/// One thing wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How much it matters.
    pub level: Level,
    /// The object that is meant, for example `IPAddressPool metallb-system/first-pool`.
    pub object: Option<String>,
    /// Where it is, when it came from a file.
    pub location: Option<Location>,
    /// Which kind of problem it is.
    pub reason: Reason,
    /// The field, the value found and what was expected, in words.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `file:line:column: message`; everything but an error says its level before the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if self.level != Level::Error {
            write!(f, "{}: ", self.level.label())?;
        }
        f.write_str(&self.message)
    }
}

/// Why something in the input is a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The file or directory could not be read.
    Unreadable,
    /// The file is larger than is read.
    TooLarge,
    /// There are more files, or more bytes in them, than are read.
    TooManyFiles,
    /// The directory cannot be watched, so changes are found by looking again and again.
    NotWatched,
    /// The bytes are no YAML.
    YamlSyntax,
    /// The document is no Kubernetes object.
    NotAnObject,
    /// A field has a value of another type than it must have.
    WrongType,
    /// A field that must be set is missing or empty.
    MissingField,
    /// A field that nobody knows, perhaps misspelt.
    UnknownField,
    /// A value is of the right type but not one that the field can have.
    BadValue,
    /// The text is no address or range of addresses.
    BadAddress,
    /// The first address of a range lies after the last.
    RangeReversed,
    /// An address is of another family than its place asks for.
    WrongFamily,
    /// Two ranges share addresses.
    PoolOverlap,
    /// An object with the same kind and name exists already.
    DuplicateObject,
    /// A reference to an object that does not exist.
    UnknownReference,
    /// Two fields ask for addresses, and only one may.
    RequestedTwice,
    /// Herald does not read objects of this kind.
    KindNotSupported,
    /// The field is understood but its effect does not exist yet.
    NotSupportedYet,
    /// The field works but is on its way out.
    Deprecated,
    /// What an earlier version of the file said stays in force.
    LastGoodKept,
    /// Every Node is not ready, which says more about who watches them than about them.
    AllNodesNotReady,
}

impl Reason {
    /// Every reason there is.
    pub const ALL: &'static [Self] = &[
        Self::Unreadable,
        Self::TooLarge,
        Self::TooManyFiles,
        Self::NotWatched,
        Self::YamlSyntax,
        Self::NotAnObject,
        Self::WrongType,
        Self::MissingField,
        Self::UnknownField,
        Self::BadValue,
        Self::BadAddress,
        Self::RangeReversed,
        Self::WrongFamily,
        Self::PoolOverlap,
        Self::DuplicateObject,
        Self::UnknownReference,
        Self::RequestedTwice,
        Self::KindNotSupported,
        Self::NotSupportedYet,
        Self::Deprecated,
        Self::LastGoodKept,
        Self::AllNodesNotReady,
    ];

    /// The fixed name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::TooManyFiles => "too_many_files",
            Self::NotWatched => "not_watched",
            Self::YamlSyntax => "yaml_syntax",
            Self::NotAnObject => "not_an_object",
            Self::WrongType => "wrong_type",
            Self::MissingField => "missing_field",
            Self::UnknownField => "unknown_field",
            Self::BadValue => "bad_value",
            Self::BadAddress => "bad_address",
            Self::RangeReversed => "range_reversed",
            Self::WrongFamily => "wrong_family",
            Self::PoolOverlap => "pool_overlap",
            Self::DuplicateObject => "duplicate_object",
            Self::UnknownReference => "unknown_reference",
            Self::RequestedTwice => "requested_twice",
            Self::KindNotSupported => "kind_not_supported",
            Self::NotSupportedYet => "not_supported_yet",
            Self::Deprecated => "deprecated",
            Self::LastGoodKept => "last_good_kept",
            Self::AllNodesNotReady => "all_nodes_not_ready",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn prints_location_before_message() {
        let location = Location { file: "pools.yaml".into(), line: 7, column: 5 };
        let mut problem = Problem {
            level: Level::Error,
            object: None,
            location: Some(location),
            reason: Reason::BadAddress,
            message: "spec.addresses[0]: \"x\": no address".into(),
        };
        assert_eq!(problem.to_string(), "pools.yaml:7:5: spec.addresses[0]: \"x\": no address");
        problem.level = Level::Notice;
        problem.location = None;
        assert_eq!(problem.to_string(), "notice: spec.addresses[0]: \"x\": no address");
    }
}
