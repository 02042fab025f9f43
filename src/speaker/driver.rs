//! Performs decisions (edge): the one task that touches the data plane, the announcer and the
//! election, and that owns every other task.
//!
//! The order within one round is part of the protocol: what becomes silent is silent in the
//! kernel and the announcer before the election hears that it was given back.

mod answers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use herald_announcer::{AnnouncerHandle, Conflict, Links, Presences, RollCallHandle, Standing};
use herald_leader_election::pace::Pace;
use herald_leader_election::{BootTime, Handle, NodeName, View, Wanted, clock};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::allocator::Config;
use crate::facts::Facts;
use crate::kubernetes::lease::gate::Gate;
use crate::source::Snapshot;
use crate::speaker::End;
use crate::speaker::carriers::Carriers;
use crate::speaker::cluster::Cluster;
use crate::speaker::decide::{Database, Decision, Knowledge, Memory, Put, decide};
use crate::speaker::electing::Leases;
use crate::speaker::ended::{open, why};
use crate::speaker::fence::Fences;
use crate::speaker::flows::Flows;
use crate::speaker::members;
use crate::speaker::moving::Moving;
use crate::speaker::slack::{self, Slack};
use crate::speaker::socket::Request;

/// A write or a map update that had no effect yet is tried again after this.
const RETRY: Duration = Duration::from_millis(500);

/// How often an interface is looked at that another's XDP program has.
const LOOK: Duration = Duration::from_secs(10);

/// A leaving speaker waits this long for the others to take its VIPs, then goes all the same:
/// the kernel forwards on without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tasks the driver owns; the end of any one ends the process.
pub(crate) struct Tasks {
    pub links_task: JoinHandle<Result<(), herald_announcer::Error>>,
    pub source_task: JoinHandle<Result<(), crate::source::WatchError>>,
    pub announcer_task: JoinHandle<Result<(), herald_announcer::Error>>,
    pub roll_call_task: JoinHandle<Result<(), herald_announcer::Error>>,
    pub election_task: JoinHandle<Result<(), herald_leader_election::Error>>,
    pub status_task: JoinHandle<()>,
    pub writer_task: JoinHandle<()>,
    pub leases_task: JoinHandle<()>,
}

/// What the driver drives.
pub(crate) struct Parts {
    pub me: NodeName,
    pub allocator: Config,
    pub links: watch::Receiver<Arc<Links>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub raft_port: u16,
    pub carriers: Carriers,
    pub flows: Flows,
    pub announcer: AnnouncerHandle,
    pub roll_call: RollCallHandle,
    pub election: Handle,
    pub fences: Fences,
    /// The API server, if there is one.
    pub cluster: Option<Cluster>,
    /// How it serves the election, where Leases decide.
    pub leases: Option<Leases>,
    /// Whether speakers that elect in another way keep this one silent.
    pub gate: watch::Receiver<Gate>,
}

/// The driver.
pub(crate) struct Driver {
    parts: Parts,
    view: watch::Receiver<Arc<View>>,
    /// The same, looked at while a round has to wait: a takeover has not.
    ahead: watch::Receiver<Arc<View>>,
    deadline: watch::Receiver<Option<BootTime>>,
    standings: watch::Receiver<Arc<BTreeMap<IpAddr, Standing>>>,
    presences: watch::Receiver<Presences>,
    conflicts: watch::Receiver<Arc<BTreeMap<IpAddr, Conflict>>>,
    /// The last decision performed; none until this process has a session of its own, because
    /// until then what an earlier process left in the kernel stays in force.
    last: Option<Decision>,
    wanted: Option<Wanted>,
    facts: Option<Facts>,
    memory: Memory,
    /// Writes on their way through the log, with the time they were sent.
    in_flight: BTreeMap<String, (Put, BootTime)>,
    must_retry: bool,
    /// The API server has not been told of the last decision.
    is_untold: bool,
    leaving_since: Option<BootTime>,
    /// The election has been told to give everything away.
    is_drained: bool,
    pace: Pace,
    slack: Slack,
    /// What was held, and what was to be handed over, in the view of the last round.
    moving: Moving,
    /// Clients wait for the next round.
    is_urgent: bool,
    rounds: Rounds,
    /// When interfaces that others have were looked at last.
    looked: BootTime,
    /// When the last round ended.
    rounded: BootTime,
}

