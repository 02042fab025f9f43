//! Measures an outage: one datagram each millisecond, or so often as is asked for, over one flow,
//! and which were answered.
//!
//! A thread of its own sends and receives (edge); the judgement, [`Outcome::outage`], is pure and
//! counts by the times of sending, so a late tick of a busy machine is not taken for a loss, nor a
//! loss for a late tick.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::lab::netns::Netns;
use crate::pod::Answer;
use crate::stop::{Flag, Stop};
use crate::{client, clock};

/// Time between two datagrams, unless another one is asked for.
const PACE: Duration = Duration::from_millis(1);
/// How long answers to the last datagrams are waited for.
const DRAIN: Duration = Duration::from_millis(500);

/// A running probe.
#[derive(Debug)]
pub struct Probe {
    stop: Stop,
    last_answer: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<Outcome>>,
}

/// What became of each datagram.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    probes: Vec<Sent>,
}

#[derive(Clone, Debug)]
struct Sent {
    at: Duration,
    answered_by: Option<String>,
}

impl Probe {
    /// Starts probing a server from a namespace, from a port of the client's.
    ///
    /// # Errors
    ///
    /// If the port is taken or there is no route.
    pub fn start(netns: &Netns, server: SocketAddr, port: u16) -> anyhow::Result<Self> {
        Self::paced(netns, server, port, PACE)
    }

    /// The same with another time between two datagrams, for what is to be watched for long: the
    /// receive buffers on the way hold some hundred of them, which then is seconds in which a busy
    /// machine may leave a receiver without a processor.
    ///
    /// # Errors
    ///
    /// As [`Probe::start`].
    pub fn paced(
        netns: &Netns,
        server: SocketAddr,
        port: u16,
        pace: Duration,
    ) -> anyhow::Result<Self> {
        let socket = netns.inside(|| client::udp(server, port))?;
        socket.set_nonblocking(true)?;
        let stop = Stop::default();
        let last_answer = Arc::new(AtomicU64::new(0));
        let (flag, last) = (stop.flag(), Arc::clone(&last_answer));
        let thread = std::thread::spawn(move || probe(&socket, pace, &flag, &last));
        Ok(Self { stop, last_answer, thread })
    }

    /// The number of the latest datagram that was answered, counted from 1; 0 before the first.
    pub fn last_answer(&self) -> u64 {
        self.last_answer.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for answers under way.
    ///
    /// # Errors
    ///
    /// If the socket failed.
    pub fn finish(self) -> anyhow::Result<Outcome> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the probe crashed"))?
    }
}

fn probe(
    socket: &UdpSocket,
    pace: Duration,
    stop: &Flag,
    last: &AtomicU64,
) -> anyhow::Result<Outcome> {
    let begin = clock::now();
    let mut outcome = Outcome::default();
    let mut end = None;
    let mut next = begin;
    loop {
        let now = clock::now();
        if end.is_none() && stop.is_set() {
            end = Some(now + DRAIN);
        }
        let due = match end {
            Some(end) if now >= end => return Ok(outcome),
            Some(end) => end,
            None => {
                outcome.probes.push(Sent { at: now - begin, answered_by: None });
                // A refusal (no neighbour, an ICMP error) is a loss; the answer will be missing.
                let _ = socket.send(outcome.probes.len().to_string().as_bytes());
                // On the beat, but no burst after a pause of this thread.
                next = (next + pace).max(now);
                next
            }
        };
        receive_until(socket, due, &mut outcome, last)?;
    }
}

fn receive_until(
    socket: &UdpSocket,
    due: Instant,
    outcome: &mut Outcome,
    last: &AtomicU64,
) -> anyhow::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        while let Ok(length) = socket.recv(&mut buffer) {
            let Ok(answer) = serde_json::from_slice::<Answer>(&buffer[..length]) else { continue };
            let Ok(number) = answer.id.parse::<u64>() else { continue };
            let index = usize::try_from(number)?.wrapping_sub(1);
            if let Some(sent) = outcome.probes.get_mut(index) {
                sent.answered_by = Some(answer.node);
                last.fetch_max(number, Ordering::Relaxed);
            }
        }
        let left = due.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        readable_within(socket, left).context("cannot wait for answers")?;
    }
}

/// Waits until there is something to read, or the time is over; tells which.
pub(crate) fn readable_within(socket: &impl AsRawFd, left: Duration) -> io::Result<bool> {
    let mut wanted = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = libc::timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    // SAFETY: one pollfd, a timespec, no signal mask; all live through the call.
    let result = unsafe { libc::ppoll(&raw mut wanted, 1, &raw const limit, std::ptr::null()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        readable => Ok(readable > 0),
    }
}

impl Outcome {
    /// How many were sent.
    pub fn sent(&self) -> usize {
        self.probes.len()
    }

    /// How many were never answered.
    pub fn lost(&self) -> usize {
        self.probes.iter().filter(|sent| sent.answered_by.is_none()).count()
    }

    /// The longest time without service: from the sending of the first of several datagrams lost
    /// in a row to the sending of the next that was answered, or of the last one sent.
    pub fn outage(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut since = None;
        for sent in &self.probes {
            let begin = match sent.answered_by {
                Some(_) => since.take(),
                None => Some(*since.get_or_insert(sent.at)),
            };
            longest = longest.max(begin.map_or(Duration::ZERO, |begin| sent.at - begin));
        }
        longest
    }

    /// The nodes whose pods answered, in the order of their first answer.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = Vec::new();
        for node in self.probes.iter().filter_map(|sent| sent.answered_by.as_deref()) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A probe each millisecond; `.` answered by n1, `2` by n2, `x` lost.
    fn outcome(picture: &str) -> Outcome {
        let sent = |(at, letter)| Sent {
            at: Duration::from_millis(at),
            answered_by: match letter {
                '.' => Some("n1".to_owned()),
                '2' => Some("n2".to_owned()),
                _ => None,
            },
        };
        Outcome { probes: (0..).zip(picture.chars()).map(sent).collect() }
    }

    #[test]
    fn the_outage_is_the_longest_run_of_losses() {
        for (picture, lost, milliseconds) in [
            ("", 0, 0),
            ("......", 0, 0),
            ("..x...", 1, 1),
            (".xx..xxx22", 5, 3),
            ("xxxx.", 4, 4),
            ("...xxx", 3, 2),
        ] {
            let outcome = outcome(picture);
            assert_eq!(outcome.lost(), lost, "{picture}");
            assert_eq!(outcome.outage(), Duration::from_millis(milliseconds), "{picture}");
        }
    }

    #[test]
    fn a_late_tick_without_loss_is_no_outage() {
        let mut late = outcome("....");
        late.probes[3].at += Duration::from_millis(80);
        assert_eq!(late.outage(), Duration::ZERO);
    }

    #[test]
    fn names_who_answered_in_order() {
        assert_eq!(outcome("..xx22.2").nodes(), ["n1", "n2"]);
    }
}
