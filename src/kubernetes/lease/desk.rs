//! The edge's requests: writes and reads of Leases, each within a limit that is shorter than the
//! time between renewals, a bounded number at once, slower while nothing gets through.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use herald_leader_election::lease::{Answer, ApiEvent, ApiRequest, ObjectKey, Write};
use herald_leader_election::{BootTime, clock};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::object::{self, Shape};
use super::pulse::Pulse;
use super::queue::{Queue, Rank};
use super::{Config, names};

/// Requests at the same time, besides those about this node's own session.
const AT_ONCE: usize = 8;
/// After a request for a claim that never had a holder, the next one waits so many times as long as
/// it took: a thousand Services that are made at once share the API server with whoever makes them,
/// and where it is busy with addresses it takes long.
const REST: u32 = 4;

/// Serves the election's requests.
pub(super) struct Desk {
    caller: Caller,
    events: mpsc::UnboundedSender<ApiEvent>,
    queue: Queue,
    running: JoinSet<Option<ApiEvent>>,
    /// The one request for a claim that never had a holder.
    creating: JoinSet<Option<ApiEvent>>,
    creating_since: BootTime,
    /// Until then there is no other.
    creating_from: BootTime,
}

/// What every request needs.
#[derive(Clone)]
struct Caller {
    api: Api<Lease>,
    shape: Shape,
    pulse: Pulse,
    /// How long a request may take.
    limit: Duration,
    /// How long a request waits at most before it is sent, while others fail.
    pause: Duration,
}

impl Desk {
    pub(super) fn new(
        api: Api<Lease>,
        config: &Config,
        shape: Shape,
        events: mpsc::UnboundedSender<ApiEvent>,
        pulse: Pulse,
    ) -> Self {
        let renew = config.timing.renew;
        // Together less than the time between renewals, after which the election asks again.
        let caller = Caller { api, shape, pulse, limit: renew * 2 / 3, pause: renew / 4 };
        let queue = Queue::new(config.node.clone(), renew);
        Self {
            caller,
            events,
            queue,
            running: JoinSet::new(),
            creating: JoinSet::new(),
            creating_since: BootTime::SILENT,
            creating_from: BootTime::SILENT,
        }
    }

    /// Until the election drops its end.
    pub(super) async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<ApiRequest>) {
        loop {
            self.launch();
            let rest = self.creating_from.since(clock::boot_now());
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.queue.push(request, clock::boot_now()),
                    None => return,
                },
                Some(ended) = self.running.join_next() => self.ended(ended),
                Some(ended) = self.creating.join_next() => {
                    let now = clock::boot_now();
                    let took = now.since(self.creating_since);
                    self.creating_from = BootTime(now.0 + took * REST);
                    self.ended(ended);
                }
                () = tokio::time::sleep(rest), if !rest.is_zero() => {}
            }
        }
    }

    fn launch(&mut self) {
        loop {
            let now = clock::boot_now();
            let least = if self.running.len() + self.creating.len() >= AT_ONCE {
                Rank::Own
            } else if !self.creating.is_empty() || now < self.creating_from {
                Rank::Claim
            } else {
                Rank::New
            };
            let Some((rank, request)) = self.queue.pop(least, now) else { return };
            let tasks = if rank == Rank::New {
                self.creating_since = now;
                &mut self.creating
            } else {
                &mut self.running
            };
            let caller = self.caller.clone();
            match request {
                ApiRequest::Write(write) => {
                    let own = rank == Rank::Own;
                    tasks.spawn(async move { Some(caller.write(write, own).await) })
                }
                ApiRequest::Read(key) => tasks.spawn(async move { caller.read(key).await }),
            };
        }
    }

    fn ended(&self, ended: Result<Option<ApiEvent>, tokio::task::JoinError>) {
        match ended {
            Ok(None) => {}
            Ok(Some(event)) => {
                // An election that has ended closes the inbox too.
                let _ = self.events.send(event);
            }
            Err(error) => tracing::error!(%error, "a request to the API server crashed"),
        }
    }
}

impl Caller {
    async fn write(&self, write: Write, own: bool) -> ApiEvent {
        let Write { id, key, expected, object } = write;
        let sent = self.begin().await;
        let lease = self.shape.lease(&key, &object, expected.as_ref(), now());
        let name = names::name(&key);
        let params = PostParams::default();
        let request = async {
            match expected {
                None => self.api.create(&params, &lease).await,
                Some(_) => self.api.replace(&name, &params, &lease).await,
            }
        };
        let is_update = lease.metadata.resource_version.is_some();
        let answer = match tokio::time::timeout(self.limit, request).await {
            Ok(Ok(lease)) => match object::version(&lease) {
                Some(version) => {
                    self.pulse.written(sent, own);
                    Answer::Written(version)
                }
                None => Answer::Unknown,
            },
            Ok(Err(kube::Error::Api(said))) if overtaken(said.code, is_update) => {
                self.pulse.answered(true);
                Answer::Conflict
            }
            Ok(Err(error)) => self.failed(sent, &name, text(error)),
            Err(_) => self.failed(sent, &name, format!("no answer within {:?}", self.limit)),
        };
        ApiEvent::Answered(id, answer)
    }

    async fn read(&self, key: ObjectKey) -> Option<ApiEvent> {
        let sent = self.begin().await;
        let name = names::name(&key);
        match tokio::time::timeout(self.limit, self.api.get_opt(&name)).await {
            Ok(Ok(found)) => {
                self.pulse.answered(false);
                let seen = found.as_ref().and_then(object::read);
                Some(seen.map_or(ApiEvent::Gone(key), |(key, object, version)| {
                    ApiEvent::Seen(key, object, version)
                }))
            }
            Ok(Err(error)) => {
                self.failed(sent, &name, text(error));
                None
            }
            Err(_) => {
                self.failed(sent, &name, format!("no answer within {:?}", self.limit));
                None
            }
        }
    }

    /// Waits while others fail; the time from which the request counts as sent.
    async fn begin(&self) -> BootTime {
        let pause = self.pulse.pause(self.pause, RandomState::new().hash_one(()));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.pulse.sent();
        clock::boot_now()
    }

    /// The write may have happened, or may still happen.
    fn failed(&self, sent: BootTime, name: &str, why: String) -> Answer {
        let lease = name;
        if self.pulse.failed(sent, why.clone()) {
            tracing::warn!(lease, why, "the API server does not serve Leases");
        } else {
            tracing::debug!(lease, why, "the API server does not serve Leases");
        }
        Answer::Unknown
    }
}

/// Whether an answer says that the object is another one by now, or that there is none.
const fn overtaken(code: u16, is_update: bool) -> bool {
    // Nothing is found also where the namespace is missing; that is no matter of versions.
    code == 409 || (code == 404 && is_update)
}

fn text(error: kube::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// For people: the election never compares clocks.
#[expect(clippy::disallowed_methods, reason = "edge: times in objects are for people")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}
