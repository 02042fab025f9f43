//! Loads and attaches the lab's own small BPF programs (edge): a handful of instructions each,
//! written as numbers, so that no compiler and no tool is needed. Read [`super::pass`] and
//! [`super::fault`] for what they do.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    descriptor: OwnedFd,
}

/// One attachment; it ends when dropped.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 6],
    /// As `bpftool prog` shows it.
    name: [u8; 16],
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl Program {
    /// Loads instructions as <linux/bpf.h> lays them out on little-endian machines.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn load(name: &'static str, kind: u32, instructions: &[u64]) -> anyhow::Result<Self> {
        let attributes = ProgramAttributes {
            kind,
            instruction_count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 6],
            name: std::array::from_fn(|i| match i {
                15 => 0,
                _ => name.as_bytes().get(i).copied().unwrap_or(0),
            }),
        };
        let descriptor =
            bpf(BPF_PROG_LOAD, &attributes).with_context(|| format!("cannot load {name}"))?;
        Ok(Self { name, descriptor })
    }

    /// Attaches it to an interface of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or it does not take such a program.
    pub fn attach(&self, interface: &str, kind: u32, flags: u32) -> anyhow::Result<Attached> {
        let attributes = LinkAttributes {
            program: u32::try_from(self.descriptor.as_raw_fd())?,
            interface: index(interface)?,
            attach_type: kind,
            flags,
        };
        let link = bpf(BPF_LINK_CREATE, &attributes)
            .with_context(|| format!("cannot attach {} to {interface}", self.name))?;
        Ok(Attached { _link: link })
    }
}

/// The index of an interface in the calling thread's namespace.
///
/// # Errors
///
/// If there is none of the name.
pub(crate) fn index(interface: &str) -> anyhow::Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).with_context(|| format!("no interface {interface}")),
        index => Ok(index),
    }
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a `#[repr(C)]` value without padding, and
    // takes what it does not cover as zero; the pointers in it point to values that outlive the
    // call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
