//! What the rest of the process holds of the election: views out, wishes in.
//!
//! Everything but [`Handle::close`] returns at once. Wishes are level-triggered where they can be;
//! a [`Handle::put`] may get lost and is repeated by the caller until the view shows it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::core::{Founding, Input};
use super::refusals::Refusals;
use crate::handover::{self, MoveRefusal};
use crate::model::{
    BootTime, ClaimKey, Guard, MAX_FACTS, MAX_RECORD_KEY, MAX_RECORD_VALUE, NodeName, View, Wanted,
};

/// Who takes part in raft.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// Members, and whether each votes.
    pub(super) members: BTreeMap<NodeName, bool>,
    /// What this node waits for, if it is no member yet.
    pub(super) founding: Option<Founding>,
}

/// A handle on the running election. When the last one is dropped, it closes.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::UnboundedSender<Input>,
    view: watch::Receiver<Arc<View>>,
    deadline: watch::Receiver<Option<BootTime>>,
    refusals: Refusals,
    /// `None` where nobody votes.
    group: Option<watch::Receiver<Group>>,
    /// The nodes that were last said to be there.
    nodes: Arc<Mutex<BTreeMap<NodeName, SocketAddr>>>,
    /// What was last wanted here, to judge moves by.
    wanted: Arc<Mutex<Wanted>>,
}

impl Handle {
    pub(crate) fn new(
        inputs: mpsc::UnboundedSender<Input>,
        view: watch::Receiver<Arc<View>>,
        deadline: watch::Receiver<Option<BootTime>>,
        refusals: Refusals,
    ) -> Self {
        Self {
            inputs,
            view,
            deadline,
            refusals,
            group: None,
            nodes: Arc::default(),
            wanted: Arc::default(),
        }
    }

    pub(crate) fn with_group(self, group: watch::Receiver<Group>) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The nodes that take part in raft, as far as this one knows, and whether each votes; empty
    /// before it has joined, and where the API server decides.
    pub fn members(&self) -> BTreeMap<NodeName, bool> {
        self.group.as_ref().map(|group| group.borrow().members.clone()).unwrap_or_default()
    }

    /// What this node waits for before it can take part in raft; `None` once it does.
    pub fn founding(&self) -> Option<Founding> {
        self.group.as_ref()?.borrow().founding.clone()
    }

    /// Says which nodes there are by the source now and where each is reached, this one included.
    pub fn set_nodes(&self, nodes: BTreeMap<NodeName, SocketAddr>) {
        let mut known = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != nodes {
            known.clone_from(&nodes);
            self.ask(Input::Nodes(nodes));
        }
    }

    /// The view, and every change of it.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// What the fence was last set to; `None` is silence, or that this process has not set it yet.
    pub fn deadline(&self) -> watch::Receiver<Option<BootTime>> {
        self.deadline.clone()
    }

    /// Says what should be held and who may hold it. Only the raft leader acts on it; every node
    /// says it, since any may become leader.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&wanted);
        self.ask(Input::Wanted(wanted));
    }

    /// Asks the holder of `key`, wherever it is, to hand it over to `node`. Progress shows in the
    /// view: the claim's next term, or no such handover any more. A holder that does not hand over
    /// within ten ttl (at least 5 s) keeps its claim.
    ///
    /// # Errors
    /// Why that cannot be, as far as this node knows.
    pub fn move_to(&self, key: ClaimKey, node: NodeName) -> Result<(), MoveRefusal> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        handover::check_move(&self.view.borrow(), &wanted, key, &node)?;
        drop(wanted);
        self.ask(Input::Move(key, node));
        Ok(())
    }

    /// Has a node, this one or another, hand over everything that others can hold, and gives it
    /// nothing until [`Handle::undrain_node`]; restarts of the node do not end that. What nobody
    /// else can hold stays where it is.
    ///
    /// # Errors
    /// If no such node was ever seen.
    pub fn drain_node(&self, node: NodeName) -> Result<(), MoveRefusal> {
        handover::check_known(&self.view.borrow(), &node)?;
        self.ask(Input::SetDrained(node, true));
        Ok(())
    }

    /// Ends [`Handle::drain_node`]. The node takes nothing back by itself.
    ///
    /// # Errors
    /// If no such node was ever seen.
    pub fn undrain_node(&self, node: NodeName) -> Result<(), MoveRefusal> {
        handover::check_known(&self.view.borrow(), &node)?;
        self.ask(Input::SetDrained(node, false));
        Ok(())
    }

    /// Hands one claim over, which the caller has silenced: to the node it was asked to move to
    /// ([`View::handovers`]), else to whoever is next in line. The view shows it as released at
    /// once.
    pub fn hand_over(&self, key: ClaimKey) {
        self.ask(Input::Release(key));
    }

    /// Publishes other facts about this node, at most [`MAX_FACTS`] bytes.
    pub fn set_facts(&self, facts: Vec<u8>) {
        if facts.len() > MAX_FACTS {
            tracing::warn!(size = facts.len(), most = MAX_FACTS, "facts too large, not published");
            return;
        }
        self.ask(Input::Facts(facts));
    }

    /// Asks to write (or remove) a record, as long as this node holds the guard's claim in its
    /// term.
    pub fn put(&self, key: String, value: Option<Vec<u8>>, guard: Guard) {
        let size = value.as_ref().map_or(0, Vec::len);
        if key.len() > MAX_RECORD_KEY || size > MAX_RECORD_VALUE {
            tracing::warn!(key, size, most = MAX_RECORD_VALUE, "record too large, not written");
            return;
        }
        self.ask(Input::Put { name: key, value, guard });
    }

    /// Gives up one claim, which the caller has silenced. The view shows it as released at once.
    /// The next holder, if there can be one, has it in the same step: the same as
    /// [`Handle::hand_over`].
    pub fn release(&self, key: ClaimKey) {
        self.hand_over(key);
    }

    /// Gives up all claims, which the caller has silenced, and takes none for the rest of this
    /// process. Meant for its end; [`Handle::drain_node`] empties a node that stays.
    pub fn drain(&self) {
        self.ask(Input::Drain);
    }

    /// Silences this node, ends its session, hands raft leadership on and stops. Returns once the
    /// task has ended, which takes at most two ttl.
    pub async fn close(&self) {
        self.ask(Input::Close);
        self.inputs.closed().await;
    }

    /// How often something was refused, by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.counts()
    }

    /// A task that has ended needs no wishes; whoever awaits it knows why.
    fn ask(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}
