//! Watches VIPs while faults happen (edge): all bridge ports are tapped, a host keeps asking for
//! the addresses, behind cuts as well, and afterwards [`Seen`] judges, by the order of the holders
//! that the speakers report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::asker::{Asked, Asker};
use crate::lab::Lab;
use crate::tap::ports::{Heard, PortsTap};

/// How often each address is asked for.
pub const PACE: Duration = Duration::from_millis(10);

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    tap: PortsTap,
    asker: Asker,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// What was said at all ports.
    pub heard: Heard,
    asked: BTreeMap<IpAddr, Asked>,
}

impl Watch {
    /// Starts. To be called in the bridge's namespace.
    ///
    /// # Errors
    ///
    /// If the tap or the asker cannot listen.
    pub fn start(lab: &Lab, vips: &[IpAddr], pace: Duration) -> anyhow::Result<Self> {
        Ok(Self { tap: PortsTap::start()?, asker: Asker::everywhere(lab, vips, pace)? })
    }

    /// Ends.
    ///
    /// # Errors
    ///
    /// If something could not be watched; frames that were missed included.
    pub fn finish(self) -> anyhow::Result<Seen> {
        let asked = self.asker.finish()?;
        Ok(Seen { heard: self.tap.finish()?, asked })
    }
}

impl Seen {
    /// The questions about an address.
    ///
    /// # Errors
    ///
    /// If it was not asked for.
    pub fn asked(&self, vip: IpAddr) -> anyhow::Result<&Asked> {
        self.asked.get(&vip).with_context(|| format!("nobody asked for {vip}"))
    }

    /// Fails if one of these was without an answer for this long: its holder was silenced.
    ///
    /// # Errors
    ///
    /// Which one, and how long.
    pub fn no_silence(&self, vips: &[IpAddr], longest: Duration) -> anyhow::Result<()> {
        for vip in vips {
            let unanswered = self.asked(*vip)?.unanswered();
            ensure!(unanswered < longest, "{vip}: {unanswered:?} without an answer");
        }
        Ok(())
    }
}
