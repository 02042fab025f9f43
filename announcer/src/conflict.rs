//! Whether somebody outside the cluster uses a VIP, and what follows from it (RFC 5227, RFC 4862).
//!
//! Pure: `handle(input, now) -> actions`; timers are data. Must never call a speaker of this
//! cluster foreign: late frames of a VIP's last holder are no conflict. Read [`crate::claim`]
//! first, which says what counts as a claim.
//!
//! A VIP that nobody ever announced is probed first. The RFC's schedule takes four to seven seconds
//! (2.1.1: PROBE_WAIT, three probes PROBE_MIN to PROBE_MAX apart, ANNOUNCE_WAIT), where a Service
//! shall be announced within 50 ms. So the probes are 10 ms apart and the verdict falls after 30
//! ms. Given up: a host that answers later than that (Wi-Fi in power save delivers broadcasts at
//! beacons, about 100 ms apart), one whose port a switch still blocks, and the random delays
//! against many hosts starting at once. Most of it is had back by probation: for the rest of the
//! RFC's time a claim heard late still takes the VIP back, as if the full schedule had been waited
//! out. IPv6 likewise: RFC 4862 5.1 has one probe and RetransTimer (1 s).
//!
//! A VIP that was in use before, by another speaker, is announced at once: probing would lengthen
//! every failover. From then on, and after probation, RFC 5227 2.4 (c) applies: the address is kept
//! "under any circumstances", since only an operator can know which of two users is wrong; one
//! announcement in DEFEND_INTERVAL defends it, and the conflict is reported. IPv6 has no rule of
//! its own for this (RFC 4862 5.4.5 leaves it open) and is treated alike.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::burst::Key;
use crate::claim::{Claim, Form};
use crate::reasons::reasons;
use crate::wire::MacAddr;

/// How long everything takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Probes before the verdict (RFC 5227 1.1: PROBE_NUM, 3).
    pub probes: u32,
    /// Between two probes (PROBE_MIN to PROBE_MAX, 1 to 2 s; shortened, see the file's head).
    pub spacing: Duration,
    /// From the last probe to the verdict (ANNOUNCE_WAIT, 2 s; shortened likewise).
    pub patience: Duration,
    /// From the verdict on, how long a foreign claim still takes the VIP back.
    pub probation: Duration,
    /// From one defence to the next (DEFEND_INTERVAL, 10 s).
    pub defend_interval: Duration,
    /// How soon a blocked VIP is probed again after the last foreign claim.
    pub retry: Duration,
    /// How long a defended conflict is reported after the last foreign claim.
    pub memory: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probes: 3,
            spacing: Duration::from_millis(10),
            patience: Duration::from_millis(10),
            // The longest the RFC's own schedule can take: 1 + 2 x 2 + 2 s.
            probation: Duration::from_secs(7),
            defend_interval: Duration::from_secs(10),
            retry: Duration::from_secs(30),
            memory: Duration::from_secs(300),
        }
    }
}

/// What is wanted for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To know whether it is free.
    Probe,
    /// To announce it.
    Announce,
}

/// A VIP that is probed or announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Grows when the VIP is lost and gained again.
    pub since: u64,
    /// What for.
    pub intent: Intent,
    /// Names of the interfaces that can be heard on now, by index; may be none for a while.
    pub interfaces: BTreeMap<u32, String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What is wanted now, in full.
    Wanted {
        /// Every VIP.
        vips: BTreeMap<IpAddr, Want>,
        /// MACs that are not foreign: this machine's and those of the cluster's other speakers.
        ours: BTreeSet<MacAddr>,
    },
    /// A frame claimed an address.
    Heard {
        /// Index of the interface it came in by.
        ifindex: u32,
        /// What it claims.
        claim: Claim,
    },
    /// Time passed.
    Tick,
}

/// One side effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask whether anybody has the VIP.
    Probe(Key),
    /// Send one announcement against a foreign claim.
    Defend(Key),
}

reasons! {
    /// What is known of a VIP's use by others.
    pub enum Standing {
        /// Not known yet; it must not be announced.
        Probing = "probing",
        /// Nobody else was heard to use it, or it is ours anyway.
        Clear = "clear",
        /// Somebody else uses it; it must not be announced.
        Blocked = "address_in_use",
    }
}

reasons! {
    /// What is done about a conflict.
    pub enum ConflictState {
        /// The VIP is not announced; it is probed again from time to time.
        Blocked = "blocked",
        /// The VIP is announced, and defended now and then.
        Defended = "defended",
    }
}

/// A foreign use of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who claims it.
    pub mac: MacAddr,
    /// The interface it was heard on.
    pub interface: String,
    /// When this claimant was first heard, as time since boot.
    pub since: Duration,
    /// Claims heard since. A report may lag behind by one defence interval or one retry.
    pub count: u64,
    /// What is done about it.
    pub state: ConflictState,
}

