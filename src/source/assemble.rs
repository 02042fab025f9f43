//! All files together: which of them are in force, and the picture they make.
//!
//! Last good state: a file that becomes invalid, unreadable or conflicting keeps what it said when
//! it last was good, and says so; other files still apply. A file that never was good is absent. Of
//! files that conflict, the one whose change brought the conflict is rejected; when several changed
//! at once, the earlier name wins. A deleted file takes its objects with it.
//!
//! Pure: `directory` hands in the bytes. Equal bytes are not parsed twice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::conflicts::Index;
use super::convert::merged;
use super::file::{self, Content, of_whole_file};
use super::object::{Kind, Object, ObjectKey, Placed, location};
use super::soft;
use super::steady::Steady;
use super::tree::Tree;
use super::weights::Weights;
use crate::observed::{Endpoint, Faulty, Observed, ServiceName};
use crate::problem::{Level, Problem, Reason};

/// A file as it was found.
#[derive(Clone, Debug, PartialEq)]
pub enum FileState {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// It is there but could not be read; what was attempted and what went wrong.
    Unreadable(String),
    /// It is there and was not read because it has this many bytes.
    TooLarge(u64),
    /// It is no file but an object of an API server.
    Served(Box<Served>),
}

/// An object of an API server, which stands for a file of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// What it is.
    pub kind: Kind,
    /// All of it.
    pub tree: Tree,
}

/// What the input says, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Snapshot {
    /// The picture that is in force.
    pub observed: Observed,
    /// Problems in the order of their places.
    pub problems: Vec<Problem>,
    /// How many files there are.
    pub files: usize,
    /// How many objects are in force.
    pub objects: usize,
}

/// How the operator wants the input to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Nodes take part though they are labelled out of external load balancing.
    pub ignores_exclude_label: bool,
}

/// Keeps the last good state of every file.
#[derive(Debug, Default)]
pub struct Assembler {
    options: Options,
    files: BTreeMap<String, Tracked>,
    index: Index,
    steady: Steady,
    weights: Weights,
    /// Whether an object came from an API server, which never says that there is no pool yet.
    is_served: bool,
    /// Whether there was a pool since the start.
    had_pool: bool,
}

#[derive(Debug)]
struct Tracked {
    /// As it was found, to tell whether it has changed; a served object is not kept twice.
    state: Option<FileState>,
    /// The only kind that it may hold, if that is certain.
    kind: Option<Kind>,
    /// What the status of a served Service reports, should the rest be unreadable.
    reported: Option<(ServiceName, Vec<IpAddr>)>,
    /// The name and conditions of a served policy of Cilium's, however much of it can be read.
    policy: Option<Box<(String, Vec<serde_json::Value>)>>,
    /// What a served object of the configuration is called, and who it is.
    subject: Option<Box<(String, Faulty)>>,
    newest: Result<Arc<Content>, Vec<Problem>>,
    in_force: Option<Arc<Content>>,
    conflicts: Vec<Problem>,
}

impl Tracked {
    /// The content that waits to be put in force.
    fn pending(&self) -> Option<&Arc<Content>> {
        let newest = self.newest.as_ref().ok()?;
        let in_force = self.in_force.as_ref();
        (!in_force.is_some_and(|in_force| Arc::ptr_eq(in_force, newest))).then_some(newest)
    }

    fn is_rejected(&self) -> bool {
        self.newest.is_err() || !self.conflicts.is_empty()
    }

    /// The served object of the configuration, if it cannot be used as it is.
    fn faulty(&self) -> Option<(String, Faulty)> {
        let (name, subject) = self.subject.as_deref().filter(|_| self.is_rejected())?;
        Some((name.clone(), Faulty { kept: self.in_force.is_some(), ..subject.clone() }))
    }

    fn objects_in_force(&self) -> &[Placed] {
        self.in_force.as_ref().map_or(&[], |content| &content.objects)
    }
}

