//! The edge that watches an API server.
//!
//! One task a list, one task that gathers; what the objects mean is decided elsewhere. Kinds of
//! MetalLB and Cilium are watched while their CustomResourceDefinition exists. Nothing is written
//! here. Read `gather` for when a picture is complete.

mod kinds;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use herald_leader_election::clock;
use herald_leader_election::pace::Pace;
use kube::Client;
use kube::api::{Api, ApiResource, TypeMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::assemble::{Options, Snapshot};
use super::directory::WatchError;
use super::gather::{Gather, Message, Scope};
use super::object::Kind;
use crate::observed::Exclusions;
use crate::trouble::Troubles;
use watched::Watched;

/// Changes come in bursts: a Deployment that rolls touches many slices.
const QUIET: Duration = Duration::from_millis(5);
/// A cluster that never is quiet is looked at all the same.
const QUIET_AT_MOST: Duration = Duration::from_millis(100);
const BACKLOG: usize = 1024;

/// What is watched.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespaces whose pools and announcements of MetalLB's kinds count.
    pub pool_namespaces: Vec<String>,
    /// How the objects are read.
    pub options: Options,
}

impl Default for Config {
    fn default() -> Self {
        let names = ["metallb-system", "herald-system"];
        let pool_namespaces = names.map(str::to_owned).to_vec();
        Self { pool_namespaces, options: Options::default() }
    }
}

/// Lists and keeps watching everything that Herald reads until every receiver is dropped.
///
/// The first snapshot is complete when this returns, so it waits for an API server that does not
/// answer yet; who calls it may give up. An outage later leaves the last state in force.
///
/// # Errors
///
/// The watch ends before the first snapshot.
pub async fn watch(
    client: Client,
    config: Config,
) -> Result<(channel::Receiver<Arc<Snapshot>>, JoinHandle<Result<(), WatchError>>), WatchError> {
    let (messages, inbox) = mpsc::channel(BACKLOG);
    let gathered = Gather::new(config.options);
    let mut watches =
        Watches { client, config, messages, tasks: BTreeMap::new(), all: JoinSet::new() };
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::Namespace, Kind::ConfigMap] {
        watches.start(kind, kinds::built_in(kind)).await;
    }
    let (first_sender, first) = tokio::sync::oneshot::channel();
    let mut gathering = tokio::spawn(gather(gathered, inbox, first_sender));
    let mut kinds = tokio::spawn(kinds::follow(watches));
    let receiver = tokio::select! {
        receiver = first => receiver.map_err(|_| WatchError::Ended("all kinds".into()))?,
        ended = &mut kinds => return Err(why(ended)),
    };
    let task = tokio::spawn(async move {
        tokio::select! {
            ended = &mut gathering => {
                kinds.abort();
                Ok(ended?)
            }
            ended = &mut kinds => Err(why(ended)),
        }
    });
    Ok((receiver, task))
}

fn why(ended: Result<String, tokio::task::JoinError>) -> WatchError {
    ended.map_or_else(WatchError::Task, WatchError::Ended)
}

/// Turns messages into snapshots. Ends when nobody listens any more.
async fn gather(
    mut gather: Gather,
    mut inbox: mpsc::Receiver<Message>,
    first: tokio::sync::oneshot::Sender<channel::Receiver<Arc<Snapshot>>>,
) {
    let first_snapshot = loop {
        let Some(message) = inbox.recv().await else { return };
        gather.handle(message);
        if let Some(snapshot) = gather.take(false) {
            break snapshot;
        }
    };
    let (sender, receiver) = channel::channel(Arc::new(first_snapshot));
    let mut pace = Pace::default();
    if first.send(receiver).is_err() {
        return;
    }
    loop {
        let message = tokio::select! {
            () = sender.closed() => return,
            message = inbox.recv() => message,
        };
        let Some(message) = message else { return };
        gather.handle(message);
        settle(&mut inbox, &mut gather, pace.wait(clock::boot_now())).await;
        let begin = clock::boot_now();
        if let Some(snapshot) = gather.take(true)
            && snapshot != **sender.borrow()
        {
            sender.send_replace(Arc::new(snapshot));
        }
        let end = clock::boot_now();
        pace.spend(end.since(begin), end);
    }
}

