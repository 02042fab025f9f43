//! Flow samples (edge): reads the kernel's ring buffer for the driver, and calls addresses by their
//! names.
//!
//! The driver is woken at most every [`REST`], and never while nothing is sampled. What it does not
//! come to read in time is lost, counted, and no harm to any packet.

mod keeper;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use herald_ebpf::sample::FlowSample;
use herald_ebpf::{Datapath, Samples};
use herald_leader_election::{BootTime, NodeName, View, clock};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::keeper::{Keeper, Names};
use crate::desired;
use crate::observed::Observed;
use crate::speaker::decide::{Decision, carried};
use crate::status;

/// Samples wait in the ring at most about so long.
const REST: Duration = Duration::from_millis(250);
/// Samples read at once: more than the ring holds.
const AT_ONCE: usize = 2048;

/// The flow samples of this node.
pub(crate) struct Flows {
    /// Nothing, for the reason there is.
    samples: Result<AsyncFd<Samples>, String>,
    every: u32,
    keeper: Keeper,
    /// When the ring was read last.
    read_at: BootTime,
}

/// By what addresses get their names.
#[derive(Clone, Copy)]
pub(crate) struct Book<'a> {
    pub me: &'a NodeName,
    pub observed: &'a Observed,
    pub view: &'a View,
    pub decision: Option<&'a Decision>,
}

impl Flows {
    /// Has one packet of `every` sampled, none with zero.
    pub(crate) fn open(datapath: Option<&mut Datapath>, every: u32) -> Self {
        let samples = match datapath {
            Some(datapath) => open(datapath, every),
            None => Err("there is no data plane here".to_owned()),
        };
        Self { samples, every, keeper: Keeper::default(), read_at: BootTime::SILENT }
    }

    /// Waits until there are samples to read, and it is time to.
    pub(crate) async fn ready(&mut self) {
        let Ok(samples) = &mut self.samples else { return std::future::pending().await };
        let passed = clock::boot_now().since(self.read_at);
        tokio::time::sleep(REST.saturating_sub(passed)).await;
        match samples.readable_mut().await {
            // Cleared before the ring is read: what comes meanwhile is not slept over.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => self.samples = Err(format!("cannot wait for samples: {error}")),
        }
    }

    /// Reads what is in the ring.
    #[expect(clippy::disallowed_methods, reason = "edge: samples are shown with a time of day")]
    pub(crate) fn read(&mut self, book: Book<'_>) {
        let Ok(samples) = &mut self.samples else { return };
        let (now, boot_now) = (SystemTime::now(), clock::boot_now());
        self.read_at = boot_now;
        let mut nodes = None;
        for read in samples.get_mut().take(AT_ONCE) {
            match read {
                Err(why) => self.keeper.refuse(why),
                Ok(sample) => {
                    let nodes = nodes.get_or_insert_with(|| book.nodes());
                    let ago = boot_now.since(BootTime(sample.at));
                    let time = now.checked_sub(ago).unwrap_or(now);
                    self.keeper.keep(sample, time, book.names(&sample, nodes));
                }
            }
        }
    }

    /// What the samples add up to.
    pub(crate) fn report(&self) -> status::Flows {
        let taken = match &self.samples {
            Ok(samples) => samples.get_ref().taken().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read what became of flow samples");
                herald_ebpf::Taken::default()
            }),
            Err(_) => herald_ebpf::Taken::default(),
        };
        status::Flows {
            every: if self.samples.is_ok() { self.every } else { 0 },
            reason: self.samples.as_ref().err().cloned(),
            read: self.keeper.read(),
            lost: self.keeper.lost(taken),
            sums: self.keeper.sums(),
        }
    }

    /// The same with the last samples behind the one of this number, as one JSON value.
    pub(crate) fn recent(&self, me: &NodeName, after: u64) -> String {
        let recent = self.keeper.recent(after);
        let answer = status::Recent { node: me.to_string(), flows: self.report(), recent };
        serde_json::to_string(&answer).unwrap_or_default()
    }
}

fn open(datapath: &mut Datapath, every: u32) -> Result<AsyncFd<Samples>, String> {
    let mut samples = datapath.samples().ok_or("somebody else reads them")?;
    samples.set_every(every).map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
    if every == 0 {
        return Err("turned off by --flow-samples 0".to_owned());
    }
    // SAFETY: the ring's map is owned by the value that is registered, which never gives it away or
    // puts another in its place; so its descriptor stays open, and the same, until that is dropped.
    unsafe { AsyncFd::register_with_interest(samples, Interest::READABLE) }
        .map_err(|error| format!("cannot wait for samples: {error}"))
}

impl Book<'_> {
    /// The nodes by the MACs of their interfaces.
    fn nodes(&self) -> BTreeMap<[u8; 6], String> {
        let facts = desired::facts(self.view);
        let mac = |(node, facts): (&NodeName, &crate::facts::Facts)| {
            let macs = facts.interfaces.iter().filter_map(crate::facts::Interface::mac);
            macs.map(|mac| (mac, node.to_string())).collect::<Vec<_>>()
        };
        facts.iter().flat_map(mac).collect()
    }

    fn names(&self, sample: &FlowSample, nodes: &BTreeMap<[u8; 6], String>) -> Names {
        let node = match (sample.next_hop, sample.pod) {
            (Some(mac), _) => nodes.get(&mac).cloned(),
            (None, Some(_)) => Some(self.me.to_string()),
            (None, None) => None,
        };
        Names { service: self.service(sample), node }
    }

    /// The Service whose port it is, of those that share the VIP.
    fn service(&self, sample: &FlowSample) -> Option<String> {
        let end = sample.vip?;
        let services = &self.decision?.vips.get(&end.ip)?.services;
        let has_port = |name: &&crate::observed::ServiceName| {
            let service = self.observed.services.get(name);
            let mut ports = service.into_iter().flat_map(|service| &service.ports);
            ports.any(|it| {
                carried(it.protocol) == sample.protocol
                    && end.port.is_none_or(|port| it.port == port)
            })
        };
        services.iter().find(has_port).map(ToString::to_string)
    }
}
