//! Everything that is written to an API server, and the definitions of what is read from one.
//!
//! `report` decides, purely, what should stand in the cluster: Service status, pool counters,
//! conditions, ServiceL2Status, ConfigurationState, Events. `writer` is the edge that makes it so.
//! `lease` elects by Leases, or mirrors what raft elected. `crds` generates the
//! CustomResourceDefinitions from the types. Reading is `source::kubernetes`.

pub mod crds;
#[cfg(test)]
mod daemonset;
pub mod lease;
pub mod report;
pub mod write;
pub mod writer;

pub use write::{Severity, Target, Write};