/// Takes in more messages for some time, then until there has been none for a moment.
async fn settle(inbox: &mut mpsc::Receiver<Message>, gather: &mut Gather, rest: Duration) {
    let rested = now() + rest;
    while let Ok(Some(message)) = timeout_at(rested, inbox.recv()).await {
        gather.handle(message);
    }
    let end = now() + QUIET_AT_MOST;
    while let Ok(Some(message)) = timeout_at(end.min(now() + QUIET), inbox.recv()).await {
        gather.handle(message);
    }
}

#[expect(clippy::disallowed_methods, reason = "edge: bursts of changes are waited for")]
fn now() -> Instant {
    Instant::now()
}

/// The running watches, by kind.
struct Watches {
    client: Client,
    config: Config,
    messages: mpsc::Sender<Message>,
    tasks: BTreeMap<Kind, Vec<(Scope, tokio::task::AbortHandle)>>,
    all: JoinSet<Scope>,
}

impl Watches {
    fn is_watched(&self, kind: Kind) -> bool {
        self.tasks.contains_key(&kind)
    }

    async fn start(&mut self, kind: Kind, resource: ApiResource) {
        let namespaces = match kind {
            Kind::IpAddressPool | Kind::L2Advertisement | Kind::ConfigMap => {
                self.config.pool_namespaces.iter().cloned().map(Some).collect()
            }
            _ => vec![None],
        };
        for namespace in namespaces {
            let api: Api<Watched> = match &namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let scope = Scope { kind, namespace };
            let _ = self.messages.send(Message::Expected(scope.clone())).await;
            let types =
                TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
            let task = self.all.spawn(follow(api, types, scope.clone(), self.messages.clone()));
            self.tasks.entry(kind).or_default().push((scope, task));
        }
    }

    async fn stop(&mut self, kind: Kind) {
        for (scope, task) in self.tasks.remove(&kind).unwrap_or_default() {
            task.abort();
            let _ = self.messages.send(Message::Removed(scope)).await;
        }
    }
}

/// Tells what happens in one list, for ever.
async fn follow(
    api: Api<Watched>,
    types: TypeMeta,
    scope: Scope,
    messages: mpsc::Sender<Message>,
) -> Scope {
    let config = match scope.kind {
        // Slices without it belong to no Service.
        Kind::EndpointSlice => watcher::Config::default().labels("kubernetes.io/service-name"),
        // The rights are for this one only, and so must be the question.
        Kind::ConfigMap => {
            let field = format!("metadata.name={}", Exclusions::CONFIG_MAP);
            watcher::Config::default().fields(&field)
        }
        _ => watcher::Config::default(),
    };
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut troubles = Troubles::default();
    while let Some(event) = events.next().await {
        tell(&mut troubles, scope.kind.plural(), &event);
        let scope = scope.clone();
        let message = match event {
            Ok(Event::Init) => Message::ListBegins(scope),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                Message::Exists(scope, object.into_tree(&types))
            }
            Ok(Event::Delete(object)) => Message::Gone(scope, object.into_tree(&types)),
            Ok(Event::InitDone) => Message::ListEnds(scope),
            Err(error) => {
                let is_forbidden = is_forbidden(&error);
                let cause = format!("{:#}", anyhow::Error::new(error));
                match is_forbidden {
                    true => Message::Forbidden(scope, cause),
                    false => Message::Failed(scope, cause),
                }
            }
        };
        if messages.send(message).await.is_err() {
            break;
        }
    }
    scope
}

/// Logs how a watch does, where that is worth a person's attention.
fn tell<T>(troubles: &mut Troubles, kind: &'static str, event: &Result<Event<T>, watcher::Error>) {
    match event {
        // Nothing has been asked yet.
        Ok(Event::Init) => {}
        Ok(_) => {
            if troubles.answered(kind) {
                tracing::info!(kind, "the API server lets these be watched again");
            }
        }
        Err(error) => {
            let is_told = troubles.failed(kind, error.into(), clock::boot_now());
            if is_told {
                tracing::warn!(kind, %error, "cannot watch the API server");
            } else {
                tracing::debug!(kind, %error, "watch interrupted");
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(answer)) = error else { return false };
    answer.code == 403
}
