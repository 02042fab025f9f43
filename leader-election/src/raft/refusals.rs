//! What was refused, counted by reason, and logged once for each source and reason.
//!
//! A peer that sends rubbish, or anybody who knocks at the port, must not be able to fill the log
//! or the memory: a bounded number of sources is told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sanity::Refusal;

/// Sources told apart in the log; whoever comes later is only counted.
const MOST_SOURCES: usize = 256;

/// Shared counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
    logged: BTreeSet<(String, Refusal)>,
}

impl Refusals {
    pub(crate) fn count(&self, source: &str, reason: Refusal) {
        let mut seen = self.lock();
        *seen.counts.entry(reason.label()).or_default() += 1;
        if seen.logged.len() < MOST_SOURCES && seen.logged.insert((source.to_owned(), reason)) {
            tracing::warn!(source, reason = reason.label(), "refused (further ones are counted)");
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    /// Counters are whole after every statement, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_everything_and_remembers_few_sources() {
        let refusals = Refusals::default();
        for n in 0..1000 {
            refusals.count(&n.to_string(), Refusal::Malformed);
        }
        assert_eq!(refusals.counts(), [("malformed", 1000)].into());
        assert_eq!(refusals.lock().logged.len(), MOST_SOURCES);
    }
}
