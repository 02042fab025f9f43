//! The edge between the `lease` back end of the election and an API server: Lease objects of
//! coordination.k8s.io/v1 in Herald's namespace, one for each node's session, one for each claim.
//!
//! It must never decide: who may write what, and what a version that stands still means, is
//! `herald_leader_election::lease`, whose argument needs two things of this edge. A write happens
//! only if the object still is the one that was seen (`object` says how), and every object that the
//! API server shows is reported. What became of a write is said only if it is known.
//!
//! Read [`object`] for what an object looks like, [`desk`] for requests, [`eye`] for the watch.
//! [`mirror`] is the other way round: raft decides, and people read. [`rivals`] keeps the two from
//! acting side by side.

mod desk;
mod eye;
pub mod gate;
pub mod mirror;
pub mod names;
pub mod object;
pub mod pulse;
mod queue;
pub mod rivals;

use herald_leader_election::NodeName;
use herald_leader_election::lease::{ApiChannels, LeaseTiming};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::desk::Desk;
use self::eye::Eye;
use self::object::Shape;
use self::pulse::Pulse;

/// What the edge serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of the Leases.
    pub namespace: String,
    /// This node.
    pub node: NodeName,
    /// How often a session is renewed, and how long that lasts.
    pub timing: LeaseTiming,
}

/// Starts the task that serves the election's driver, until that drops its end of the channels.
#[must_use]
pub fn start(client: Client, config: &Config) -> (ApiChannels, Pulse, JoinHandle<()>) {
    let (requests, inbox) = mpsc::unbounded_channel();
    let (events, heard) = mpsc::unbounded_channel();
    let pulse = Pulse::default();
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let shape = Shape::decided_by_leases(config.timing.ttl);
    let eye = Eye::new(api.clone(), config.timing.ttl, events.clone());
    let desk = Desk::new(api, config, shape, events, pulse.clone());
    let task = tokio::spawn(async move {
        tokio::select! {
            () = desk.serve(inbox) => {}
            () = eye.watch() => {}
        }
    });
    (ApiChannels { requests, events: heard }, pulse, task)
}
