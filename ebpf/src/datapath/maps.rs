//! Where the maps come from (edge): from their pins alone, where the process before has left the
//! programs that work on them; else from the object, which is loaded for that.

use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use aya::{Ebpf, EbpfLoader};

use super::programs::{PinnedMaps, Programs};
use crate::{Error, OBJECT};

/// The maps that nobody has taken yet, and the programs that work on them.
pub(super) enum Maps {
    /// An earlier process's.
    Pinned { pins: PathBuf, programs: Programs },
    /// Ours; those that were pinned already are the pinned ones.
    Loaded { ebpf: Box<Ebpf>, pinned: PinnedMaps },
}

impl Maps {
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        if let Some(programs) = Programs::adopt(pins) {
            return Ok(Self::Pinned { pins: pins.to_owned(), programs });
        }
        let ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .load(OBJECT)
            .map_err(|source| Error::Load(Box::new(source)))?;
        let pinned = PinnedMaps::of(&ebpf, pins);
        Ok(Self::Loaded { ebpf: Box::new(ebpf), pinned })
    }

    pub(super) fn take(&mut self, name: &'static str) -> Result<Map, Error> {
        match self {
            Self::Pinned { pins, .. } => {
                let opened = MapData::from_pin(pins.join(name)).and_then(Map::from_map_data);
                opened.map_err(|source| Error::Map { operation: "open", map: name, source })
            }
            Self::Loaded { ebpf, .. } => ebpf.take_map(name).ok_or(Error::Missing(name)),
        }
    }

    /// The programs, once the maps are taken.
    pub(super) fn into_programs(self, pins: &Path) -> Result<Programs, Error> {
        match self {
            Self::Pinned { programs, .. } => Ok(programs),
            Self::Loaded { ebpf, pinned } => Programs::load(*ebpf, &pinned, pins),
        }
    }
}
