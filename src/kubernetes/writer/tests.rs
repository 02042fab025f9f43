//! The writer against an API server that answers what a test wants.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;

use http::{Method, Request, Response};
use kube::client::Body;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::observed::ServiceName;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A session that outlasts every test.
const LONG: Duration = Duration::from_secs(3600);

/// An API server of Services, each at a version; a write that names another one is refused, and any
/// write to the one called `broken` fails.
#[derive(Default)]
struct Server {
    versions: Mutex<BTreeMap<String, u64>>,
    asked: Mutex<Vec<String>>,
    now: Mutex<usize>,
    most: Mutex<usize>,
    /// How many requests may be answered.
    answers: Option<Semaphore>,
}

impl Server {
    fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        {
            let mut now = self.now.lock().unwrap();
            *now += 1;
            let mut most = self.most.lock().unwrap();
            *most = (*most).max(*now);
        }
        if let Some(answers) = &self.answers {
            answers.acquire().await.unwrap().forget();
        }
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let response = self.decide(&method, &path, &body);
        *self.now.lock().unwrap() -= 1;
        response
    }

    fn decide(&self, method: &Method, path: &str, body: &Value) -> Response<Body> {
        let name = path.trim_end_matches("/status").rsplit('/').next().unwrap().to_owned();
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry(name.clone()).or_insert(1);
        let named = body["metadata"]["resourceVersion"].as_str();
        let is_stale = named.is_some_and(|named| named != version.to_string());
        let (code, reason) = match &*name {
            _ if is_stale => (409, "Conflict"),
            "broken" => (500, "InternalError"),
            _ => (200, ""),
        };
        self.asked.lock().unwrap().push(format!("{method} {name} {code}"));
        let answer = if code == 200 {
            *version += 1;
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}})
        } else {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                   "message": "not done", "reason": reason, "code": code})
        };
        let body = Body::from(serde_json::to_vec(&answer).unwrap());
        Response::builder().status(code).body(body).unwrap()
    }

    async fn until(&self, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        let looking = async {
            loop {
                let asked = self.asked.lock().unwrap().clone();
                if condition(&asked) {
                    return asked;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(PATIENCE, looking).await;
        waited.unwrap_or_else(|_| panic!("only {:?}", self.asked.lock().unwrap()))
    }
}

fn status(name: &str, version: u64) -> Write {
    let target = Target::service(&ServiceName::new("default", name));
    let patch = json!({"metadata": {"resourceVersion": version.to_string()}, "status": {}});
    Write::Status { target, patch: patch.into() }
}

fn pool(name: &str) -> Target {
    Target {
        kind: "IPAddressPool",
        plural: "ipaddresspools",
        ..Target::service(&ServiceName::new("default", name))
    }
}

fn wanted(allocator: Vec<Write>) -> Arc<Wanted> {
    Arc::new(Wanted { allocator, ..Wanted::default() })
}

/// The sides of a writer that a test holds.
type Held =
    (watch::Sender<Arc<Wanted>>, watch::Sender<Option<BootTime>>, tokio::task::JoinHandle<()>);

fn running(server: &Arc<Server>, writes: Vec<Write>, lasts: Duration) -> Held {
    let (sender, receiver) = watch::channel(wanted(writes));
    let end = BootTime(clock::boot_now().0 + lasts);
    let (keep, deadline) = watch::channel(Some(end));
    let task = start(server.client(), receiver, deadline, Tally::default());
    (sender, keep, task)
}

#[tokio::test]
async fn counts_what_was_written_and_what_failed() {
    let server = Arc::new(Server::default());
    // Another allocator has written to it since this one looked.
    server.versions.lock().unwrap().insert("a".into(), 2);
    let writes = [status("a", 1), status("b", 1), status("broken", 1)].to_vec();
    let (sender, receiver) = watch::channel(wanted(writes));
    let end = BootTime(clock::boot_now().0 + LONG);
    let (_keep, deadline) = watch::channel(Some(end));
    let tally = Tally::default();
    let _task = start(server.client(), receiver, deadline, tally.clone());
    let all = async {
        while tally.updates() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("three writes have ended");
    // On a slow machine what failed is sent a second time before this is asked.
    let asked = server.asked.lock().unwrap().clone();
    let failed = asked.iter().filter(|it| it.ends_with(" 500")).count() as u64;
    assert!((1..=failed).contains(&tally.errors()), "{} errors in {asked:?}", tally.errors());
    drop(sender);
}

#[tokio::test]
async fn an_allocator_that_was_overtaken_writes_nothing_until_it_decides_anew() {
    let server = Arc::new(Server::default());
    // Another allocator has written to it since this one looked.
    server.versions.lock().unwrap().insert("a".into(), 2);
    let (sender, _keep, _task) = running(&server, vec![status("a", 1)], LONG);
    server.until(|asked| !asked.is_empty()).await;
    sender.send_replace(wanted(vec![status("a", 1)]));
    sender.send_replace(wanted(vec![status("a", 1), status("b", 1)]));
    let has = |asked: &[String], text: &str| asked.iter().any(|it| it == text);
    let asked = server.until(|asked| has(asked, "PATCH b 200")).await;
    assert!(!has(&asked, "PATCH a 200"), "{asked:?}");
    assert_eq!(server.versions.lock().unwrap()["a"], 2, "nothing was undone");
    sender.send_replace(wanted(vec![status("a", 2), status("b", 2)]));
    server.until(|asked| has(asked, "PATCH a 200")).await;
    assert_eq!(server.versions.lock().unwrap()["a"], 3);
}

#[tokio::test]
async fn an_allocator_whose_session_has_ended_writes_nothing() {
    let server = Arc::new(Server::default());
    let (sender, _keep, _task) = running(&server, vec![status("a", 1)], Duration::ZERO);
    // What it says about its own node is nobody else's business.
    let node = vec![status("n", 1)];
    sender.send_replace(Arc::new(Wanted { allocator: vec![status("a", 1)], node, is_busy: false }));
    let asked = server.until(|asked| !asked.is_empty()).await;
    assert_eq!(asked, ["PATCH n 200"]);
}

#[tokio::test]
async fn ten_thousand_services_are_written_once_each_and_a_few_at_once() {
    let server = Arc::new(Server { answers: Some(Semaphore::new(0)), ..Server::default() });
    let writes: Vec<_> = (0..10_000).map(|number| status(&format!("s{number}"), 1)).collect();
    let (sender, _keep, _task) = running(&server, writes.clone(), LONG);
    // What is told about them never takes more than its share.
    let reports = (0..100).map(|number| Write::Gone(pool(&format!("p{number}"))));
    sender.send_replace(Arc::new(Wanted {
        allocator: writes,
        node: reports.collect(),
        is_busy: true,
    }));
    let at_once = ADDRESSES_AT_ONCE + REPORTS_AT_ONCE;
    let full = async {
        while *server.now.lock().unwrap() < at_once {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("as many at once as are allowed");
    server.answers.as_ref().unwrap().add_permits(20_000);
    let patches = |asked: &[String]| -> Vec<String> {
        asked.iter().filter(|it| it.starts_with("PATCH")).take(10_000).cloned().collect()
    };
    let asked = server.until(|asked| patches(asked).len() >= 10_000).await;
    // None of them is sent a second time before all have been sent once.
    let different: std::collections::BTreeSet<_> = patches(&asked).into_iter().collect();
    assert_eq!(different.len(), 10_000);
    assert!(different.iter().all(|it| it.starts_with("PATCH s") && it.ends_with(" 200")));
    assert_eq!(*server.most.lock().unwrap(), at_once);
    drop(sender);
}
