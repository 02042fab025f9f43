//! What must never be, each in a file of its own: bad days by raft and by API objects in virtual
//! time, thousands of them, and a broken world for each invariant to show that it would be seen.
//! What is checked after every event is in [`sim::invariants`]; the seed is printed on failure.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod agreement;
mod heals;
mod one_voice;
mod terms_grow;

#[path = "../lease/api.rs"]
mod api;
#[path = "../lease/days.rs"]
mod days;
#[path = "../sim/mod.rs"]
mod sim;
#[path = "../lease/world.rs"]
mod world;
