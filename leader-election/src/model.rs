//! The words every back end shares: nodes, sessions, claims, and the view of them all.
//!
//! Plain values; nothing here decides, waits or talks. Read this file before any other in the
//! crate.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

/// Longest node name, that of a Kubernetes object name (RFC 1123 subdomain).
pub const MAX_NODE_NAME: usize = 253;
/// Most bytes of facts a node may publish with its session.
pub const MAX_FACTS: usize = 4096;
/// Longest key of a record.
pub const MAX_RECORD_KEY: usize = 512;
/// Most bytes in the value of one record.
pub const MAX_RECORD_VALUE: usize = 256 * 1024;

/// Name of a node, as Kubernetes knows it. Cheap to copy: it stands in every claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(pub Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for NodeName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What can be claimed: the right to allocate, or one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimKey {
    /// The right to assign VIPs to Services; one speaker at a time.
    Allocator,
    /// The right to speak for this address.
    Vip(IpAddr),
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocator => f.write_str("allocator"),
            Self::Vip(ip) => ip.fmt(f),
        }
    }
}

/// A moment on this machine's boot clock. Meaningless on any other machine, never sent to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// The moment that always lies behind: a fence set to it is silent.
    pub const SILENT: Self = Self(Duration::ZERO);

    /// Nanoseconds since boot, the unit of the fence in the kernel.
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment `nanos` after boot.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// Time passed since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` before this one, at the earliest the boot.
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// The node lives, as far as anybody may assume.
    Open,
    /// The node was silent for a ttl; its claims are free to be taken.
    Revoked,
    /// The node said goodbye; its claims are free to be taken.
    Closed,
}

/// One node's liveness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose session.
    pub node: NodeName,
    /// Grows with every session this node opens, also across restarts.
    pub epoch: u64,
    /// What the node publishes about itself; opaque here, at most [`MAX_FACTS`] bytes.
    pub facts: Arc<[u8]>,
    /// The node gives everything away and takes nothing.
    pub draining: bool,
    /// Open, or how it ended.
    pub state: SessionState,
}

/// Who holds a key, in which term. A released claim stays as a tombstone so that terms only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub key: ClaimKey,
    /// The session that holds it: node and epoch. `None` once released.
    pub holder: Option<(NodeName, u64)>,
    /// Fencing number; grows by one with every new holder.
    pub term: u64,
}

/// The condition under which a record may be written: the writer holds `key` in `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The claim the writer must hold.
    pub key: ClaimKey,
    /// The term in which it must hold it.
    pub term: u64,
}

/// What should be held, and who may hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Eligible nodes of every key that wants a holder.
    pub claims: BTreeMap<ClaimKey, Eligible>,
}

/// The nodes that may hold a key, each with how much it is preferred: 0 unless somebody prefers it.
///
/// A preference decides who gets a key that is to be placed. It takes nothing from a living holder.
/// Cheap to copy: thousands of keys have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligible(Arc<BTreeMap<NodeName, u32>>);

impl Eligible {
    /// Whether the node may hold the key.
    pub fn contains(&self, node: &NodeName) -> bool {
        self.0.contains_key(node)
    }

    /// How much the node is preferred; the more the better.
    pub fn preference(&self, node: &NodeName) -> u32 {
        self.0.get(node).copied().unwrap_or(0)
    }

    /// The nodes, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.0.keys()
    }
}

impl FromIterator<(NodeName, u32)> for Eligible {
    fn from_iter<I: IntoIterator<Item = (NodeName, u32)>>(nodes: I) -> Self {
        Self(Arc::new(nodes.into_iter().collect()))
    }
}

/// Nodes of which none is preferred.
impl FromIterator<NodeName> for Eligible {
    fn from_iter<I: IntoIterator<Item = NodeName>>(nodes: I) -> Self {
        nodes.into_iter().map(|node| (node, 0)).collect()
    }
}

impl From<BTreeSet<NodeName>> for Eligible {
    fn from(nodes: BTreeSet<NodeName>) -> Self {
        nodes.into_iter().collect()
    }
}

impl<const N: usize> From<[NodeName; N]> for Eligible {
    fn from(nodes: [NodeName; N]) -> Self {
        nodes.into_iter().collect()
    }
}

/// Everything this node knows, at one applied log position.
///
/// Claims of this node that it is giving up (release, drain, close) show as released from the
/// moment it was asked to, whatever the others have heard yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The node whose view this is.
    pub me: NodeName,
    /// The epoch of the session this process has, or wants to open.
    pub epoch: u64,
    /// Latest session of every node that ever opened one.
    pub sessions: BTreeMap<NodeName, Session>,
    /// Every key that was ever held.
    pub claims: BTreeMap<ClaimKey, Claim>,
    /// Claims this node holds and is asked to hand over, and to whom. The driver silences each and
    /// then calls [`crate::Handle::hand_over`].
    pub handovers: BTreeMap<ClaimKey, NodeName>,
    /// Nodes that should hold nothing, by somebody's word; they hand over what they hold as soon as
    /// another node can take it.
    pub drained: BTreeSet<NodeName>,
    /// Small replicated values, written only under a [`Guard`].
    pub records: BTreeMap<String, Vec<u8>>,
    /// The raft leader, if one is known. (Never "the holder": see the glossary.)
    pub leader: Option<NodeName>,
    /// Raft's term; not the term of any claim.
    pub raft_term: u64,
    /// Position in the log up to which this view holds.
    pub applied: u64,
}

