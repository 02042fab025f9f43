//! Which interfaces are served and how (edge): attaches the programs, falls back to `off` with
//! the reason, and attaches again where an interface went and came back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use herald_announcer::Links;
use herald_ebpf::{Datapath, HeldBack, Mode, SessionFence, Wanted};

use crate::observed::Exclusions;
use crate::speaker::decide::Carrier;
use crate::status;

/// The mode asked for on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Native XDP, else generic, else off.
    Auto,
    /// XDP in the driver, or refuse to start.
    Native,
    /// XDP in the stack, or refuse to start.
    Generic,
    /// No XDP: answer from userspace, kube-proxy carries the traffic.
    Off,
}

/// The interfaces this speaker serves.
pub struct Carriers {
    choice: Choice,
    datapath: Option<Datapath>,
    /// Why there is no data plane at all.
    off_reason: Option<String>,
    served: BTreeMap<String, Served>,
}

struct Served {
    /// The index it was attached at; another one is another interface of the same name.
    index: Option<u32>,
    mode: Option<Mode>,
    reason: Option<String>,
}

impl Carriers {
    /// Loads the data plane and attaches it to every interface.
    ///
    /// # Errors
    ///
    /// If a mode was demanded that cannot be had.
    pub fn open(
        choice: Choice,
        pin_dir: &Path,
        interfaces: &[String],
        links: &Links,
    ) -> anyhow::Result<(Self, Option<SessionFence>)> {
        let (datapath, fence, off_reason) = match choice {
            Choice::Off => (None, None, Some("asked for by --datapath off".to_owned())),
            _ => match Datapath::open(pin_dir) {
                Ok((datapath, fence)) => (Some(datapath), Some(fence), None),
                Err(error) if choice == Choice::Auto => {
                    (None, None, Some(format!("{:#}", anyhow::Error::new(error))))
                }
                Err(error) => return Err(error).context("cannot open the data plane"),
            },
        };
        let mut carriers = Self { choice, datapath, off_reason, served: BTreeMap::new() };
        for name in interfaces {
            let Some(link) = links.by_name.get(name) else { continue };
            let served = carriers.attach(name, link.index);
            if let (Some(reason), Choice::Native | Choice::Generic, None) =
                (&served.reason, choice, served.mode)
            {
                bail!("{reason}");
            }
            carriers.served.insert(name.clone(), served);
        }
        Ok((carriers, fence))
    }

    /// Attaches anew where an interface was replaced by another of its name.
    pub fn follow(&mut self, links: &Links) {
        let names: Vec<String> = self.served.keys().cloned().collect();
        for name in names {
            let index = links.by_name.get(&name).map(|link| link.index);
            let before = self.served.get(&name).and_then(|served| served.index);
            match index {
                Some(index) if before != Some(index) => {
                    let served = self.attach(&name, index);
                    self.served.insert(name, served);
                }
                None if before.is_some() => {
                    tracing::warn!(interface = %name, "the interface is gone");
                    let reason = Some("the interface does not exist".to_owned());
                    self.served.insert(name, Served { index: None, mode: None, reason });
                }
                _ => {}
            }
        }
    }

    /// Who carries each interface.
    pub fn carriers(&self) -> BTreeMap<String, Carrier> {
        let carrier = |served: &Served| match served.mode {
            Some(_) => Carrier::Xdp,
            None => Carrier::Off,
        };
        self.served.iter().map(|(name, served)| (name.clone(), carrier(served))).collect()
    }

    /// The data plane, unless everything is off.
    pub fn datapath(&mut self) -> Option<&mut Datapath> {
        self.datapath.as_mut()
    }

    /// The modes, for status.
    pub fn report(&self) -> Vec<status::Datapath> {
        let row = |(name, served): (&String, &Served)| status::Datapath {
            interface: name.clone(),
            mode: served.mode.map_or("off", Mode::label),
            reason: served.reason.clone(),
            fence: self.fence(served),
            no_fence: served.mode.is_none().then_some(status::NO_FENCE),
        };
        self.served.iter().map(row).collect()
    }

    /// What the fence held back where one is attached.
    fn fence(&self, served: &Served) -> Option<status::Fence> {
        let (Some(datapath), Some(index), Some(_)) = (&self.datapath, served.index, served.mode)
        else {
            return None;
        };
        match datapath.held_back(index) {
            Ok(HeldBack { arp, advertisements, solicitations }) => {
                Some(status::Fence { arp, advertisements, solicitations })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read what the fence held back");
                None
            }
        }
    }

    fn attach(&mut self, name: &str, index: u32) -> Served {
        let index = Some(index);
        let Some(datapath) = &mut self.datapath else {
            return Served { index, mode: None, reason: self.off_reason.clone() };
        };
        let wanted = match self.choice {
            Choice::Native => Wanted::Only(Mode::Native),
            Choice::Generic => Wanted::Only(Mode::Generic),
            Choice::Auto | Choice::Off => Wanted::Auto,
        };
        let served = match datapath.attach(name, wanted) {
            Ok(attached) => Served { index, mode: Some(attached.mode), reason: attached.reason },
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::new(error));
                Served { index, mode: None, reason: Some(reason) }
            }
        };
        let mode = served.mode.map_or("off", Mode::label);
        tracing::info!(interface = name, mode, reason = served.reason, "data plane");
        served
    }
}

/// The interfaces to serve: those named, or those that carry the node's own addresses, without
/// interfaces of container networks where there are others.
///
/// # Errors
///
/// One sentence that names what is missing.
pub fn choose(
    named: &[String],
    node: &str,
    addresses: &[IpAddr],
    links: &Links,
) -> anyhow::Result<Vec<String>> {
    let there = || links.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    for name in named {
        if !links.by_name.contains_key(name) {
            bail!("there is no interface {name}; this machine has: {}", there());
        }
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let mut found: Vec<String> = Vec::new();
    for link in addresses.iter().filter_map(|ip| links.with_address(*ip)) {
        if !found.contains(&link.name) {
            found.push(link.name.clone());
        }
    }
    if found.is_empty() {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        bail!(
            "no interface carries an address of node {node} ({}); name one with --interface: {}",
            addresses.join(", "),
            there()
        );
    }
    let unlikely = Exclusions::default_patterns();
    let (likely, rest): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|name| !unlikely.exclude(name));
    Ok(if likely.is_empty() { rest } else { likely })
}
