//! Sessions and claims decided by raft among the speakers themselves.
//!
//! # What is decided how
//!
//! Claims, sessions and records are log entries ([`command`], [`machine`]). Renewals are not: a
//! node sends `Renew` to the raft leader each heartbeat and is answered `Grant`, in memory, so that
//! the steady state writes nothing to any disk. [`core`] is the whole protocol without a clock,
//! socket or file; the rest are edges: [`wal`] the disk, `peers` the network, `driver` the task
//! that performs what the core decides. With a [`Key`] the transport is authenticated and encrypted
//! (`peers::channel`); without one it is plain TCP, and whoever reaches the port can take part. The
//! key proves that the other side is a speaker of this cluster, not which one: a speaker that lies
//! about its name is not defended against.
//!
//! # Why two nodes never speak for one VIP
//!
//! A node speaks for a VIP while its applied state says it holds it and its *deadline* lies ahead.
//! Claims leave a living session only by its own release, and the releasing node is silent for the
//! VIP before it asks. So it suffices that a session is revoked (or a peaceful end is applied) only
//! after its node's deadline has passed. Deadlines are compared with the owner's boot clock alone;
//! waits are counted by whoever waits; both allow for clocks that run at different rates
//! ([`crate::Timing`]). Let `T` be the leader that revokes, in raft term `t`.
//!
//! 1. *A leader's quorum lease.* A leader asks its quorum each heartbeat (a raft read by quorum
//!    with the time of asking as context). A follower that answers votes for nobody else, itself
//!    included, for `promise` from when it received the question, by its own clock and not by
//!    raft's ticks; restarts included: a node that starts votes for nobody for as long. A leader
//!    that stops leading is silent at once, before its own vote can leave. So if a quorum answered
//!    a question asked at `s`, no other leader is elected before `s + promise`. The leader relies
//!    on `lease` = promise - margin.
//! 2. *A leader's own voice* is that lease and nothing else. Becoming leader, it drops what it was
//!    granted as a follower, before it says anything as leader. Handing leadership on (the one
//!    election that breaks promises, raft thesis 3.10), it is silent before it asks the other node
//!    to take over, and for the rest of its term. Hence when `T` is elected, every earlier leader's
//!    voice *as a leader* has ended, unless `T` itself can decide nothing.
//! 3. *A grant* is given only by a leader whose `Lead` entry is applied and whose lease is valid at
//!    that moment, for an open session that it has not proposed to revoke. The deadline is `ttl` -
//!    margin from when the *renewal was sent*. A grant by an earlier leader was thus given, and its
//!    renewal sent, before `T` was elected; a grant by `T`, before `T` received that renewal. A
//!    node takes a grant only from its present leader in its present term, for the session that it
//!    has applied as open. So `ttl` + margin after both `T`'s election and the last renewal `T`
//!    received, any grant has run out: then `T` may revoke, and it grants that session nothing any
//!    more.
//! 4. *The leader before, `P`,* need not be waited for: the node of the last `Lead` in `T`'s log.
//!    Whoever granted anything as leader had its `Lead` decided, so (raft's leader completeness) it
//!    stands in `T`'s log; those after `P`'s would be later in the log. So nobody granted `P`
//!    anything since it became leader and dropped what it had; its voice as leader has ended (2). A
//!    `P` that has not renewed with `T` by the time a quorum confirmed `T` is revoked at once.
//!    (If `P`'s `Lead` was never decided, it never spoke as leader; the same holds.)
//! 5. *A revocation of an earlier leader* that is decided later is as good as on the day it was
//!    written: a leader between that granted anything would have its `Lead` decided, and then the
//!    older entry is either before that `Lead`, so applied before the grant, or not in the log.
//! 6. *A restarted process* opens a session with a higher epoch, and claims move along only if the
//!    older session is open: same node, same fence. The kernel may go on speaking with the deadline
//!    of the process before; that one is covered by 1 to 4 like any other, which never use that
//!    the process lives. What a process does between reading the clock and acting can take any time
//!    (a stopped process): every deadline counts from before, every wait from after.
//!
//! 7. *A handover* ([`command::Command::HandOver`]) is a release and a claim in one entry; the
//!    giver is silent before it asks, like with any release. A claim may stand right behind the
//!    revocation that makes it possible: should that not apply, nor does the claim.
//!
//! 12. *A leader that is started again* asks for its voters' votes at once, in spite of their
//!     promises, and its kernel speaks on meanwhile by the lease of the process before
//!     (`core::resuming`). It does so only if its disk says that it led in the last term it knew,
//!     `t`, and only for `t + 1`. Then its process promised nobody anything since it was elected:
//!     whoever led later would have had its term on this disk first. Leaders before `t` had no
//!     voice left when it was elected. If there is a leader of a later term, a quorum voted in `t +
//!     1` or beyond, and this node loses. What is left are promises to this very node, which its
//!     new leadership keeps: whoever is elected after it waits for them as ever. They vote for
//!     nobody else; that the rest of them vote for it breaks nothing that (2) to (4) rest on:
//!     grants of the process before were given before it was elected anew, and it waits for those
//!     as any new leader.
//!
//! Terms of claims grow by one with each holder; a released claim stays as a tombstone. The points
//! above are searched exhaustively in `tests/model_raft`, whose head says which parts of them were
//! left out and caught, and what three nodes cannot show.
//!
//! # Why that holds while members come and go
//!
//! A member is a state directory, known to raft by an id of 64 random bits: a node that lost its
//! directory forgot its votes and promises, and comes back as another member. Who is one stands in
//! the log ([`command::Command::Member`]), and `membership` says what the leader changes, one at a
//! time. Learners have sessions, claims and grants like any node; they only do not vote. 3 to 6
//! above never used that a session's node votes; 1 and 2 are about voters and need more:
//!
//! 8. *Quorums meet across changes.* Configurations that follow each other differ in one voter, so
//!    their quorums meet. One takes effect where it is applied. The leader proposes the next only
//!    after the last was applied by it, so whoever has the next one in its log was told that the
//!    last is decided, has applied it, and has it on disk: applying a change rewrites the log
//!    (`core::ready`) before anything else is said. Hence a node that can still win by the
//!    configuration before the last lacks what a quorum of the last one stored, and one of that
//!    quorum refuses it.
//! 9. *A quorum lease across changes.* A lease from a question asked at `s` rests on promises of a
//!    quorum of the configuration of that time. It meets the quorums of the configurations right
//!    before and after, not of those further on. So the leader proposes a further change of voters
//!    only after a quorum of the present ones answered a question asked after the last change took
//!    effect (`core::tending`): its lease then rests on that answer. Configurations further back
//!    can elect nobody (8). A new voter has promised nothing, and needs not: what counts is that
//!    the quorums meet, in a node that did promise.
//! 10. *A node under its second id* (its disk was lost) becomes a member only once its session has
//!     ended, which the leader sees to by 3 and the state machine insists on. So it takes nothing
//!     over while its kernel, or another machine of the same name, may speak by the old session's
//!     grant. Of one name only the member that came last is granted anything or speaks.
//! 11. *A removed member* is told so by a leader whose `Lead` is applied, so beyond doubt; it
//!     forgets everything but its epoch and comes again under another id. Until it hears of it, it
//!     has no vote that counts, and its grant runs out.
//!
//! # Why there are never two clusters
//!
//! A directory founds or joins once ([`store::Image`]), durably before it says anything as a
//! member. The first of the founders by name decides who they are, with all their ids, after each
//! has answered it, in its lifetime, that it is new, and promised, durably, to found with these and
//! nobody else (`core::joining`); who has promised decides nothing else itself. They are asked one
//! after the other by name, so that nobody waits for promises in a circle. Nobody new votes.
//!
//! - *The same founders, two decisions.* The one that decides lost its directory in between. Both
//!   clusters need a majority of the same names; two majorities that live at one time meet in a
//!   living directory, and that one entered one cluster. So never two at one time. One after the
//!   other: only after a majority of the voters lost their directories, which ends any raft
//!   cluster.
//! - *Named voters* are the founders and part of the cluster's name, so lists that differ do not
//!   even greet each other, and voters stay these names for good. The case above is the only one.
//! - *Automatic voters*: lists of nodes may differ between starts. Two sets of founders that share
//!   a node share its promise, so at most one of them founds while that directory lives. Sets that
//!   share none: besides the founders, more than half of all listed nodes must answer that they are
//!   new, and no one that there is a cluster; leaders tell every listed node that is no member, at
//!   each heartbeat. What is left needs all of: a list without the old founders, most of its nodes
//!   never in the old cluster or emptied, and no connection to any old member. Whoever plans that
//!   names the voters.
//! - *A founder that is deleted from the source before it ever ran* would hold up the others for
//!   ever. A promise is kept to the node that decides, which decides once. So it may ask for
//!   another promise, once it made that its own, durably: it has not decided by the last one (it
//!   would be a member, and ask nothing) and never will. If it is the decider itself that is gone,
//!   a node takes its promise back after a long while in which no member told it of a cluster, and
//!   only while it lists most of those founders. Had the decider founded after all, its cluster has
//!   no majority without them, and who of them never entered it enters another one: again never two
//!   that live at one time, save by the lists above.

