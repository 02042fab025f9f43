//! A host that keeps asking the LAN who has some addresses: what a client sees that has not been
//! there before.
//!
//! A thread of its own asks and listens (edge); the judgement, [`Asked::unanswered`] and
//! [`Asked::answered_twice`], is pure. It asks as the router, so that the clients under test learn
//! nothing from the answers.
//!
//! [`Asker::everywhere`] asks behind cuts as well: whoever is on the far side of a failed switch,
//! together with the old holder, asks it and must get no answer once there is a new one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use herald_announcer::MacAddr;

use crate::lab::addresses::{self, host, nodes};
use crate::lab::{Lab, bpf};
use crate::resolve::question;
use crate::stop::{Flag, Stop};
use crate::tap::{Kind, PacketSocket, voice};
use crate::{clock, probe};

/// Who asks.
const ASKER: &str = "r1";
/// How long answers to the last questions are waited for.
const DRAIN: Duration = Duration::from_millis(200);

/// A running asker.
#[derive(Debug)]
pub struct Asker {
    begun: Instant,
    stop: Stop,
    thread: JoinHandle<anyhow::Result<BTreeMap<IpAddr, Asked>>>,
}

/// All questions about one address, in order.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    questions: Vec<Question>,
}

#[derive(Clone, Debug)]
struct Question {
    at: Duration,
    answers: Vec<MacAddr>,
}

impl Asker {
    /// Starts to ask for each address, once in so much time. To be called in the bridge's
    /// namespace.
    ///
    /// # Errors
    ///
    /// If the asker has no socket.
    pub fn start(lab: &Lab, addresses: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        Self::with_sides(lab, addresses, pace, Vec::new())
    }

    /// As [`Asker::start`]; with each question to the LAN, one node in turn is asked the same
    /// through its cable alone, whether the bridge would let the question pass or not.
    ///
    /// # Errors
    ///
    /// As [`Asker::start`], or if a node's cable is not there.
    pub fn everywhere(lab: &Lab, addresses: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        // Protocol 0: these only send.
        let side = |node: String| Ok(PacketSocket::open(bpf::index(&addresses::port(&node))?, 0)?);
        let sides = nodes().map(side).collect::<anyhow::Result<_>>()?;
        Self::with_sides(lab, addresses, pace, sides)
    }

    fn with_sides(
        lab: &Lab,
        addresses: &[IpAddr],
        pace: Duration,
        sides: Vec<PacketSocket>,
    ) -> anyhow::Result<Self> {
        let asker = host(ASKER).context("the lab has no asker")?;
        let socket = lab
            .netns(ASKER)?
            .inside(|| Ok(PacketSocket::open(bpf::index("eth0")?, libc::ETH_P_ALL)?))?;
        let stop = Stop::default();
        let flag = stop.flag();
        let frames: Vec<_> = addresses.iter().map(|a| (*a, question(asker.into(), *a))).collect();
        let begun = clock::now();
        let ask = move || ask(&socket, &sides, &frames, pace, begun, &flag);
        Ok(Self { begun, stop, thread: std::thread::spawn(ask) })
    }

    /// What the times of the questions count from.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Stops, and tells what became of the questions about each address.
    ///
    /// # Errors
    ///
    /// If the socket failed.
    pub fn finish(self) -> anyhow::Result<BTreeMap<IpAddr, Asked>> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the asker crashed"))?
    }
}

fn ask(
    socket: &PacketSocket,
    sides: &[PacketSocket],
    frames: &[(IpAddr, Vec<u8>)],
    pace: Duration,
    begin: Instant,
    stop: &Flag,
) -> anyhow::Result<BTreeMap<IpAddr, Asked>> {
    let mut sides = sides.iter().cycle();
    let mut asked: BTreeMap<IpAddr, Asked> = BTreeMap::new();
    let mut next = begin;
    loop {
        if stop.is_set() {
            hear_until(clock::now() + DRAIN, &mut asked, |left| hear(socket, left))?;
            return Ok(asked);
        }
        let side = sides.next();
        for (address, frame) in frames {
            let question = Question { at: clock::now() - begin, answers: Vec::new() };
            asked.entry(*address).or_default().questions.push(question);
            socket.send(frame).context("cannot ask")?;
            // A cable that is pulled takes nothing.
            let _ = side.map(|side| side.send(frame));
        }
        // On the beat, but no burst after a pause of this thread.
        next = (next + pace).max(clock::now());
        hear_until(next, &mut asked, |left| hear(socket, left))?;
    }
}

/// What is heard next.
enum Heard {
    /// Somebody says that it has this address.
    Answer(IpAddr, MacAddr),
    /// A frame of another kind.
    Other,
    /// Nothing in the time left.
    Nothing,
}

