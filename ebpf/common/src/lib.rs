//! The layouts that the eBPF programs and the loader read in the same memory, and the few pure
//! functions both must compute alike: the parser, the flow hash, the checksum arithmetic, the
//! verdict names.
//!
//! Nothing here may allocate, panic or depend on a target. Every struct is `repr(C)`, has no
//! implicit padding (the kernel hashes map keys byte by byte) and is naturally aligned, because a
//! packed struct becomes a byte loop in BPF. Fields ending in `_be` hold network byte order.
//! Read [`layout`] first.

#![no_std]
#![cfg_attr(target_arch = "bpf", forbid(unsafe_code))]

pub mod bench;
pub mod budget;
pub mod checksum;
pub mod crc32c;
pub mod flow;
pub mod headers;
pub mod layout;
#[cfg(not(target_arch = "bpf"))]
pub mod octets;
pub mod parse;
pub mod reason;
pub mod sample;
pub mod service;

pub use layout::*;
pub use reason::Reason;
pub use service::*;
