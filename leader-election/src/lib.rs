//! Which node holds which VIP: sessions, claims and the deadline until which a node may speak.
//!
//! A node keeps one session alive; its claims on VIPs hang on that session, so the steady cost
//! grows with nodes and never with VIPs. A back end decides: raft among the speakers themselves
//! ([`raft`]), or objects of the Kubernetes API server ([`lease`]). Both share [`model`] and
//! [`placement`].
//!
//! This crate must never speak on the link and never import Kubernetes types. It says who may speak
//! and until when; the kernel fence behind [`Fence`] enforces it. Read [`model`] first, then the
//! argument in [`raft`] why two nodes never speak for one VIP.

#![deny(unsafe_code)]

pub mod clock;
mod error;
pub mod handover;
pub mod lease;
pub mod model;
pub mod pace;
pub mod placement;
pub mod raft;
mod timing;

pub use error::Error;
pub use handover::MoveRefusal;
pub use model::{
    BootTime, Claim, ClaimKey, Eligible, Fence, Guard, NodeName, Session, SessionState, View,
    Wanted,
};
pub use raft::{
    Founding, Handle, Key, KeyError, Patience, RaftConfig, Voters, start, start_with_key,
};
pub use timing::{Timing, TimingError};
