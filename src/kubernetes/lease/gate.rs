//! Keeps a speaker silent while those of the other back end may speak (edge); [`super::rivals`] has
//! the rules, and why they suffice.
//!
//! It must never open on a guess: while the API server does not answer, it stays shut. Once a raft
//! speaker's gate is open it stays open, and needs no API server any more.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use herald_leader_election::lease::Object;
use herald_leader_election::model::SessionState;
use herald_leader_election::{BootTime, NodeName, View, clock};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;

use super::object::{self, KIND};
use super::rivals::{self, Mark, Session, Sight, Stage, Verdict};

/// The label of marks; its value is the back end.
const SPEAKER: &str = "herald.io/speaker";
const STAGE: &str = "herald.io/stage";
/// Longest request.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks while shut.
const PAUSE: Duration = Duration::from_millis(500);
/// A Lease without a duration lasts so long.
const UNKNOWN: Duration = Duration::from_secs(60);

/// Whether this speaker may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may, until it ends.
    Open,
    /// It may in the session of this epoch.
    OpenIn(u64),
    /// It may not.
    Shut(Waits),
}

/// Why a speaker is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The named reason.
    pub reason: &'static str,
    /// The reason in words.
    pub message: String,
}

impl Gate {
    /// Whether it may in the session of that epoch.
    pub const fn allows(&self, epoch: u64) -> bool {
        match self {
            Self::Open => true,
            Self::OpenIn(allowed) => *allowed == epoch,
            Self::Shut(_) => false,
        }
    }

    /// Why not, if it may not.
    pub fn waits(&self, epoch: u64) -> Option<Waits> {
        match self {
            Self::Shut(waits) => Some(waits.clone()),
            _ if self.allows(epoch) => None,
            _ => Some(unchecked("it has not looked yet for speakers that elect in another way")),
        }
    }
}

/// Looks, and opens or shuts the gate.
pub struct Keeper {
    api: Api<Lease>,
    namespace: String,
    me: NodeName,
    gate: watch::Sender<Gate>,
}

struct Seen {
    marks: Vec<Mark>,
    own: Option<Lease>,
    sessions: Vec<Session>,
    leases: Vec<Lease>,
}

impl Keeper {
    /// With the gate it keeps, which is shut.
    #[must_use]
    pub fn new(client: Client, namespace: &str, me: NodeName) -> (Self, watch::Receiver<Gate>) {
        let waits = unchecked("it has not looked yet for speakers that elect in another way");
        let (gate, receiver) = watch::channel(Gate::Shut(waits));
        let api = Api::namespaced(client, namespace);
        (Self { api, namespace: namespace.to_owned(), me, gate }, receiver)
    }

