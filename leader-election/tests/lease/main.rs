//! The protocol over API objects against a fake API server, in virtual time.
//!
//! The fake server does what Kubernetes promises: one version for each write, compare-and-swap, and
//! a watch that shows each object late and in no order among objects. Around it everything goes
//! wrong: answers are lost, writes arrive late, processes freeze, restart and lose their watch.
//! Every run checks after every event what is promised (`sim::invariants`). Bad days, one after
//! another, are in the files of the promises, from `invariants::one_voice` on. Start at
//! [`world::World::run_for`].

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod api;
mod doubles;
mod faults;
mod moves;
#[path = "../sim/mod.rs"]
mod sim;
mod world;