pub(crate) mod codec;
pub mod command;
mod convert;
pub mod core;
mod driver;
pub mod frame;
mod handle;
mod key;
pub mod machine;
mod membership;
mod peers;
pub(crate) mod refusals;
pub mod sanity;
pub mod store;
pub mod wal;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use self::codec::CodecError;
pub use self::core::{Founding, Patience};
pub use self::handle::Handle;
pub use self::key::{Key, KeyError};
pub use self::membership::Voters;

use self::core::{Batch, Core, CoreConfig};
use self::driver::Driver;
use self::handle::Group;
use self::peers::Peers;
use self::refusals::Refusals;
use self::wal::Wal;
use crate::clock::boot_now;
use crate::error::Error;
use crate::model::{Fence, NodeName};
use crate::timing::Timing;

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Name of the cluster; nodes of another one are refused.
    pub cluster: String,
    /// This node.
    pub node: NodeName,
    /// Where each node of the source is reached, this one included; [`Handle::set_nodes`] says so
    /// again when that changes.
    pub nodes: BTreeMap<NodeName, SocketAddr>,
    /// Which of them vote; the same on every node.
    pub voters: Voters,
    /// When a member is given up.
    pub patience: Patience,
    /// Where this node listens for the others.
    pub listen: SocketAddr,
    /// Directory for the log; this node's alone, and kept across restarts.
    pub state_dir: PathBuf,
    /// Heartbeat and ttl; the same on every node.
    pub timing: Timing,
    /// What this node publishes about itself.
    pub facts: Vec<u8>,
}

