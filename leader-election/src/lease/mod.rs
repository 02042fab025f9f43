//! Sessions and claims decided by compare-and-swap on objects of the Kubernetes API server.
//!
//! [`core`] is the whole protocol without clock, socket or Kubernetes type: it says which
//! [`Write`]s to do, and is told their answers and what a watch sees. The edge that talks to the
//! API server lives with the other Kubernetes code; it must do each write with the expected
//! resourceVersion (or as a create), and report every object it sees.
//!
//! # Why two nodes never speak for one VIP
//!
//! A node speaks while its view says that it holds the VIP and its deadline lies ahead.
//!
//! 1. The deadline is ttl - margin after the *sending* of a renewal of this very session that is
//!    known to have been written: by its answer, or by its number seen in the object. The clock is
//!    the node's own.
//! 2. Every renewal is a write of a new version. Whoever sees a session stand at one version for
//!    ttl + margin on its own clock may revoke it, by a write that demands that very version. If it
//!    succeeds, no renewal after that version was or will be written; the last one was sent before
//!    the observer saw it, so its deadline has passed. If a renewal slips in, the revocation fails.
//!    A stalled observer counts from when it saw, or from when it woke up: never too short.
//! 3. A claim lives while the session that holds it is open: its epoch is not before the session's
//!    `since`, which moves up only when a session is opened after an end. A claim is taken by a
//!    write that demands the version of the claim in which the holder was seen dead; whoever is
//!    dead stays dead (1, 2), so it does not matter how old that sight is, nor that two objects are
//!    not written in one transaction.
//! 4. A claim written for a session that ends in the same moment is born dead: nobody may speak by
//!    it, because the session's deadline has passed (2), and the next node takes it.
//! 5. A holder that gives a claim up has silenced it, and writes the next holder in one step. The
//!    write may arrive late, when its process is long gone: a process that restarts in time speaks
//!    for an inherited claim, if it is not pinned in the kernel, only once it has written that
//!    claim itself.
//!
//! 6. A process that finds an open session of its node goes on with it, for it speaks through the
//!    same fence. A process *elsewhere* under the same name does not: it waits until that session
//!    stands still, as any other node does (2), and tells people. [`LeaseConfig::place`] says which
//!    is which.
//!
//! There is no leader: every node runs the same placement on what it sees and takes what falls to
//! itself; where views differ, the version decides who was first. Terms grow by one each time.
//!
//! # Records
//!
//! With Kubernetes the Service's status is the database, so there is little to keep: a claim has
//! room for one record (`Handle::put`), which stays with it when the holder changes.

pub mod core;
mod driver;
mod object;
mod timing;

pub use self::core::{LeaseAction, LeaseConfig, LeaseCore, LeaseInput};
pub use self::driver::{ApiChannels, ApiEvent, ApiRequest, start};
pub use self::object::{Answer, ClaimObject, Object, ObjectKey, SessionObject, Version, Write};
pub use self::timing::LeaseTiming;