impl View {
    /// The living holder of `key`: the node whose open session holds it.
    ///
    /// A claim that an earlier process on this very node held does not count before this process
    /// has opened its own session ([`View::is_settled`]).
    pub fn holder(&self, key: &ClaimKey) -> Option<&NodeName> {
        self.claims.get(key).and_then(|claim| self.living(claim))
    }

    /// The claim `node` holds on `key` now, with its term; `None` if it does not hold it.
    pub fn held(&self, node: &NodeName, key: &ClaimKey) -> Option<&Claim> {
        self.claims.get(key).filter(|claim| self.living(claim) == Some(node))
    }

    /// Whether the session of `node` is open.
    pub fn is_alive(&self, node: &NodeName) -> bool {
        self.sessions.get(node).is_some_and(|s| s.state == SessionState::Open)
    }

    /// The claims `node` holds now.
    pub fn claims_of<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Claim> {
        self.claims.values().filter(move |claim| self.living(claim) == Some(node))
    }

    /// Whether this process has opened its own session.
    ///
    /// Until then the claims of the process before it are neither confirmed nor lost: a restarted
    /// speaker leaves the pinned set of VIPs as it found it (the deadline in the kernel bounds it).
    pub fn is_settled(&self) -> bool {
        self.sessions
            .get(&self.me)
            .is_some_and(|s| s.epoch == self.epoch && s.state == SessionState::Open)
    }

    fn living<'a>(&'a self, claim: &'a Claim) -> Option<&'a NodeName> {
        let (node, epoch) = claim.holder.as_ref()?;
        let session = self.sessions.get(node)?;
        let lives = session.epoch == *epoch && session.state == SessionState::Open;
        let own_past = *node == self.me && *epoch != self.epoch;
        (lives && !own_past).then_some(node)
    }
}

/// The kernel's refusal to speak for a VIP past a deadline, seen from the election.
pub trait Fence: Send {
    /// Makes the kernel refuse to speak after `until` ([`BootTime::SILENT`]: at once).
    ///
    /// Called before any frame of the same batch leaves, and must have taken effect when it
    /// returns: the frames may make another node speak.
    fn set_deadline(&mut self, until: BootTime);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64, session_epoch: u64, holder_epoch: u64, state: SessionState) -> View {
        let me = NodeName::from("a");
        let facts: Arc<[u8]> = Arc::from(&b""[..]);
        let session =
            Session { node: me.clone(), epoch: session_epoch, facts, draining: false, state };
        let key = ClaimKey::Allocator;
        let claim = Claim { key, holder: Some((me.clone(), holder_epoch)), term: 1 };
        View {
            me: me.clone(),
            epoch,
            sessions: [(me, session)].into(),
            claims: [(key, claim)].into(),
            handovers: BTreeMap::new(),
            drained: BTreeSet::new(),
            records: BTreeMap::new(),
            leader: None,
            raft_term: 1,
            applied: 1,
        }
    }

    #[test]
    fn holder_needs_an_open_session_of_the_same_epoch() {
        let key = ClaimKey::Allocator;
        let me = NodeName::from("a");
        assert_eq!(view(2, 2, 2, SessionState::Open).holder(&key), Some(&me));
        assert_eq!(view(2, 2, 2, SessionState::Revoked).holder(&key), None);
        assert_eq!(view(2, 2, 1, SessionState::Open).holder(&key), None);
    }

    #[test]
    fn claim_of_the_process_before_is_not_ours_yet() {
        let before = view(3, 2, 2, SessionState::Open);
        assert_eq!(before.holder(&ClaimKey::Allocator), None);
        assert!(!before.is_settled());
        assert!(view(3, 3, 3, SessionState::Open).is_settled());
    }

    #[test]
    fn keys_read_as_their_address() {
        let ip: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(ClaimKey::Vip(ip).to_string(), "fd00::1");
        assert_eq!(ClaimKey::Allocator.to_string(), "allocator");
    }

    #[test]
    fn boot_time_saturates() {
        assert_eq!(BootTime(Duration::MAX) + Duration::from_secs(1), BootTime(Duration::MAX));
        assert_eq!(BootTime::SILENT.earlier(Duration::from_secs(1)), BootTime::SILENT);
        assert_eq!(BootTime::from_nanos(7).as_nanos(), 7);
    }
}