/// What deciding and performing has cost so far.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    count: u64,
    time: Duration,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            view: parts.election.view(),
            ahead: parts.election.view(),
            deadline: parts.election.deadline(),
            standings: parts.announcer.standings(),
            presences: parts.roll_call.presences(),
            conflicts: parts.announcer.conflicts(),
            parts,
            last: None,
            wanted: None,
            facts: None,
            memory: Memory::default(),
            in_flight: BTreeMap::new(),
            must_retry: false,
            is_untold: false,
            leaving_since: None,
            is_drained: false,
            pace: Pace::default(),
            slack: Slack::default(),
            moving: Moving::default(),
            is_urgent: false,
            rounds: Rounds::default(),
            looked: clock::boot_now(),
            rounded: clock::boot_now(),
        }
    }

    /// Runs until asked to end and everything is given away.
    ///
    /// # Errors
    ///
    /// The part that failed.
    pub(crate) async fn run(
        mut self,
        mut tasks: Tasks,
        mut requests: mpsc::Receiver<Request>,
        mut end: End,
    ) -> anyhow::Result<()> {
        // A report changes nothing, so nothing is decided anew after one.
        let mut changed_something = true;
        loop {
            if self.look() | std::mem::replace(&mut changed_something, true) {
                self.paced_round();
            }
            if self.may_leave() {
                self.parts.election.close().await;
                return Ok(());
            }
            let wait = (self.must_retry || !self.in_flight.is_empty()).then_some(RETRY);
            let wait = self.leaving_since.map(|_| RETRY / 10).or(wait);
            let wait = wait.map(|wait| self.since_round(wait));
            let wait = wait.into_iter().chain(self.until_clean()).chain(self.until_look());
            let wait = wait.chain(self.until_told()).min();
            let now = clock::boot_now();
            let slack = self.slack.wait(now);
            // In a burst of changes the next round takes in all that come until it begins. What
            // must be silent by then is so in the kernel, by its deadline.
            let rest =
                if self.is_urgent { self.pace.wait_urgent(now) } else { self.pace.wait(now) };
            let (is_rested, wait) = match rest.is_zero() {
                true => (true, wait),
                false => (false, Some(rest)),
            };
            tokio::select! {
                changed = self.view.changed(), if is_rested => {
                    open("election", changed, &mut tasks.election_task).await?;
                }
                changed = self.ahead.changed(), if !is_rested => {
                    open("election", changed, &mut tasks.election_task).await?;
                    let moving = Moving::of(&self.parts.me, &self.ahead.borrow_and_update());
                    self.is_urgent |= moving.is_more_than(&self.moving);
                    // The view itself is still to be taken in.
                    changed_something = false;
                }
                changed = self.standings.changed(), if is_rested => {
                    open("announcer", changed, &mut tasks.announcer_task).await?;
                }
                changed = self.parts.gate.changed() => changed.context("nobody keeps the gate")?,
                changed = self.presences.changed(), if is_rested => {
                    open("roll call", changed, &mut tasks.roll_call_task).await?;
                }
                // Only the API server is told of these by itself.
                changed = self.conflicts.changed(), if is_rested && self.parts.cluster.is_some() => {
                    open("announcer", changed, &mut tasks.announcer_task).await?;
                }
                changed = self.parts.snapshots.changed(), if is_rested => {
                    open("manifest watch", changed, &mut tasks.source_task).await?;
                }
                changed = self.parts.links.changed() => {
                    open("interface watch", changed, &mut tasks.links_task).await?;
                    let links = self.parts.links.borrow_and_update().clone();
                    self.parts.carriers.follow(&links);
                }
                Some(Request { ask, reply }) = requests.recv() => {
                    // A client that hung up needs no answer. What is asked for comes back as a
                    // change of the view.
                    let _ = reply.send(self.answer(ask));
                    changed_something = false;
                }
                () = self.parts.flows.ready() => {
                    self.read_flows();
                    changed_something = false;
                }
                () = end.asked(), if self.leaving_since.is_none() => self.leave(),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    changed_something = is_rested;
                }
                () = tokio::time::sleep(slack.unwrap_or_default()), if slack.is_some() => {
                    self.slack.given_back();
                    slack::give_back();
                    changed_something = false;
                }
                ended = &mut tasks.links_task => bail!(why("interface watch", ended)),
                ended = &mut tasks.source_task => bail!(why("manifest watch", ended)),
                ended = &mut tasks.announcer_task => bail!(why("announcer", ended)),
                ended = &mut tasks.roll_call_task => bail!(why("roll call", ended)),
                ended = &mut tasks.election_task => bail!(why("election", ended)),
                ended = &mut tasks.writer_task => bail!("the writer ended: {ended:?}"),
                ended = &mut tasks.leases_task => bail!("the task for Leases ended: {ended:?}"),
                ended = &mut tasks.status_task => bail!("the status socket ended: {ended:?}"),
            }
        }
    }

    fn paced_round(&mut self) {
        let begin = clock::boot_now();
        self.round(begin);
        let end = clock::boot_now();
        let took = end.since(begin);
        self.pace.spend(took, end);
        if let Some(cluster) = self.parts.cluster.as_mut().filter(|_| !self.is_untold) {
            cluster.spend(took, end);
        }
        self.slack.spend(took, end);
        self.rounds.count += 1;
        self.rounds.time += took;
        self.rounded = end;
    }

    /// What is left of a time that counts from the last round: what happens meanwhile without one,
    /// flow samples of busy Services many times a second, must not begin it anew.
    fn since_round(&self, time: Duration) -> Duration {
        time.saturating_sub(clock::boot_now().since(self.rounded))
    }

    /// Looks, when it is time to, whether another's program has left an interface; true if it
    /// looked.
    fn look(&mut self) -> bool {
        let is_due = self.until_look().is_some_and(|wait| wait.is_zero());
        if is_due {
            self.looked = clock::boot_now();
            let links = self.parts.links.borrow().clone();
            self.parts.carriers.follow(&links);
        }
        is_due
    }

    fn until_look(&self) -> Option<Duration> {
        let passed = clock::boot_now().since(self.looked);
        self.parts.carriers.is_waiting().then(|| LOOK.saturating_sub(passed))
    }

    /// How long until the API server is to be told of what was decided, if it has not been.
    fn until_told(&self) -> Option<Duration> {
        let cluster = self.parts.cluster.as_ref().filter(|_| self.is_untold)?;
        Some(cluster.rest(clock::boot_now()))
    }

    /// Decides and performs.
    fn round(&mut self, now: BootTime) {
        let view = self.view.borrow_and_update().clone();
        self.is_urgent = false;
        self.moving = Moving::of(&self.parts.me, &view);
        let snapshot = self.parts.snapshots.borrow_and_update().clone();
        let nodes = members::reachable(&snapshot.observed, self.parts.raft_port);
        self.parts.election.set_nodes(nodes);
        let links = self.parts.links.borrow_and_update().clone();
        self.standings.mark_unchanged();
        self.presences.mark_unchanged();
        self.conflicts.mark_unchanged();
        if !self.parts.gate.borrow_and_update().allows(view.epoch) {
            // What this node took now would be held by a mute.
            if self.wanted.take().is_some() {
                self.parts.election.set_wanted(Wanted::default());
            }
            return;
        }
        let is_rested = |cluster: &Cluster| cluster.rest(now).is_zero();
        let is_told =
            self.leaving_since.is_some() || self.parts.cluster.as_ref().is_some_and(is_rested);
        let decision = self.decide(&view, &snapshot, &links, is_told);
        self.publish(&decision);
        if !view.is_settled() && self.last.is_none() {
            return;
        }
        self.must_retry = !self.perform(&decision);
        if !self.must_retry && view.is_settled() {
            self.parts.fences.performed(view.epoch);
        }
        if !self.must_retry {
            for key in &decision.releases {
                self.parts.election.release(*key);
            }
            // Only now: what is given away while the kernel still speaks for it has two voices.
            if self.leaving_since.is_some() && !std::mem::replace(&mut self.is_drained, true) {
                self.parts.election.drain();
            }
        }
        self.put(&decision);
        if let Some(cluster) = &mut self.parts.cluster {
            // Who is the allocator no more stops at once.
            self.is_untold = !is_told && (decision.allocates || !cluster.allocates());
            if !self.is_untold {
                let conflicts = self.conflicts.borrow().clone();
                cluster.follow(&snapshot, &decision, &conflicts);
            }
        }
        self.last = Some(decision);
    }

    fn decide(
        &mut self,
        view: &View,
        snapshot: &Snapshot,
        links: &Links,
        is_reported: bool,
    ) -> Decision {
        let known = Knowledge {
            me: &self.parts.me,
            observed: &snapshot.observed,
            view,
            links,
            interfaces: &self.parts.carriers.carriers(),
            standings: &self.standings.borrow().clone(),
            presences: &self.presences.borrow().clone(),
            allocator: &self.parts.allocator,
            database: match self.parts.cluster {
                Some(_) => Database::ServiceStatus,
                None => Database::Records,
            },
            is_reported,
            leaving: self.leaving_since.is_some(),
        };
        decide(&known, &mut self.memory)
    }

    /// What the election and the other nodes should know.
    fn publish(&mut self, decision: &Decision) {
        if self.wanted.as_ref() != Some(&decision.wanted) {
            self.parts.election.set_wanted(decision.wanted.clone());
            self.wanted = Some(decision.wanted.clone());
        }
        if self.facts.as_ref() != Some(&decision.facts) {
            self.parts.election.set_facts(decision.facts.encode());
            self.facts = Some(decision.facts.clone());
        }
    }

    /// The data plane before the announcer: an announcement draws traffic. True if all took effect.
    fn perform(&mut self, decision: &Decision) -> bool {
        let mut done = true;
        let is_new = self.last.as_ref().is_none_or(|last| last.picture != decision.picture);
        let now = clock::boot_now().0;
        if let Some(datapath) = self.parts.carriers.datapath()
            && (is_new || self.must_retry || datapath.next_deadline().is_some_and(|at| at <= now))
            && let Err(error) = datapath.apply(&decision.picture)
        {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::error!(error, "cannot update the data plane");
            done = false;
        }
        let neighbourhood = Arc::new(decision.neighbourhood.clone());
        self.parts.announcer.set_among(Arc::new(decision.announced.clone()), neighbourhood);
        self.parts.roll_call.set(decision.silent.clone());
        self.tell(decision);
        done
    }

    /// How long until the data plane wants its picture again, to forget drained flows. A retry's
    /// time after the last round at the soonest: being late costs next to nothing.
    fn until_clean(&mut self) -> Option<Duration> {
        let at = self.parts.carriers.datapath()?.next_deadline()?;
        Some(at.saturating_sub(clock::boot_now().0).max(self.since_round(RETRY)))
    }

    /// Logs which VIPs were won and lost.
    fn tell(&self, decision: &Decision) {
        let none = BTreeMap::new();
        let before = self.last.as_ref().map_or(&none, |last| &last.announced.vips);
        let now = &decision.announced.vips;
        for (vip, interfaces) in now.iter().filter(|(vip, _)| !before.contains_key(vip)) {
            tracing::info!(%vip, ?interfaces, "speaking for a VIP");
        }
        for vip in before.keys().filter(|vip| !now.contains_key(vip)) {
            tracing::info!(%vip, "silent for a VIP");
        }
    }

    /// Sends the records that are not on their way already.
    fn put(&mut self, decision: &Decision) {
        let now = clock::boot_now();
        self.in_flight.retain(|key, _| decision.puts.contains_key(key));
        for (key, put) in &decision.puts {
            let waiting = self
                .in_flight
                .get(key)
                .is_some_and(|(sent, at)| sent == put && now.since(*at) < RETRY);
            if !waiting {
                let value = put.value.as_deref().map(String::from_utf8_lossy);
                tracing::info!(record = key, value = value.as_deref(), "writing");
                self.parts.election.put(key.clone(), put.value.clone(), put.guard);
                self.in_flight.insert(key.clone(), (put.clone(), now));
            }
        }
    }

    /// From the next round on everything is silenced, then given away; the kernel keeps forwarding.
    fn leave(&mut self) {
        tracing::info!("asked to end: giving all claims away");
        self.leaving_since = Some(clock::boot_now());
    }

    /// Whether everything this speaker held is held by others, or nobody will take it.
    fn may_leave(&self) -> bool {
        let Some(since) = self.leaving_since else { return false };
        let view = self.view.borrow();
        let others = view.sessions.values().any(|session| {
            session.node != self.parts.me && view.is_alive(&session.node) && !session.draining
        });
        let orphans = || {
            let vips = self.last.iter().flat_map(|decision| &decision.vips);
            let mut takers =
                vips.filter(|(_, vip)| vip.eligible.keys().any(|n| *n != self.parts.me));
            takers.any(|(ip, _)| {
                let key = herald_leader_election::ClaimKey::Vip(*ip);
                view.holder(&key).is_none_or(|holder| *holder == self.parts.me)
            })
        };
        !others || !orphans() || clock::boot_now().since(since) > PATIENCE
    }
}
