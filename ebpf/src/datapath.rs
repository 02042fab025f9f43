//! The kernel's side (edge): loading, attaching, pinning, and writing the maps.
//!
//! Maps and links are pinned, so the data plane goes on while no process lives; a new process
//! adopts the maps and replaces the programs in the pinned links without a packet in between.

mod attach;
pub mod detach;
mod digest;
pub mod held_back;
mod maps;
mod occupant;
mod programs;
pub mod samples;
mod services;

pub use self::occupant::Occupant;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, Xdp};
use herald_ebpf_common as common;
use herald_ebpf_common::sample::Counted;
use herald_ebpf_common::{Reason, WHILE_SESSION};

use self::digest::Digest;
use self::maps::Maps;
use self::programs::Programs;
use self::samples::Samples;
use self::services::Services;
use crate::fallback::Fallback;
use crate::fence::{self, SessionFence};
use crate::picture::Picture;
use crate::tables::{Tables, Update, Write};
use crate::{Error, pins};

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
    programs: Programs,
    pins: PathBuf,
    vips: HashMap<MapData, common::VipKey, common::VipState>,
    fenced: HashMap<MapData, common::Address, common::VipState>,
    links: HashMap<MapData, u32, common::Link>,
    peers: HashMap<MapData, common::PeerKey, common::Peer>,
    services: Services,
    digest: Digest,
    backends: Array<MapData, common::Backend>,
    sources: LpmTrie<MapData, [u32; 5], u32>,
    reasons: PerCpuArray<MapData, Counted>,
    held_back: PerCpuHashMap<MapData, common::HeldBackKey, u64>,
    tables: Tables,
    /// What `LINKS`, `PEERS`, `FENCED` and `VIPS` hold, if that is certain.
    neighbourhood: Option<Neighbourhood>,
    /// What `SOURCES` holds, if that is certain.
    listed: Option<BTreeSet<common::SourceKey>>,
    fallback: HashMap<MapData, common::ServiceKey, common::ReverseValue>,
    /// What `FALLBACK` should hold.
    names: Fallback,
    /// Whether it holds that for certain.
    has_names: bool,
    drain: Duration,
    /// Until somebody takes it.
    samples: Option<Samples>,
}

/// The parts of a picture that change seldom.
struct Neighbourhood {
    vips: BTreeSet<(IpAddr, u32)>,
    all_vips: BTreeSet<IpAddr>,
    links: BTreeMap<u32, [u8; 6]>,
    peers: BTreeMap<[u8; 6], (Option<Ipv4Addr>, Option<Ipv6Addr>)>,
}

impl Neighbourhood {
    fn of(picture: &Picture) -> Self {
        let Picture { vips, all_vips, links, peers, .. } = picture;
        let (vips, all_vips) = (vips.clone(), all_vips.clone());
        Self { vips, all_vips, links: links.clone(), peers: peers.clone() }
    }

    fn is_of(&self, picture: &Picture) -> bool {
        let Self { vips, all_vips, links, peers } = self;
        *vips == picture.vips
            && *all_vips == picture.all_vips
            && *links == picture.links
            && *peers == picture.peers
    }
}

/// How long a slot whose backend changed remembers its flows, unless told otherwise.
pub const DRAIN: Duration = Duration::from_secs(15 * 60);

impl Datapath {
    /// Loads the programs; adopts what is pinned under `pin_dir`.
    ///
    /// # Errors
    ///
    /// [`Error::OwnBootClock`], [`Error::NotBpffs`], [`Error::PinDirectory`], or what the kernel
    /// refuses.
    pub fn open(pin_dir: &Path) -> Result<(Self, SessionFence), Error> {
        Self::open_with(pin_dir, DRAIN)
    }

