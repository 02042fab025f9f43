//! The edge's watch: everything the API server shows of our Leases goes to the election.
//!
//! Every node renews its session more often than once in a ttl, and sees its own renewals here too.
//! So a watch that shows nothing for that long is dead, whatever TCP still believes, and is begun
//! anew: a claim that was handed to this node must not go unseen until a timeout of minutes.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use herald_leader_election::lease::{ApiEvent, ObjectKey};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;

use super::object;

/// Between two attempts to watch.
const RETRY: Duration = Duration::from_millis(500);

/// Watches until nobody listens.
pub(super) struct Eye {
    api: Api<Lease>,
    /// Longest silence of a living watch.
    patience: Duration,
    events: mpsc::UnboundedSender<ApiEvent>,
    sight: Sight,
}

impl Eye {
    pub(super) fn new(
        api: Api<Lease>,
        patience: Duration,
        events: mpsc::UnboundedSender<ApiEvent>,
    ) -> Self {
        Self { api, patience, events, sight: Sight::default() }
    }

    pub(super) async fn watch(mut self) {
        loop {
            let config = watcher::Config::default().labels(object::KIND);
            let mut stream = pin!(watcher(self.api.clone(), config));
            // An error is followed by a list, and that by what the list shows.
            while let Ok(Some(Ok(event))) = tokio::time::timeout(self.patience, stream.next()).await
            {
                for event in self.sight.follow(event) {
                    if self.events.send(event).is_err() {
                        return;
                    }
                }
            }
            tracing::debug!("the watch on Leases is begun anew");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What was seen, so that what is missing from a new list is known to be gone (pure).
#[derive(Debug, Default)]
struct Sight {
    known: BTreeSet<ObjectKey>,
    listing: BTreeSet<ObjectKey>,
}

impl Sight {
    fn follow(&mut self, event: Event<Lease>) -> Vec<ApiEvent> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(lease) => {
                let seen = seen(&lease);
                if let Some(ApiEvent::Seen(key, ..)) = &seen {
                    self.listing.insert(key.clone());
                }
                seen.into_iter().collect()
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listing));
                let gone = before.difference(&self.known).cloned().map(ApiEvent::Gone);
                gone.chain([ApiEvent::Listed]).collect()
            }
            Event::Apply(lease) => {
                let seen = seen(&lease);
                if let Some(ApiEvent::Seen(key, ..)) = &seen {
                    self.known.insert(key.clone());
                }
                seen.into_iter().collect()
            }
            Event::Delete(lease) => {
                let Some(ApiEvent::Seen(key, ..)) = seen(&lease) else { return Vec::new() };
                self.known.remove(&key);
                vec![ApiEvent::Gone(key)]
            }
        }
    }
}

fn seen(lease: &Lease) -> Option<ApiEvent> {
    object::read(lease).map(|(key, object, version)| ApiEvent::Seen(key, object, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.into());
        lease.metadata.uid = Some("u".into());
        lease.metadata.resource_version = Some("1".into());
        lease
    }

    fn words(events: Vec<ApiEvent>) -> Vec<String> {
        let word = |event| match event {
            ApiEvent::Seen(key, ..) => format!("seen {}", super::super::names::name(&key)),
            ApiEvent::Gone(key) => format!("gone {}", super::super::names::name(&key)),
            ApiEvent::Listed => "listed".into(),
            ApiEvent::Answered(..) => "answered".into(),
        };
        events.into_iter().map(word).collect()
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut sight = Sight::default();
        let mut follow = |event| words(sight.follow(event));
        assert_eq!(follow(Event::Init), [""; 0]);
        assert_eq!(follow(Event::InitApply(lease("node-n1"))), ["seen node-n1"]);
        assert_eq!(follow(Event::InitApply(lease("stranger"))), [""; 0]);
        assert_eq!(follow(Event::InitDone), ["listed"]);
        assert_eq!(follow(Event::Apply(lease("node-n2"))), ["seen node-n2"]);
        assert_eq!(follow(Event::Apply(lease("allocator"))), ["seen allocator"]);
        assert_eq!(follow(Event::Delete(lease("allocator"))), ["gone allocator"]);
        assert_eq!(follow(Event::Init), [""; 0]);
        assert_eq!(follow(Event::InitApply(lease("node-n2"))), ["seen node-n2"]);
        assert_eq!(follow(Event::InitDone), ["gone node-n1", "listed"]);
    }

    #[test]
    fn a_list_that_was_cut_off_makes_nothing_gone() {
        let mut sight = Sight::default();
        for event in [Event::Init, Event::InitApply(lease("node-n1")), Event::InitDone] {
            sight.follow(event);
        }
        assert_eq!(words(sight.follow(Event::Init)), [""; 0]);
        assert_eq!(words(sight.follow(Event::Init)), [""; 0]);
        sight.follow(Event::InitApply(lease("node-n1")));
        assert_eq!(words(sight.follow(Event::InitDone)), ["listed"]);
    }
}
