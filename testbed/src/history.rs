//! Who held which VIP in which term, as the speakers report it while a test runs (edge): the order
//! in which nodes may have spoken, known without asking whoever causes the faults.
//!
//! Every speaker is asked again and again over its control socket. A term that came and went
//! between two reports stays unknown; a term that two reports give to two nodes is an error in
//! itself, for the log has decided it once.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use crate::clock;
use crate::lab::addresses::nodes;
use crate::scenario::{self, directory};
use crate::status::Status;
use crate::stop::{Flag, Stop};

/// Time between two reports of one speaker.
const PACE: Duration = Duration::from_millis(50);
/// A speaker that has not reported after this is frozen, or too busy; the others tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// One speaker is asked by each thread.
#[derive(Debug)]
pub struct History {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
    reports: Receiver<Vec<Held>>,
    terms: BTreeMap<IpAddr, BTreeMap<u64, String>>,
}

/// One VIP in one report.
#[derive(Clone, Debug)]
struct Held {
    by: String,
    vip: IpAddr,
    term: u64,
    holder: Option<String>,
}

impl History {
    /// Starts to ask all speakers.
    pub fn begin() -> Self {
        let stop = Stop::default();
        let (tell, reports) = channel();
        let asking = |node: String| {
            let (stop, tell) = (stop.flag(), tell.clone());
            std::thread::spawn(move || ask(&node, &stop, &tell))
        };
        Self { threads: nodes().map(asking).collect(), stop, reports, terms: BTreeMap::new() }
    }

    /// Waits until each of these VIPs was reported with a holder.
    ///
    /// # Errors
    ///
    /// If that does not happen in time.
    pub fn knows(&mut self, vips: &[IpAddr]) -> anyhow::Result<()> {
        clock::await_for(
            "every VIP's holder is reported",
            Duration::from_secs(scenario::PATIENCE),
            || {
                self.take()?;
                Ok(vips.iter().all(|vip| self.terms.contains_key(vip)).then_some(()))
            },
        )
    }

    /// Who held a VIP in turn, from the first term that was reported to this one; none for a term
    /// in which nobody reported a holder.
    ///
    /// # Errors
    ///
    /// If two nodes were reported for one term, or nothing was.
    pub fn order(&mut self, vip: IpAddr, last: u64) -> anyhow::Result<Vec<Option<String>>> {
        self.take()?;
        let terms = self.terms.get(&vip).with_context(|| format!("nobody reported {vip}"))?;
        let (first, _) = terms.first_key_value().context("no term")?;
        Ok((*first..=last).map(|term| terms.get(&term).cloned()).collect())
    }

    /// Stops asking.
    ///
    /// # Errors
    ///
    /// If a thread crashed.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.stop.set();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a historian crashed"))?;
        }
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<()> {
        for Held { by, vip, term, holder } in self.reports.try_iter().flatten() {
            let Some(holder) = holder else { continue };
            let terms = self.terms.entry(vip).or_default();
            let known = terms.entry(term).or_insert_with(|| holder.clone());
            ensure!(
                *known == holder,
                "two nodes hold {vip} in term {term}: {known} and, as {by} reports, {holder}"
            );
        }
        Ok(())
    }
}

fn ask(node: &str, stop: &Flag, tell: &Sender<Vec<Held>>) {
    while !stop.is_set() {
        // A speaker that is not there, or does not answer, is what the tests are about.
        if let Ok(status) = report(&directory(node).join("run/speaker.sock")) {
            let held = status.vips.into_iter().map(|vip| Held {
                by: node.to_owned(),
                vip: vip.address,
                term: vip.term,
                holder: vip.holder,
            });
            if tell.send(held.collect()).is_err() {
                return;
            }
        }
        clock::pause(PACE);
    }
}

fn report(socket: &Path) -> anyhow::Result<Status> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"ask\":\"status\"}\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}
