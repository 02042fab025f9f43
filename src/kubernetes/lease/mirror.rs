//! Raft decides, people read: each holder writes its own claims into Lease objects of the same
//! names as if Leases decided, so that `kubectl get leases` tells who holds what.
//!
//! No speaker reads them back, and nothing depends on them: a mirror that cannot be written is
//! stale until it can. Written only when the holder changes; what nobody holds any more is
//! removed by the node that holds the right to allocate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use herald_leader_election::lease::{ClaimObject, Object, ObjectKey, Version};
use herald_leader_election::{BootTime, ClaimKey, NodeName, View, clock};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::names;
use super::object::{self, Shape};
use crate::kubernetes::writer;

/// Longest request.
const LIMIT: Duration = Duration::from_secs(5);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// A claim without a holder keeps its mirror for this long: between two holders there is none.
const TIDY_AFTER: Duration = Duration::from_secs(10);

/// Starts the task; it ends when the election does.
#[must_use]
pub fn start(
    client: Client,
    namespace: &str,
    me: NodeName,
    view: watch::Receiver<Arc<View>>,
) -> JoinHandle<()> {
    let api = Api::namespaced(client, namespace);
    tokio::spawn(async move { Mirror { api, plan: Plan::new(me) }.follow(view).await })
}

struct Mirror {
    api: Api<Lease>,
    plan: Plan,
}

