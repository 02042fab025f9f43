//! Edge: the right to speak, asked before each frame, and the task that uses it to answer.
//!
//! Every frame of this crate leaves by [`Voice::send`]; none may leave by another way, since this
//! is where the deadline is asked. Read [`crate::responder`] first: it decides what to answer.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::clock::boot_now;
use crate::conflict::Standing;
use crate::counters::{Counters, Shared};
use crate::error::Error;
use crate::neighbours::Standings;
use crate::picture::Picture;
use crate::responder::{LinkIdentity, Verdict, respond};
use crate::socket::PacketSocket;

/// What the announcer and its responders share: the right to speak, and the count of what was said.
#[derive(Clone, Debug)]
pub struct Voice {
    pub picture: watch::Receiver<Picture>,
    /// Boot-time nanoseconds until which we may speak.
    pub deadline: Arc<AtomicU64>,
    pub counters: Shared,
    /// Every VIP's standing, as the announcer has found it.
    pub standings: watch::Receiver<Standings>,
}

impl Voice {
    /// Whether the VIP is in the picture at this moment, and no other host was found to use it.
    /// (The caller takes a blocked VIP out of the picture, too, but only once it has heard of it.)
    pub fn is_announced(&self, vip: IpAddr, interface: &str) -> bool {
        self.picture.borrow().announced.has(vip, interface)
            && self.standings.borrow().get(&vip) != Some(&Standing::Blocked)
    }

    /// Whether the deadline lies ahead.
    pub fn may_speak(&self) -> bool {
        boot_now().as_nanos() < u128::from(self.deadline.load(Ordering::Acquire))
    }

    /// Sends, counting, unless the deadline has passed.
    pub fn send(&self, socket: &PacketSocket, frame: &[u8], sent: impl FnOnce(&mut Counters)) {
        if !self.may_speak() {
            self.counters.update(|c| c.fenced += 1);
            return;
        }
        match socket.send(frame) {
            Ok(()) => self.counters.update(sent),
            Err(error) => {
                self.counters.update(|c| c.send_failures += 1);
                tracing::debug!(%error, "the kernel did not take a frame");
            }
        }
    }
}

/// Answers one kind of question on one interface.
pub struct Responder {
    pub questions: PacketSocket,
    pub answers: Arc<PacketSocket>,
    pub interface: String,
    pub link: LinkIdentity,
    pub voice: Voice,
}

impl Responder {
    /// Answers until the interface goes, or the task is aborted.
    ///
    /// # Errors
    /// The socket fails for another reason.
    pub async fn run(self) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match self.questions.recv(&mut buffer).await {
                Ok(length) => length,
                // The watch over links tells the announcer, which opens a new one.
                Err(Error::Receive { source, .. }) if is_gone(&source) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.answer(buffer.get(..length).unwrap_or_default());
        }
    }

    fn answer(&self, frame: &[u8]) {
        self.voice.counters.update(|c| c.requests += 1);
        let about = Cell::new(None);
        let speaks_for = |vip| {
            about.set(Some(vip));
            self.voice.is_announced(vip, &self.interface)
        };
        match respond(frame, &self.link, speaks_for) {
            Verdict::Reply(reply) => {
                if let Some(vip) = about.get() {
                    self.voice.counters.update(|c| c.of(vip).requests += 1);
                }
                self.voice.send(&self.answers, &reply, |c| {
                    c.replies += 1;
                    about.get().into_iter().for_each(|vip| c.of(vip).replies += 1);
                });
            }
            Verdict::Ignore(reason) => self.voice.counters.update(|c| {
                *c.ignored.entry(reason.label()).or_default() += 1;
            }),
        }
    }
}

/// The interface, or the other end of its index, is gone.
pub fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::ENETDOWN))
}

/// Room for a frame of the usual MTU; a question is well under 200 octets.
const BUFFER: usize = 2048;
