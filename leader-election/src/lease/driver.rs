//! The one task that performs what the lease core decides, in order.
//!
//! It must never decide anything, and never know what Kubernetes is: requests go out through a
//! channel, and whoever serves them (the edge in the herald binary) sends back what happened. The
//! wishes come through the same [`Handle`] as with raft.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::core::{LeaseAction, LeaseConfig, LeaseCore, LeaseInput};
use super::object::{Answer, Object, ObjectKey, Version, Write};
use crate::clock::boot_now;
use crate::error::Error;
use crate::model::{BootTime, Fence, NodeName, View};
use crate::pace::Pace;
use crate::raft::Handle;
use crate::raft::core::Input;
use crate::raft::refusals::Refusals;
use crate::raft::sanity::Refusal;

/// What the edge is to do with the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiRequest {
    /// Do this write, if the object still has the expected version; answer with
    /// [`ApiEvent::Answered`], within less time than there is between renewals.
    Write(Write),
    /// Read this object; answer with [`ApiEvent::Seen`] or [`ApiEvent::Gone`], or not at all.
    Read(ObjectKey),
}

/// What the edge has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiEvent {
    /// An object, from a list, a watch or a read.
    Seen(ObjectKey, Object, Version),
    /// An object is no more.
    Gone(ObjectKey),
    /// All objects of a list have been [`ApiEvent::Seen`].
    Listed,
    /// What came of the write with this number.
    Answered(u64, Answer),
}

/// Both ends of what connects this crate with the edge.
#[derive(Debug)]
pub struct ApiChannels {
    /// To the edge.
    pub requests: mpsc::UnboundedSender<ApiRequest>,
    /// From the edge. Its end ends the task.
    pub events: mpsc::UnboundedReceiver<ApiEvent>,
}

/// Starts taking part through the API server, within a tokio runtime.
///
/// The deadline that an earlier process left in the kernel stays in force until this one knows
/// better. The task ends after [`Handle::close`] or once all handles are dropped.
///
/// # Errors
/// If the configuration is impossible.
pub fn start(
    config: LeaseConfig,
    api: ApiChannels,
    fence: Box<dyn Fence>,
) -> Result<(Handle, JoinHandle<Result<(), Error>>), Error> {
    let me = config.node.clone();
    let core = LeaseCore::new(config, boot_now())?;
    let (ask, inputs) = mpsc::unbounded_channel();
    let (publish, view) = watch::channel(Arc::new(core.view()));
    let (announce, deadline) = watch::channel(None);
    let refusals = Refusals::default();
    let handle = Handle::new(ask, view, deadline, refusals.clone());
    let handles_left = true;
    let driver = Driver { me, core, api, fence, inputs, handles_left, publish, announce, refusals };
    Ok((handle, tokio::spawn(driver.run())))
}

struct Driver {
    me: NodeName,
    core: LeaseCore,
    api: ApiChannels,
    fence: Box<dyn Fence>,
    inputs: mpsc::UnboundedReceiver<Input>,
    handles_left: bool,
    publish: watch::Sender<Arc<View>>,
    announce: watch::Sender<Option<BootTime>>,
    refusals: Refusals,
}

impl Driver {
    async fn run(mut self) -> Result<(), Error> {
        let mut pace = Pace::default();
        let mut inputs = vec![LeaseInput::Tick];
        loop {
            // The clock is read after the inputs: waiting is counted from then.
            let begin = boot_now();
            let actions = self.core.handle_all(inputs, begin);
            let end = boot_now();
            pace.spend(end.since(begin), end);
            for action in actions {
                self.perform(action)?;
            }
            let Some(deadline) = self.core.next_deadline() else { return Ok(()) };
            inputs = self.gather(deadline, pace).await?;
        }
    }

    /// The next inputs: all that are there, and in a burst also those that come while these may
    /// wait.
    async fn gather(&mut self, deadline: BootTime, pace: Pace) -> Result<Vec<LeaseInput>, Error> {
        let (mut inputs, mut may_wait) = (Vec::new(), true);
        loop {
            let now = boot_now();
            let left = deadline.since(now);
            let wait = match inputs.is_empty() {
                true => left,
                false if may_wait => pace.wait(now).min(left),
                false => Duration::ZERO,
            };
            let input = tokio::select! {
                biased;
                asked = self.inputs.recv(), if self.handles_left => {
                    self.handles_left = asked.is_some();
                    wish(asked.unwrap_or(Input::Close))
                }
                event = self.api.events.recv() => happened(event.ok_or_else(api_ended)?),
                () = std::future::ready(()), if wait.is_zero() && !inputs.is_empty() => {
                    return Ok(inputs);
                }
                () = tokio::time::sleep(wait) => {
                    if inputs.is_empty() {
                        inputs.push(LeaseInput::Tick);
                    }
                    return Ok(inputs);
                }
            };
            may_wait &= self.core.may_wait(&input);
            inputs.push(input);
        }
    }

