//! The fence as the election sees it: one deadline, written to the kernel for the XDP program and
//! to memory for the announcer, before anything that follows from it leaves the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use herald_ebpf::SessionFence;
use herald_leader_election::{BootTime, Fence};

/// Both places that speak.
pub struct Fences {
    /// Boot-time nanoseconds until which the announcer may speak.
    pub userspace: Arc<AtomicU64>,
    /// The kernel's word, where XDP is loaded.
    pub kernel: Option<SessionFence>,
}

impl Fence for Fences {
    fn set_deadline(&mut self, until: BootTime) {
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
