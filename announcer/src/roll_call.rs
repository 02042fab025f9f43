//! Which nodes are still there, although their speakers say nothing: each is asked for its own
//! address, which its kernel answers for.
//!
//! A speaker that crashed or hangs leaves its programs in the kernel, so its node still delivers to
//! its pods; a node without power does not. Only the link tells the two apart. Pure: when to ask
//! and what follows from an answer or from silence. Must never call a node gone that answered one
//! of the last [`Timing::questions`] questions.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::claim::{Claim, Form};
use crate::wire::MacAddr;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was asked and has not answered yet.
    Unknown,
    /// It answers.
    Here,
    /// It does not.
    Gone,
}

/// How often is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Questions without an answer before a node is gone. On a link that loses a fifth of all
    /// frames, four in a row get no answer once in sixty times.
    pub questions: u32,
    /// From one of them to the next.
    pub spacing: Duration,
    /// From an answer to the next question.
    pub here: Duration,
    /// Between questions to a node that is gone.
    pub gone: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            questions: 4,
            spacing: Duration::from_millis(100),
            here: Duration::from_millis(400),
            gone: Duration::from_secs(1),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The nodes to watch: the address each is asked for, and the MAC it has it at.
    Wanted(BTreeMap<IpAddr, MacAddr>),
    /// Somebody said that it has an address.
    Heard(Claim),
    /// Time has passed.
    Tick,
}

/// The roll call.
#[derive(Debug, Default)]
pub struct RollCall {
    timing: Timing,
    nodes: BTreeMap<IpAddr, Node>,
    is_news: bool,
}

#[derive(Debug)]
struct Node {
    mac: MacAddr,
    presence: Presence,
    /// Questions since the last answer.
    unanswered: u32,
    due: Duration,
}

impl RollCall {
    /// Nobody to watch yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// Takes in what happened and says whose addresses to ask for now. `now` is boot time.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<IpAddr> {
        match input {
            Input::Wanted(wanted) => self.want(&wanted, now),
            Input::Heard(claim) => self.hear(claim, now),
            Input::Tick => {}
        }
        let due = self.nodes.iter_mut().filter(|(_, node)| node.due <= now);
        let asked = due.map(|(address, node)| {
            self.is_news |= node.ask(&self.timing, now);
            *address
        });
        asked.collect()
    }

    /// When [`Input::Tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.nodes.values().map(|node| node.due).min()
    }

    /// What is known of every node.
    pub fn presences(&self) -> BTreeMap<IpAddr, Presence> {
        self.nodes.iter().map(|(address, node)| (*address, node.presence)).collect()
    }

    /// Whether that has changed since the last call.
    #[must_use]
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    fn want(&mut self, wanted: &BTreeMap<IpAddr, MacAddr>, now: Duration) {
        let before = self.nodes.len();
        self.nodes.retain(|address, node| wanted.get(address) == Some(&node.mac));
        self.is_news |= self.nodes.len() != before;
        for (address, &mac) in wanted {
            self.nodes.entry(*address).or_insert_with(|| {
                self.is_news = true;
                Node { mac, presence: Presence::Unknown, unanswered: 0, due: now }
            });
        }
    }

    /// An answer counts only from the machine that is meant: a node's address may have been given
    /// to another one.
    fn hear(&mut self, claim: Claim, now: Duration) {
        let Some(node) = self.nodes.get_mut(&claim.address) else { return };
        if claim.form != Form::Use || claim.mac != node.mac {
            return;
        }
        self.is_news |= node.presence != Presence::Here;
        node.presence = Presence::Here;
        node.unanswered = 0;
        node.due = now + self.timing.here;
    }
}

impl Node {
    /// Counts a question; true if the silence so far is news.
    fn ask(&mut self, timing: &Timing, now: Duration) -> bool {
        let before = self.presence;
        if self.unanswered >= timing.questions {
            self.presence = Presence::Gone;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let is_gone = self.presence == Presence::Gone;
        self.due = now + if is_gone { timing.gone } else { timing.spacing };
        self.presence != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 12]);

    fn address() -> IpAddr {
        "192.168.1.12".parse().unwrap()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn answer(mac: MacAddr) -> Input {
        Input::Heard(Claim { address: address(), mac, form: Form::Use })
    }

    /// A call for one node at time 0.
    fn called() -> RollCall {
        let mut call = RollCall::new(Timing::default());
        assert_eq!(call.handle(Input::Wanted([(address(), MAC)].into()), ms(0)), [address()]);
        assert!(call.take_news());
        call
    }

    fn presence(call: &RollCall) -> Presence {
        call.presences()[&address()]
    }

    #[test]
    fn a_node_that_answers_none_of_four_questions_is_gone() {
        let mut call = called();
        for time in [100, 200, 300] {
            assert_eq!(call.handle(Input::Tick, ms(time - 1)), Vec::<IpAddr>::new());
            assert_eq!(call.handle(Input::Tick, ms(time)), [address()]);
            assert_eq!(presence(&call), Presence::Unknown, "at {time} ms");
        }
        assert!(!call.take_news());
        assert_eq!(call.handle(Input::Tick, ms(400)), [address()], "it is asked on");
        assert_eq!(presence(&call), Presence::Gone);
        assert!(call.take_news());
        assert_eq!(call.next_deadline(), Some(ms(1400)));
    }

    #[test]
    fn a_node_that_answers_is_here_until_it_falls_silent() {
        let mut call = called();
        assert_eq!(call.handle(answer(MAC), ms(1)), Vec::<IpAddr>::new());
        assert_eq!(presence(&call), Presence::Here);
        assert!(call.take_news());
        // One lost question changes nothing.
        assert_eq!(call.handle(Input::Tick, ms(401)), [address()]);
        assert_eq!(call.handle(Input::Tick, ms(501)), [address()]);
        call.handle(answer(MAC), ms(502));
        assert!(!call.take_news());
        for time in [902, 1002, 1102, 1202] {
            assert_eq!(call.handle(Input::Tick, ms(time)), [address()]);
            assert_eq!(presence(&call), Presence::Here, "at {time} ms");
        }
        call.handle(Input::Tick, ms(1302));
        assert_eq!(presence(&call), Presence::Gone);
        call.handle(answer(MAC), ms(5000));
        assert_eq!(presence(&call), Presence::Here, "it came back without its speaker");
    }

    #[test]
    fn only_the_node_itself_can_answer() {
        let mut call = called();
        call.handle(answer(MacAddr([2, 0, 0, 0, 1, 99])), ms(1));
        let form = Form::Probe;
        call.handle(Input::Heard(Claim { address: address(), mac: MAC, form }), ms(1));
        assert_eq!(presence(&call), Presence::Unknown);
    }

    #[test]
    fn forgets_whom_nobody_asks_about_any_more() {
        let mut call = called();
        call.handle(answer(MAC), ms(1));
        assert!(call.take_news());
        call.handle(Input::Wanted(BTreeMap::new()), ms(2));
        assert!(call.take_news());
        assert_eq!((call.presences().len(), call.next_deadline()), (0, None));
        call.handle(Input::Wanted([(address(), MAC)].into()), ms(3));
        assert_eq!(presence(&call), Presence::Unknown);
    }
}