impl Served {
    fn reported(&self) -> Option<(ServiceName, Vec<IpAddr>)> {
        if self.kind != Kind::Service {
            return None;
        }
        let meta = self.tree.field("metadata")?;
        let name = ServiceName::new(meta.field("namespace")?.text()?, meta.field("name")?.text()?);
        let balancer = self.tree.field("status")?.field("loadBalancer")?;
        let ingress = balancer.field("ingress")?.items()?.iter();
        let addresses = ingress.filter_map(|it| it.field("ip")?.text()?.parse().ok()).collect();
        Some((name, addresses))
    }

    fn policy(&self) -> Option<(String, Vec<serde_json::Value>)> {
        if self.kind != Kind::CiliumPolicy {
            return None;
        }
        let name = self.tree.field("metadata")?.field("name")?.text()?.to_owned();
        let status = self.tree.field("status");
        let conditions = status.and_then(|it| it.field("conditions")?.items());
        Some((name, conditions.unwrap_or_default().iter().map(Tree::to_json).collect()))
    }

    /// What it is called in problems, and who it is, should it be at fault.
    fn subject(&self) -> Option<(String, Faulty)> {
        let Self { kind, tree } = self;
        if !kind.is_configuration() {
            return None;
        }
        let stated = tree.field("apiVersion")?.text()?;
        let meta = tree.field("metadata")?;
        let text = |field: &str| Some(meta.field(field)?.text()?.to_owned());
        let name = text("name")?;
        let namespace = text("namespace").filter(|_| kind.is_namespaced());
        let key = ObjectKey {
            kind: *kind,
            namespace: namespace.clone().unwrap_or_default(),
            name: name.clone(),
        };
        let faulty = Faulty {
            api_version: kind.api_versions().iter().find(|known| **known == stated)?,
            kind: kind.name(),
            plural: kind.plural(),
            namespace,
            name,
            uid: text("uid")?,
            kept: false,
        };
        Some((key.to_string(), faulty))
    }
}

impl Assembler {
    /// With other options than the default ones.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Whether these are the files of the last update, byte for byte: then it would change nothing.
    pub fn has_seen(&self, files: &BTreeMap<String, FileState>) -> bool {
        let tracked = self.files.iter().map(|(name, tracked)| (name, tracked.state.as_ref()));
        tracked.eq(files.iter().map(|(name, state)| (name, Some(state))))
    }

    /// Takes in all files as they are now; what is not among them is gone.
    pub fn update(&mut self, files: BTreeMap<String, FileState>) -> Snapshot {
        let gone = self.files.keys().filter(|name| !files.contains_key(*name)).cloned();
        let mut changes: BTreeMap<_, _> = gone.map(|name| (name, None)).collect();
        changes.extend(files.into_iter().map(|(name, state)| (name, Some(state))));
        self.change(changes)
    }

    /// Takes in what has changed; nothing instead of a file means that it is gone.
    pub fn change(&mut self, changes: BTreeMap<String, Option<FileState>>) -> Snapshot {
        for (name, _) in changes.iter().filter(|(_, state)| state.is_none()) {
            if let Some(tracked) = self.files.remove(name) {
                self.index.remove(tracked.objects_in_force());
            }
        }
        for (name, state) in changes {
            if let Some(state) = state {
                self.read(name, state);
            }
        }
        let mut pending: Vec<_> = self
            .files
            .iter()
            .filter_map(|(name, tracked)| Some((tracked.pending()?.created(), name)))
            .collect();
        // The older of two objects of an API server was there first, whatever the names are.
        pending.sort();
        let pending: Vec<_> = pending.into_iter().map(|(_, name)| name.clone()).collect();
        if !self.accept_together(&pending) {
            self.accept_one_by_one(pending);
        }
        self.snapshot()
    }