    /// Keeps a raft speaker's gate; `ttl` is how long its kernel speaks on without it. Never ends.
    pub async fn keep_for_raft(self, ttl: Duration) {
        let mut sight = Sight::default();
        loop {
            match within(self.try_raft(&mut sight, ttl)).await {
                Ok(Verdict::May) => break,
                found => self.shut(found),
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.gate.send_replace(Gate::Open);
        pending().await
    }

    /// Keeps the gate of a speaker by Leases, for each of its sessions anew. Ends with the
    /// election.
    pub async fn keep_for_leases(self, mut view: watch::Receiver<Arc<View>>) {
        let started = clock::boot_now();
        loop {
            let seen = view.borrow_and_update().clone();
            let is_due = seen.is_settled() && !self.gate.borrow().allows(seen.epoch);
            if is_due {
                match within(self.try_lease(started)).await {
                    Ok(Verdict::May) => {
                        self.gate.send_replace(Gate::OpenIn(seen.epoch));
                    }
                    found => self.shut(found),
                }
            }
            let is_shut = is_due && !self.gate.borrow().allows(seen.epoch);
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(PAUSE), if is_shut => {}
            }
        }
    }

    /// Shows itself, then looks (rules 2 and 4 of `rivals`).
    async fn try_raft(&self, sight: &mut Sight, ttl: Duration) -> anyhow::Result<Verdict> {
        let mut seen = self.look().await?;
        let mut verdict = sight.judge(&seen.marks, &seen.sessions, clock::boot_now());
        let mut stage = seen.own.as_ref().map(stage);
        if verdict == Verdict::May && stage != Some(Stage::Speaking) {
            let claimed = self.mark(seen.own.as_ref(), Stage::Claimed, ttl).await;
            if seen.own.is_none() && claimed.as_ref().is_err_and(is_without_namespace) {
                // Where there is no namespace there are no Leases to elect by.
                return Ok(Verdict::May);
            }
            claimed?;
            seen = self.look().await?;
            verdict = sight.judge(&seen.marks, &seen.sessions, clock::boot_now());
            stage = seen.own.as_ref().map(self::stage);
            if verdict == Verdict::May {
                self.mark(seen.own.as_ref(), Stage::Speaking, ttl).await?;
            }
        }
        if let Verdict::Wait { ended, .. } = &verdict {
            if stage == Some(Stage::Claimed) {
                self.mark(seen.own.as_ref(), Stage::Waiting, ttl).await?;
            }
            for lease in seen.leases.iter().filter(|it| is_of(it, ended)) {
                self.revoke(lease).await?;
            }
        }
        Ok(verdict)
    }

    /// Looks for marks; the open session is what shows this speaker (rule 1).
    async fn try_lease(&self, started: BootTime) -> anyhow::Result<Verdict> {
        let (marks, own) = self.marks().await?;
        let verdict = rivals::judge(&self.me, &marks, started, clock::boot_now());
        if let (Verdict::Wait { ended, .. }, Some(own)) = (&verdict, own)
            && !ended.is_empty()
        {
            self.remove(&own).await?;
        }
        Ok(verdict)
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        // Without a resourceVersion the API server answers with what is the latest.
        let list = ListParams::default().labels(&format!("{KIND}=session"));
        let leases = self.api.list(&list).await.context("cannot list sessions")?.items;
        let sessions = leases.iter().filter_map(session).collect();
        let (marks, own) = self.marks().await?;
        Ok(Seen { marks, own, sessions, leases })
    }

    async fn marks(&self) -> anyhow::Result<(Vec<Mark>, Option<Lease>)> {
        let list = ListParams::default().labels(&format!("{SPEAKER}=raft"));
        let leases = self.api.list(&list).await.context("cannot list raft speakers")?.items;
        let marks = leases.iter().filter_map(mark).collect();
        let name = name(&self.me);
        let own = leases.into_iter().find(|it| it.metadata.name.as_ref() == Some(&name));
        Ok((marks, own))
    }

    async fn mark(&self, own: Option<&Lease>, stage: Stage, ttl: Duration) -> anyhow::Result<()> {
        let lease = marked(&self.me, own, stage, ttl);
        let params = PostParams::default();
        let written = match own {
            None => self.api.create(&params, &lease).await,
            Some(_) => self.api.replace(&name(&self.me), &params, &lease).await,
        };
        written.context("cannot write this speaker's mark")?;
        Ok(())
    }

    /// Ends a session that stood still, if it still does.
    async fn revoke(&self, lease: &Lease) -> anyhow::Result<()> {
        let node = lease.metadata.name.as_deref().unwrap_or_default();
        let ended = object::revoked(lease.clone());
        tracing::info!(lease = node, "ending the session of a speaker that elected by Leases");
        self.api.replace(node, &PostParams::default(), &ended).await.context("cannot end it")?;
        Ok(())
    }

    async fn remove(&self, lease: &Lease) -> anyhow::Result<()> {
        let preconditions = Preconditions {
            uid: lease.metadata.uid.clone(),
            resource_version: lease.metadata.resource_version.clone(),
        };
        let params = DeleteParams::default().preconditions(preconditions);
        self.api.delete(&name(&self.me), &params).await.context("cannot remove a mark")?;
        Ok(())
    }

    fn shut(&self, found: anyhow::Result<Verdict>) {
        let waits = match found {
            Ok(Verdict::Wait { living, ended }) => self.waits(&[living, ended].concat()),
            Ok(Verdict::May) => return,
            Err(error) => unchecked(&format!("the API server does not say who speaks: {error:#}")),
        };
        let shut = Gate::Shut(waits);
        if *self.gate.borrow() != shut {
            if let Gate::Shut(Waits { reason, message }) = &shut {
                tracing::warn!(reason, message, "not speaking");
            }
            self.gate.send_replace(shut);
        }
    }

    fn waits(&self, living: &[NodeName]) -> Waits {
        let nodes: Vec<_> = living.iter().map(NodeName::to_string).collect();
        let (nodes, namespace) = (nodes.join(", "), &self.namespace);
        let message = format!(
            "speakers that elect in another way (--election) may speak on {nodes}: waiting until \
             they have ended; that of raft on a node that is gone for good ends with kubectl delete \
             lease -n {namespace} raft-NODE"
        );
        Waits { reason: "other_back_end", message }
    }
}

/// Removes a raft speaker's mark, once it has ended in good order.
pub async fn leave(client: Client, namespace: &str, me: &NodeName) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let name = name(me);
    let removed = tokio::time::timeout(LIMIT, api.delete(&name, &DeleteParams::default())).await;
    if !matches!(removed, Ok(Ok(_))) {
        tracing::warn!(lease = name, "cannot remove this speaker's mark");
    }
}

