//! The state of the nodes and of what they decided, and the steps that anybody may do.

use super::protocol::{NODES, TTL};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    pub up: bool,
    pub frozen: bool,
    pub raft_term: u8,
    /// Its log says that it was elected in this term (12).
    pub led: bool,
    /// It was started with such a log and did not stand yet.
    pub resumes: bool,
    /// Until it votes for somebody.
    pub promise: u8,
    /// What the kernel goes by: that it holds the VIP, and how long it may still speak.
    pub holds: bool,
    pub deadline: u8,
    /// What a grant that is under way is still worth.
    pub renewal: u8,
    /// It has silenced the VIP and asks for its release.
    pub gives: bool,
    /// The leader of its term asks it to take over.
    pub asked: bool,
    pub leading: Option<Leading>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leading {
    pub lead_decided: bool,
    pub lease: u8,
    pub predecessor: u8,
    /// How long the holder must stay silent to be revoked (nobody else is: it would change
    /// nothing); whether the predecessor renewed.
    pub patience: u8,
    pub heard: bool,
    /// It has handed on, and is no voice nor grants anything for the rest of its term.
    pub forfeited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: [Node; NODES],
    // What is decided.
    pub open: [bool; NODES],
    pub holder: Option<u8>,
    pub claim_term: u8,
    pub last_lead: u8,
    /// Claims in the log that are not decided: node and term. Whoever is elected has them too.
    pub proposed: [Option<(u8, u8)>; 2],
    pub term_fell: bool,
    pub crashes: u8,
    pub freezes: u8,
    pub hands: u8,
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
    /// The first claim in the log is decided.
    Decide,
    /// The holder silences the VIP and asks; the leader hands it over to the last.
    Give(usize),
    HandOver(usize, usize, usize),
    /// The leader asks another node to take over, which is elected with the vote of a third, or
    /// its.
    HandOn(usize, usize),
    TakeOver(usize, usize),
    Reopen(usize),
    /// A node applies what is decided.
    Learn(usize),
}

impl Node {
    pub fn acts(&self) -> bool {
        self.up && !self.frozen
    }
}

impl State {
    pub fn newest_term(&self) -> u8 {
        self.nodes.iter().map(|node| node.raft_term).max().unwrap_or(0)
    }

    /// The leader at `n`, if its process acts.
    pub fn leader(&self, n: usize) -> Option<&Leading> {
        self.nodes[n].leading.as_ref().filter(|_| self.nodes[n].acts())
    }

    /// Whether what the leader at `n` proposes is decided: a quorum follows no newer leader.
    pub fn decides(&self, n: usize) -> bool {
        let term = self.nodes[n].raft_term;
        let follows = |(m, node): (usize, &Node)| m != n && node.acts() && node.raft_term <= term;
        term == self.newest_term() && self.nodes.iter().enumerate().any(follows)
    }

    pub fn confirmed(&self, n: usize) -> bool {
        let leads =
            |leading: &Leading| leading.lead_decided && leading.lease > 0 && !leading.forfeited;
        self.leader(n).is_some_and(leads) && self.decides(n)
    }

    /// A leader of the newest term that a quorum follows decides all that is in its log.
    pub fn leads_all(&self, n: usize) -> bool {
        self.leader(n).is_some() && self.decides(n)
    }

    pub fn claimed(&mut self, m: usize, term: u8) {
        self.term_fell |= term <= self.claim_term;
        (self.holder, self.claim_term) = (Some(m as u8), term);
        for leading in self.nodes.iter_mut().filter_map(|node| node.leading.as_mut()) {
            leading.patience = TTL;
        }
    }

    /// A leader's voice is its lease and nothing else (2).
    pub fn speak_as_leader(&mut self, n: usize) {
        if let Some(leading) = &self.nodes[n].leading
            && leading.lead_decided
            && !leading.forfeited
            && self.open[n]
        {
            self.nodes[n].deadline = self.nodes[n].deadline.max(leading.lease);
        }
    }
}

/// A node hears of a newer leader: it leads no more, and is silent at once, before it says so or
/// its vote can leave.
pub fn follow(node: &mut Node, term: u8) {
    if node.raft_term < term {
        if node.leading.take().is_some() {
            node.deadline = 0;
        }
        node.raft_term = term;
        (node.led, node.resumes) = (false, false);
        (node.renewal, node.asked) = (0, false);
    }
}

pub fn pass(s: &mut State) {
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