    fn read(&mut self, name: String, state: FileState) {
        let known = self.files.get_mut(&name);
        if known.as_ref().is_some_and(|tracked| tracked.state.as_ref() == Some(&state)) {
            return;
        }
        let (mut kind, mut reported, mut policy, mut subject) = (None, None, None, None);
        let newest = match &state {
            FileState::Bytes(bytes) => file::parse(&name, bytes),
            FileState::Unreadable(message) => {
                Err(vec![of_whole_file(&name, Reason::Unreadable, message.clone())])
            }
            FileState::TooLarge(bytes) => {
                let message =
                    format!("{bytes} bytes long; expected at most {}", file::MAX_FILE_BYTES);
                Err(vec![of_whole_file(&name, Reason::TooLarge, message)])
            }
            FileState::Served(served) => {
                self.is_served = true;
                kind = Some(served.kind);
                reported = served.reported();
                policy = served.policy().map(Box::new);
                subject = served.subject().map(Box::new);
                file::served(&name, &served.tree)
            }
        };
        let state = (!matches!(state, FileState::Served(_))).then_some(state);
        let in_force = known.and_then(|tracked| tracked.in_force.clone());
        let newest = newest.map(Arc::new);
        self.files.insert(
            name,
            Tracked {
                state,
                kind,
                reported,
                policy,
                subject,
                newest,
                in_force,
                conflicts: Vec::new(),
            },
        );
    }

    /// Puts all pending files in force at once, if that makes no conflict; then objects can also
    /// move from file to file.
    fn accept_together(&mut self, pending: &[String]) -> bool {
        let Self { files, index, .. } = self;
        let of = |name| {
            files
                .get(name)
                .map_or((&[][..], None), |it: &Tracked| (it.objects_in_force(), it.pending()))
        };
        pending.iter().for_each(|name| index.remove(of(name).0));
        for (at, name) in pending.iter().enumerate() {
            let Some(content) = of(name).1 else { continue };
            if index.add(name, &content.objects).is_err() {
                let added = pending[..at].iter().filter_map(|name| of(name).1);
                added.for_each(|content| index.remove(&content.objects));
                // What is in force is free of conflicts.
                let restored = pending.iter().all(|name| index.add(name, of(name).0).is_ok());
                debug_assert!(restored);
                return false;
            }
        }
        for name in pending {
            let Some(tracked) = files.get_mut(name) else { continue };
            tracked.in_force = tracked.pending().cloned();
            tracked.conflicts.clear();
        }
        true
    }

    /// Puts in force what can be, again and again until nothing more can: a file may wait for
    /// addresses that another one is about to give up.
    fn accept_one_by_one(&mut self, mut pending: Vec<String>) {
        loop {
            let before = pending.len();
            pending.retain(|name| !self.accept(name));
            if pending.len() == before {
                return;
            }
        }
    }

