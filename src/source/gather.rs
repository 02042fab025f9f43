//! Objects of an API server, list by list, until the picture is complete; then change by change.
//!
//! Pure. A picture is handed out only once every list that is expected has come to its end: before
//! that, a pool that has not been read yet would look like one that was deleted, and Services would
//! lose their addresses at every restart. Read `kubernetes` for who sends the messages.

use std::collections::{BTreeMap, BTreeSet};

use super::assemble::{Assembler, FileState, Options, Served, Snapshot};
use super::object::Kind;
use super::tree::Tree;
use crate::problem::{Level, Location, Problem, Reason};

/// One list: objects of a kind, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// The kind.
    pub kind: Kind,
    /// The namespace; none means all.
    pub namespace: Option<String>,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Message {
    /// The kind is installed, so that this list is to be expected.
    Expected(Scope),
    /// The kind is installed no more: all its objects are gone.
    Removed(Scope),
    /// It is known which kinds are installed.
    KindsKnown,
    /// The list begins (again).
    ListBegins(Scope),
    /// An object exists, in this state.
    Exists(Scope, Tree),
    /// An object is gone.
    Gone(Scope, Tree),
    /// Everything that exists has been told.
    ListEnds(Scope),
    /// The API server does not answer; the watch goes on trying.
    Failed(Scope, String),
    /// The API server does not let this list be read; the watch goes on trying.
    Forbidden(Scope, String),
}

/// Gathers messages into pictures.
#[derive(Debug, Default)]
pub struct Gather {
    assembler: Assembler,
    scopes: BTreeMap<Scope, State>,
    kinds_known: bool,
    changes: BTreeMap<String, Option<FileState>>,
    is_dirty: bool,
}

#[derive(Debug, Default)]
struct State {
    is_complete: bool,
    /// Names of the objects that exist.
    names: BTreeSet<String>,
    /// Names that a list in progress has told so far.
    listing: Option<BTreeSet<String>>,
    failure: Option<String>,
}

impl Gather {
    /// With other options than the default ones.
    pub fn new(options: Options) -> Self {
        Self { assembler: Assembler::new(options), ..Self::default() }
    }

    /// Takes a message in.
    pub fn handle(&mut self, message: Message) {
        match message {
            Message::Expected(scope) => {
                self.scopes.entry(scope).or_default();
            }
            Message::Removed(scope) => {
                let state = self.scopes.remove(&scope).unwrap_or_default();
                self.changes.extend(state.names.into_iter().map(|name| (name, None)));
                self.is_dirty = true;
            }
            Message::KindsKnown => {
                self.is_dirty |= !self.kinds_known;
                self.kinds_known = true;
            }
            Message::ListBegins(scope) => {
                if let Some(state) = self.scopes.get_mut(&scope) {
                    state.listing = Some(BTreeSet::new());
                }
            }
            Message::Exists(scope, object) => self.exists(&scope, object),
            Message::Gone(scope, object) => {
                let name = name(scope.kind, &object);
                // A watch that was removed may still be heard.
                if let Some(state) = self.scopes.get_mut(&scope) {
                    state.names.remove(&name);
                    state.failure = None;
                    self.changes.insert(name, None);
                    self.is_dirty = true;
                }
            }
            Message::ListEnds(scope) => self.list_ends(&scope),
            Message::Forbidden(scope, cause) => {
                // Nothing that a cluster cannot do without; rights given by older manifests lack
                // it.
                if let Some(state) =
                    self.scopes.get_mut(&scope).filter(|_| scope.kind == Kind::ConfigMap)
                {
                    state.is_complete = true;
                }
                self.handle(Message::Failed(scope, cause));
            }
            Message::Failed(scope, cause) => {
                if let Some(state) = self.scopes.get_mut(&scope) {
                    self.is_dirty |= state.failure.as_ref() != Some(&cause);
                    state.failure = Some(cause);
                }
            }
        }
    }

    fn exists(&mut self, scope: &Scope, tree: Tree) {
        let Some(state) = self.scopes.get_mut(scope) else { return };
        let name = name(scope.kind, &tree);
        if let Some(listing) = &mut state.listing {
            listing.insert(name.clone());
        }
        state.names.insert(name.clone());
        let served = Served { kind: scope.kind, tree };
        self.changes.insert(name, Some(FileState::Served(Box::new(served))));
        self.is_dirty = true;
    }

