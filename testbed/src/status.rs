//! The part of `herald status --output json` that the lab reads (pure). The lab reads it as any
//! other program would: by the field names, without Herald's own types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

/// One speaker's report.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The node.
    pub node: String,
    /// How each interface carries traffic.
    pub datapath: Vec<Datapath>,
    /// The election.
    pub election: Election,
    /// All VIPs.
    pub vips: Vec<Vip>,
    /// All Services.
    pub services: Vec<Service>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Flow samples.
    pub flows: Flows,
    /// What is wrong with the configuration.
    pub problems: Vec<serde_json::Value>,
}

/// What flow samples add up to.
#[derive(Clone, Debug, Deserialize)]
pub struct Flows {
    /// Why there are none.
    pub reason: Option<String>,
    /// By Service, verdict and node.
    pub sums: Vec<FlowSum>,
}

/// Samples of one Service's port that had the same end.
#[derive(Clone, Debug, Deserialize)]
pub struct FlowSum {
    /// The VIP.
    pub vip: Option<IpAddr>,
    /// The Service.
    pub service: Option<String>,
    /// What became of the packets.
    pub verdict: String,
    /// The node whose pod got them.
    pub node: Option<String>,
    /// How many samples.
    pub samples: u64,
    /// How many packets they stand for.
    pub packets: u64,
}

/// How one interface carries traffic.
#[derive(Clone, Debug, Deserialize)]
pub struct Datapath {
    /// The interface.
    pub interface: String,
    /// `native`, `generic` or `off`.
    pub mode: String,
    /// Why not better.
    pub reason: Option<String>,
    /// What the fence held back.
    pub fence: Option<Fence>,
    /// What it means that there is none.
    pub no_fence: Option<String>,
}

/// Frames the fence held back at an interface.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Fence {
    /// ARP packets.
    pub arp: u64,
    /// Neighbour advertisements.
    pub advertisements: u64,
    /// Neighbour solicitations.
    pub solicitations: u64,
}

/// Who decides.
#[derive(Clone, Debug, Deserialize)]
pub struct Election {
    /// `raft` or `lease`.
    pub backend: String,
    /// How long this node may still speak.
    pub deadline_ms: Option<u64>,
    /// Raft's leader.
    pub leader: Option<String>,
    /// Nodes drained by somebody.
    pub drained: Vec<String>,
    /// All sessions.
    pub sessions: Vec<Session>,
    /// Who takes part in raft.
    pub members: Vec<Member>,
}

/// A node that takes part in raft.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// The node.
    pub node: String,
    /// Whether it votes.
    pub voter: bool,
}

/// One node's session.
#[derive(Clone, Debug, Deserialize)]
pub struct Session {
    /// The node.
    pub node: String,
    /// Grows with each session of the node.
    pub epoch: u64,
    /// `open`, `revoked` or `closed`.
    pub state: String,
}

/// One VIP.
#[derive(Clone, Debug, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Who may answer for it.
    pub holder: Option<String>,
    /// The claim's term.
    pub term: u64,
    /// Whether this node announces it.
    pub announcing: bool,
    /// The foreign machine that uses it, if this node heard one.
    pub conflict: Option<Conflict>,
    /// Nodes that may not hold it.
    pub ineligible: Vec<Ineligible>,
    /// Where its traffic goes.
    pub backends: Vec<Backend>,
}

/// A foreign machine that uses a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Conflict {
    /// `blocked` or `defended`.
    pub state: String,
    /// Its MAC.
    pub mac: String,
    /// The interface it was heard on.
    pub interface: String,
}

/// A node that may not hold a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ineligible {
    /// The node.
    pub node: String,
    /// The named reason.
    pub reason: String,
}

/// One endpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    /// Its node.
    pub node: Option<String>,
    /// Whether it gets traffic.
    pub used: bool,
    /// How many new flows it gets, compared with the others.
    pub weight: u32,
    /// Why not.
    pub reason: Option<String>,
}

/// One Service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Why it has none, or too few.
    pub reason: Option<String>,
}

impl Status {
    /// The VIP of an address.
    pub fn vip(&self, address: IpAddr) -> Option<&Vip> {
        self.vips.iter().find(|vip| vip.address == address)
    }

    /// The holder of each VIP that has one.
    pub fn holders(&self) -> BTreeMap<IpAddr, String> {
        let holder = |vip: &Vip| Some((vip.address, vip.holder.clone()?));
        self.vips.iter().filter_map(holder).collect()
    }

    /// How many sessions are open.
    pub fn open_sessions(&self) -> usize {
        self.election.sessions.iter().filter(|session| session.state == "open").count()
    }

    /// A node's session, if it is open.
    pub fn open_session(&self, node: &str) -> Option<&Session> {
        self.election
            .sessions
            .iter()
            .find(|session| session.node == node && session.state == "open")
    }
}
