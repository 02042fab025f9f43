//! Sources of what the cluster looks like.
//!
//! A source ends in a `Snapshot`: the typed picture and everything that is wrong with the input.
//! All of it is pure except `directory`, the edge that reads and watches a directory of manifests.
//!
//! bytes -> `yaml` -> located tree -> `document` (dispatch by kind) -> `deserialize` -> `convert`
//! -> objects of one `file` -> `assemble` (all files, last good state) -> `Snapshot`.

pub mod assemble;
mod conflicts;
mod convert;
mod deserialize;
pub mod directory;
mod document;
mod file;
mod object;
mod tree;
mod yaml;

pub use assemble::{Assembler, FileState, Snapshot};
pub use directory::{WatchError, watch};
