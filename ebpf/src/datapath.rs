//! The kernel's side (edge): loading, attaching, pinning, and writing the maps.
//!
//! Maps and links are pinned, so the data plane goes on while no process lives; a new process
//! adopts the maps and replaces the programs in the pinned links without a packet in between.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp};
use aya::{Ebpf, EbpfLoader};
use herald_ebpf_common as common;
use herald_ebpf_common::{Reason, WHILE_SESSION};

use crate::fence::SessionFence;
use crate::picture::Picture;
use crate::tables::{Tables, Write};
use crate::{Error, OBJECT, pins};

const XDP: &str = "herald_xdp";
const EGRESS: &str = "herald_egress";

/// How XDP runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, before anything else (`generic`): slower, works with every driver.
    Generic,
}

impl Mode {
    /// The name in flags, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Which mode is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Native, else generic.
    Auto,
    /// This one or none.
    Only(Mode),
}

/// The mode an interface got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The mode.
    pub mode: Mode,
    /// Why not a better one, if that was tried.
    pub reason: Option<String>,
}

/// One of the programs' counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Which.
    pub reason: Reason,
    /// Packets since the maps were first pinned, over all CPUs.
    pub packets: u64,
}

/// The loaded programs and their maps.
pub struct Datapath {
    ebpf: Ebpf,
    pins: PathBuf,
    vips: HashMap<MapData, common::VipKey, common::VipState>,
    links: HashMap<MapData, u32, common::Link>,
    peers: HashMap<MapData, common::PeerKey, common::Peer>,
    services: HashMap<MapData, common::ServiceKey, common::ServiceTable>,
    backends: Array<MapData, common::Backend>,
    reasons: PerCpuArray<MapData, u64>,
    tables: Tables,
}

impl Datapath {
    /// Loads the programs; adopts what is pinned under `pin_dir`.
    ///
    /// # Errors
    ///
    /// [`Error::NotBpffs`], [`Error::PinDirectory`], or what the kernel refuses.
    pub fn open(pin_dir: &Path) -> Result<(Self, SessionFence), Error> {
        let pins = pins::directory(pin_dir)?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&pins)
            .load(OBJECT)
            .map_err(|source| Error::Load(Box::new(source)))?;
        let load = |name, source| Error::Program { name, source: Box::new(source) };
        xdp(&mut ebpf)?.load().map_err(|source| load(XDP, source))?;
        egress(&mut ebpf)?.load().map_err(|source| load(EGRESS, source))?;
        let session = take(&mut ebpf, "SESSION", Array::try_from)?;
        let services = take(&mut ebpf, "SERVICES", HashMap::try_from)?;
        let tables = Tables::adopt(entries("SERVICES", &services)?);
        let datapath = Self {
            vips: take(&mut ebpf, "VIPS", HashMap::try_from)?,
            links: take(&mut ebpf, "LINKS", HashMap::try_from)?,
            peers: take(&mut ebpf, "PEERS", HashMap::try_from)?,
            services,
            backends: take(&mut ebpf, "BACKENDS", Array::try_from)?,
            reasons: take(&mut ebpf, "REASONS", PerCpuArray::try_from)?,
            tables,
            ebpf,
            pins,
        };
        Ok((datapath, SessionFence::new(session)))
    }

    /// Attaches both programs to an interface, or replaces those an earlier process left there.
    ///
    /// # Errors
    ///
    /// [`Error::Attach`] if no wanted mode works: another program is attached, the driver or the
    /// MTU does not allow it; [`Error::Pin`].
    pub fn attach(&mut self, interface: &str, wanted: Wanted) -> Result<Attached, Error> {
        self.attach_egress(interface)?;
        let modes: &[Mode] = match wanted {
            Wanted::Auto => &[Mode::Native, Mode::Generic],
            Wanted::Only(Mode::Native) => &[Mode::Native],
            Wanted::Only(Mode::Generic) => &[Mode::Generic],
        };
        let mut refusal: Option<Error> = None;
        for &mode in modes {
            match self.attach_xdp(interface, mode) {
                Ok(()) => {
                    let reason = refusal.as_ref().map(chain);
                    return Ok(Attached { mode, reason });
                }
                Err(error) => refusal = Some(refusal.unwrap_or(error)),
            }
        }
        self.detach(interface);
        Err(refusal.unwrap_or(Error::Missing(XDP)))
    }

    /// Detaches both programs from an interface; nothing happens if they are not attached.
    pub fn detach(&mut self, interface: &str) {
        for kind in ["xdp-native", "xdp-generic", "egress"] {
            unpin(&pins::link(&self.pins, kind, interface));
        }
    }

    /// Makes the maps equal to `picture`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] or [`Error::TooManyBackends`]; what was written before stays.
    pub fn apply(&mut self, picture: &Picture) -> Result<(), Error> {
        let links = picture
            .links
            .iter()
            .map(|(index, mac)| (*index, common::Link { mac: common::mac(*mac), reserved: 0 }));
        reconcile("LINKS", &mut self.links, links.collect())?;
        let peers = picture.peers.iter().map(|(mac, (v4, v6))| {
            let key = common::PeerKey { mac: common::mac(*mac), reserved: 0 };
            (key, peer(*v4, *v6))
        });
        reconcile("PEERS", &mut self.peers, peers.collect())?;
        let full = Error::TooManyBackends { limit: common::BACKENDS };
        for write in self.tables.update(&picture.services).map_err(|_| full)? {
            self.write(write)?;
        }
        // Last: an answer draws traffic, which the tables must be ready for.
        let vips = picture.vips.iter().map(|(vip, ifindex)| {
            let key = common::VipKey { address: common::address(*vip), ifindex: *ifindex };
            (key, common::VipState { valid_until: WHILE_SESSION })
        });
        reconcile("VIPS", &mut self.vips, vips.collect())
    }

    /// Silences one VIP on all interfaces at once, ahead of the next picture.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn silence(&mut self, vip: IpAddr) -> Result<(), Error> {
        let address = common::address(vip);
        for (key, _) in entries("VIPS", &self.vips)? {
            if key.address == address {
                remove("VIPS", &mut self.vips, &key)?;
            }
        }
        Ok(())
    }

    /// The programs' counters that are not zero.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        let mut counters = Vec::new();
        for (index, &reason) in (0..).zip(Reason::ALL) {
            let source = |source| Error::Map { operation: "read", map: "REASONS", source };
            let packets = self.reasons.get(&index, 0).map_err(source)?.iter().sum();
            if packets > 0 {
                counters.push(Counter { reason, packets });
            }
        }
        Ok(counters)
    }

    /// The loaded XDP program, for running it on packets of one's own (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    ///
    /// [`Error::Missing`].
    pub fn xdp_program(&mut self) -> Result<&mut Xdp, Error> {
        xdp(&mut self.ebpf)
    }

    /// The loaded tc egress program, for running it on packets of one's own.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`].
    pub fn egress_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        egress(&mut self.ebpf)
    }

    fn write(&mut self, write: Write) -> Result<(), Error> {
        let failed = |map| move |source| Error::Map { operation: "write", map, source };
        match write {
            Write::Backend(index, entry) => {
                self.backends.set(u32::from(index), entry, 0).map_err(failed("BACKENDS"))
            }
            Write::Service(key, table) => {
                self.services.insert(key, table.as_ref(), 0).map_err(failed("SERVICES"))
            }
            Write::NoService(key) => remove("SERVICES", &mut self.services, &key),
        }
    }

    fn attach_xdp(&mut self, interface: &str, mode: Mode) -> Result<(), Error> {
        let failed = |source: ProgramError| Error::Attach {
            name: XDP,
            interface: interface.into(),
            source: Box::new(source),
        };
        let pin = pins::link(&self.pins, &format!("xdp-{}", mode.label()), interface);
        let program = xdp(&mut self.ebpf)?;
        if let Some(link) = adopt(&pin).and_then(|link| XdpLink::try_from(link).ok()) {
            // A link whose interface is gone refuses (ENOLINK): then a new one is made.
            if let Ok(id) = program.attach_to_link(link) {
                // The pin keeps the link; ours may go.
                return program.take_link(id).map(drop).map_err(failed);
            }
        }
        unpin(&pin);
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program.attach(interface, flags).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        persist(FdLink::try_from(link), pin)
    }

    fn attach_egress(&mut self, interface: &str) -> Result<(), Error> {
        let failed = |source: ProgramError| Error::Attach {
            name: EGRESS,
            interface: interface.into(),
            source: Box::new(source),
        };
        let pin = pins::link(&self.pins, "egress", interface);
        let program = egress(&mut self.ebpf)?;
        if let Some(link) = adopt(&pin).and_then(|link| link.try_into().ok())
            && let Ok(id) = program.attach_to_link(link)
        {
            return program.take_link(id).map(drop).map_err(failed);
        }
        unpin(&pin);
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id =
            program.attach_with_options(interface, TcAttachType::Egress, order).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        persist(FdLink::try_from(link), pin)
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(XDP).ok_or(Error::Missing(XDP))?;
    program.try_into().map_err(|_| Error::Missing(XDP))
}