/// All VIPs, and what is known of their use by others. Times are durations since boot.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    timing: Timing,
    ours: BTreeSet<MacAddr>,
    watches: BTreeMap<IpAddr, Watch>,
    is_news: bool,
}

#[derive(Clone, Debug)]
struct Watch {
    want: Want,
    state: State,
    conflict: Option<Conflict>,
    last_heard: Duration,
    last_defended: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Probing { sent: u32, due: Duration },
    Clear { on_probation_until: Duration },
    Blocked { retry_at: Duration },
}

impl Conflicts {
    /// No VIPs yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// Takes in what happened, and says what to do now. After a change of what is wanted, the
    /// first probe is due at once: a [`Input::Tick`] brings it.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Action> {
        match input {
            Input::Wanted { vips, ours } => {
                self.want(vips, now);
                self.know(ours, now);
                Vec::new()
            }
            Input::Heard { ifindex, claim } => self.hear(ifindex, claim, now).into_iter().collect(),
            Input::Tick => self.tick(now),
        }
    }

    /// When [`Input::Tick`] has something to do; `None` if never, unless something happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.watches.values().filter_map(|watch| watch.deadline(&self.timing)).min()
    }

    /// Whether the VIP may be announced.
    pub fn is_clear(&self, vip: IpAddr) -> bool {
        self.watches.get(&vip).is_some_and(|watch| watch.standing() == Standing::Clear)
    }

    /// Every VIP's standing.
    pub fn standings(&self) -> BTreeMap<IpAddr, Standing> {
        self.watches.iter().map(|(vip, watch)| (*vip, watch.standing())).collect()
    }

    /// Every conflict there is.
    pub fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        let conflict = |(vip, watch): (&IpAddr, &Watch)| Some((*vip, watch.conflict.clone()?));
        self.watches.iter().filter_map(conflict).collect()
    }

    /// Whether standings or conflicts have changed since the last call. One more claim of a known
    /// conflict is no news: RFC 5227 2.4 (c) wants the number of notifications controlled, and
    /// whoever claims decides how often.
    #[must_use]
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    fn want(&mut self, mut vips: BTreeMap<IpAddr, Want>, now: Duration) {
        let before = self.watches.len();
        self.watches
            .retain(|vip, watch| vips.get(vip).is_some_and(|want| want.since == watch.want.since));
        self.is_news |= self.watches.len() != before;
        for (vip, watch) in &mut self.watches {
            if let Some(want) = vips.remove(vip) {
                self.is_news |= watch.follow(want, now);
            }
        }
        self.is_news |= !vips.is_empty();
        self.watches.extend(vips.into_iter().map(|(vip, want)| (vip, Watch::new(want, now))));
    }

    /// A claimant that turns out to be ours has claimed nothing.
    fn know(&mut self, ours: BTreeSet<MacAddr>, now: Duration) {
        if self.ours == ours {
            return;
        }
        self.ours = ours;
        for watch in self.watches.values_mut() {
            if watch.conflict.as_ref().is_some_and(|conflict| self.ours.contains(&conflict.mac)) {
                watch.conflict = None;
                if let State::Blocked { .. } = watch.state {
                    watch.state = State::probing(now);
                }
                self.is_news = true;
            }
        }
    }

    fn hear(&mut self, ifindex: u32, claim: Claim, now: Duration) -> Option<Action> {
        if self.ours.contains(&claim.mac) {
            return None;
        }
        let watch = self.watches.get_mut(&claim.address)?;
        let interface = watch.want.interfaces.get(&ifindex)?.clone();
        match watch.answer(claim.form, now) {
            Answer::None => None,
            Answer::Block => {
                self.is_news |= watch.block(claim.mac, interface, &self.timing, now);
                None
            }
            Answer::Defend => {
                let is_due = watch.record_defence(claim.mac, interface, &self.timing, now);
                self.is_news |= is_due;
                is_due.then_some(Action::Defend(Key { vip: claim.address, ifindex }))
            }
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&vip, watch) in &mut self.watches {
            if watch.deadline(&self.timing).is_none_or(|deadline| deadline > now) {
                continue;
            }
            if let State::Blocked { .. } = watch.state {
                watch.state = State::probing(now);
                self.is_news = true;
            }
            match watch.state {
                State::Probing { sent, .. } if sent < self.timing.probes => {
                    let sent = sent + 1;
                    let is_last = sent == self.timing.probes;
                    let wait = if is_last { self.timing.patience } else { self.timing.spacing };
                    watch.state = State::Probing { sent, due: now + wait };
                    let interfaces = watch.want.interfaces.keys();
                    actions.extend(interfaces.map(|&ifindex| Action::Probe(Key { vip, ifindex })));
                }
                State::Probing { .. } => {
                    let on_probation_until = now + self.timing.probation;
                    watch.state = State::Clear { on_probation_until };
                    watch.conflict = None;
                    self.is_news = true;
                }
                // The conflict is old enough to be forgotten.
                State::Clear { .. } | State::Blocked { .. } => {
                    watch.conflict = None;
                    self.is_news = true;
                }
            }
        }
        actions
    }
}