    fn list_ends(&mut self, scope: &Scope) {
        let Some(state) = self.scopes.get_mut(scope) else { return };
        if let Some(listed) = state.listing.take() {
            // What the list does not tell was deleted while nobody watched.
            let gone = state.names.difference(&listed).cloned();
            self.changes.extend(gone.map(|name| (name, None)));
            state.names = listed;
        }
        state.is_complete = true;
        state.failure = None;
        self.is_dirty = true;
    }

    /// Whether every expected list has come to its end.
    pub fn is_complete(&self) -> bool {
        self.kinds_known && self.scopes.values().all(|state| state.is_complete)
    }

    /// The picture, if it is complete and something has changed since the last one. A kind that
    /// is being installed holds back nothing: until its list ends it is as if it were not there.
    pub fn take(&mut self, had_picture: bool) -> Option<Snapshot> {
        if !self.is_dirty || !(had_picture || self.is_complete()) {
            return None;
        }
        self.is_dirty = false;
        let mut snapshot = self.assembler.change(std::mem::take(&mut self.changes));
        snapshot.problems.extend(self.scopes.iter().filter_map(|(scope, state)| {
            let cause = state.failure.as_ref()?;
            Some(Problem {
                level: Level::Warning,
                object: None,
                location: Some(Location { file: scope.kind.plural().into(), line: 0, column: 0 }),
                reason: Reason::Unreadable,
                message: format!(
                    "cannot watch {} in the API server: {cause}; the last state stays in force",
                    scope.kind.plural()
                ),
            })
        }));
        Some(snapshot)
    }
}

