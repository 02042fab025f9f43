//! The two programs (edge): loaded once per boot and version, pinned, and taken over by the next
//! process.
//!
//! The verifier looks at every path through the XDP program: 0.8 s of a quiet CPU, 7 to 11 s on a
//! machine with two CPUs and twenty runnable tasks (measured with `strace -T -e bpf`). A speaker
//! that is started again after a crash has less than a ttl until its node falls silent, so it must
//! not pay that again: programs made of the same object, working on the very maps that are pinned
//! here, are the same programs. It must never take over any others. So the name of a program's pin
//! says of which object it is made and on which maps it works: to ask the kernel for a program's
//! maps takes CAP_SYS_ADMIN (kernel/bpf/syscall.c, `bpf_map_get_fd_by_id`), which the DaemonSet
//! does not have.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapInfo;
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;

use super::attach::unpin;
use super::{EGRESS, XDP};
use crate::{Error, OBJECT, pins};

/// The programs.
pub(super) enum Programs {
    /// Those of a process before this one.
    Kept(Box<(Xdp, SchedClassifier)>),
    /// Those that this process has loaded.
    Loaded(Ebpf),
}

impl Programs {
    /// Takes over the pinned programs if they are these ones and work on all maps that are pinned:
    /// then the object need not be loaded, for which aya reads and parses the types of the whole
    /// kernel: 5 MB, a fifth of the processor time until a speaker has its session again.
    pub(super) fn adopt(pins: &Path) -> Option<Self> {
        Self::kept(&PinnedMaps::in_directory(pins), pins)
    }

    /// Takes over the pinned programs if they are these ones; loads and pins them otherwise.
    pub(super) fn load(mut ebpf: Ebpf, maps: &PinnedMaps, pins: &Path) -> Result<Self, Error> {
        if let Some(kept) = Self::kept(maps, pins) {
            return Ok(kept);
        }
        let [xdp_pin, egress_pin] = own_pins(maps, pins);
        forget_all_but(pins, &[]);
        tracing::info!(
            "loading the programs, which the kernel verifies: seconds on a busy machine"
        );
        let load = |name, source| Error::Program { name, source: Box::new(source) };
        xdp(&mut ebpf)?.load().map_err(|source| load(XDP, source))?;
        egress(&mut ebpf)?.load().map_err(|source| load(EGRESS, source))?;
        // Without these pins the next process only starts more slowly.
        if let Err(error) = xdp(&mut ebpf)?.pin(&xdp_pin).and(egress(&mut ebpf)?.pin(&egress_pin)) {
            tracing::warn!(%error, "cannot pin the programs");
        }
        Ok(Self::Loaded(ebpf))
    }

    /// Both pinned programs, if both are there.
    fn kept(maps: &PinnedMaps, pins: &Path) -> Option<Self> {
        let [xdp_pin, egress_pin] = own_pins(maps, pins);
        let xdp = Xdp::from_pin(&xdp_pin, XdpAttachType::Interface).ok()?;
        let egress = SchedClassifier::from_pin(&egress_pin).ok()?;
        forget_all_but(pins, &[&xdp_pin, &egress_pin]);
        tracing::info!("taking over the programs of the process before");
        Some(Self::Kept(Box::new((xdp, egress))))
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        match self {
            Self::Kept(kept) => Ok(&mut kept.0),
            Self::Loaded(ebpf) => xdp(ebpf),
        }
    }

    pub(super) fn egress(&mut self) -> Result<&mut SchedClassifier, Error> {
        match self {
            Self::Kept(kept) => Ok(&mut kept.1),
            Self::Loaded(ebpf) => egress(ebpf),
        }
    }
}

/// The kernel's numbers of the pinned maps, which are never used twice between two boots; a pin
/// does not survive one. Somebody may have removed a map's pin: there is a new map then, with a new
/// number, and a program that works on the old one is of no use any more.
pub(super) struct PinnedMaps(BTreeMap<String, u32>);

impl PinnedMaps {
    /// Those of a loaded object. The compiler's constants are a map without a pin, part of the
    /// object.
    pub(super) fn of(ebpf: &Ebpf, pins: &Path) -> Self {
        Self::named(ebpf.maps().map(|(name, _)| name.to_owned()), pins)
    }

    /// All that are pinned there: one more or less than the programs work on, and they are not
    /// found.
    fn in_directory(pins: &Path) -> Self {
        Self::named(pins::maps(pins).into_iter(), pins)
    }

    fn named(names: impl Iterator<Item = String>, pins: &Path) -> Self {
        let number = |name: &String| Some(MapInfo::from_pin(pins.join(name)).ok()?.id());
        Self(names.filter_map(|name| number(&name).map(|number| (name, number))).collect())
    }
}

/// Where the programs made of our object for these maps are pinned.
fn own_pins(maps: &PinnedMaps, pins: &Path) -> [PathBuf; 2] {
    [XDP, EGRESS].map(|name| pin(pins, name, OBJECT, maps))
}

/// Where a program made of this object for these maps is pinned.
fn pin(pins: &Path, name: &str, object: &[u8], maps: &PinnedMaps) -> PathBuf {
    let mut digest = DefaultHasher::new();
    (object, &maps.0).hash(&mut digest);
    pins::program(pins, &format!("{name}-{:016x}", digest.finish()))
}

/// Removes the pins of all other programs. Where one is still attached, it stays until it is
/// replaced.
fn forget_all_but(pins: &Path, ours: &[&Path]) {
    for path in pins::programs(pins) {
        if !ours.contains(&path.as_path()) {
            unpin(&path);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_each_program_and_each_set_of_maps_has_a_pin_of_its_own() {
        let maps = |id| PinnedMaps([("VIPS".to_owned(), id), ("NODE".to_owned(), 9)].into());
        let of = |name, object: &[u8], id| pin(Path::new("pins"), name, object, &maps(id));
        assert_eq!(of(XDP, b"one", 7), of(XDP, b"one", 7));
        assert_ne!(of(XDP, b"one", 7), of(XDP, b"two", 7));
        assert_ne!(of(XDP, b"one", 7), of(EGRESS, b"one", 7));
        assert_ne!(of(XDP, b"one", 7), of(XDP, b"one", 8));
    }
}
