//! Herald: a load balancer for bare-metal Kubernetes on a local network.
//!
//! Data goes one way, and a module imports only from earlier ones:
//!
//! [`source`] reads what the cluster looks like ([`observed`]); [`allocator`] gives Services their
//! addresses; [`desired`] says who may hold an address and where its traffic goes; the election
//! (crate `herald-leader-election`) says who holds it; [`speaker`] makes the link (crate
//! `herald-announcer`) and the kernel (crate `herald-ebpf`) follow; [`status`] tells.

pub mod allocator;
pub mod api;
pub mod cli;
pub mod desired;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod kubernetes;
pub mod metrics;
pub mod observed;
pub mod problem;
pub mod source;
pub mod speaker;
pub mod status;
mod trouble;