/// Waits for a frame.
fn hear(socket: &PacketSocket, left: Duration) -> anyhow::Result<Heard> {
    if !probe::readable_within(socket, left)? {
        return Ok(Heard::Nothing);
    }
    let mut buffer = [0; 512];
    Ok(match socket.receive(&mut buffer)? {
        Some((frame, false)) => match voice(frame) {
            Some((address, mac, Kind::Answer)) => Heard::Answer(address, mac),
            _ => Heard::Other,
        },
        _ => Heard::Other,
    })
}

/// An answer counts for the last question about its address. What has come by the time the next one
/// is due is heard before it: this thread may be paused between the two, and an answer that waited
/// here meanwhile would count for the next question, as if the pause had been nobody's answer.
fn hear_until(
    due: Instant,
    asked: &mut BTreeMap<IpAddr, Asked>,
    mut hear: impl FnMut(Duration) -> anyhow::Result<Heard>,
) -> anyhow::Result<()> {
    loop {
        match hear(due.saturating_duration_since(clock::now()))? {
            Heard::Nothing => return Ok(()),
            Heard::Other => {}
            Heard::Answer(address, mac) => {
                let about = asked.get_mut(&address);
                if let Some(question) = about.and_then(|about| about.questions.last_mut()) {
                    question.answers.push(mac);
                }
            }
        }
    }
}

impl Asked {
    /// The questions asked in a part of the time, its end excluded.
    pub fn between(&self, from: Duration, to: Duration) -> Self {
        let asked_then = |question: &&Question| (from..to).contains(&question.at);
        Self { questions: self.questions.iter().filter(asked_then).cloned().collect() }
    }

    /// How many questions were asked.
    pub fn count(&self) -> usize {
        self.questions.len()
    }

    /// The longest time without an answer: from the first of several questions in a row that nobody
    /// answered to the next that somebody did, or to the last one.
    pub fn unanswered(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut since = None;
        for question in &self.questions {
            let begin = match question.answers.is_empty() {
                true => Some(*since.get_or_insert(question.at)),
                false => since.take(),
            };
            longest = longest.max(begin.map_or(Duration::ZERO, |begin| question.at - begin));
        }
        longest
    }

    /// Whether the last questions of so many were answered.
    pub fn ends_answered(&self, last: usize) -> bool {
        let first = self.questions.len().saturating_sub(last);
        self.questions.len() >= last
            && self.questions[first..].iter().all(|q| !q.answers.is_empty())
    }

    /// How many questions were answered with two MACs.
    pub fn answered_twice(&self) -> usize {
        let twice = |question: &&Question| {
            question.answers.iter().any(|mac| Some(mac) != question.answers.first())
        };
        self.questions.iter().filter(twice).count()
    }

    /// Whether nobody answered from so long after the first question on.
    pub fn is_silent_since(&self, after: Duration) -> bool {
        self.questions.iter().all(|question| question.at < after || question.answers.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question each 5 ms; each letter those who answered, `2` both, `x` nobody.
    fn asked(picture: &str) -> Asked {
        let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let question = |(at, letter): (u64, char)| Question {
            at: Duration::from_millis(5 * at),
            answers: match letter {
                'x' => vec![],
                '2' => vec![a, b],
                _ => vec![a],
            },
        };
        Asked { questions: (0..).zip(picture.chars()).map(question).collect() }
    }

    #[test]
    fn an_answer_that_waited_while_the_asker_was_paused_counts_for_its_question() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut all = BTreeMap::from([(address, asked("x"))]);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let mut waiting = vec![Heard::Answer(address, mac), Heard::Other];
        // The next question is overdue.
        hear_until(clock::now(), &mut all, |_| Ok(waiting.pop().unwrap_or(Heard::Nothing)))
            .unwrap();
        assert!(all[&address].ends_answered(1));
    }

    #[test]
    fn the_longest_silence_counts() {
        for (picture, milliseconds) in
            [("", 0), ("...", 0), (".x..", 5), (".xx.xxx.", 15), ("..xxx", 10), ("x.", 5)]
        {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(asked(picture).unanswered(), expected, "{picture}");
        }
    }

    #[test]
    fn a_part_of_the_time_is_judged_alone() {
        let part = asked("xx2..xx.").between(Duration::from_millis(10), Duration::from_millis(30));
        assert_eq!((part.count(), part.answered_twice()), (4, 1));
        assert_eq!(part.unanswered(), Duration::ZERO);
    }

    #[test]
    fn two_answers_to_one_question_are_seen() {
        assert_eq!(asked("..2.2x").answered_twice(), 2);
        assert!(asked("x..").ends_answered(2) && !asked("x..").ends_answered(3));
        let silent = asked("..xx");
        assert!(silent.is_silent_since(Duration::from_millis(10)));
        assert!(!silent.is_silent_since(Duration::from_millis(5)));
    }
}
