//! Which interfaces are served and how (edge): attaches the programs, falls back to `off` with
//! the reason, and attaches again where an interface went and came back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use herald_announcer::{Link, Links};
use herald_ebpf::{Attached, Datapath, Detached, Error, HeldBack, Mode, SessionFence, Wanted};

use crate::facts::Carrier;
use crate::observed::Exclusions;
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    /// The index it was attached at; another one is another interface of the same name.
    index: Option<u32>,
    /// The MTU it was attached with: a large one may be what is in the way of the driver's mode.
    mtu: u32,
    mode: Option<Mode>,
    reason: Option<String>,
    /// Somebody else's program has the interface, and may go some day.
    is_occupied: bool,
}

impl Served {
    /// Without XDP.
    fn off(link: Option<&Link>, reason: Option<String>) -> Self {
        let index = link.map(|link| link.index);
        let mtu = link.map_or(0, |link| link.mtu);
        Self { index, mtu, mode: None, reason, is_occupied: false }
    }
}

impl Carriers {
    /// Loads the data plane and attaches it to every interface. For `drain` after its backend
    /// changed, a slot remembers its flows.
    ///
    /// # Errors
    ///
    /// If a mode was demanded that cannot be had.
    pub fn open(
        choice: Choice,
        pin_dir: &Path,
        drain: Duration,
        interfaces: &[String],
        links: &Links,
    ) -> anyhow::Result<(Self, Option<SessionFence>)> {
        let (datapath, fence, off_reason) = match choice {
            Choice::Off => {
                give_up(pin_dir);
                (None, None, Some("asked for by --datapath off".to_owned()))
            }
            _ => match Datapath::open_with(pin_dir, drain) {
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
            let served = carriers.attach(link);
            if let (Some(reason), Choice::Native | Choice::Generic, None) =
                (&served.reason, choice, served.mode)
            {
                bail!("{reason}");
            }
            carriers.set(name, served);
        }
        if let Some(datapath) = &carriers.datapath {
            tell(&datapath.detach_others(interfaces));
            datapath.forget_other_formats();
        }
        Ok((carriers, fence))
    }

    /// Attaches anew where an interface was replaced by another of its name, where its MTU changed
    /// and a better mode may work now, and where somebody else's program was in the way.
    pub fn follow(&mut self, links: &Links) {
        let served: Vec<_> =
            self.served.iter().map(|(name, it)| (name.clone(), it.clone())).collect();
        for (name, before) in served {
            let now = match links.by_name.get(&name) {
                None if before.index.is_none() => continue,
                None => Served::off(None, Some("the interface does not exist".to_owned())),
                Some(link) if before.index != Some(link.index) || before.is_occupied => {
                    self.attach(link)
                }
                Some(link) if before.mtu != link.mtu => self.resized(link, before),
                Some(_) => continue,
            };
            self.set(&name, now);
        }
    }

    /// Whether [`Carriers::follow`] should be called now and then, although nothing changed: the
    /// kernel does not tell when a program is taken off an interface.
    pub fn is_waiting(&self) -> bool {
        self.served.values().any(|served| served.is_occupied)
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

    fn set(&mut self, name: &str, served: Served) {
        let same = |before: &Served| (before.mode, &before.reason) == (served.mode, &served.reason);
        if !self.served.get(name).is_some_and(same) {
            let mode = served.mode.map_or("off", Mode::label);
            tracing::info!(interface = name, mode, reason = served.reason, "data plane");
        }
        self.served.insert(name.to_owned(), served);
    }

    fn attach(&mut self, link: &Link) -> Served {
        let Some(datapath) = &mut self.datapath else {
            return Served::off(Some(link), self.off_reason.clone());
        };
        let wanted = match self.choice {
            Choice::Native => Wanted::Only(Mode::Native),
            Choice::Generic => Wanted::Only(Mode::Generic),
            Choice::Auto | Choice::Off => Wanted::Auto,
        };
        attached(link, datapath.attach(&link.name, wanted))
    }

    /// After a change of the MTU. Natively attached, nothing has to be done: the driver itself
    /// refuses an MTU that XDP cannot have.
    fn resized(&mut self, link: &Link, before: Served) -> Served {
        match (self.choice, before.mode, &mut self.datapath) {
            (Choice::Auto, Some(Mode::Generic), Some(datapath)) => {
                attached(link, datapath.improve(&link.name))
            }
            (_, None, Some(_)) => self.attach(link),
            _ => Served { mtu: link.mtu, ..before },
        }
    }
}

/// Takes off what an earlier speaker attached, which forwards by what it knew then.
fn give_up(pin_dir: &Path) {
    match herald_ebpf::detach(pin_dir) {
        Ok(removed) => tell(&removed.programs),
        Err(Error::NotBpffs(_)) => {}
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(error, "cannot detach what an earlier speaker attached");
        }
    }
}

fn tell(detached: &[Detached]) {
    for Detached { interface, program } in detached {
        tracing::info!(interface, program, "detached from an interface that is not served");
    }
}

fn attached(link: &Link, result: Result<Attached, Error>) -> Served {
    match result {
        Ok(Attached { mode, reason }) => {
            Served { mode: Some(mode), reason, ..Served::off(Some(link), None) }
        }
        Err(error) => {
            let is_occupied = matches!(error, Error::Occupied { .. });
            let reason = format!("{:#}", anyhow::Error::new(error));
            Served { is_occupied, ..Served::off(Some(link), Some(reason)) }
        }
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