    fn perform(&mut self, action: LeaseAction) -> Result<(), Error> {
        let request = match action {
            LeaseAction::SetDeadline(deadline) => {
                self.fence.set_deadline(deadline.unwrap_or(BootTime::SILENT));
                self.announce.send_replace(deadline);
                return Ok(());
            }
            LeaseAction::Publish(view) => {
                self.publish.send_replace(view);
                return Ok(());
            }
            LeaseAction::Doubled => {
                self.refusals.count(self.me.as_str(), Refusal::DuplicateName);
                return Ok(());
            }
            LeaseAction::Stopped => return Ok(()),
            LeaseAction::Write(write) => ApiRequest::Write(write),
            LeaseAction::Read(key) => ApiRequest::Read(key),
        };
        self.api.requests.send(request).map_err(|_| api_ended())
    }
}

fn api_ended() -> Error {
    Error::Transport("whoever talks to the API server ended".to_owned())
}

fn happened(event: ApiEvent) -> LeaseInput {
    match event {
        ApiEvent::Seen(key, object, version) => LeaseInput::Seen(key, object, version),
        ApiEvent::Gone(key) => LeaseInput::Gone(key),
        ApiEvent::Listed => LeaseInput::Listed,
        ApiEvent::Answered(id, answer) => LeaseInput::Answered(id, answer),
    }
}

/// The handle speaks raft's words; here they mean the same.
fn wish(input: Input) -> LeaseInput {
    match input {
        Input::Wanted(wanted) => LeaseInput::Wanted(wanted),
        Input::Facts(facts) => LeaseInput::Facts(facts),
        Input::Move(key, node) => LeaseInput::Move(key, node),
        Input::SetDrained(node, drained) => LeaseInput::SetDrained(node, drained),
        Input::Release(key) => LeaseInput::Release(key),
        Input::Drain => LeaseInput::Drain,
        Input::Close => LeaseInput::Close,
        Input::Put { name, value, guard } => {
            LeaseInput::Put { name, value: value.map(Arc::from), guard }
        }
        // Objects of the API server have no members.
        Input::Tick | Input::Frame(..) | Input::Nodes(_) => LeaseInput::Tick,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::lease::LeaseTiming;
    use crate::model::{ClaimKey, Guard, Wanted};

    #[derive(Clone, Default)]
    struct Remembered(Arc<AtomicU64>);

    impl Fence for Remembered {
        fn set_deadline(&mut self, until: BootTime) {
            self.0.store(until.as_nanos(), Ordering::SeqCst);
        }
    }

    /// A fake API server of one client: every write is as expected and done at once.
    async fn serve(
        mut requests: mpsc::UnboundedReceiver<ApiRequest>,
        events: mpsc::UnboundedSender<ApiEvent>,
    ) -> BTreeMap<ObjectKey, Object> {
        let mut objects = BTreeMap::new();
        let _ = events.send(ApiEvent::Listed);
        while let Some(request) = requests.recv().await {
            if let ApiRequest::Write(write) = request {
                objects.insert(write.key, write.object);
                let version = Version(write.id.to_string().into());
                let _ = events.send(ApiEvent::Answered(write.id, Answer::Written(version)));
            }
        }
        objects
    }

    #[tokio::test]
    async fn a_lone_node_claims_speaks_and_says_goodbye() {
        let (requests, served) = mpsc::unbounded_channel();
        let (events, heard) = mpsc::unbounded_channel();
        let server = tokio::spawn(serve(served, events));
        let timing = LeaseTiming {
            renew: std::time::Duration::from_millis(200),
            ttl: std::time::Duration::from_secs(2),
        };
        let config =
            LeaseConfig { node: "a".into(), place: "here".into(), timing, facts: Vec::new() };
        let fence = Remembered::default();
        let channels = ApiChannels { requests, events: heard };
        let (handle, task) = start(config, channels, Box::new(fence.clone())).unwrap();
        let key = ClaimKey::Allocator;
        handle.set_wanted(Wanted { claims: [(key, ["a".into()].into())].into() });
        let mut view = handle.view();
        let held = view.wait_for(|view| view.holder(&key) == Some(&"a".into())).await.unwrap();
        assert_eq!(held.claims[&key].term, 1);
        drop(held);
        assert!(fence.0.load(Ordering::SeqCst) > boot_now().as_nanos());

        let guard = Guard { key, term: 1 };
        let stale = Guard { key, term: 7 };
        handle.put("refused".into(), Some(b"x".to_vec()), stale);
        handle.put("kept".into(), Some(b"y".to_vec()), guard);
        let kept = [("kept".to_owned(), b"y".to_vec())].into();
        view.wait_for(|view| view.records == kept).await.unwrap();
        handle.put("kept".into(), None, guard);
        view.wait_for(|view| view.records.is_empty()).await.unwrap();

        handle.close().await;
        task.await.unwrap().unwrap();
        assert_eq!(fence.0.load(Ordering::SeqCst), 0);
        drop(handle);
        let objects = server.await.unwrap();
        let Object::Session(session) = &objects[&ObjectKey::Session("a".into())] else {
            panic!("{objects:?}")
        };
        assert_eq!(session.state, crate::model::SessionState::Closed);
    }
}
