//! An XDP program that lets everything pass, attached to the bridge's ports (edge).
//!
//! A frame that a node sends by XDP_TX out of its veth is delivered only if the other end of the
//! veth has an XDP program as well (Linux, drivers/net/veth.c: `veth_xdp_xmit` asks for the peer's
//! NAPI). A real network card needs nothing of the kind. Two instructions need no compiler.

use super::bpf::{Attached, Program};

const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`, as <linux/bpf.h> lays instructions out on little-endian machines.
const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The loaded program.
#[derive(Debug)]
pub struct Pass(Program);

impl Pass {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn load() -> anyhow::Result<Self> {
        Ok(Self(Program::load("XDP_PASS", BPF_PROG_TYPE_XDP, &INSTRUCTIONS)?))
    }

    /// Attaches it to an interface of the calling thread's namespace, in the driver.
    ///
    /// # Errors
    ///
    /// If there is no such interface or its driver knows no XDP.
    pub fn attach(&self, interface: &str) -> anyhow::Result<Attached> {
        self.0.attach(interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
    }
}
