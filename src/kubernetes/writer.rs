//! The edge that writes to an API server what `report` wants, a bounded number of writes at once.
//!
//! Level, not edge: it is handed the whole list of what should be, skips what it has just sent and
//! waits for the watch to show the effect; what is still wanted later is sent again (`queue`). A
//! write that meets another version of its object is dropped, since the decision was about
//! something else. Nothing is sent once the deadline of the session has passed: an allocator that
//! was frozen must not wake up and write. (One request may be on its way at that moment. Its
//! resourceVersion keeps it from undoing what the next allocator wrote to the same Service, and an
//! address given to two Services is healed by `allocator`.)

mod own;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herald_leader_election::{BootTime, clock};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::write::{Json, Target, Write};
use crate::trouble::Troubles;
use queue::{AGAIN, Key, Lane, Outcome, Queue};

/// Addresses written at the same time. More only wait inside the API server.
const ADDRESSES_AT_ONCE: usize = 32;
/// Reports written at the same time. An API server that is busy with addresses gives each request
/// the same share of its time, so few requests at once are a small share; an idle one takes
/// hundreds a second even so.
const REPORTS_AT_ONCE: usize = 1;
/// While Services wait for addresses, reports of one node are at least this far apart. A status of
/// our own takes two requests, and each of three nodes has some to write.
const REPORTS_APART: Duration = Duration::from_millis(250);
/// For so long after one waited, more are expected.
const BUSY: Duration = Duration::from_secs(1);
/// Who reports, in Events.
const REPORTER: &str = "herald";

/// What is wanted now.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Writes of the allocator; only sent before the deadline.
    pub allocator: Vec<Write>,
    /// Writes about this node itself.
    pub node: Vec<Write>,
    /// Services wait for addresses.
    pub is_busy: bool,
}

/// How many writes have ended, for metrics; shared by the task and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<[AtomicU64; 2]>);

impl Tally {
    /// All writes that have ended, those that were in vain included.
    pub fn updates(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Those that the API server did not do. One that met another version of its object is none of
    /// them: nothing is wrong then.
    pub fn errors(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn count(&self, outcome: Outcome) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Failed {
            self.0[1].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts the task that writes; it ends when the sender of `wanted` is dropped. `deadline` is when
/// this node's session ends, as the election tells it.
pub fn start(
    client: Client,
    wanted: watch::Receiver<Arc<Wanted>>,
    deadline: watch::Receiver<Option<BootTime>>,
    tally: Tally,
) -> JoinHandle<()> {
    let writer = Writer {
        client,
        wanted,
        deadline,
        queue: Queue::default(),
        tally,
        troubles: Troubles::default(),
        addresses: Tasks::new(),
        reports: Tasks::new(),
        busy_until: BootTime::SILENT,
        reports_from: BootTime::SILENT,
    };
    tokio::spawn(writer.run())
}

struct Writer {
    client: Client,
    wanted: watch::Receiver<Arc<Wanted>>,
    deadline: watch::Receiver<Option<BootTime>>,
    queue: Queue,
    tally: Tally,
    troubles: Troubles,
    addresses: Tasks,
    reports: Tasks,
    /// Until then the API server has more important things to do than to take reports.
    busy_until: BootTime,
    /// Until then no report is sent.
    reports_from: BootTime,
}

type Tasks = JoinSet<(Key, Result<(), kube::Error>)>;

impl Writer {
    async fn run(mut self) {
        self.want();
        loop {
            self.send();
            let is_idle = self.addresses.is_empty() && self.reports.is_empty();
            let is_unsettled = is_idle && self.queue.is_unsettled();
            let rest = self.reports_from.since(clock::boot_now());
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.want(),
                    Err(_) => return,
                },
                Some(ended) = self.addresses.join_next() => self.ended(ended),
                Some(ended) = self.reports.join_next() => self.ended(ended),
                () = tokio::time::sleep(rest), if !rest.is_zero() && self.reports.is_empty() => {}
                () = tokio::time::sleep(AGAIN), if is_unsettled => {
                    self.queue.again(clock::boot_now());
                }
            }
        }
    }

    fn want(&mut self) {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        if wanted.is_busy {
            self.busy_until = BootTime(clock::boot_now().0 + BUSY);
        }
        self.queue.want(&wanted);
        self.queue.again(clock::boot_now());
    }

    fn send(&mut self) {
        while self.addresses.len() < ADDRESSES_AT_ONCE && self.launch(Lane::Addresses) {}
        while self.reports.len() < REPORTS_AT_ONCE
            && self.may_report()
            && self.launch(Lane::Reports)
        {
            let now = clock::boot_now();
            if now < self.busy_until {
                self.reports_from = BootTime(now.0 + REPORTS_APART);
            }
        }
    }

    fn may_report(&self) -> bool {
        clock::boot_now() >= self.reports_from
    }

    /// Sends the next write of a lane; whether there was one.
    fn launch(&mut self, lane: Lane) -> bool {
        // Asked anew for each write: the process may have been frozen since the last one.
        let now = clock::boot_now();
        let deadline = *self.deadline.borrow();
        let may_allocate = deadline.is_some_and(|it| it.since(now) > Duration::ZERO);
        let Some((key, write)) = self.queue.next(lane, now, may_allocate) else { return false };
        let client = self.client.clone();
        let tasks = match lane {
            Lane::Addresses => &mut self.addresses,
            Lane::Reports => &mut self.reports,
        };
        tasks.spawn(async move { (key, perform(client, write).await) });
        true
    }

    fn ended(&mut self, ended: Result<(Key, Result<(), kube::Error>), tokio::task::JoinError>) {
        let (key, result) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "a write crashed"),
        };
        let (now, kind) = (clock::boot_now(), key.kind());
        let outcome = match result {
            Ok(()) => {
                tracing::debug!(?key, "written");
                Outcome::Written
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                tracing::debug!(?key, code = status.code, "overtaken");
                Outcome::Overtaken
            }
            Err(error) => {
                let is_told = self.troubles.failed(kind, (&error).into(), now);
                let error = format!("{:#}", anyhow::Error::new(error));
                if is_told {
                    tracing::warn!(?key, error, "cannot write to the API server");
                } else {
                    tracing::debug!(?key, error, "cannot write to the API server");
                }
                Outcome::Failed
            }
        };
        if outcome != Outcome::Failed && self.troubles.answered(kind) {
            tracing::info!(kind, "the API server takes these writes again");
        }
        self.tally.count(outcome);
        self.queue.ended(key, outcome, now);
    }
}

