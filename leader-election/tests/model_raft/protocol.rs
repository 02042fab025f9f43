//! What each step takes and does, with and without flaws; what it means is said in `main`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

use super::state::{Leading, Node, State, Step, follow, pass};

pub const NODES: usize = 3;
/// A voter's promise (1), in steps.
const PROMISE: u8 = 2;
/// What a grant lasts, in steps.
pub const TTL: u8 = 3;
/// What deadlines are shortened by, and the most that a slow clock then makes of them.
const MARGIN: u8 = 1;

/// What is wrong with the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Nothing,
    /// A claim is taken while the holder's session is open and its grant may last.
    TakeoverWithoutRevocation,
    /// A silent session is revoked without waiting for its grant to end.
    RevocationWithoutWaiting,
    /// The kernel speaks as long as the process has not told it otherwise.
    NoFence,
    /// Becoming leader, a node keeps what it was granted as a follower (2).
    KeepsGrantAsLeader,
    /// A restarted process does not know what it promised (1).
    ForgetsPromise,
    /// A process that did not lead in the last term it knows stands at once as if it had (12).
    ResumesWithoutProof,
    /// Leadership is handed on by a leader that goes on speaking (2).
    HandsOnAloud,
    /// A leader grants before its `Lead` is decided (3).
    GrantsBeforeLead,
    /// The leader before is revoked at once though it renewed (4).
    RevokesAnyPredecessor,
    /// A claim is handed over before it is silenced (7).
    HandsOverAloud,
    /// A claim applies whatever its term.
    AppliesAnyTerm,
    /// Clocks differ by more than the margin.
    Drift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub flaw: Flaw,
    pub crashes: u8,
    /// Nobody else crashes.
    pub only_leaders_crash: bool,
    pub freezes: u8,
    pub most_raft_term: u8,
    pub most_claim_term: u8,
    /// How often a claim or leadership is handed over.
    pub hands: u8,
    /// Claims are proposed in one step and decided in another, two of them at a time.
    pub late_claims: bool,
    /// Revoked nodes come back; always so once all is well.
    pub reopens: bool,
}

impl Protocol {
    /// What a clock as slow as can be makes of a deadline.
    fn stretched(&self, time: u8) -> u8 {
        time - MARGIN + if self.flaw == Flaw::Drift { MARGIN + 1 } else { MARGIN }
    }

    fn speaks(&self, node: &Node) -> bool {
        node.holds && (node.deadline > 0 || self.flaw == Flaw::NoFence)
    }

