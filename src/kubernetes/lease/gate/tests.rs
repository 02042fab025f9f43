//! Marks and gates by themselves, and the keeper against an API server of Leases.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;

use herald_leader_election::lease::{ObjectKey, SessionObject};
use http::{Method, Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::object::Shape;
use super::*;
use crate::fixture::view;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The shortest that a Lease can say.
const TTL: Duration = Duration::from_secs(1);

#[test]
fn a_mark_reads_back() {
    let (me, ttl) = (NodeName::from("n1"), Duration::from_millis(600));
    for stage in [Stage::Waiting, Stage::Claimed, Stage::Speaking] {
        let lease = marked(&me, None, stage, ttl);
        let wanted = Mark { node: me.clone(), stage, ttl: Duration::from_secs(1) };
        assert_eq!(mark(&lease), Some(wanted), "whole seconds, and never less");
        assert_eq!(super::super::names::key(lease.metadata.name.as_deref().unwrap()), None);
    }
}

#[test]
fn a_gate_is_open_for_the_session_it_was_opened_for() {
    assert!(Gate::Open.allows(3) && Gate::OpenIn(3).allows(3));
    assert_eq!(Gate::OpenIn(3).waits(4).unwrap().reason, "back_end_unchecked");
    let shut = Gate::Shut(unchecked("because"));
    assert_eq!((shut.allows(3), shut.waits(3).unwrap().message), (false, "because".into()));
    assert_eq!(Gate::OpenIn(3).waits(3), None);
}

/// An API server of Leases; a write that names another version is refused.
#[derive(Default)]
struct Server {
    leases: BTreeMap<String, Lease>,
    version: u64,
    /// What was asked, in order.
    asked: Vec<String>,
    /// Comes to be at the very moment at which the first mark does.
    rival: Option<Lease>,
    is_away: bool,
    /// Nothing can be made in it.
    is_without_namespace: bool,
}

type Shared = Arc<Mutex<Server>>;

fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let (code, answer) = match server.lock().unwrap().answer(&parts, &body) {
                Ok(answer) => (200, answer),
                Err(code) => {
                    let answer = json!({"kind": "Status", "status": "Failure", "code": code});
                    (code, answer)
                }
            };
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "herald-system")
}

impl Server {
    fn with(leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut server = Self::default();
        leases.into_iter().for_each(|lease| drop(server.put(lease)));
        server
    }

    fn answer(&mut self, request: &http::request::Parts, body: &[u8]) -> Result<Value, u16> {
        if self.is_away {
            return Err(503);
        }
        let name = request.uri.path().rsplit('/').next().unwrap();
        if request.method == Method::GET {
            let is_for_marks = request.uri.query().unwrap().contains("speaker");
            let (label, what) = if is_for_marks { (SPEAKER, "marks") } else { (KIND, "sessions") };
            self.asked.push(format!("look for {what}"));
            let has = |lease: &&Lease| lease.metadata.labels.as_ref().unwrap().contains_key(label);
            let items: Vec<_> = self.leases.values().filter(has).collect();
            let meta = json!({"resourceVersion": "1"});
            return Ok(json!({"kind": "LeaseList", "metadata": meta, "items": items}));
        }
        if request.method == Method::DELETE {
            self.asked.push(format!("remove {name}"));
            self.leases.remove(name).ok_or(404_u16)?;
            return Ok(json!({"kind": "Status", "status": "Success"}));
        }
        if self.is_without_namespace {
            return Err(404);
        }
        let lease: Lease = serde_json::from_slice(body).unwrap();
        let known = self.leases.get(lease.metadata.name.as_ref().unwrap());
        let known = known.and_then(|known| known.metadata.resource_version.as_ref());
        if known != lease.metadata.resource_version.as_ref() {
            return Err(409);
        }
        let annotations = lease.metadata.annotations.as_ref().unwrap();
        let state = annotations.get(STAGE).or_else(|| annotations.get("herald.io/state")).unwrap();
        self.asked.push(format!("{} {state}", lease.metadata.name.as_ref().unwrap()));
        if let Some(rival) = self.rival.take() {
            self.put(rival);
        }
        Ok(serde_json::to_value(self.put(lease)).unwrap())
    }

    fn put(&mut self, mut lease: Lease) -> Lease {
        self.version += 1;
        lease.metadata.uid.get_or_insert_with(|| format!("u{}", self.version));
        lease.metadata.resource_version = Some(self.version.to_string());
        self.leases.insert(lease.metadata.name.clone().unwrap(), lease.clone());
        lease
    }
}

/// The open session of a speaker by Leases.
fn open_session(node: &str) -> Lease {
    let session = SessionObject {
        place: "here".into(),
        epoch: 1,
        since: 1,
        state: SessionState::Open,
        renewal: 1,
        draining: false,
        drained: false,
        facts: Arc::from(&b""[..]),
    };
    let (key, object) = (ObjectKey::Session(node.into()), Object::Session(session));
    Shape::decided_by_leases(TTL).lease(&key, &object, None, Timestamp::UNIX_EPOCH)
}