    fn accept(&mut self, name: &str) -> bool {
        let Some(tracked) = self.files.get_mut(name) else { return true };
        let Some(content) = tracked.pending().cloned() else { return true };
        self.index.remove(tracked.objects_in_force());
        match self.index.add(name, &content.objects) {
            Ok(()) => {
                tracked.in_force = Some(content);
                tracked.conflicts.clear();
                true
            }
            Err(conflicts) => {
                tracked.conflicts = conflicts;
                // What is in force was free of conflicts and nothing came between.
                let restored = self.index.add(name, tracked.objects_in_force());
                debug_assert!(restored.is_ok());
                false
            }
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut snapshot = Snapshot { files: self.files.len(), ..Snapshot::default() };
        let mut slices = Slices::new();
        for (name, tracked) in &self.files {
            snapshot.problems.extend(problems_of(name, tracked));
            let may_hide = |is_meant| may_hide(tracked, is_meant);
            snapshot.observed.services_incomplete |= may_hide(|kind| kind == Kind::Service);
            snapshot.observed.pools_incomplete |= may_hide(Kind::is_pool);
            snapshot.observed.advertisements_incomplete |= may_hide(Kind::is_advertisement);
            if tracked.in_force.is_none() {
                snapshot.observed.hidden.extend(tracked.reported.clone());
            }
            snapshot.observed.policies.extend(tracked.policy.as_deref().cloned());
            snapshot.observed.faulty.extend(tracked.faulty());
            for placed in tracked.objects_in_force() {
                snapshot.objects += 1;
                insert(&mut snapshot.observed, &mut slices, &placed.object);
            }
        }
        snapshot.observed.endpoints = slices.into_iter().map(together).collect();
        if self.options.ignores_exclude_label {
            snapshot.observed.nodes.values_mut().for_each(|node| node.excluded = false);
        }
        snapshot.problems.extend(self.steady.keep(&mut snapshot.observed));
        self.weights.keep(&mut snapshot.observed.nodes);
        snapshot.problems.extend(soft::mark(&mut snapshot.observed.pools));
        self.had_pool |= !snapshot.observed.pools.is_empty();
        // In a cluster that has no pool yet, what Services have is somebody else's.
        snapshot.observed.pools_incomplete |= self.is_served && !self.had_pool;
        for (name, tracked) in &self.files {
            let references = unknown_references(name, tracked, &snapshot.observed);
            snapshot.problems.extend(references);
        }
        snapshot.problems.sort_by(|a, b| (&a.location, a.level).cmp(&(&b.location, b.level)));
        snapshot
    }
}

fn problems_of(name: &str, tracked: &Tracked) -> Vec<Problem> {
    let mut problems = match &tracked.newest {
        Ok(content) => content.problems.clone(),
        Err(problems) => problems.clone(),
    };
    problems.extend(tracked.conflicts.iter().cloned());
    if tracked.is_rejected() && tracked.in_force.is_some() {
        let objects = tracked.objects_in_force().len();
        problems.push(Problem {
            level: Level::Warning,
            object: None,
            location: Some(location(name, Default::default())),
            reason: Reason::LastGoodKept,
            message: format!("the last good content stays in force ({objects} objects)"),
        });
    }
    problems
}

/// Whether the file may hold an object of the kind that is meant which is not in force in any
/// version.
fn may_hide(tracked: &Tracked, is_meant: fn(Kind) -> bool) -> bool {
    tracked.in_force.is_none() && tracked.kind.is_none_or(is_meant)
}

/// What the EndpointSlices of each Service say.
type Slices<'a> = BTreeMap<&'a ServiceName, Vec<&'a Arc<[Endpoint]>>>;

fn insert<'a>(observed: &mut Observed, slices: &mut Slices<'a>, object: &'a Object) {
    match object {
        Object::Pool { pool, .. } => {
            observed.pools.insert(pool.name.clone(), (**pool).clone());
        }
        Object::Advertisement(announced) => {
            observed.advertisements.insert(announced.name.clone(), (**announced).clone());
        }
        Object::Service(service) => {
            observed.services.insert(service.name.clone(), Arc::clone(service));
        }
        Object::Endpoints { service, endpoints } => {
            slices.entry(service).or_default().push(endpoints);
        }
        Object::Node(node) => {
            observed.nodes.insert(node.name.clone(), (**node).clone());
        }
        Object::Namespace { name, labels } => {
            observed.namespaces.insert(name.clone(), labels.clone());
        }
        Object::Exclusions(exclusions) => {
            observed.exclusions.0.extend(exclusions.0.iter().cloned());
        }
    }
}

/// The endpoints of a Service; most have one slice, which is not copied.
fn together(
    (service, slices): (&ServiceName, Vec<&Arc<[Endpoint]>>),
) -> (ServiceName, Arc<[Endpoint]>) {
    let endpoints = match slices[..] {
        [one] => Arc::clone(one),
        _ => merged(slices.into_iter().flat_map(|slice| slice.iter().cloned()).collect()),
    };
    (service.clone(), endpoints)
}

fn unknown_references(file: &str, tracked: &Tracked, observed: &Observed) -> Vec<Problem> {
    let mut problems = Vec::new();
    for placed in tracked.objects_in_force() {
        let Object::Advertisement(announced) = &placed.object else { continue };
        for pool in announced.pools.iter().filter(|pool| !observed.pools.contains_key(*pool)) {
            let message = format!(
                "spec.ipAddressPools: {pool:?}: no such pool; expected the name of an IPAddressPool"
            );
            let (level, reason) = (Level::Warning, Reason::UnknownReference);
            problems.push(placed.problem(level, file, placed.position, reason, message));
        }
    }
    problems
}

#[cfg(test)]
mod tests;
