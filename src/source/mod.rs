//! Sources of what the cluster looks like.
//!
//! A source ends in a `Snapshot`: the typed picture and everything that is wrong with the input.
//! All of it is pure except two edges: `directory`, which reads and watches a directory of
//! manifests, and `kubernetes`, which watches an API server. An object of an API server is a file
//! of its own here, so that both go the same way and keep the last good state alike.
//!
//! bytes -> `yaml` -> located tree -> `document` (dispatch by kind) -> `deserialize` -> `convert`
//! -> objects of one `file` -> `assemble` (all files, last good state)
//! -> `steady` (what counts while the control plane fails) -> `Snapshot`.
//!
//! objects of an API server -> `gather` (complete lists only) -> the same from `document` on.

pub mod assemble;
mod conflicts;
mod convert;
mod deserialize;
pub mod directory;
mod document;
mod file;
mod gather;
pub mod kubernetes;
mod object;
pub mod overlay;
mod soft;
mod steady;
mod tree;
mod weights;
pub(crate) mod yaml;

pub use assemble::{Assembler, FileState, Options, Served, Snapshot};
pub use directory::{WatchError, watch, watch_with};
pub use object::Kind;
pub use tree::Tree;