    fn can(&self, s: &State, step: Step) -> bool {
        match step {
            Step::Time => true,
            Step::Crash(n) => {
                let may = !self.only_leaders_crash || s.nodes[n].leading.is_some();
                may && s.nodes[n].up && s.crashes < self.crashes
            }
            Step::Restart(n) => !s.nodes[n].up,
            Step::Freeze(n) => s.nodes[n].acts() && s.freezes < self.freezes,
            Step::Thaw(n) => s.nodes[n].frozen,
            Step::Elect(n, voter) => {
                let votes = |n: usize| {
                    let node = &s.nodes[n];
                    node.acts() && node.promise == 0 && node.raft_term <= s.newest_term()
                };
                n != voter
                    && s.newest_term() < self.most_raft_term
                    && s.nodes[n].leading.is_none()
                    && votes(n)
                    && votes(voter)
            }
            Step::Resume(n, voter) => {
                let node = &s.nodes[n];
                n != voter
                    && node.acts()
                    && node.resumes
                    && node.raft_term == s.newest_term()
                    && s.newest_term() < self.most_raft_term
                    && s.nodes[voter].acts()
            }
            Step::DecideLead(n) => {
                s.leader(n).is_some_and(|leading| !leading.lead_decided) && s.decides(n)
            }
            Step::Ask(n, voter) => {
                n != voter
                    && s.leader(n).is_some()
                    && s.nodes[voter].acts()
                    && s.nodes[voter].raft_term <= s.nodes[n].raft_term
            }
            Step::Renew(n, m) => {
                n != m
                    && s.leader(n).is_some()
                    && s.nodes[m].acts()
                    && s.nodes[m].raft_term == s.nodes[n].raft_term
                    && s.open[m]
            }
            Step::TakeGrant(n) => {
                let node = &s.nodes[n];
                node.acts() && node.renewal > node.deadline
            }
            Step::Revoke(n, m) => {
                n != m && s.holder == Some(m as u8) && s.confirmed(n) && {
                    let leading = s.nodes[n].leading.unwrap_or_default();
                    let led_before = usize::from(leading.predecessor) == m && !leading.heard;
                    let any = self.flaw == Flaw::RevokesAnyPredecessor
                        && usize::from(leading.predecessor) == m;
                    led_before
                        || any
                        || leading.patience == 0
                        || self.flaw == Flaw::RevocationWithoutWaiting
                }
            }
            Step::Claim(n, m) => {
                let free = match s.holder {
                    None => true,
                    Some(holder) => {
                        self.flaw == Flaw::TakeoverWithoutRevocation && usize::from(holder) != m
                    }
                };
                let room = s.proposed[1].is_none() && s.claim_term < self.most_claim_term;
                free && s.open[m] && s.confirmed(n) && room
            }
            Step::Decide => s.proposed[0].is_some() && (0..NODES).any(|n| s.leads_all(n)),
            Step::Give(n) => s.nodes[n].acts() && s.nodes[n].holds && s.hands < self.hands,
            Step::HandOver(n, m, to) => {
                let asked = s.nodes[m].gives && s.holder == Some(m as u8);
                let room = s.claim_term < self.most_claim_term;
                m != to && asked && s.open[to] && s.confirmed(n) && room
            }
            Step::HandOn(n, m) => {
                n != m
                    && s.leader(n).is_some_and(|leading| leading.lead_decided)
                    && s.nodes[m].acts()
                    && s.nodes[m].raft_term == s.nodes[n].raft_term
                    && !s.nodes[m].asked
                    && s.hands < self.hands
            }
            // It breaks promises (raft thesis 3.10).
            Step::TakeOver(n, voter) => {
                n != voter
                    && s.nodes[n].acts()
                    && s.nodes[n].asked
                    && s.nodes[voter].acts()
                    && s.nodes[n].raft_term == s.newest_term()
                    && s.newest_term() < self.most_raft_term
            }
            Step::Reopen(n) => self.reopens && !s.open[n] && s.nodes[n].acts() && !s.nodes[n].holds,
            Step::Learn(n) => {
                let holds = s.holder == Some(n as u8);
                let node = &s.nodes[n];
                node.acts() && (node.holds != (holds && !node.gives) || (node.gives && !holds))
            }
        }
    }