fn egress(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    let program = ebpf.program_mut(EGRESS).ok_or(Error::Missing(EGRESS))?;
    program.try_into().map_err(|_| Error::Missing(EGRESS))
}

fn take<M>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<M, MapError>,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    convert(map).map_err(|source| Error::Map { operation: "open", map: name, source })
}

fn adopt(pin: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(pin).ok().map(FdLink::from)
}

/// Removes a pin; with its last reference gone, the link detaches.
fn unpin(pin: &Path) {
    if let Err(error) = std::fs::remove_file(pin)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "cannot remove a pin");
    }
}

fn persist<E>(link: Result<FdLink, E>, pin: PathBuf) -> Result<(), Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let link = link.map_err(|source| Error::Pin { path: pin.clone(), source: Box::new(source) })?;
    link.pin(&pin).map(drop).map_err(|source| Error::Pin { path: pin, source: Box::new(source) })
}

fn peer(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> common::Peer {
    common::Peer {
        v4: v4.map_or([0; 4], |v4| common::address(v4.into())),
        v6: v6.map_or([0; 4], |v6| common::address(v6.into())),
    }
}

fn entries<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<Vec<(K, V)>, Error> {
    let failed = |source| Error::Map { operation: "read", map: name, source };
    map.iter().map(|entry| entry.map_err(failed)).collect()
}

/// Makes a map equal to `wanted` by the fewest writes.
fn reconcile<K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    mut wanted: BTreeMap<K, V>,
) -> Result<(), Error> {
    for (key, value) in entries(name, map)? {
        match wanted.get(&key) {
            None => remove(name, map, &key)?,
            Some(target) if *target == value => drop(wanted.remove(&key)),
            Some(_) => {}
        }
    }
    for (key, value) in wanted {
        map.insert(key, value, 0).map_err(|source| Error::Map {
            operation: "write",
            map: name,
            source,
        })?;
    }
    Ok(())
}

/// Removes a key; that it is not there is no error.
fn remove<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    key: &K,
) -> Result<(), Error> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(source) => Err(Error::Map { operation: "remove from", map: name, source }),
    }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
