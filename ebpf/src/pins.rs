//! Where maps, links and programs are pinned, and whether they can be: `<pin dir>/<format>/...`.
//! What is pinned there outlives the process and is adopted by the next one.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use herald_ebpf_common::PIN_FORMAT;

use crate::Error;

/// `BPF_FS_MAGIC`, linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// What the names of programs' pins begin with.
const PROGRAM: &str = "program-";

/// Makes and checks the directory of this format's pins.
pub(crate) fn directory(pin_dir: &Path) -> Result<PathBuf, Error> {
    let io = |source| Error::PinDirectory { path: pin_dir.into(), source };
    let mut existing = pin_dir;
    while !existing.exists() {
        existing = existing.parent().ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    }
    if filesystem(existing).map_err(io)? != BPF_FS_MAGIC {
        return Err(Error::NotBpffs(pin_dir.into()));
    }
    let directory = pin_dir.join(PIN_FORMAT);
    fs::create_dir_all(&directory).map_err(io)?;
    Ok(directory)
}

/// The pin of a link: its name says what is attached where, and how.
pub(crate) fn link(directory: &Path, kind: &str, interface: &str) -> PathBuf {
    // A dot is not allowed in a BPF filesystem's names (kernel/bpf/inode.c, bpf_lookup), but is
    // in VLAN interfaces'; interface names hold no '%'.
    directory.join(format!("{kind}-{}", interface.replace('.', "%")))
}

/// A pinned link, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkPin {
    /// Which of [`KINDS`] it is.
    pub kind: &'static str,
    pub interface: String,
    pub path: PathBuf,
}

/// What links are, in the order in which they are taken off an interface: the fence, which the
/// egress program has, is there for as long as anything answers for a VIP.
pub(crate) const KINDS: [&str; 3] = ["xdp-native", "xdp-generic", "egress"];

/// The pinned links of one format, in the order of [`KINDS`].
pub(crate) fn links(directory: &Path) -> Vec<LinkPin> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut links: Vec<_> = entries.flatten().filter_map(|entry| link_of(entry.path())).collect();
    links.sort_by_key(|link| KINDS.iter().position(|kind| *kind == link.kind));
    links
}

fn link_of(path: PathBuf) -> Option<LinkPin> {
    let name = path.file_name()?.to_str()?.to_owned();
    let of = |kind: &'static str| Some((kind, name.strip_prefix(kind)?.strip_prefix('-')?));
    let (kind, interface) = KINDS.into_iter().find_map(of)?;
    Some(LinkPin { kind, interface: interface.replace('%', "."), path })
}

/// The pin of a program: its name says which one, of which version.
pub(crate) fn program(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{PROGRAM}{name}"))
}

/// All pins of programs, of whatever version.
pub(crate) fn programs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_program = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_bytes().starts_with(PROGRAM.as_bytes()))
    };
    paths.filter(is_program).collect()
}

/// The names of the pinned maps: capitals, which no program's and no link's pin begins with.
pub(crate) fn maps(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase())).collect()
}

/// A pin, and those of the same name under other formats: what an older speaker, or a newer one
/// before it, has attached is ours as well, and would be in our own way.
pub(crate) fn of_all_formats(pin: &Path) -> Vec<PathBuf> {
    let mut pins = vec![pin.to_owned()];
    if let (Some(directory), Some(name)) = (pin.parent(), pin.file_name()) {
        pins.extend(others(directory).into_iter().map(|other| other.join(name)));
    }
    pins.retain(|pin| pin.exists());
    pins
}

/// The directories of other formats beside this format's.
fn others(directory: &Path) -> Vec<PathBuf> {
    let mut formats = directory.parent().map(formats).unwrap_or_default();
    formats.retain(|path| path != directory);
    formats
}

/// The directories of all formats under a pin directory.
pub(crate) fn formats(pin_dir: &Path) -> Vec<PathBuf> {
    let is_format = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_format).collect()
}

/// Whether a directory is on a BPF filesystem.
///
/// # Errors
///
/// If it is none, or cannot be looked at.
pub(crate) fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(filesystem(path)? == BPF_FS_MAGIC)
}

/// Removes what is pinned under other formats: the maps of programs that are no more.
pub(crate) fn forget_others(directory: &Path) {
    for other in others(directory) {
        match fs::remove_dir_all(&other) {
            Ok(()) => tracing::info!(pins = %other.display(), "removed the pins of another format"),
            Err(error) => {
                tracing::warn!(pins = %other.display(), %error, "cannot remove old pins");
            }
        }
    }
}

fn filesystem(path: &Path) -> io::Result<u32> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statfs is a valid value to be filled in.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated path and a statfs that outlive the call.
    match unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } {
        // The type of the field differs between C libraries; every magic number has 32 bits.
        0 => Ok(u32::try_from(stat.f_type).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_pin_tells_what_it_is() {
        for kind in KINDS {
            for interface in ["eth0", "bond0.17", "wl-egress-p1"] {
                let path = link(Path::new("pins/v1"), kind, interface);
                let told = link_of(path.clone());
                assert_eq!(told, Some(LinkPin { kind, interface: interface.into(), path }));
            }
        }
        assert_eq!(link_of(Path::new("pins/v1/VIPS").into()), None);
        assert_eq!(link_of(program(Path::new("pins/v1"), "herald_egress-12ab")), None);
    }
}
