//! The fence as the election sees it: one deadline, written to the kernel for the XDP program and
//! to memory for the announcer, before anything that follows from it leaves the machine.
//!
//! The deadline is the session's, but what it lets speak are the VIPs that lie in the kernel, and
//! those may be of the session before: a node that returns from a cut is granted a new session
//! while the VIPs it lost still lie there, until the driver has taken them away. So a deadline of a
//! new session takes effect only once the driver has performed a decision under that session.
//! Seen once in 45 takeovers: a returned holder answered beside the new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herald_ebpf::SessionFence;
use herald_leader_election::{BootTime, Fence, View};
use tokio::sync::watch;

/// Both places that speak, shared by the election, which moves the deadline, and the driver, which
/// says under which session the VIPs in them are.
#[derive(Clone)]
pub struct Fences(Arc<Mutex<Inner>>);

struct Inner {
    /// Boot-time nanoseconds until which the announcer may speak.
    userspace: Arc<AtomicU64>,
    /// The kernel's word, where XDP is loaded.
    kernel: Option<SessionFence>,
    /// Tells the session the election is in; none before it has started.
    view: Option<watch::Receiver<Arc<View>>>,
    /// The session whose VIPs lie in the kernel and the announcer.
    performed: Option<u64>,
    /// The deadline in force, if this process has written one.
    written: Option<BootTime>,
    /// A deadline that waits for the driver.
    pending: Option<BootTime>,
}

impl Fences {
    /// Fences at whatever deadline is in force.
    pub fn new(userspace: Arc<AtomicU64>, kernel: Option<SessionFence>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            userspace,
            kernel,
            view: None,
            performed: None,
            written: None,
            pending: None,
        })))
    }

    /// Whose sessions these fences are about. Until told, no deadline is raised.
    pub fn follow(&self, view: watch::Receiver<Arc<View>>) {
        self.inner().view = Some(view);
    }

    /// Only VIPs held in the session of this epoch lie in the kernel and the announcer now.
    pub fn performed(&self, epoch: u64) {
        let mut inner = self.inner();
        inner.performed = Some(epoch);
        if inner.is_performed()
            && let Some(until) = inner.pending.take()
        {
            inner.write(until);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held ends the process anyway (rule: every task is awaited).
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fence for Fences {
    fn set_deadline(&mut self, until: BootTime) {
        let mut inner = self.inner();
        let lowers = until == BootTime::SILENT || inner.written.is_some_and(|now| until < now);
        if lowers || inner.is_performed() {
            inner.pending = None;
            inner.write(until);
        } else {
            inner.pending = Some(until);
        }
    }
}

impl Inner {
    /// Whether the VIPs that would speak are those of the election's present session.
    fn is_performed(&self) -> bool {
        self.view.as_ref().is_some_and(|view| self.performed == Some(view.borrow().epoch))
    }

    fn write(&mut self, until: BootTime) {
        self.written = Some(until);
        self.userspace.store(until.as_nanos(), Ordering::Release);
        let Some(kernel) = &mut self.kernel else { return };
        if let Err(error) = kernel.set(until.0) {
            // An array update fails only for a lost map; the old deadline still bounds the answers,
            // but a deadline that was to be lowered was not: nothing may be promised after this.
            tracing::error!(%error, "cannot move the fence in the kernel");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixture::view;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    struct Rig {
        deadline: Arc<AtomicU64>,
        fences: Fences,
        session: watch::Sender<Arc<View>>,
    }

    impl Rig {
        fn new() -> Self {
            let deadline = Arc::new(AtomicU64::new(0));
            let fences = Fences::new(Arc::clone(&deadline), None);
            let (session, view) = watch::channel(Arc::new(view(1)));
            fences.follow(view);
            Self { deadline, fences, session }
        }

        fn in_force(&self) -> BootTime {
            BootTime::from_nanos(self.deadline.load(Ordering::Acquire))
        }

        fn reopen(&self, epoch: u64) {
            self.session.send_replace(Arc::new(View { epoch, ..view(1) }));
        }
    }

    #[test]
    fn raises_no_deadline_before_the_driver_has_performed_under_the_session() {
        let mut rig = Rig::new();
        rig.fences.set_deadline(at(10));
        assert_eq!(rig.in_force(), BootTime::SILENT);
        rig.fences.performed(1);
        assert_eq!(rig.in_force(), at(10), "the waiting deadline takes effect at once");
        rig.fences.set_deadline(at(20));
        assert_eq!(rig.in_force(), at(20));
    }

    #[test]
    fn a_new_session_does_not_let_the_vips_of_the_last_one_speak() {
        let mut rig = Rig::new();
        rig.fences.performed(1);
        rig.fences.set_deadline(at(10));
        rig.reopen(2);
        rig.fences.set_deadline(at(20));
        assert_eq!(rig.in_force(), at(10), "what was granted before stays, and runs out");
        rig.fences.performed(1);
        assert_eq!(rig.in_force(), at(10), "a round of the last session changes nothing");
        rig.fences.performed(2);
        assert_eq!(rig.in_force(), at(20));
    }

    #[test]
    fn lowers_at_once_in_any_session() {
        let mut rig = Rig::new();
        rig.fences.performed(1);
        rig.fences.set_deadline(at(20));
        rig.reopen(2);
        rig.fences.set_deadline(at(15));
        assert_eq!(rig.in_force(), at(15));
        rig.fences.set_deadline(at(30));
        rig.fences.set_deadline(BootTime::SILENT);
        rig.fences.performed(2);
        assert_eq!(rig.in_force(), BootTime::SILENT, "the waiting deadline was taken back");
    }
}