    fn after(&self, s: &State, step: Step) -> State {
        let mut s = *s;
        match step {
            Step::Time => pass(&mut s),
            Step::Crash(n) => {
                s.crashes += 1;
                let node = &mut s.nodes[n];
                (node.up, node.frozen, node.leading) = (false, false, None);
                // What it asked for was asked by a session that the next process ends.
                node.resumes = false;
                (node.renewal, node.gives, node.asked) = (0, false, false);
            }
            Step::Restart(n) => {
                s.nodes[n].up = true;
                s.nodes[n].resumes = s.nodes[n].led || self.flaw == Flaw::ResumesWithoutProof;
                if self.flaw != Flaw::ForgetsPromise {
                    s.nodes[n].promise = PROMISE;
                } else {
                    s.nodes[n].promise = 0;
                }
            }
            Step::Freeze(n) => {
                s.freezes += 1;
                s.nodes[n].frozen = true;
            }
            Step::Thaw(n) => s.nodes[n].frozen = false,
            Step::Elect(n, voter) | Step::Resume(n, voter) | Step::TakeOver(n, voter) => {
                let term = s.newest_term() + 1;
                for m in [n, voter] {
                    follow(&mut s.nodes[m], term);
                }
                s.nodes[n].led = true;
                // What a resumed leader's kernel speaks by is its own quorum lease.
                let speaks_on = matches!(step, Step::Resume(..));
                if self.flaw != Flaw::KeepsGrantAsLeader && !speaks_on {
                    s.nodes[n].deadline = 0;
                }
                s.nodes[n].leading =
                    Some(Leading { predecessor: s.last_lead, patience: TTL, ..Leading::default() });
            }
            Step::DecideLead(n) => {
                s.last_lead = n as u8;
                if let Some(leading) = &mut s.nodes[n].leading {
                    leading.lead_decided = true;
                }
                s.speak_as_leader(n);
            }
            Step::Ask(n, voter) => {
                let term = s.nodes[n].raft_term;
                follow(&mut s.nodes[voter], term);
                s.nodes[voter].promise = PROMISE;
                let lease = self.stretched(PROMISE);
                if let Some(leading) = &mut s.nodes[n].leading {
                    leading.lease = lease;
                }
                s.speak_as_leader(n);
            }
            Step::Renew(n, m) => {
                let early = self.flaw == Flaw::GrantsBeforeLead;
                if let Some(leading) = &mut s.nodes[n].leading {
                    if s.holder == Some(m as u8) {
                        leading.patience = TTL;
                    }
                    leading.heard |= usize::from(leading.predecessor) == m;
                    if (leading.lead_decided || early) && leading.lease > 0 && !leading.forfeited {
                        s.nodes[m].renewal = self.stretched(TTL);
                    }
                }
            }
            Step::TakeGrant(n) => s.nodes[n].deadline = s.nodes[n].renewal,
            Step::Revoke(_, m) => {
                s.open[m] = false;
                s.holder = s.holder.filter(|holder| usize::from(*holder) != m);
            }
            Step::Claim(_, m) if self.late_claims => {
                let free = usize::from(s.proposed[0].is_some());
                s.proposed[free] = Some((m as u8, s.claim_term + 1));
            }
            Step::Claim(_, m) => {
                let term = s.claim_term + 1;
                s.claimed(m, term);
            }
            Step::Decide => {
                let first = s.proposed[0];
                s.proposed = [s.proposed[1], None];
                if let Some((m, term)) = first {
                    let m = usize::from(m);
                    let is_next = term == s.claim_term + 1 || self.flaw == Flaw::AppliesAnyTerm;
                    if is_next && s.holder.is_none() && s.open[m] {
                        s.claimed(m, term);
                    }
                }
            }
            Step::Give(n) => {
                s.hands += 1;
                s.nodes[n].gives = true;
                s.nodes[n].holds = self.flaw == Flaw::HandsOverAloud;
            }
            Step::HandOver(_, _, to) => {
                let term = s.claim_term + 1;
                s.claimed(to, term);
            }
            Step::HandOn(n, m) => {
                s.hands += 1;
                s.nodes[m].asked = true;
                if self.flaw != Flaw::HandsOnAloud {
                    s.nodes[n].deadline = 0;
                    if let Some(leading) = &mut s.nodes[n].leading {
                        leading.forfeited = true;
                    }
                }
            }
            Step::Reopen(n) => s.open[n] = true,
            Step::Learn(n) => {
                let holds = s.holder == Some(n as u8);
                s.nodes[n].gives &= holds;
                s.nodes[n].holds = holds && !s.nodes[n].gives;
            }
        }
        s
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Time, Step::Decide];
        for n in 0..NODES {
            steps.extend([Step::Crash(n), Step::Restart(n), Step::Freeze(n), Step::Thaw(n)]);
            steps.extend([Step::DecideLead(n), Step::TakeGrant(n)]);
            steps.extend([Step::Reopen(n), Step::Learn(n), Step::Give(n)]);
            for m in 0..NODES {
                steps.extend([Step::Elect(n, m), Step::Ask(n, m), Step::Renew(n, m)]);
                steps.push(Step::Resume(n, m));
                steps.extend([Step::Revoke(n, m), Step::Claim(n, m)]);
                steps.extend([Step::HandOn(n, m), Step::TakeOver(n, m)]);
                steps.extend((0..NODES).map(|to| Step::HandOver(n, m, to)));
            }
        }
        steps
    }

    /// Whether the VIP has a voice again, once nothing goes wrong any more and everybody does what
    /// it can: thaw, restart, elect, and so on, and then time. Looking ahead from each state anew
    /// would take many times longer than the search: where one way to a voice meets another, it
    /// ends.
    fn heals(&self, from: &State) -> bool {
        let well = Self {
            most_raft_term: u8::MAX,
            most_claim_term: u8::MAX,
            reopens: true,
            hands: 0,
            ..*self
        };
        let mut s = State { crashes: 0, freezes: 0, hands: 0, ..*from };
        for n in 0..NODES {
            for step in [Step::Thaw(n), Step::Restart(n)] {
                if well.can(&s, step) {
                    s = well.after(&s, step);
                }
            }
        }
        let mut way = Vec::new();
        for _ in 0..8 * TTL {
            let here = (self.late_claims, s);
            if s.nodes.iter().any(|node| well.speaks(node)) || is_on_a_way(&here) {
                remember(&way);
                return true;
            }
            way.push(here);
            s = well.round(&s);
        }
        false
    }

    /// Each node does once what it can, and then time passes.
    fn round(&self, from: &State) -> State {
        let mut s = *from;
        let newest = s.newest_term();
        let leads = |leading: Leading| !leading.forfeited;
        let mut nodes = s.nodes.iter();
        let led = nodes.any(|node| node.leading.is_some_and(leads) && node.raft_term == newest);
        for step in self.steps() {
            let goes_wrong = matches!(step, Step::Time | Step::Crash(_) | Step::Freeze(_));
            let elects = matches!(step, Step::Elect(..) | Step::Resume(..) | Step::TakeOver(..));
            let usurps = elects && led;
            // Nobody that renews is revoked.
            if !goes_wrong && !usurps && self.can(&s, step) {
                s = self.after(&s, step);
                if elects {
                    break;
                }
            }
        }
        self.after(&s, Step::Time)
    }
}

