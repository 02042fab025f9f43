//! The one task that performs what the core decides, in order.
//!
//! It must never decide anything, and never read the clock before it has the input: waiting is
//! counted from that moment. Writes to the log are synchronous, in this task, on purpose: nothing
//! may overtake them (a vote must be on disk before it is said), they happen only when something
//! changes, and a disk that hangs should look to the others like what it is, a node that hangs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::core::{Action, Core, Input};
use super::peers::Peers;
use super::refusals::Refusals;
use super::wal::Wal;
use crate::clock::boot_now;
use crate::error::Error;
use crate::model::{BootTime, Fence, NodeName, View};

/// The core and all edges it acts on.
pub(super) struct Driver {
    pub(super) core: Core,
    pub(super) wal: Wal,
    pub(super) peers: Peers,
    /// Where each node is reached.
    pub(super) nodes: BTreeMap<NodeName, SocketAddr>,
    pub(super) fence: Box<dyn Fence>,
    pub(super) inputs: mpsc::UnboundedReceiver<Input>,
    pub(super) publish: watch::Sender<Arc<View>>,
    pub(super) announce: watch::Sender<Option<BootTime>>,
    pub(super) count: watch::Sender<BTreeMap<NodeName, bool>>,
    pub(super) refusals: Refusals,
}

impl Driver {
    /// Runs until the core has stopped, or an edge fails.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut handles_left = true;
        let mut input = Input::Tick;
        loop {
            if let Input::Nodes(nodes) = &input {
                self.reach(nodes.clone());
            }
            for action in self.core.handle(input, boot_now()) {
                self.perform(action)?;
            }
            let Some(deadline) = self.core.next_deadline() else { break };
            let wait = deadline.since(boot_now());
            input = tokio::select! {
                asked = self.inputs.recv(), if handles_left => {
                    handles_left = asked.is_some();
                    asked.unwrap_or(Input::Close)
                }
                heard = self.peers.next() => {
                    let (from, frame) = heard?;
                    Input::Frame(from, frame)
                }
                () = tokio::time::sleep(wait) => Input::Tick,
            };
        }
        self.peers.flush().await;
        Ok(())
    }

    /// Calls these nodes from now on, and members that are no longer in the source where they were.
    fn reach(&mut self, nodes: BTreeMap<NodeName, SocketAddr>) {
        let members = self.core.members();
        self.nodes.retain(|node, _| members.contains_key(node));
        self.nodes.extend(nodes);
        self.peers.set(&self.nodes);
    }

    fn perform(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::SetDeadline(deadline) => {
                self.fence.set_deadline(deadline.unwrap_or(BootTime::SILENT));
                self.announce.send_replace(deadline);
            }
            Action::Persist(batch) => self.wal.append(&batch)?,
            Action::Rewrite(image) => self.wal.rewrite(&image)?,
            Action::Send(to, frame) => self.peers.send(&to, &frame),
            Action::Publish(view) => {
                let members = self.core.members();
                self.count.send_if_modified(|known| {
                    let changed = *known != members;
                    if changed {
                        *known = members;
                    }
                    changed
                });
                let before = self.publish.send_replace(Arc::clone(&view));
                if before.leader != view.leader {
                    let leader = view.leader.as_ref().map(ToString::to_string);
                    tracing::info!(leader, term = view.raft_term, "raft leader changed");
                }
            }
            Action::Refused(from, reason) => self.refusals.count(from.as_str(), reason),
            Action::Stopped => {}
        }
        Ok(())
    }
}