/// Performs one write.
///
/// # Errors
///
/// What the API server answers.
pub async fn perform(client: Client, write: Write) -> Result<(), kube::Error> {
    match write {
        Write::Status { target, patch } => {
            patch_status(&client, &target, &patch).await?;
        }
        Write::Own { target, labels, status } => {
            own::write(client, &target, labels.value(), status.value()).await?
        }
        Write::Gone(target) => {
            match api(client, &target).delete(&target.name, &DeleteParams::default()).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                result => drop(result?),
            }
        }
        Write::Event { about, uid, severity, reason, message } => {
            event(client, &about, uid, severity.label(), reason, message).await?;
        }
    }
    Ok(())
}

/// Patches a status. What the API server answers is the whole object, which the watch shows anyway:
/// it is not read.
async fn patch_status(client: &Client, target: &Target, patch: &Json) -> Result<(), kube::Error> {
    let request = Request::new(api(client.clone(), target).resource_url());
    let patch = Patch::Merge(patch.value());
    let request = request
        .patch_subresource("status", &target.name, &PatchParams::default(), &patch)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

async fn event(
    client: Client,
    about: &Target,
    uid: String,
    severity: &str,
    reason: &str,
    message: String,
) -> Result<(), kube::Error> {
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let now = json!(now_text());
    let about = ObjectReference {
        api_version: Some(about.api_version.to_owned()),
        kind: Some(about.kind.to_owned()),
        name: Some(about.name.clone()),
        namespace: about.namespace.clone(),
        uid: Some(uid),
        ..ObjectReference::default()
    };
    let target = Target {
        api_version: "v1",
        kind: "Event",
        plural: "events",
        namespace: Some(namespace),
        name: String::new(),
    };
    let event = object(json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"generateName": format!("{}.", about.name.as_deref().unwrap_or_default())},
        "involvedObject": about, "type": severity, "reason": reason, "message": message,
        "source": {"component": REPORTER}, "reportingComponent": REPORTER,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    }))?;
    api(client, &target).create(&PostParams::default(), &event).await?;
    Ok(())
}

/// The names of this node's ServiceL2Status objects, which an earlier process may have left.
///
/// # Errors
///
/// What the API server answers; a kind that is not installed is no error.
pub async fn left_behind(
    client: Client,
    namespace: &str,
    node: &str,
) -> Result<std::collections::BTreeSet<String>, kube::Error> {
    let target = Target {
        api_version: "metallb.io/v1beta1",
        kind: "ServiceL2Status",
        plural: "servicel2statuses",
        namespace: Some(namespace.to_owned()),
        name: String::new(),
    };
    let params = ListParams::default().labels(&format!("metallb.io/node={node}"));
    match api(client, &target).list_metadata(&params).await {
        Ok(list) => Ok(list.items.into_iter().filter_map(|item| item.metadata.name).collect()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(Default::default()),
        Err(error) => Err(error),
    }
}

fn api(client: Client, target: &Target) -> Api<DynamicObject> {
    let (group, version) = target.api_version.split_once('/').unwrap_or(("", target.api_version));
    let kind = GroupVersionKind::gvk(group, version, target.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, target.plural);
    match &target.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

fn object(value: Value) -> Result<DynamicObject, kube::Error> {
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

/// The present as Kubernetes writes it.
#[expect(clippy::disallowed_methods, reason = "edge: times in objects are for people")]
pub fn now_text() -> String {
    let now = std::time::SystemTime::now();
    humantime::format_rfc3339_seconds(now).to_string()
}
