//! Whether a claim can be moved to a node, or a node drained: checked before anything is asked.
//!
//! Pure; judged on one view, so a yes is no promise: what has changed by the time the leader hears
//! of it makes the wish void, and the view then shows no handover. It must never change anything.

use thiserror::Error;

use crate::model::{ClaimKey, NodeName, SessionState, View, Wanted};

/// Why a claim is not moved, or a node not drained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MoveRefusal {
    /// Nobody holds the key, so there is nobody to hand it over; it is placed as soon as it can be.
    #[error("{key} has no living holder that could hand it over")]
    NotHeld {
        /// The key.
        key: ClaimKey,
    },
    /// The node already holds the key.
    #[error("{node} holds {key} already")]
    AlreadyThere {
        /// The key.
        key: ClaimKey,
        /// The node.
        node: NodeName,
    },
    /// No speaker of that name was ever seen.
    #[error("no speaker named {node} is known")]
    UnknownNode {
        /// The name.
        node: NodeName,
    },
    /// The node's session has ended.
    #[error("the speaker on {node} is not alive")]
    NoSession {
        /// The node.
        node: NodeName,
    },
    /// The node is being drained, or about to stop.
    #[error("{node} is drained")]
    Drained {
        /// The node.
        node: NodeName,
    },
    /// The node may not hold the key.
    #[error("{node} is not eligible for {key}")]
    NotEligible {
        /// The key.
        key: ClaimKey,
        /// The node.
        node: NodeName,
    },
}

impl MoveRefusal {
    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotHeld { .. } => "not_held",
            Self::AlreadyThere { .. } => "already_there",
            Self::UnknownNode { .. } => "unknown_node",
            Self::NoSession { .. } => "no_session",
            Self::Drained { .. } => "drained",
            Self::NotEligible { .. } => "not_eligible",
        }
    }
}

/// Whether `key` can be moved to `node`.
///
/// # Errors
/// The first reason why not.
pub fn check_move(
    view: &View,
    wanted: &Wanted,
    key: ClaimKey,
    node: &NodeName,
) -> Result<(), MoveRefusal> {
    let holder = view.holder(&key).ok_or(MoveRefusal::NotHeld { key })?;
    check_known(view, node)?;
    let node = node.clone();
    if *holder == node {
        return Err(MoveRefusal::AlreadyThere { key, node });
    }
    let session = view.sessions.get(&node).filter(|s| s.state == SessionState::Open);
    let Some(session) = session else { return Err(MoveRefusal::NoSession { node }) };
    if session.draining || view.drained.contains(&node) {
        return Err(MoveRefusal::Drained { node });
    }
    match wanted.claims.get(&key) {
        Some(eligible) if eligible.contains(&node) => Ok(()),
        _ => Err(MoveRefusal::NotEligible { key, node }),
    }
}

/// Whether there ever was a speaker on `node`.
///
/// # Errors
/// If not.
pub fn check_known(view: &View, node: &NodeName) -> Result<(), MoveRefusal> {
    if view.sessions.contains_key(node) {
        return Ok(());
    }
    Err(MoveRefusal::UnknownNode { node: node.clone() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::{Claim, Session};

    const KEY: ClaimKey = ClaimKey::Allocator;

    fn session(node: &str, state: SessionState, draining: bool) -> (NodeName, Session) {
        let facts: Arc<[u8]> = Arc::from(&b""[..]);
        (node.into(), Session { node: node.into(), epoch: 1, facts, draining, state })
    }

    /// `a` holds; `b` could; `c` is gone, `d` leaves, `e` is drained, `f` is not eligible.
    fn world() -> (View, Wanted) {
        use SessionState::{Open, Revoked};
        let claim = Claim { key: KEY, holder: Some(("a".into(), 1)), term: 1 };
        let view = View {
            me: "a".into(),
            epoch: 1,
            sessions: [
                session("a", Open, false),
                session("b", Open, false),
                session("c", Revoked, false),
                session("d", Open, true),
                session("e", Open, false),
                session("f", Open, false),
            ]
            .into(),
            claims: [(KEY, claim)].into(),
            handovers: BTreeMap::new(),
            drained: ["e".into()].into(),
            records: BTreeMap::new(),
            leader: None,
            raft_term: 1,
            applied: 1,
        };
        let eligible = ["a", "b", "c", "d", "e"].map(NodeName::from).into();
        (view, Wanted { claims: [(KEY, eligible)].into() })
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let (view, wanted) = world();
        let label = |node: &str| {
            check_move(&view, &wanted, KEY, &node.into()).err().map(|refusal| refusal.label())
        };
        assert_eq!(label("b"), None);
        assert_eq!(label("a"), Some("already_there"));
        assert_eq!(label("c"), Some("no_session"));
        assert_eq!(label("d"), Some("drained"));
        assert_eq!(label("e"), Some("drained"));
        assert_eq!(label("f"), Some("not_eligible"));
        assert_eq!(label("x"), Some("unknown_node"));
    }

    #[test]
    fn what_nobody_holds_is_not_moved() {
        let (mut view, wanted) = world();
        view.claims.clear();
        let refused = check_move(&view, &wanted, KEY, &"b".into());
        assert_eq!(refused, Err(MoveRefusal::NotHeld { key: KEY }));
    }
}
