//! The protocol's states and steps; what they mean is said in the file beside this one.

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

const NODES: usize = 3;
/// A voter's promise (1), in steps.
const PROMISE: u8 = 2;
/// What a grant lasts, in steps.
const TTL: u8 = 3;
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
    /// Clocks differ by more than the margin.
    Drift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub flaw: Flaw,
    pub crashes: u8,
    /// Nobody else crashes, and what becomes of it once all is well is another search's matter.
    pub only_leaders_crash: bool,
    pub freezes: u8,
    pub most_raft_term: u8,
    pub most_claim_term: u8,
    /// Revoked nodes come back; always so once all is well.
    pub reopens: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    up: bool,
    frozen: bool,
    raft_term: u8,
    /// Its log says that it was elected in this term (12).
    led: bool,
    /// It was started with such a log and did not stand yet.
    resumes: bool,
    /// Until it votes for somebody.
    promise: u8,
    /// What the kernel goes by: that it holds the VIP, and how long it may still speak.
    holds: bool,
    deadline: u8,
    /// What a grant that is under way is still worth.
    renewal: u8,
    leading: Option<Leading>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Leading {
    lead_decided: bool,
    lease: u8,
    predecessor: u8,
    /// How long the holder must stay silent to be revoked (nobody else is: it would change nothing);
    /// whether the predecessor renewed.
    patience: u8,
    heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    nodes: [Node; NODES],
    // What is decided.
    open: [bool; NODES],
    holder: Option<u8>,
    claim_term: u8,
    last_lead: u8,
    crashes: u8,
    freezes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Time,
    Crash(usize),
    Restart(usize),
    Freeze(usize),
    Thaw(usize),
    /// The first is elected with the vote of the second.
    Elect(usize, usize),
    /// The same for a process that led when it ended, in spite of the second's promise (12).
    Resume(usize, usize),
    DecideLead(usize),
    /// The leader asks a voter, which answers. A later answer is worth less and proves no more.
    Ask(usize, usize),
    /// A renewal reaches the leader at once (any later, and its sender is more patiently waited
    /// for), which grants it if it may; the grant arrives at any time, or not.
    Renew(usize, usize),
    TakeGrant(usize),
    Revoke(usize, usize),
    Claim(usize, usize),
    Reopen(usize),
    /// A node applies what is decided.
    Learn(usize),
}

impl Node {
    fn acts(&self) -> bool {
        self.up && !self.frozen
    }

    fn enter(&mut self, term: u8) {
        self.raft_term = term;
        (self.led, self.resumes) = (false, false);
        self.renewal = 0;
    }
}

impl State {
    fn newest_term(&self) -> u8 {
        self.nodes.iter().map(|node| node.raft_term).max().unwrap_or(0)
    }

    /// The leader at `n`, if its process acts.
    fn leader(&self, n: usize) -> Option<&Leading> {
        self.nodes[n].leading.as_ref().filter(|_| self.nodes[n].acts())
    }

    /// Whether what the leader at `n` proposes is decided: a quorum follows no newer leader.
    fn decides(&self, n: usize) -> bool {
        let term = self.nodes[n].raft_term;
        let follows = |(m, node): (usize, &Node)| m != n && node.acts() && node.raft_term <= term;
        term == self.newest_term() && self.nodes.iter().enumerate().any(follows)
    }

    fn confirmed(&self, n: usize) -> bool {
        self.leader(n).is_some_and(|leading| leading.lead_decided && leading.lease > 0)
            && self.decides(n)
    }

