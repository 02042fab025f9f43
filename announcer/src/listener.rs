//! Edge: hears what others claim on one interface.
//!
//! Needed no matter who answers: the XDP program passes every claim up the stack, all but requests
//! that it answers itself. Must never wake the announcer for an address that is none of its VIPs:
//! everybody on the segment can send claims. Read [`crate::claim`] first.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::claim::{Claim, claim};
use crate::error::Error;
use crate::socket::PacketSocket;
use crate::voice::{Voice, is_gone};

/// A claim, and the index of the interface it came in by.
#[derive(Debug)]
pub struct Heard {
    pub ifindex: u32,
    pub claim: Claim,
}

/// Hears one kind of claim on one interface.
pub struct Listener {
    pub claims: Arc<PacketSocket>,
    pub ifindex: u32,
    pub interface: String,
    pub voice: Voice,
    pub heard: mpsc::Sender<Heard>,
}

impl Listener {
    /// Listens until the interface goes, or the task is aborted.
    ///
    /// # Errors
    /// The socket fails for another reason.
    pub async fn run(self) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match self.claims.recv(&mut buffer).await {
                Ok(length) => length,
                // The watch over links tells the announcer, which opens a new one.
                Err(Error::Receive { source, .. }) if is_gone(&source) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.look_at(buffer.get(..length).unwrap_or_default());
        }
    }

    fn look_at(&self, frame: &[u8]) {
        let Some(claim) = claim(frame) else { return };
        if !self.voice.picture.borrow().concerns(claim.address, &self.interface) {
            return;
        }
        let heard = Heard { ifindex: self.ifindex, claim };
        // A flood of claims tells nothing that its first ones do not.
        let is_taken = self.heard.try_send(heard).is_ok();
        self.voice.counters.update(|c| match is_taken {
            true => c.claims += 1,
            false => c.claims_dropped += 1,
        });
    }
}

/// Room for a frame of the usual MTU; a claim is well under 200 octets.
const BUFFER: usize = 2048;