/// A state on the way to a voice, and whether claims are decided late in it.
type Waypoint = (bool, State);

thread_local! {
    /// By fingerprint, as the search itself knows the states that it has seen.
    static WAYS: RefCell<HashSet<u64>> = RefCell::default();
}

fn is_on_a_way(here: &Waypoint) -> bool {
    WAYS.with_borrow(|ways| ways.contains(&fingerprint(here)))
}

fn remember(way: &[Waypoint]) {
    WAYS.with_borrow_mut(|ways| ways.extend(way.iter().map(fingerprint)));
}

fn fingerprint(here: &Waypoint) -> u64 {
    let mut hasher = DefaultHasher::new();
    here.hash(&mut hasher);
    hasher.finish()
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    /// The first node leads; it or another one holds the VIP.
    fn init_states(&self) -> Vec<State> {
        let start = |holder: u8| {
            let up = Node { up: true, raft_term: 1, ..Node::default() };
            let mut s = State {
                nodes: [up; NODES],
                open: [true; NODES],
                holder: Some(holder),
                claim_term: 1,
                last_lead: 0,
                proposed: [None; 2],
                term_fell: false,
                crashes: 0,
                freezes: 0,
                hands: 0,
            };
            s.nodes[usize::from(holder)].holds = true;
            s.nodes[0].led = true;
            s.nodes[0].leading =
                Some(Leading { lead_decided: true, patience: TTL, ..Leading::default() });
            s
        };
        vec![start(0), start(1)]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Step>) {
        actions.extend(self.steps().into_iter().filter(|step| self.can(s, *step)));
    }

    fn next_state(&self, s: &State, step: Step) -> Option<State> {
        let next = self.after(s, step);
        (next != *s).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let one_voice = Property::<Self>::always("one voice", |protocol, s| {
            s.nodes.iter().filter(|node| protocol.speaks(node)).count() <= 1
        });
        let terms_grow = Property::<Self>::always("terms grow", |_, s| !s.term_fell);
        match self.flaw {
            Flaw::Nothing => {}
            Flaw::AppliesAnyTerm => return vec![terms_grow],
            _ => return vec![one_voice],
        }
        vec![
            one_voice,
            terms_grow,
            Property::<Self>::sometimes("the VIP moves", |protocol, s| {
                s.claim_term > 1 && s.nodes.iter().any(|node| protocol.speaks(node))
            }),
            Property::<Self>::always("a holder is found once all is well", |protocol, s| {
                protocol.heals(s)
            }),
        ]
    }
}