impl Mirror {
    async fn follow(mut self, mut view: watch::Receiver<Arc<View>>) {
        let mut failed = None;
        loop {
            let now = clock::boot_now();
            let seen = view.borrow_and_update().clone();
            self.plan.see(&seen, now);
            if failed.is_none_or(|at| now.since(at) >= RETRY) {
                failed = self.bring_up_to_date(&seen, now).await.err().map(|why| {
                    let why = format!("{why:#}");
                    tracing::debug!(why, "cannot mirror the claims; nothing depends on it");
                    clock::boot_now()
                });
            }
            let wait = match failed {
                Some(_) => Some(RETRY),
                None => self.plan.tidy_at().map(|at| at.since(clock::boot_now())),
            };
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Stops at the first failure: the rest would fail too.
    async fn bring_up_to_date(&mut self, view: &View, now: BootTime) -> anyhow::Result<()> {
        for (key, claim) in self.plan.due() {
            tokio::time::timeout(LIMIT, self.show(key, &claim)).await??;
            self.plan.shown(key, &claim);
        }
        if self.plan.may_tidy(now) {
            tokio::time::timeout(LIMIT, self.tidy(view)).await??;
            self.plan.tidied();
        }
        Ok(())
    }

    async fn show(&self, key: ClaimKey, claim: &ClaimObject) -> anyhow::Result<()> {
        let key = ObjectKey::Claim(key);
        let found = self.api.get_opt(&names::name(&key)).await?;
        let Some(expected) = outdated(found.as_ref(), claim) else { return Ok(()) };
        let object = Object::Claim(claim.clone());
        let lease = Shape::decided_by_raft().lease(&key, &object, expected.as_ref(), now());
        let params = PostParams::default();
        match expected {
            None => self.api.create(&params, &lease).await?,
            Some(_) => self.api.replace(&names::name(&key), &params, &lease).await?,
        };
        Ok(())
    }

    async fn tidy(&self, view: &View) -> anyhow::Result<()> {
        let ours = ListParams::default().labels(object::KIND);
        for lease in self.api.list(&ours).await?.items.iter().filter(|it| is_stale(it, view)) {
            let Some(name) = &lease.metadata.name else { continue };
            let preconditions = Preconditions {
                uid: lease.metadata.uid.clone(),
                resource_version: lease.metadata.resource_version.clone(),
            };
            self.api.delete(name, &DeleteParams::default().preconditions(preconditions)).await?;
        }
        Ok(())
    }
}

/// What is to be done and what was (pure).
struct Plan {
    me: NodeName,
    /// This node's claims, as they should be shown.
    mine: BTreeMap<ClaimKey, ClaimObject>,
    shown: BTreeMap<ClaimKey, ClaimObject>,
    /// What had a holder when the mirrors were last looked through, or are about to be; none while
    /// another node looks after them.
    held: Option<BTreeSet<ClaimKey>>,
    tidy_at: Option<BootTime>,
}

impl Plan {
    fn new(me: NodeName) -> Self {
        let (mine, shown) = (BTreeMap::new(), BTreeMap::new());
        Self { me, mine, shown, held: None, tidy_at: None }
    }

    fn see(&mut self, view: &View, now: BootTime) {
        let claim = |claim: &herald_leader_election::Claim| {
            let holder = claim.holder.clone();
            (claim.key, ClaimObject { holder, term: claim.term, move_to: None, record: None })
        };
        self.mine = view.claims_of(&self.me).map(claim).collect();
        // A claim that is lost and won again is another one.
        let mine = &self.mine;
        self.shown.retain(|key, claim| mine.get(key) == Some(claim));
        let keys = view.claims.keys().filter(|key| view.holder(key).is_some()).copied();
        let allocates = self.mine.contains_key(&ClaimKey::Allocator);
        let held = allocates.then(|| keys.collect::<BTreeSet<_>>());
        if held != self.held {
            self.tidy_at = held.is_some().then(|| now + TIDY_AFTER);
            self.held = held;
        }
    }

    fn due(&self) -> Vec<(ClaimKey, ClaimObject)> {
        let due = self.mine.iter().filter(|(key, _)| !self.shown.contains_key(key));
        due.map(|(key, claim)| (*key, claim.clone())).collect()
    }

    fn shown(&mut self, key: ClaimKey, claim: &ClaimObject) {
        self.shown.insert(key, claim.clone());
    }

    fn tidy_at(&self) -> Option<BootTime> {
        self.tidy_at
    }

    fn may_tidy(&self, now: BootTime) -> bool {
        self.tidy_at.is_some_and(|at| at <= now)
    }

    fn tidied(&mut self) {
        self.tidy_at = None;
    }
}

/// The version to replace (none: to create), unless the mirror shows this claim or a later one.
fn outdated(found: Option<&Lease>, claim: &ClaimObject) -> Option<Option<Version>> {
    let Some(found) = found else { return Some(None) };
    let spec = found.spec.clone().unwrap_or_default();
    let shown = (spec.lease_transitions.map(i64::from), spec.holder_identity);
    let holder = claim.holder.as_ref().map(|(node, _)| node.to_string());
    let term = i64::try_from(claim.term).unwrap_or(i64::MAX);
    let is_mirror = object::is_mirror(found);
    let is_later = is_mirror && shown.0.is_some_and(|shown| shown > term);
    let is_same = is_mirror && shown == (Some(term), holder);
    (!is_later && !is_same).then(|| object::version(found))
}

/// Whether a Lease of ours tells of nothing that is. The open session of a speaker that elects by
/// Leases is its own: it waits for raft's to end (`rivals`).
fn is_stale(lease: &Lease, view: &View) -> bool {
    let is_open = || lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.is_some());
    match object::claim_key(lease) {
        Some(key) => view.holder(&key).is_none(),
        None => !is_open(),
    }
}

fn now() -> Timestamp {
    writer::now_text().parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use herald_leader_election::model::SessionState;
    use herald_leader_election::{Claim, Session};

    use super::*;

    const VIP: ClaimKey = ClaimKey::Vip(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn view(claims: &[(ClaimKey, Option<&str>, u64)]) -> View {
        let session = |node: &str| Session {
            node: node.into(),
            epoch: 1,
            facts: Arc::from(&b""[..]),
            draining: false,
            state: SessionState::Open,
        };
        let claim = |(key, holder, term): &(ClaimKey, Option<&str>, u64)| {
            let holder = holder.map(|node| (node.into(), 1));
            (*key, Claim { key: *key, holder, term: *term })
        };
        View {
            sessions: ["n1", "n2"].map(|node| (node.into(), session(node))).into(),
            claims: claims.iter().map(claim).collect(),
            ..crate::fixture::view(1)
        }
    }

    fn lease(claim: &ClaimObject, shape: &Shape) -> Lease {
        let key = ObjectKey::Claim(VIP);
        let object = Object::Claim(claim.clone());
        let mut lease = shape.lease(&key, &object, None, Timestamp::UNIX_EPOCH);
        lease.metadata.uid = Some("u".into());
        lease.metadata.resource_version = Some("1".into());
        lease
    }

    fn held(term: u64) -> ClaimObject {
        ClaimObject { holder: Some(("n1".into(), 1)), term, move_to: None, record: None }
    }

    #[test]
    fn a_claim_is_shown_once_for_each_holder() {
        let mut plan = Plan::new("n1".into());
        plan.see(&view(&[(VIP, Some("n1"), 3), (ClaimKey::Allocator, Some("n2"), 1)]), at(0));
        assert_eq!(plan.due(), [(VIP, held(3))], "the other node shows its own");
        plan.shown(VIP, &held(3));
        plan.see(&view(&[(VIP, Some("n1"), 3)]), at(1));
        assert_eq!(plan.due(), []);
        plan.see(&view(&[(VIP, Some("n2"), 4)]), at(2));
        assert_eq!(plan.due(), []);
        plan.see(&view(&[(VIP, Some("n1"), 5)]), at(3));
        assert_eq!(plan.due(), [(VIP, held(5))]);
    }

    #[test]
    fn only_the_allocators_holder_tidies_and_only_once_things_are_calm() {
        let mut plan = Plan::new("n1".into());
        plan.see(&view(&[(VIP, Some("n1"), 1), (ClaimKey::Allocator, Some("n2"), 1)]), at(0));
        assert_eq!(plan.tidy_at(), None);
        let ours = [(VIP, Some("n1"), 1), (ClaimKey::Allocator, Some("n1"), 2)];
        plan.see(&view(&ours), at(1));
        assert_eq!((plan.tidy_at(), plan.may_tidy(at(10))), (Some(at(11)), false));
        plan.see(&view(&ours), at(5));
        assert!(plan.may_tidy(at(11)), "nothing has changed");
        plan.tidied();
        plan.see(&view(&[(VIP, None, 1), ours[1]]), at(20));
        assert_eq!(plan.tidy_at(), Some(at(30)));
    }

    #[test]
    fn a_mirror_never_goes_back_and_replaces_what_leases_decided() {
        let raft = Shape::decided_by_raft();
        let version = Some(Some(Version("u/1".into())));
        assert_eq!(outdated(None, &held(3)), Some(None));
        assert_eq!(outdated(Some(&lease(&held(3), &raft)), &held(3)), None);
        assert_eq!(outdated(Some(&lease(&held(4), &raft)), &held(3)), None);
        assert_eq!(outdated(Some(&lease(&held(2), &raft)), &held(3)), version);
        let leases = Shape::decided_by_leases(Duration::from_secs(5));
        assert_eq!(outdated(Some(&lease(&held(9), &leases)), &held(3)), version);
    }

    #[test]
    fn what_nobody_holds_is_stale_and_so_is_a_session_that_has_ended() {
        let mirror = lease(&held(3), &Shape::decided_by_raft());
        assert!(!is_stale(&mirror, &view(&[(VIP, Some("n2"), 4)])));
        assert!(is_stale(&mirror, &view(&[(VIP, None, 4)])));
        let mut session = mirror;
        session.metadata.name = Some("node-n1".into());
        assert!(!is_stale(&session, &view(&[(VIP, Some("n2"), 4)])), "it may be waiting");
        session.spec.as_mut().unwrap().holder_identity = None;
        assert!(is_stale(&session, &view(&[(VIP, Some("n2"), 4)])));
    }
}
