//! Taking the programs off interfaces that nobody serves any more (edge), and removing everything
//! that is pinned.
//!
//! The kernel carries on without a speaker for as long as anything is pinned: meant for a speaker
//! that is restarted, wrong for one that is gone for good. XDP goes first and the fence last, so
//! that at no moment this node answers for a VIP that it must not answer for.

use std::path::Path;
use std::{fs, io};

use super::Datapath;
use super::attach::unpin;
use crate::pins::{self, LinkPin};
use crate::{Error, link};

/// A program that was taken off an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// The interface.
    pub interface: String,
    /// `xdp-native`, `xdp-generic` or `egress`.
    pub program: &'static str,
}

/// What [`detach`] found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The programs, in the order in which they were taken off.
    pub programs: Vec<Detached>,
    /// How many maps and programs were unpinned. The kernel frees them when nothing uses them.
    pub pins: usize,
}

/// Takes all of Herald's programs off all interfaces, whichever version attached them, and removes
/// what is pinned under `pin_dir`. Other programs stay. Nothing happens if there is nothing.
///
/// # Errors
///
/// [`Error::NotBpffs`], or [`Error::PinDirectory`] if something cannot be removed.
pub fn detach(pin_dir: &Path) -> Result<Removed, Error> {
    let io = |source| Error::PinDirectory { path: pin_dir.into(), source };
    match pins::is_on_bpffs(pin_dir) {
        Ok(true) => {}
        Ok(false) => return Err(Error::NotBpffs(pin_dir.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::default()),
        Err(error) => return Err(io(error)),
    }
    let formats = pins::formats(pin_dir);
    let mut removed = Removed::default();
    let mut links: Vec<_> = formats.iter().flat_map(|format| pins::links(format)).collect();
    links.sort_by_key(|link| pins::KINDS.iter().position(|kind| *kind == link.kind));
    for LinkPin { kind, interface, path } in links {
        link::detach(&path);
        fs::remove_file(&path).map_err(io)?;
        removed.programs.push(Detached { interface, program: kind });
    }
    for format in formats {
        removed.pins += fs::read_dir(&format).map_err(io)?.count();
        fs::remove_dir_all(&format).map_err(io)?;
    }
    // Somebody else's directory, or the mount itself, stays.
    let _ = fs::remove_dir(pin_dir);
    Ok(removed)
}

impl Datapath {
    /// Takes the programs off every interface that is not among these; returns what was taken off.
    pub fn detach_others(&self, interfaces: &[String]) -> Vec<Detached> {
        let mut detached = Vec::new();
        for LinkPin { kind, interface, path } in pins::links(&self.pins) {
            if !interfaces.contains(&interface) {
                link::detach(&path);
                unpin(&path);
                detached.push(Detached { interface, program: kind });
            }
        }
        detached
    }
}
