//! An XDP program that lets everything pass, attached to the bridge's ports (edge).
//!
//! A frame that a node sends by XDP_TX out of its veth is delivered only if the other end of the
//! veth has an XDP program as well (Linux, drivers/net/veth.c: `veth_xdp_xmit` asks for the peer's
//! NAPI). A real network card needs nothing of the kind. Two instructions need no compiler.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`, as <linux/bpf.h> lays instructions out on little-endian machines.
const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The loaded program.
#[derive(Debug)]
pub struct Pass(OwnedFd);

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
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl Pass {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn load() -> anyhow::Result<Self> {
        let attributes = ProgramAttributes {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: 2,
            instructions: INSTRUCTIONS.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 6],
        };
        let program = bpf(BPF_PROG_LOAD, &attributes).context("cannot load XDP_PASS")?;
        Ok(Self(program))
    }

    /// Attaches it to an interface of the calling thread's namespace, in the driver.
    ///
    /// # Errors
    ///
    /// If there is no such interface or its driver knows no XDP.
    pub fn attach(&self, interface: &str) -> anyhow::Result<Attached> {
        let attributes = LinkAttributes {
            program: u32::try_from(self.0.as_raw_fd())?,
            interface: index(interface)?,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link = bpf(BPF_LINK_CREATE, &attributes)
            .with_context(|| format!("cannot attach XDP_PASS to {interface}"))?;
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
    // takes what it does not cover as zero; the pointers in it point to constants.
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
