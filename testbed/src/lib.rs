//! The lab: a small LAN made of network namespaces, real packets, faults on demand; the demo and
//! the end-to-end tests run in it.
//!
//! Everything happens in private namespaces ([`sandbox`]), so that nothing can be left behind: what
//! the lab makes goes with its processes. The crate must never touch the machine's own network, and
//! it knows Herald only from outside: as a command with flags, manifests and a status report;
//! except that the data plane's benchmark loads the programs themselves.
//!
//! Read [`lab`] for the network, then [`scenario`] for Herald in it, then [`demo`].

pub mod asker;
pub mod bench;
pub mod beside;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod demo;
pub mod e2e;
pub mod flows;
pub mod history;
pub mod judge;
pub mod lab;
pub mod metrics;
pub mod neighbour;
pub mod ping;
pub mod pod;
pub mod probe;
pub mod resolve;
pub mod sandbox;
pub mod scenario;
pub mod services;
pub mod status;
pub mod stop;
pub mod tap;
pub mod trial;
pub mod unbroken;
pub mod watch;
