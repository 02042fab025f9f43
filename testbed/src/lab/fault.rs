//! Faults between a host and the bridge (edge): frames that vanish in one direction, now and then,
//! or between two hosts only. The host's link stays up, and nothing tells it.
//!
//! Each is a tcx program at the host's bridge port: at its ingress for what comes from the host, at
//! its egress for what goes to it. A packet tap at the port hears the first before it vanishes,
//! which is what a test wants that asks whether a node *spoke*, not whether it was heard.

use std::net::Ipv4Addr;

use anyhow::Context;

use super::Lab;
use super::addresses::{self, host};
use super::bpf::{Attached, Program};

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// A fault that is there until it is dropped.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    _attached: Vec<Attached>,
}

impl Lab {
    /// What the host sends vanishes; it hears everything.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn mute(&self, host: &str) -> anyhow::Result<Fault> {
        let program = load("mute", &DROP)?;
        Ok(Fault { _attached: vec![program.attach(&port(host), BPF_TCX_INGRESS, 0)?] })
    }

    /// What is sent to the host vanishes; everybody hears it.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn deafen(&self, host: &str) -> anyhow::Result<Fault> {
        let program = load("deafen", &DROP)?;
        Ok(Fault { _attached: vec![program.attach(&port(host), BPF_TCX_EGRESS, 0)?] })
    }

    /// Of what the host sends and of what is sent to it, so many of a hundred frames vanish.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn lose(&self, host: &str, percent: u8) -> anyhow::Result<Fault> {
        let program = load("lose", &lose(percent))?;
        let port = port(host);
        let attached = [BPF_TCX_INGRESS, BPF_TCX_EGRESS].map(|hook| program.attach(&port, hook, 0));
        Ok(Fault { _attached: attached.into_iter().collect::<anyhow::Result<_>>()? })
    }

    /// Segments from or to a TCP port vanish between two hosts, in both directions, as a firewall
    /// rule that somebody wrote would make them.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn filter(&self, one: &str, other: &str, tcp_port: u16) -> anyhow::Result<Fault> {
        let address = |name| host(name).with_context(|| format!("the lab has no {name}"));
        let (a, b) = (address(one)?.v4(), address(other)?.v4());
        let at = port(one);
        let out = load("filter", &filter(a, b, tcp_port))?.attach(&at, BPF_TCX_INGRESS, 0)?;
        let back = load("filter", &filter(b, a, tcp_port))?.attach(&at, BPF_TCX_EGRESS, 0)?;
        Ok(Fault { _attached: vec![out, back] })
    }
}

fn port(host: &str) -> String {
    addresses::port(host)
}

fn load(name: &'static str, instructions: &[u64]) -> anyhow::Result<Program> {
    Program::load(name, BPF_PROG_TYPE_SCHED_CLS, instructions)
}

/// One instruction (linux/bpf.h, `struct bpf_insn`, on a little-endian machine).
const fn instruction(code: u8, destination: u8, source: u8, offset: u16, value: u32) -> u64 {
    (code as u64)
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u64) << 16
        | (value as u64) << 32
}

/// `r0 = value`
const fn result(value: i32) -> u64 {
    instruction(0xb7, 0, 0, 0, value as u32)
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);
const TC_ACT_SHOT: i32 = 2;
const TCX_NEXT: i32 = -1;
const DROP: [u64; 2] = [result(TC_ACT_SHOT), EXIT];

fn lose(percent: u8) -> [u64; 7] {
    [
        // r0 = bpf_get_prandom_u32()
        instruction(0x85, 0, 0, 0, 7),
        // r0 %= 100, as 32 bits
        instruction(0x94, 0, 0, 0, 100),
        // if r0 < percent, drop
        instruction(0xa5, 0, 0, 2, u32::from(percent)),
        result(TCX_NEXT),
        EXIT,
        result(TC_ACT_SHOT),
        EXIT,
    ]
}

/// Drops TCP segments between two addresses whose source or destination port is the one given.
fn filter(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> [u64; 17] {
    // Loads from the frame into r0, in host order; a frame that is too short ends the program,
    // which lets it pass.
    let byte = |at| instruction(0x30, 0, 0, 0, at);
    let half = |at| instruction(0x28, 0, 0, 0, at);
    let word = |at| instruction(0x20, 0, 0, 0, at);
    let unless = |value, offset| instruction(0x56, 0, 0, offset, value);
    let when = |value, offset| instruction(0x16, 0, 0, offset, value);
    [
        // Loads from the frame find the context in r6: r6 = r1
        instruction(0xbf, 6, 1, 0, 0),
        // IPv4, TCP, the two addresses
        half(12),
        unless(0x0800, 10),
        byte(23),
        unless(6, 8),
        word(26),
        unless(source.into(), 6),
        word(30),
        unless(destination.into(), 4),
        // Ports, behind a header without options
        half(34),
        when(u32::from(port), 4),
        half(36),
        when(u32::from(port), 2),
        result(TCX_NEXT),
        EXIT,
        result(TC_ACT_SHOT),
        EXIT,
    ]
}
