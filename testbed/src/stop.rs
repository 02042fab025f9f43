//! Ends a thread of the lab that would go on for ever: when it is asked to, and when whoever would
//! have asked has failed before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Dropping it ends the thread that has its [`Stop::flag`].
#[derive(Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// What the thread looks at.
#[derive(Clone, Debug)]
pub struct Flag(Arc<AtomicBool>);

impl Stop {
    /// Ends it now, for one that cannot be dropped yet.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// For the thread.
    pub fn flag(&self) -> Flag {
        Flag(Arc::clone(&self.0))
    }
}

impl Flag {
    /// Whether to end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_ends_with_whoever_would_have_asked() {
        let stop = Stop::default();
        let flag = stop.flag();
        assert!(!flag.is_set());
        drop(stop);
        assert!(flag.is_set());
    }
}