    /// As [`Datapath::open`]; a slot whose backend changes, and one that an earlier process left
    /// so, remembers its flows for `drain`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_with(pin_dir: &Path, drain: Duration) -> Result<(Self, SessionFence), Error> {
        fence::check_boot_clock()?;
        let pins = pins::directory(pin_dir)?;
        let mut maps = Maps::open(&pins)?;
        let session = take(&mut maps, "SESSION", Array::try_from)?;
        let services = Services::new(
            take(&mut maps, "SERVICES", HashMap::try_from)?,
            take(&mut maps, "SERVICES4", HashMap::try_from)?,
        );
        let digest = Digest::new(
            take(&mut maps, "NODE", Array::try_from)?,
            take(&mut maps, "VIP_FILTER", Array::try_from)?,
        );
        let mut datapath = Self {
            vips: take(&mut maps, "VIPS", HashMap::try_from)?,
            fenced: take(&mut maps, "FENCED", HashMap::try_from)?,
            links: take(&mut maps, "LINKS", HashMap::try_from)?,
            peers: take(&mut maps, "PEERS", HashMap::try_from)?,
            services,
            digest,
            backends: take(&mut maps, "BACKENDS", Array::try_from)?,
            sources: take(&mut maps, "SOURCES", LpmTrie::try_from)?,
            reasons: take(&mut maps, "REASONS", PerCpuArray::try_from)?,
            held_back: take(&mut maps, "HELD_BACK", PerCpuHashMap::try_from)?,
            tables: Tables::new(drain),
            neighbourhood: None,
            listed: None,
            fallback: take(&mut maps, "FALLBACK", HashMap::try_from)?,
            names: Fallback::default(),
            has_names: false,
            drain,
            samples: Some(Samples::open(&mut maps)?),
            programs: maps.into_programs(&pins)?,
            pins,
        };
        datapath.adopt(boot_now())?;
        Ok((datapath, SessionFence::new(session)))
    }

    /// Lets go of what programs of another format left pinned. To be called when all interfaces are
    /// attached: until then, the links among it carry traffic.
    pub fn forget_other_formats(&self) {
        pins::forget_others(&self.pins);
    }

    /// When [`Datapath::apply`] should be called again with the same picture, on the boot clock:
    /// slots become clean then. Later does no harm but cost.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.tables.next_deadline()
    }

    /// Makes the maps equal to `picture`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] or [`Error::TooManyBackends`]; what was written before stays, and the next
    /// call writes the rest.
    pub fn apply(&mut self, picture: &Picture) -> Result<(), Error> {
        self.apply_at(picture, boot_now())
    }

    /// As [`Datapath::apply`], at a moment on the boot clock.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn apply_at(&mut self, picture: &Picture, now: Duration) -> Result<(), Error> {
        let update = self.tables.update(picture, now);
        let done = self.apply_parts(picture, &update);
        if done.is_err() {
            self.neighbourhood = None;
            self.listed = None;
            // The tables took the writes for done; only the kernel knows which were.
            self.adopt(now)?;
        }
        done?;
        match update.refused {
            0 => Ok(()),
            _ => Err(Error::TooManyBackends { limit: common::BACKENDS }),
        }
    }

    fn apply_parts(&mut self, picture: &Picture, update: &Update) -> Result<(), Error> {
        let met = self.neighbourhood.take().filter(|met| met.is_of(picture));
        if met.is_none() {
            self.meet(picture)?;
        }
        // Networks that may ask are there before a table names them, and go after it went.
        let mut sources = self.tables.sources();
        let direct = picture.direct.iter().flatten();
        sources.extend(direct.map(|network| network.key(common::DIRECT)));
        let listed = match self.listed.take() {
            Some(listed) => listed,
            None => self.read_sources()?,
        };
        for key in sources.difference(&listed) {
            self.sources.insert(&trie_key(key), 0, 0).map_err(failed("write", "SOURCES"))?;
        }
        self.digest.admit(self.tables.guesses())?;
        for write in &update.writes {
            self.write(write)?;
        }
        self.digest.admit_only(self.tables.guesses())?;
        for key in listed.difference(&sources) {
            self.sources.remove(&trie_key(key)).map_err(failed("remove from", "SOURCES"))?;
        }
        self.listed = Some(sources);
        self.name(picture)?;
        if met.is_none() {
            // Last: an answer draws traffic, which the tables must be ready for.
            self.speak(picture)?;
        }
        self.neighbourhood = Some(met.unwrap_or_else(|| Neighbourhood::of(picture)));
        Ok(())
    }

    /// What the ports of this node's pods are known as.
    fn name(&mut self, picture: &Picture) -> Result<(), Error> {
        const NAME: &str = "FALLBACK";
        let changed = self.names.update(picture);
        if !std::mem::replace(&mut self.has_names, false) {
            reconcile(NAME, &mut self.fallback, self.names.values())?;
        } else {
            for pod in &changed {
                match self.names.value(pod) {
                    Some(value) => {
                        self.fallback.insert(pod, value, 0).map_err(failed("write", NAME))?;
                    }
                    None => remove(NAME, &mut self.fallback, pod)?,
                }
            }
        }
        self.has_names = true;
        Ok(())
    }

    fn meet(&mut self, picture: &Picture) -> Result<(), Error> {
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
        self.digest.meet(picture)
    }

    fn speak(&mut self, picture: &Picture) -> Result<(), Error> {
        reconcile("FENCED", &mut self.fenced, fenced(picture))?;
        let vips = picture.vips.iter().map(|(vip, ifindex)| {
            let key = common::VipKey { address: common::address(*vip), ifindex: *ifindex };
            (key, common::VipState { valid_until: WHILE_SESSION })
        });
        reconcile("VIPS", &mut self.vips, vips.collect())
    }

    /// Takes what is in the maps for what was written.
    fn adopt(&mut self, now: Duration) -> Result<(), Error> {
        let services = self.services.entries()?;
        let known: Vec<common::ServiceKey> = services.iter().map(|(key, _)| *key).collect();
        let backend = |number| self.backends.get(&u32::from(number), 0).ok();
        self.tables = Tables::adopt(self.drain, now, services, backend);
        // Chunks that no table has: an earlier process was stopped while it wrote them.
        let used = self.tables.keys();
        for key in known.iter().filter(|key| !used.contains(key)) {
            self.services.remove(key)?;
        }
        Ok(())
    }

    fn read_sources(&self) -> Result<BTreeSet<common::SourceKey>, Error> {
        let key = |key: Result<Key<[u32; 5]>, MapError>| {
            let key = key.map_err(failed("read", "SOURCES"))?;
            let [list, a, b, c, d] = key.data();
            let address = [a, b, c, d];
            Ok(common::SourceKey { prefix_bits: key.prefix_len(), list, address })
        };
        self.sources.keys().map(key).collect()
    }

    /// The programs' counters that are not zero.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        let mut counters = Vec::new();
        for (index, &reason) in (0..).zip(Reason::ALL) {
            let read = self.reasons.get(&index, 0).map_err(failed("read", "REASONS"))?;
            let packets = read.iter().map(|counted| counted.packets).sum();
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
        self.programs.xdp()
    }

    /// The loaded tc egress program, for running it on packets of one's own.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`].
    pub fn egress_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        self.programs.egress()
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        let failed = |map| failed("write", map);
        match write {
            Write::Backend(index, entry) => {
                self.backends.set(u32::from(*index), entry, 0).map_err(failed("BACKENDS"))
            }
            Write::Service(key, table) => self.services.insert(key, table),
            Write::NoService(key) => self.services.remove(key),
        }
    }
}

