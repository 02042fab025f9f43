//! Whether VIPs had one voice while something happened (edge): every bridge port is tapped, the
//! addresses are asked for all the time, and every speaker is asked who holds what in which term.
//! At the end each frame that claims a VIP must have come in its sender's turn, by the order of the
//! holders that the speakers themselves reported.
//!
//! It must not know what happens meanwhile: neither the faults nor who is expected to hold what.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clock;
use crate::history::History;
use crate::lab::Lab;
use crate::status::Status;
use crate::tap::turns::speakers;
use crate::watch::{Seen, Watch};

/// For so long what an old holder might still say is heard, after all is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running observation.
#[derive(Debug)]
pub struct Judge {
    vips: Vec<IpAddr>,
    history: History,
    watch: Watch,
}

impl Judge {
    /// Begins with VIPs that have a holder each, asking for each once in so much time. To be called
    /// in the bridge's namespace.
    ///
    /// # Errors
    ///
    /// If one has none, or they cannot be watched.
    pub fn begin(lab: &Lab, vips: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        // Before the first frame is heard, so that the order begins no later than the frames.
        let mut history = History::begin();
        history.knows(vips)?;
        Ok(Self { vips: vips.to_vec(), history, watch: Watch::start(lab, vips, pace)? })
    }

    /// Ends and judges: each VIP had one voice, its holder's in that very term. `status` is a
    /// speaker's report; it is asked for after the last frame, so that the order ends no earlier.
    ///
    /// # Errors
    ///
    /// If there was a second one; every frame of it is told.
    pub fn end(mut self, status: impl FnOnce() -> anyhow::Result<Status>) -> anyhow::Result<Seen> {
        clock::pause(LAST_WORDS);
        let seen = self.watch.finish()?;
        let status = status()?;
        self.history.finish()?;
        for vip in self.vips {
            let last = status.vip(vip).with_context(|| format!("{vip} is unknown"))?.term;
            let order = self.history.order(vip, last)?;
            let spoke = speakers(&seen.heard.claims, vip);
            ensure!(!spoke.is_empty(), "nobody ever spoke for {vip}: nothing was watched");
            seen.heard.one_voice(vip, &order)?;
        }
        Ok(seen)
    }
}