fn mark_of(node: &str, stage: Stage) -> Lease {
    marked(&node.into(), None, stage, TTL)
}

fn keeper(server: &Shared) -> (Keeper, watch::Receiver<Gate>) {
    Keeper::new(client(server), "herald-system", "n1".into())
}

async fn until(gate: &mut watch::Receiver<Gate>, so: impl FnMut(&Gate) -> bool) -> Gate {
    let found = timeout(PATIENCE, gate.wait_for(so)).await;
    found.expect("the gate is never so").expect("its keeper is gone").clone()
}

fn waits_for(node: &str) -> impl FnMut(&Gate) -> bool {
    let named = format!("may speak on {node}:");
    move |gate| {
        let Gate::Shut(waits) = gate else { return false };
        waits.reason == "other_back_end" && waits.message.contains(&named)
    }
}

/// The first look finds nobody, and one has come when the mark is there.
#[tokio::test]
async fn a_raft_speaker_looks_again_once_it_can_be_seen() {
    let rival = Some(open_session("n2"));
    let server = Shared::new(Mutex::new(Server { rival, ..Server::default() }));
    let (keeper, mut gate) = keeper(&server);
    let task = tokio::spawn(keeper.keep_for_raft(TTL));
    until(&mut gate, waits_for("n2")).await;
    let look = ["look for sessions", "look for marks"];
    let first = [&look[..], &["raft-n1 claimed"], &look, &["raft-n1 waiting"]].concat();
    assert_eq!(server.lock().unwrap().asked[..first.len()], first);
    // Nobody renews the session: its speaker is dead, and it is ended for it.
    until(&mut gate, |gate| *gate == Gate::Open).await;
    let asked = server.lock().unwrap().asked.clone();
    let last =
        [&["node-n2 revoked"], &look[..], &["raft-n1 claimed"], &look, &["raft-n1 speaking"]];
    let last = last.concat();
    assert_eq!(asked[asked.len() - last.len()..], last);
    task.abort();
}

#[tokio::test]
async fn a_gate_stays_shut_while_the_api_server_does_not_answer() {
    let server = Shared::new(Mutex::new(Server { is_away: true, ..Server::default() }));
    let (keeper, mut gate) = keeper(&server);
    let task = tokio::spawn(keeper.keep_for_raft(TTL));
    until(&mut gate, |gate| {
        let waits = gate.waits(1).unwrap();
        waits.reason == "back_end_unchecked" && waits.message.contains("does not say who speaks")
    })
    .await;
    server.lock().unwrap().is_away = false;
    until(&mut gate, |gate| *gate == Gate::Open).await;
    task.abort();
}

#[tokio::test]
async fn where_there_is_no_namespace_nobody_elects_by_leases() {
    let server = Server { is_without_namespace: true, ..Server::default() };
    let server = Shared::new(Mutex::new(server));
    let (keeper, mut gate) = keeper(&server);
    let task = tokio::spawn(keeper.keep_for_raft(TTL));
    until(&mut gate, |gate| *gate == Gate::Open).await;
    task.abort();
}

#[tokio::test]
async fn a_speaker_by_leases_looks_in_each_of_its_sessions_and_not_before() {
    let speaking = || mark_of("n2", Stage::Speaking);
    let server = Shared::new(Mutex::new(Server::with([speaking()])));
    let (keeper, mut gate) = keeper(&server);
    let mut seen = view(1);
    seen.epoch = 2;
    let (views, receiver) = watch::channel(Arc::new(seen.clone()));
    let task = tokio::spawn(keeper.keep_for_leases(receiver));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.lock().unwrap().asked, [""; 0], "nobody can see it yet");
    for epoch in [2, 3] {
        seen.epoch = epoch;
        seen.sessions.get_mut(&NodeName::from("n1")).unwrap().epoch = epoch;
        views.send_replace(Arc::new(seen.clone()));
        until(&mut gate, waits_for("n2")).await;
        server.lock().unwrap().leases.clear();
        until(&mut gate, |gate| *gate == Gate::OpenIn(epoch)).await;
        server.lock().unwrap().put(speaking());
    }
    drop(views);
    timeout(PATIENCE, task).await.expect("it ends with the election").unwrap();
}

#[tokio::test]
async fn a_speaker_by_leases_removes_the_mark_that_its_own_node_left() {
    let server = Shared::new(Mutex::new(Server::with([mark_of("n1", Stage::Waiting)])));
    let (keeper, mut gate) = keeper(&server);
    let (_views, receiver) = watch::channel(Arc::new(view(1)));
    let task = tokio::spawn(keeper.keep_for_leases(receiver));
    until(&mut gate, |gate| *gate == Gate::OpenIn(1)).await;
    let asked = server.lock().unwrap().asked.clone();
    assert_eq!(asked, ["look for marks", "remove raft-n1", "look for marks"]);
    task.abort();
}
