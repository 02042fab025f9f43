//! The world in words, for whoever looks at a failed run.

use std::collections::BTreeSet;

use herald_leader_election::{Session, SessionState};

use super::{MS, Node, Wall, World};

impl World {
    pub fn describe(&self) -> String {
        describe(&self.cut, &self.nodes, self.now)
    }
}

pub fn describe(cut: &BTreeSet<(usize, usize)>, nodes: &[Node], now: Wall) -> String {
    let mut text = format!("cut {cut:?}\n");
    for node in nodes {
        let view = node.view.as_ref();
        let open = |s: &&Session| s.state == SessionState::Open;
        text += &format!(
            "{}: up {} busy {} ms deadline {:?} ahead keys {:?}\n  leader {:?} raft term {:?} \
                 applied {:?} open {:?} draining {:?}\n",
            node.name,
            node.core.is_some(),
            node.busy_until.saturating_sub(now) / MS,
            node.kernel.deadline.since(node.clock(now)),
            node.kernel.keys,
            view.and_then(|v| v.leader.clone()),
            view.map(|v| v.raft_term),
            view.map(|v| v.applied),
            view.map(|v| v
                .sessions
                .values()
                .filter(open)
                .map(|s| (s.node.as_str(), s.epoch))
                .collect::<Vec<_>>()),
            view.map(|v| v
                .sessions
                .values()
                .filter(|s| s.draining)
                .map(|s| s.node.as_str())
                .collect::<Vec<_>>()),
        );
    }
    text
}