    /// A leader's voice is its lease and nothing else (2).
    fn speak_as_leader(&mut self, n: usize) {
        if let Some(leading) = &self.nodes[n].leading
            && leading.lead_decided
            && self.open[n]
        {
            self.nodes[n].deadline = self.nodes[n].deadline.max(leading.lease);
        }
    }
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
                    led_before
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
                free && s.open[m] && s.confirmed(n) && s.claim_term < self.most_claim_term
            }
            Step::Reopen(n) => self.reopens && !s.open[n] && s.nodes[n].acts() && !s.nodes[n].holds,
            Step::Learn(n) => s.nodes[n].acts() && s.nodes[n].holds != (s.holder == Some(n as u8)),
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
                node.resumes = false;
                node.renewal = 0;
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
            Step::Elect(n, voter) | Step::Resume(n, voter) => {
                let term = s.newest_term() + 1;
                for m in [n, voter] {
                    let node = &mut s.nodes[m];
                    // Whoever stops leading is silent at once, before its vote can leave.
                    if node.leading.take().is_some() {
                        node.deadline = 0;
                    }
                    node.enter(term);
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
                if let Some(leading) = &mut s.nodes[n].leading {
                    if s.holder == Some(m as u8) {
                        leading.patience = TTL;
                    }
                    leading.heard |= usize::from(leading.predecessor) == m;
                    if leading.lead_decided && leading.lease > 0 {
                        s.nodes[m].renewal = self.stretched(TTL);
                    }
                }
            }
            Step::TakeGrant(n) => s.nodes[n].deadline = s.nodes[n].renewal,
            Step::Revoke(_, m) => {
                s.open[m] = false;
                s.holder = s.holder.filter(|holder| usize::from(*holder) != m);
            }
            Step::Claim(_, m) => {
                (s.holder, s.claim_term) = (Some(m as u8), s.claim_term + 1);
                for leading in s.nodes.iter_mut().filter_map(|node| node.leading.as_mut()) {
                    leading.patience = TTL;
                }
            }
            Step::Reopen(n) => s.open[n] = true,
            Step::Learn(n) => s.nodes[n].holds = s.holder == Some(n as u8),
        }
        s
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Time];
        for n in 0..NODES {
            steps.extend([Step::Crash(n), Step::Restart(n), Step::Freeze(n), Step::Thaw(n)]);
            steps.extend([Step::DecideLead(n), Step::TakeGrant(n)]);
            steps.extend([Step::Reopen(n), Step::Learn(n)]);
            for m in 0..NODES {
                steps.extend([Step::Elect(n, m), Step::Ask(n, m), Step::Renew(n, m)]);
                steps.push(Step::Resume(n, m));
                steps.extend([Step::Revoke(n, m), Step::Claim(n, m)]);
            }
        }
        steps
    }

    /// Whether the VIP has a voice again, once nothing goes wrong any more and everybody does what it
    /// can: thaw, restart, elect, and so on, and then time.
    fn heals(&self, from: &State) -> bool {
        let well =
            Self { most_raft_term: u8::MAX, most_claim_term: u8::MAX, reopens: true, ..*self };
        let mut s = *from;
        for n in 0..NODES {
            for step in [Step::Thaw(n), Step::Restart(n)] {
                if well.can(&s, step) {
                    s = well.after(&s, step);
                }
            }
        }
        for _ in 0..8 * TTL {
            if s.nodes.iter().any(|node| well.speaks(node)) {
                return true;
            }
            let newest = s.newest_term();
            let led = s.nodes.iter().any(|node| node.leading.is_some() && node.raft_term == newest);
            for step in well.steps() {
                let goes_wrong = matches!(step, Step::Time | Step::Crash(_) | Step::Freeze(_));
                let usurps = matches!(step, Step::Elect(..)) && led;
                // Nobody that renews is revoked.
                if !goes_wrong && !usurps && well.can(&s, step) {
                    s = well.after(&s, step);
                    if matches!(step, Step::Elect(..) | Step::Resume(..)) {
                        break;
                    }
                }
            }
            s = well.after(&s, Step::Time);
        }
        false
    }
}

/// Looking ahead costs more than the search itself, so only some states are looked ahead from.
fn sampled(s: &State) -> bool {
    let mut hasher = DefaultHasher::new();
    s.hash(&mut hasher);
    hasher.finish().is_multiple_of(64)
}

/// A node hears of a newer leader: it leads no more, and is silent before it says so.
fn follow(node: &mut Node, term: u8) {
    if node.raft_term < term {
        if node.leading.take().is_some() {
            node.deadline = 0;
        }
        node.enter(term);
    }
}

fn pass(s: &mut State) {
    let less = |time: &mut u8| *time = time.saturating_sub(1);
    for node in &mut s.nodes {
        less(&mut node.promise);
        less(&mut node.deadline);
        less(&mut node.renewal);
        if let Some(leading) = &mut node.leading {
            less(&mut leading.lease);
            less(&mut leading.patience);
        }
    }
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
                crashes: 0,
                freezes: 0,
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
        if self.flaw != Flaw::Nothing {
            return vec![one_voice];
        }
        vec![
            one_voice,
            Property::<Self>::sometimes("the VIP moves", |protocol, s| {
                s.claim_term > 1 && s.nodes.iter().any(|node| protocol.speaks(node))
            }),
            Property::<Self>::always("a holder is found once all is well", |protocol, s| {
                protocol.only_leaders_crash || !sampled(s) || protocol.heals(s)
            }),
        ]
    }
}