/// Starts taking part in plain text: see [`start_with_key`].
///
/// # Errors
/// As [`start_with_key`].
pub fn start(
    config: RaftConfig,
    fence: Box<dyn Fence>,
) -> Result<(Handle, JoinHandle<Result<(), Error>>), Error> {
    start_with_key(config, None, fence)
}

/// Starts taking part, within a tokio runtime. Without a key, peers talk in plain text.
///
/// The deadline that an earlier process left in the kernel stays in force until this one knows
/// better. The task ends after [`Handle::close`] or once all handles are dropped, or with the
/// reason why it cannot go on.
///
/// # Errors
/// If the configuration is impossible, the log cannot be used, or the address is taken.
pub fn start_with_key(
    config: RaftConfig,
    key: Option<Key>,
    fence: Box<dyn Fence>,
) -> Result<(Handle, JoinHandle<Result<(), Error>>), Error> {
    let now = boot_now();
    let core_config = CoreConfig {
        node: config.node.clone(),
        nodes: config.nodes.keys().cloned().collect(),
        voters: config.voters.clone(),
        timing: config.timing,
        patience: config.patience,
        facts: config.facts.clone(),
        seed: random(),
    };
    core_config.check()?;
    if config.cluster.len() > frame::MAX_CLUSTER_NAME {
        return Err(Error::BadCluster { name: config.cluster });
    }
    let (mut wal, mut image) = Wal::open(&config.state_dir, &config.cluster, &config.node)?;
    // Each process has an epoch of its own, durable before anybody hears of it.
    image.epoch += 1;
    wal.append(&Batch { epoch: Some(image.epoch), ..Batch::default() })?;
    let core = Core::new(core_config, &image, now)?;
    let refusals = Refusals::default();
    let peers = Peers::start(&config, key.as_ref(), refusals.clone())?;
    if key.is_none() && config.nodes.len() > 1 {
        tracing::warn!("no key for the peers: they talk in plain text, and anybody may join in");
    }
    let (ask, inputs) = mpsc::unbounded_channel();
    let (publish, view) = watch::channel(core.view().into());
    let (announce, deadline) = watch::channel(None);
    let first = Group { members: core.members(), founding: core.founding() };
    let (group, told) = watch::channel(first);
    let handle = Handle::new(ask, view, deadline, refusals.clone()).with_group(told);
    let nodes = config.nodes;
    let driver =
        Driver { core, wal, peers, nodes, fence, inputs, publish, announce, group, refusals };
    Ok((handle, tokio::spawn(driver.run())))
}

/// Random numbers of the system: raft ids are made of them, and must never come twice.
fn random() -> u64 {
    // Each of these is keyed by the system's random numbers
    // (std::collections::hash_map::RandomState).
    RandomState::new().hash_one(std::process::id())
}
