//! The two programs (edge): loaded once per boot and version, pinned, and taken over by the next
//! process.
//!
//! The verifier looks at every path through the XDP program: 0.8 s of a quiet CPU, 7 to 11 s on a
//! machine with two CPUs and twenty runnable tasks (measured with `strace -T -e bpf`). A speaker
//! that is started again after a crash has less than a ttl until its node falls silent, so it
//! must not pay that again: programs made of the same object, working on the very maps that are
//! pinned here, are the same programs. It must never take over any others.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapInfo;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;

use super::attach::unpin;
use super::{EGRESS, XDP};
use crate::{Error, OBJECT, pins};

/// The programs, as loaded by this process or by one before it.
pub(super) struct Programs {
    ebpf: Ebpf,
    kept: Option<(Xdp, SchedClassifier)>,
}

impl Programs {
    /// Takes over the pinned programs if they are these ones; loads and pins them otherwise.
    pub(super) fn load(mut ebpf: Ebpf, pins: &Path) -> Result<Self, Error> {
        let [xdp_pin, egress_pin] = [XDP, EGRESS].map(|name| pin(pins, name, OBJECT));
        forget_all_but(pins, &[&xdp_pin, &egress_pin]);
        if let Some(kept) = kept(&xdp_pin, &egress_pin, pins) {
            tracing::info!("taking over the programs of the process before");
            return Ok(Self { ebpf, kept: Some(kept) });
        }
        tracing::info!(
            "loading the programs, which the kernel verifies: seconds on a busy machine"
        );
        let load = |name, source| Error::Program { name, source: Box::new(source) };
        xdp(&mut ebpf)?.load().map_err(|source| load(XDP, source))?;
        egress(&mut ebpf)?.load().map_err(|source| load(EGRESS, source))?;
        unpin(&xdp_pin);
        unpin(&egress_pin);
        // Without these pins the next process only starts more slowly.
        if let Err(error) = xdp(&mut ebpf)?.pin(&xdp_pin).and(egress(&mut ebpf)?.pin(&egress_pin)) {
            tracing::warn!(%error, "cannot pin the programs");
        }
        Ok(Self { ebpf, kept: None })
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        match &mut self.kept {
            Some((program, _)) => Ok(program),
            None => xdp(&mut self.ebpf),
        }
    }

    pub(super) fn egress(&mut self) -> Result<&mut SchedClassifier, Error> {
        match &mut self.kept {
            Some((_, program)) => Ok(program),
            None => egress(&mut self.ebpf),
        }
    }
}

/// Both pinned programs, if both are there and work on the pinned maps.
fn kept(xdp: &Path, egress: &Path, pins: &Path) -> Option<(Xdp, SchedClassifier)> {
    let xdp = Xdp::from_pin(xdp, XdpAttachType::Interface).ok()?;
    let egress = SchedClassifier::from_pin(egress).ok()?;
    let both = works_on_pinned_maps(xdp.info(), pins) && works_on_pinned_maps(egress.info(), pins);
    both.then_some((xdp, egress))
}

/// Whether every map that the program uses and that is pinned by name is the pinned one. Somebody
/// may have removed a map's pin: the program then works on one that nobody can reach any more.
fn works_on_pinned_maps(program: Result<ProgramInfo, ProgramError>, pins: &Path) -> bool {
    let Ok(Some(ids)) = program.and_then(|program| program.map_ids()) else { return false };
    let is_pinned = |id: &u32| {
        let Ok(map) = MapInfo::from_id(*id) else { return false };
        let Some(name) = map.name_as_str() else { return false };
        // The compiler's constants are a map without a pin, part of the object that we compare.
        name.starts_with(".rodata")
            || MapInfo::from_pin(pins.join(name)).is_ok_and(|pinned| pinned.id() == *id)
    };
    !ids.is_empty() && ids.iter().all(is_pinned)
}

/// Where a program made of this object is pinned.
fn pin(pins: &Path, name: &str, object: &[u8]) -> PathBuf {
    let mut digest = DefaultHasher::new();
    object.hash(&mut digest);
    pins::program(pins, &format!("{name}-{:016x}", digest.finish()))
}

/// Removes the pins of other versions' programs. Where one is still attached, it stays until it is
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
    fn each_object_and_each_program_has_a_pin_of_its_own() {
        let of = |name, object: &[u8]| pin(Path::new("pins"), name, object);
        assert_eq!(of(XDP, b"one"), of(XDP, b"one"));
        assert_ne!(of(XDP, b"one"), of(XDP, b"two"));
        assert_ne!(of(XDP, b"one"), of(EGRESS, b"one"));
    }
}