/// What to do about a foreign claim.
enum Answer {
    None,
    Block,
    Defend,
}

impl Watch {
    /// A VIP that is to be announced is not asked about.
    fn new(want: Want, now: Duration) -> Self {
        let state = match want.intent {
            Intent::Probe => State::probing(now),
            Intent::Announce => State::Clear { on_probation_until: Duration::ZERO },
        };
        Self { want, state, conflict: None, last_heard: Duration::ZERO, last_defended: None }
    }

    const fn standing(&self) -> Standing {
        match self.state {
            State::Probing { .. } => Standing::Probing,
            State::Clear { .. } => Standing::Clear,
            State::Blocked { .. } => Standing::Blocked,
        }
    }

    /// Follows a change of intent or of interfaces. True if the standing changed.
    fn follow(&mut self, want: Want, now: Duration) -> bool {
        let has_new_link =
            want.interfaces.keys().any(|index| !self.want.interfaces.contains_key(index));
        let before = std::mem::replace(&mut self.want, want);
        let state = match (before.intent, self.want.intent, self.state) {
            // Whoever says so knows that the VIP was in use before. But a verdict that was just
            // overturned stands: the caller has not heard of it yet.
            (Intent::Probe, Intent::Announce, State::Probing { .. }) => {
                State::Clear { on_probation_until: Duration::ZERO }
            }
            (Intent::Announce, Intent::Probe, State::Clear { .. }) => State::probing(now),
            // On a link that was not asked, or not for a while.
            (_, Intent::Probe, _) if has_new_link => State::probing(now),
            (_, _, State::Probing { .. } | State::Blocked { .. }) if has_new_link => {
                State::probing(now)
            }
            (_, _, state) => state,
        };
        let standing = self.standing();
        self.state = state;
        if let (true, State::Clear { .. }) = (self.standing() != standing, self.state) {
            self.conflict = None;
        }
        self.standing() != standing
    }

    fn answer(&self, form: Form, now: Duration) -> Answer {
        match (self.state, self.want.intent, form) {
            (State::Clear { .. }, Intent::Announce, Form::Probe) => Answer::None,
            (State::Clear { on_probation_until }, Intent::Announce, Form::Use)
                if now >= on_probation_until =>
            {
                Answer::Defend
            }
            _ => Answer::Block,
        }
    }

    /// True if this is news.
    fn block(&mut self, mac: MacAddr, interface: String, timing: &Timing, now: Duration) -> bool {
        let is_news = self.standing() != Standing::Blocked;
        self.state = State::Blocked { retry_at: now + timing.retry };
        self.record(mac, interface, ConflictState::Blocked, is_news, now);
        is_news
    }

    /// True if the defence is due.
    fn record_defence(
        &mut self,
        mac: MacAddr,
        interface: String,
        timing: &Timing,
        now: Duration,
    ) -> bool {
        let is_due = self.last_defended.is_none_or(|last| now >= last + timing.defend_interval);
        if is_due {
            self.last_defended = Some(now);
        }
        self.record(mac, interface, ConflictState::Defended, is_due, now);
        is_due
    }

    /// Counts the claim. Who claims is looked at only when it is news, so that two claimants in
    /// turn do not make every frame a report.
    fn record(
        &mut self,
        mac: MacAddr,
        interface: String,
        state: ConflictState,
        is_news: bool,
        now: Duration,
    ) {
        self.last_heard = now;
        match &mut self.conflict {
            Some(known) if !is_news || (known.mac, known.state) == (mac, state) => known.count += 1,
            known => *known = Some(Conflict { mac, interface, since: now, count: 1, state }),
        }
    }

    fn deadline(&self, timing: &Timing) -> Option<Duration> {
        match self.state {
            State::Probing { due, .. } => (!self.want.interfaces.is_empty()).then_some(due),
            State::Blocked { retry_at } => Some(retry_at),
            State::Clear { .. } => self.conflict.as_ref().map(|_| self.last_heard + timing.memory),
        }
    }
}

impl State {
    const fn probing(now: Duration) -> Self {
        Self::Probing { sent: 0, due: now }
    }
}

#[cfg(test)]
mod tests;