async fn within(found: impl Future<Output = anyhow::Result<Verdict>>) -> anyhow::Result<Verdict> {
    tokio::time::timeout(LIMIT, found).await.context("no answer in time")?
}

fn is_without_namespace(error: &anyhow::Error) -> bool {
    let said = error.downcast_ref::<kube::Error>();
    matches!(said, Some(kube::Error::Api(said)) if said.code == 404)
}

fn unchecked(message: &str) -> Waits {
    Waits { reason: "back_end_unchecked", message: message.to_owned() }
}

fn name(node: &NodeName) -> String {
    format!("raft-{node}")
}

fn marked(me: &NodeName, own: Option<&Lease>, stage: Stage, ttl: Duration) -> Lease {
    let seconds = i32::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
    let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Lease {
        metadata: ObjectMeta {
            name: Some(name(me)),
            labels: Some([pair((SPEAKER, "raft"))].into()),
            annotations: Some([pair((STAGE, stage.label()))].into()),
            uid: own.and_then(|own| own.metadata.uid.clone()),
            resource_version: own.and_then(|own| own.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_string()),
            lease_duration_seconds: Some(seconds.max(1)),
            ..LeaseSpec::default()
        }),
    }
}

fn mark(lease: &Lease) -> Option<Mark> {
    let node = lease.metadata.name.as_deref()?.strip_prefix("raft-")?;
    Some(Mark { node: node.into(), stage: stage(lease), ttl: lasting(lease) })
}

fn stage(lease: &Lease) -> Stage {
    let annotations = lease.metadata.annotations.as_ref();
    Stage::of(annotations.and_then(|it| it.get(STAGE)).map_or("", String::as_str))
}

fn session(lease: &Lease) -> Option<Session> {
    match object::read(lease)? {
        (herald_leader_election::lease::ObjectKey::Session(node), Object::Session(it), version)
            if it.state == SessionState::Open =>
        {
            Some(Session { node, version, ttl: lasting(lease) })
        }
        _ => None,
    }
}

fn is_of(lease: &Lease, nodes: &[NodeName]) -> bool {
    session(lease).is_some_and(|session| nodes.contains(&session.node))
}

fn lasting(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(UNKNOWN, Duration::from_secs)
}

#[cfg(test)]
mod tests;