fn take<M>(
    maps: &mut Maps,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<M, MapError>,
) -> Result<M, Error> {
    let map = maps.take(name)?;
    convert(map).map_err(|source| Error::Map { operation: "open", map: name, source })
}

/// A map's refusal as an error.
fn failed(operation: &'static str, map: &'static str) -> impl Fn(MapError) -> Error + Copy {
    move |source| Error::Map { operation, map, source }
}

/// A key of `SOURCES` as aya has it: the same 24 octets.
const fn trie_key(key: &common::SourceKey) -> Key<[u32; 5]> {
    let [a, b, c, d] = key.address;
    Key::new(key.prefix_bits, [key.list, a, b, c, d])
}

/// The boot clock, which the kernel's programs read too.
fn boot_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn peer(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> common::Peer {
    common::Peer {
        v4: v4.map_or([0; 4], |v4| common::address(v4.into())),
        v6: v6.map_or([0; 4], |v6| common::address(v6.into())),
    }
}

/// Every VIP, with until when this node may speak for it on any interface.
fn fenced(picture: &Picture) -> BTreeMap<common::Address, common::VipState> {
    let silent = picture.all_vips.iter().map(|vip| (*vip, 0));
    let held = picture.vips.iter().map(|(vip, _)| (*vip, WHILE_SESSION));
    silent
        .chain(held)
        .map(|(vip, valid_until)| (common::address(vip), common::VipState { valid_until }))
        .collect()
}

fn entries<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<Vec<(K, V)>, Error> {
    map.iter().map(|entry| entry.map_err(failed("read", name))).collect()
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
