//! The data plane's userspace half: loads the XDP and tc programs, pins and adopts them, and
//! keeps their maps equal to a wanted [`Picture`].
//!
//! It must never leave an interface half served: a mode either works whole or is refused with
//! the reason. It knows nothing of Kubernetes, elections or sockets.
//!
//! Read [`picture`] for what is wanted, [`rendezvous`] for how slots are filled, [`slots`] for
//! how they change, [`tables`] for the pure difference between two pictures, [`datapath`] for the
//! kernel's side, [`sample`] for what it tells of single packets.

pub mod datapath;
mod error;
mod fallback;
pub mod fence;
mod link;
pub mod picture;
mod pins;
pub mod rendezvous;
pub mod sample;
pub mod slots;
pub mod tables;

pub use datapath::detach::{Detached, Removed, detach};
pub use datapath::held_back::HeldBack;
pub use datapath::samples::{Samples, Taken};
pub use datapath::{Attached, Counter, DRAIN, Datapath, Mode, Occupant, Wanted};
pub use error::Error;
pub use fence::SessionFence;
pub use herald_ebpf_common as common;
pub use picture::{
    Affinity, Backend, Locality, Network, Picture, Policy, Protocol, ServicePort, WhenEmpty,
};

/// The programs, as built by `build.rs`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/herald-ebpf.o"));

/// The benchmark's programs; see `herald_ebpf_common::bench`.
pub static BENCH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/herald-ebpf-bench.o"));
