//! What can go wrong between userspace and the kernel's BPF subsystem.

use std::path::PathBuf;

use crate::datapath::Occupant;

/// An operation on the data plane that failed, and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is not on a BPF filesystem.
    #[error("{} is not on a BPF filesystem; mount one (mount -t bpf bpf {})", .0.display(), .0.display())]
    NotBpffs(PathBuf),
    /// The pin directory cannot be made or read.
    #[error("cannot use the pin directory {}", path.display())]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The deadlines that this process writes would be off by so much in the kernel.
    #[error(
        "this process is in a time namespace whose boot clock is {ahead_s} s ahead of the kernel's: \
         the fence would be off by as much"
    )]
    OwnBootClock {
        /// By how many seconds; negative if it is behind.
        ahead_s: i64,
    },
    /// The object does not load: a kernel that is too old, or a missing capability.
    #[error("cannot load the eBPF object (needs CAP_BPF, CAP_NET_ADMIN and Linux 6.6)")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program is refused by the verifier or the kernel.
    #[error("cannot load the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why not.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A program cannot be attached.
    #[error("cannot attach {name} to {interface}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The interface.
        interface: String,
        /// Why not.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// Another XDP program has the interface, in whatever mode; the kernel lets none join it.
    #[error("{interface} has another XDP program ({occupant}), which stays")]
    Occupied {
        /// The interface.
        interface: String,
        /// The program.
        occupant: Occupant,
    },
    /// A link cannot be pinned, so it would not outlive the process.
    #[error("cannot pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map refuses an operation.
    #[error("cannot {operation} the map {map}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        map: &'static str,
        /// Why not.
        #[source]
        source: aya::maps::MapError,
    },
    /// The object lacks a part this loader names: they were built apart.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// More distinct backends than a slot can name.
    #[error("more than {limit} distinct backends; the rest is not carried")]
    TooManyBackends {
        /// The most there can be.
        limit: u32,
    },
}
