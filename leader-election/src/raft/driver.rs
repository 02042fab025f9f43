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
use super::handle::Group;
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
    pub(super) group: watch::Sender<Group>,
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
            self.tell_founding();
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

    /// For whoever wonders why nothing happens.
    fn tell_founding(&self) {
        let founding = self.core.founding();
        self.group.send_if_modified(|known| {
            let changed = known.founding != founding;
            known.founding = founding;
            changed
        });
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
                self.group.send_if_modified(|known| {
                    let changed = known.members != members;
                    known.members = members;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::raft::core::{CoreConfig, Patience};
    use crate::raft::store::Image;
    use crate::raft::{RaftConfig, Voters};
    use crate::timing::Timing;

    #[derive(Clone, Default)]
    struct Remembered(Arc<AtomicU64>);

    impl Fence for Remembered {
        fn set_deadline(&mut self, until: BootTime) {
            self.0.store(until.as_nanos(), Ordering::SeqCst);
        }
    }

    /// The only voter could lead and speak within a moment, if its vote for itself were on disk.
    #[tokio::test]
    async fn a_full_disk_ends_the_node_with_its_reason_before_it_votes_or_speaks() {
        let directory = TempDir::new().unwrap();
        let me = NodeName::from("a");
        let (mut wal, _) = Wal::open(directory.path(), "lan", &me).unwrap();
        let image = Image { id: 1, founders: [(me.clone(), 1)].into(), ..Image::default() };
        wal.rewrite(&image).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = RaftConfig {
            cluster: "lan".to_owned(),
            node: me.clone(),
            nodes: [(me.clone(), address)].into(),
            voters: Voters::Automatic,
            patience: Patience::default(),
            listen: address,
            state_dir: directory.path().to_owned(),
            timing: Timing::default(),
            facts: Vec::new(),
        };
        let core_config = CoreConfig {
            node: me.clone(),
            nodes: [me.clone()].into(),
            voters: Voters::Automatic,
            timing: config.timing,
            patience: config.patience,
            facts: Vec::new(),
            seed: 1,
        };
        let core = Core::new(core_config, &image, boot_now()).unwrap();
        let refusals = Refusals::default();
        let peers = Peers::start(&config, None, refusals.clone()).unwrap();
        let (_ask, inputs) = mpsc::unbounded_channel();
        let (publish, _view) = watch::channel(core.view().into());
        let (announce, _deadline) = watch::channel(None);
        let (group, _group) = watch::channel(Group::default());
        let fence = Remembered::default();
        wal.fill_up();
        let nodes = config.nodes;
        let of_driver = Box::new(fence.clone());
        let driver = Driver {
            core,
            wal,
            peers,
            nodes,
            fence: of_driver,
            inputs,
            publish,
            announce,
            group,
            refusals,
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), driver.run()).await.unwrap();
        let reason = ended.unwrap_err().to_string();
        assert!(reason.contains("herald.raft") && reason.contains("No space left"), "{reason}");
        assert_eq!(fence.0.load(Ordering::SeqCst), 0);
        // The process after it finds no vote and no term.
        let (_, found) = Wal::open(directory.path(), "lan", &me).unwrap();
        assert_eq!(found, image);
    }
}