/// What stands for a file name: `Kind namespace/name`.
fn name(kind: Kind, object: &Tree) -> String {
    let meta = object.field("metadata");
    let part = |field| meta.and_then(|meta| meta.field(field)?.text()).unwrap_or_default();
    match (kind.is_namespaced(), part("namespace")) {
        (true, namespace) if !namespace.is_empty() => {
            format!("{} {namespace}/{}", kind.name(), part("name"))
        }
        _ => format!("{} {}", kind.name(), part("name")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exists(kind: Kind, object: &serde_json::Value) -> Message {
        Message::Exists(scope(kind), Tree::from_json(object))
    }

    fn scope(kind: Kind) -> Scope {
        Scope { kind, namespace: None }
    }

    fn pool(name: &str, range: &str, created: &str) -> serde_json::Value {
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": created},
            "spec": {"addresses": [range]},
        })
    }

    fn service(name: &str, address: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "7", "uid": "u"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "newerThanHerald": 1},
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        })
    }

    fn gathered(objects: &[(Kind, serde_json::Value)]) -> Gather {
        let mut gather = Gather::default();
        for kind in [Kind::Service, Kind::IpAddressPool] {
            gather.handle(Message::Expected(scope(kind)));
            gather.handle(Message::ListBegins(scope(kind)));
        }
        for (kind, object) in objects {
            gather.handle(exists(*kind, object));
        }
        gather.handle(Message::ListEnds(scope(Kind::Service)));
        gather.handle(Message::KindsKnown);
        assert!(gather.take(false).is_none(), "a list has not ended");
        gather.handle(Message::ListEnds(scope(Kind::IpAddressPool)));
        gather
    }

    const OLD: &str = "2024-01-01T00:00:00Z";
    const NEW: &str = "2025-01-01T00:00:00Z";

    #[test]
    fn hands_out_a_picture_only_when_every_list_has_ended() {
        let mut gather = gathered(&[(Kind::Service, service("a", "192.0.2.3"))]);
        let snapshot = gather.take(false).unwrap();
        assert_eq!(
            snapshot.problems,
            [],
            "an unknown field of a served Service is newer, not wrong"
        );
        let service = snapshot.observed.services.values().next().unwrap();
        assert_eq!(service.reported.addresses, ["192.0.2.3".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!((service.resource_version.as_str(), service.uid.as_str()), ("7", "u"));
        assert!(snapshot.observed.pools_incomplete, "there never was a pool");
        assert!(gather.take(true).is_none(), "nothing has changed");
    }

    #[test]
    fn keeps_the_last_good_state_of_an_object_and_of_it_alone() {
        let mut gather = gathered(&[(Kind::IpAddressPool, pool("a", "192.0.2.0/28", OLD))]);
        assert!(!gather.take(false).unwrap().observed.pools_incomplete);
        let bad = pool("a", "192.0.2.9-192.0.2.1", OLD);
        gather.handle(exists(Kind::IpAddressPool, &bad));
        let other = pool("b", "198.51.100.0/28", NEW);
        gather.handle(exists(Kind::IpAddressPool, &other));
        let snapshot = gather.take(true).unwrap();
        let names: Vec<_> = snapshot.observed.pools.keys().collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            snapshot.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "IPAddressPool metallb-system/a: spec.addresses[0]: \"192.0.2.9-192.0.2.1\": range \
                 is reversed; expected first address <= last",
                "IPAddressPool metallb-system/a: warning: the last good content stays in force \
                 (1 objects)",
            ]
        );
    }

    #[test]
    fn the_older_of_two_overlapping_pools_wins_at_a_restart() {
        let mut gather = gathered(&[
            (Kind::IpAddressPool, pool("a", "192.0.2.0/28", NEW)),
            (Kind::IpAddressPool, pool("b", "192.0.2.0/28", OLD)),
        ]);
        let snapshot = gather.take(false).unwrap();
        assert_eq!(snapshot.observed.pools.keys().collect::<Vec<_>>(), ["b"]);
        assert!(snapshot.observed.pools_incomplete, "so that nobody loses an address of a");
        assert!(!snapshot.observed.services_incomplete);
    }

    #[test]
    fn the_address_of_a_service_that_cannot_be_read_is_nobody_elses() {
        let mut unreadable = service("a", "192.0.2.0");
        unreadable["spec"]["ports"] = json!("none");
        let mut gather = gathered(&[
            (Kind::Service, unreadable),
            (Kind::Service, service("b", "")),
            (Kind::IpAddressPool, pool("p", "192.0.2.0/28", OLD)),
        ]);
        let observed = gather.take(false).unwrap().observed;
        let plan = crate::allocator::allocate(&observed, &BTreeMap::new(), &Default::default());
        let given: Vec<_> = plan.assignments.into_values().map(|it| it.to_string()).collect();
        assert_eq!(given, ["192.0.2.1 from pool p"]);
    }

    #[test]
    fn forgets_what_a_second_list_does_not_tell() {
        let mut gather = gathered(&[
            (Kind::Service, service("a", "192.0.2.3")),
            (Kind::Service, service("b", "192.0.2.4")),
        ]);
        assert_eq!(gather.take(false).unwrap().observed.services.len(), 2);
        gather.handle(Message::Failed(scope(Kind::Service), "connection refused".into()));
        let outage = gather.take(true).unwrap();
        assert_eq!(outage.observed.services.len(), 2, "an outage keeps the last state");
        assert_eq!(outage.problems[0].reason, Reason::Unreadable);
        gather.handle(Message::ListBegins(scope(Kind::Service)));
        gather.handle(exists(Kind::Service, &service("b", "192.0.2.4")));
        gather.handle(Message::ListEnds(scope(Kind::Service)));
        let after = gather.take(true).unwrap();
        let names: Vec<_> = after.observed.services.keys().map(|it| it.name.as_str()).collect();
        assert_eq!((names, after.problems), (vec!["b"], vec![]));
    }

    #[test]
    fn does_without_a_list_that_it_may_not_read_if_it_can() {
        for (kind, is_needed) in [(Kind::ConfigMap, false), (Kind::IpAddressPool, true)] {
            let mut gather = Gather::default();
            gather.handle(Message::Expected(scope(kind)));
            gather.handle(Message::KindsKnown);
            gather.handle(Message::Failed(scope(kind), "connection refused".into()));
            assert!(gather.take(false).is_none(), "not at the first failure");
            gather.handle(Message::Forbidden(scope(kind), "forbidden".into()));
            let snapshot = gather.take(false);
            assert_eq!(snapshot.is_none(), is_needed, "{kind:?}");
            if let Some(snapshot) = snapshot {
                assert_eq!(snapshot.problems[0].reason, Reason::Unreadable);
            }
        }
    }

    #[test]
    fn a_kind_that_is_uninstalled_takes_its_objects_along() {
        let mut gather = gathered(&[(Kind::IpAddressPool, pool("a", "192.0.2.0/28", OLD))]);
        assert_eq!(gather.take(false).unwrap().observed.pools.len(), 1);
        gather.handle(Message::Removed(scope(Kind::IpAddressPool)));
        let snapshot = gather.take(true).unwrap();
        assert_eq!(snapshot.observed.pools.len(), 0);
        assert!(!snapshot.observed.pools_incomplete, "the last pool was deleted");
        let late = exists(Kind::IpAddressPool, &pool("a", "192.0.2.0/28", OLD));
        gather.handle(late);
        assert!(gather.take(true).is_none(), "a removed watch is not heard any more");
    }
}
