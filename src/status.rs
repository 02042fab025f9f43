//! What a speaker says about itself: the report behind `herald status`, as JSON or as a table.
//!
//! The JSON is an interface: fields are added, never renamed. Everything that could be "yes" and
//! is not carries a reason. The report is built in [`crate::speaker`]; this file only holds its
//! shape and prints it.

mod backends;
mod election;
mod flows;
mod lease;
mod raft;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::backends::used;
pub use self::flows::{Flow, FlowSum, Flows, Recent, line, samples, table};
pub use self::lease::Lease;
pub use self::raft::{Founding, Member};

use crate::problem::Problem;

/// One speaker's view of everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The node that reports.
    pub node: String,
    /// Herald's version.
    pub version: &'static str,
    /// How traffic is carried, by interface.
    pub datapath: Vec<Datapath>,
    /// Who decides about claims, and this node's standing.
    pub election: Election,
    /// All VIPs in use.
    pub vips: Vec<Vip>,
    /// All Services that want an address.
    pub services: Vec<Service>,
    /// All pools, and how full they are.
    pub pools: Vec<Pool>,
    /// Packets by the programs' reasons, and frames by the announcer's.
    pub counters: BTreeMap<String, u64>,
    /// What samples of single packets add up to.
    pub flows: Flows,
    /// What is wrong with the configuration, or not supported.
    pub problems: Vec<Problem>,
}

/// How one interface carries traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Datapath {
    /// The interface.
    pub interface: String,
    /// `native`, `generic` or `off`.
    pub mode: &'static str,
    /// Why not a better mode.
    pub reason: Option<String>,
    /// What the fence held back here; none where there is no fence (`off`).
    pub fence: Option<Fence>,
    /// What that means, where there is none.
    pub no_fence: Option<&'static str>,
}

/// Without XDP there is no program at the interface's exit either.
pub const NO_FENCE: &str = "this speaker falls silent in time by its own clock, but what the \
                            kernel itself says for a VIP is not held back";

/// Frames that left no interface because they spoke for a VIP this node may not speak for, since
/// the data plane was first loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// ARP requests, replies and announcements.
    pub arp: u64,
    /// Neighbour advertisements.
    pub advertisements: u64,
    /// Neighbour solicitations.
    pub solicitations: u64,
}

/// The election's state.
#[derive(Clone, Debug, Serialize)]
pub struct Election {
    /// `raft` or `lease`.
    pub backend: &'static str,
    /// The raft leader, if this node knows one.
    pub leader: Option<String>,
    /// Raft's term; not the term of any claim.
    pub term: u64,
    /// Nodes that hold nothing because somebody drained them.
    pub drained: Vec<String>,
    /// The sessions of all nodes that ever had one.
    pub sessions: Vec<Session>,
    /// Milliseconds for which this node may still speak, if it may.
    pub deadline_ms: Option<u64>,
    /// How the API server serves the election, where Leases decide.
    pub lease: Option<Lease>,
    /// The nodes that take part in raft, as far as this one knows.
    pub members: Vec<Member>,
    /// Why this node takes no part in raft yet, if so.
    pub founding: Option<Founding>,
    /// Why this speaker takes and speaks for nothing: others elect in another way.
    pub waits: Option<Waits>,
}

/// Why a speaker is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// `other_back_end` or `back_end_unchecked`.
    pub reason: &'static str,
    /// The same in words.
    pub message: String,
}

/// One node's session.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// The node.
    pub node: String,
    /// Grows with every session of the node.
    pub epoch: u64,
    /// `open`, `revoked` or `closed`.
    pub state: &'static str,
    /// Whether the node gives its claims away.
    pub draining: bool,
}

/// One VIP.
#[derive(Clone, Debug, Serialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The Service it belongs to, as `namespace/name`; several, with commas, where they share it.
    pub service: String,
    /// The pool it came from.
    pub pool: String,
    /// The node that may answer for it.
    pub holder: Option<String>,
    /// The claim's term.
    pub term: u64,
    /// Milliseconds until the holder falls silent unless renewed; only the holder knows.
    pub expires_ms: Option<u64>,
    /// Whether this node announces it.
    pub announcing: bool,
    /// Interfaces of this node it is, or would be, announced on.
    pub interfaces: Vec<String>,
    /// The MAC this node answers with.
    pub mac: Option<String>,
    /// The foreign machine that uses it, as far as this node has heard.
    pub conflict: Option<Conflict>,
    /// How much nodes that may hold it are preferred, where they are at all.
    pub preference: BTreeMap<String, u32>,
    /// Nodes that may not hold it, and why.
    pub ineligible: Vec<Ineligible>,
    /// Where its traffic goes.
    pub backends: Vec<Backend>,
    /// Services, as `namespace/name`, whose endpoints all turned not ready together: as if they
    /// were ready, they are announced and get their traffic.
    pub kept: Vec<String>,
    /// What of its configuration cannot be read: `pool_unknown` or `advertisement_unknown`. It is
    /// announced all the same, because it was before.
    pub uncertain: Option<&'static str>,
    /// Frames about it that this speaker's announcer sent or was asked by, if there were any.
    pub frames: Option<Frames>,
}

/// Frames about one VIP. What the data plane answers is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Questions to be answered from userspace (`off`).
    pub requests: u64,
    /// Answers sent from there.
    pub replies: u64,
    /// Frames of announcements sent.
    pub announcements: u64,
}

/// A foreign machine that uses a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// `blocked`: not announced because of it; `defended`: announced, and defended.
    pub state: &'static str,
    /// Its MAC.
    pub mac: String,
    /// The interface it was heard on.
    pub interface: String,
    /// Milliseconds since it was first heard.
    pub since_ms: u64,
    /// Claims heard.
    pub count: u64,
}

/// A node that may not hold a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ineligible {
    /// The node.
    pub node: String,
    /// The named reason.
    pub reason: &'static str,
}

/// One endpoint of a VIP's Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The pod.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its node, if known.
    pub node: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The Service's port.
    pub service_port: u16,
    /// Whether traffic is sent there.
    pub used: bool,
    /// How many new flows it gets, compared with the others.
    pub weight: u32,
    /// Why not.
    pub reason: Option<&'static str>,
}

/// One Service of type LoadBalancer.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The named reason for having none, or fewer than asked.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Whose rules it follows: `metallb` or `cilium`.
    pub kind: &'static str,
    /// Services with an address from it.
    pub services: usize,
    /// Its IPv4 addresses.
    pub ipv4: Addresses,
    /// Its IPv6 addresses.
    pub ipv6: Addresses,
    /// The pool it shares addresses with, for which reason it gives none away.
    pub conflict: Option<String>,
}

/// How many addresses; numbers beyond 64 bits are cut there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// All of them.
    pub total: u64,
    /// Those that a Service has.
    pub used: u64,
}

/// A report as it comes out of the speaker's socket, for printing as a table.
#[derive(Clone, Debug, Deserialize)]
pub struct Received(serde_json::Value);

impl Received {
    /// One screen: what happens, and why not.
    pub fn table(&self) -> String {
        let report = &self.0;
        let mut out = String::new();
        self.heading(&mut out);
        let vips = rows(&report["vips"], |vip| {
            vec![
                text(&vip["address"]),
                text(&vip["service"]),
                text(&vip["holder"]),
                text(&vip["term"]),
                vip["expires_ms"].as_u64().map_or("-".into(), |ms| format!("{ms} ms")),
                used(&vip["backends"]),
                text(&vip["pool"]),
            ]
        });
        grid(&mut out, &["VIP", "SERVICE", "HOLDER", "TERM", "EXPIRES", "BACKENDS", "POOL"], &vips);
        let noes = self.noes();
        if !noes.is_empty() {
            out.push('\n');
            grid(&mut out, &["NOT", "REASON", "MESSAGE"], &noes);
        }
        out
    }

    fn heading(&self, out: &mut String) {
        let report = &self.0;
        let election = &report["election"];
        let deadline = match election["deadline_ms"].as_u64() {
            Some(ms) => format!("may speak for {ms} ms more"),
            None => "may not speak now".into(),
        };
        let open = list(&election["sessions"]).filter(|s| s["state"] == "open").count();
        let decides = match &election["lease"] {
            serde_json::Value::Null => format!(
                "{} leader {}, term {}",
                text(&election["backend"]),
                text(&election["leader"]),
                text(&election["term"]),
            ),
            lease => lease::heading(lease),
        };
        let _ = writeln!(
            out,
            "node {}: {deadline}; {decides}, {open} of {} sessions open",
            text(&report["node"]),
            list(&election["sessions"]).count(),
        );
        if let Some(outage) = lease::outage(&election["lease"], election["deadline_ms"].as_u64()) {
            let _ = writeln!(out, "{outage}");
        }
        for line in raft::lines(election).into_iter().chain(raft::refused(&report["counters"])) {
            let _ = writeln!(out, "{line}");
        }
        for datapath in list(&report["datapath"]) {
            let reason = match datapath["reason"].as_str() {
                Some(reason) => format!(" ({reason})"),
                None => String::new(),
            };
            let (name, mode) = (text(&datapath["interface"]), text(&datapath["mode"]));
            let _ = writeln!(out, "datapath on {name}: {mode}{reason}{}", held_back(datapath));
        }
        if let Some(line) = flows::heading(&report["flows"]) {
            let _ = writeln!(out, "{line}");
        }
        out.push('\n');
    }

    /// Every "no" of the report: Services without an address, VIPs without a holder, nodes that
    /// may not hold one, backends not used, problems of the configuration.
    fn noes(&self) -> Vec<Vec<String>> {
        let report = &self.0;
        let mut noes = election::noes(report);
        for service in list(&report["services"]).filter(|s| s["reason"].is_string()) {
            let name = format!("address for {}", text(&service["name"]));
            noes.push(vec![name, text(&service["reason"]), text(&service["message"])]);
        }
        for vip in list(&report["vips"]) {
            let address = text(&vip["address"]);
            if vip["holder"].is_null() {
                let message = "no eligible node has a living session".into();
                noes.push(vec![format!("holder for {address}"), "no_holder".into(), message]);
            }
            if !vip["conflict"].is_null() {
                let conflict = &vip["conflict"];
                let (mac, interface) = (text(&conflict["mac"]), text(&conflict["interface"]));
                let message =
                    format!("{mac} on {interface} uses it ({})", text(&conflict["state"]));
                noes.push(vec![format!("alone on {address}"), "address_in_use".into(), message]);
            }
            for node in list(&vip["ineligible"]) {
                let what = format!("{} for {address}", text(&node["node"]));
                noes.push(vec![what, text(&node["reason"]), "may not hold it".into()]);
            }
            for service in list(&vip["kept"]) {
                let what = format!("ready endpoint of {} for {address}", text(service));
                let message = "all endpoints turned not ready together: kept".into();
                noes.push(vec![what, "all_not_ready_together".into(), message]);
            }
            if !vip["uncertain"].is_null() {
                let what = format!("certainty about {address}");
                let message = "announced as before; what says so cannot be read".into();
                noes.push(vec![what, text(&vip["uncertain"]), message]);
            }
            for backend in list(&vip["backends"]).filter(|b| b["used"] == false) {
                let (pod, port) = (text(&backend["address"]), text(&backend["port"]));
                let message =
                    format!("of {}, on {}", text(&vip["service"]), text(&backend["node"]));
                noes.push(vec![format!("backend {pod} {port}"), text(&backend["reason"]), message]);
            }
        }
        for problem in list(&report["problems"]) {
            let what = format!("{} {}", text(&problem["level"]), text(&problem["object"]));
            let message = match &problem["location"] {
                serde_json::Value::Null => text(&problem["message"]),
                at => format!(
                    "{}:{}:{}: {}",
                    text(&at["file"]),
                    text(&at["line"]),
                    text(&at["column"]),
                    text(&problem["message"])
                ),
            };
            noes.push(vec![what, text(&problem["reason"]), message]);
        }
        noes.dedup();
        noes
    }
}

fn list(value: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    value.as_array().into_iter().flatten()
}

fn rows(
    value: &serde_json::Value,
    row: impl Fn(&serde_json::Value) -> Vec<String>,
) -> Vec<Vec<String>> {
    list(value).map(row).collect()
}

fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".into(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What the fence held back, if anything; or why there is none.
fn held_back(datapath: &serde_json::Value) -> String {
    if let Some(why) = datapath["no_fence"].as_str() {
        return format!("; no fence: {why}");
    }
    let fence = &datapath["fence"];
    let count = |what: &str| fence[what].as_u64().unwrap_or(0);
    match (count("arp"), count("advertisements"), count("solicitations")) {
        (0, 0, 0) => String::new(),
        (arp, na, ns) => format!("; fence held back {arp} ARP, {na} NA, {ns} NS"),
    }
}

/// Columns as wide as their widest cell.
fn grid(out: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::Received;

    #[test]
    fn the_table_fits_one_screen_and_names_every_no() {
        let report = serde_json::json!({
            "node": "n1", "datapath": [{"interface": "eth0", "mode": "generic",
                "reason": "cannot attach herald_xdp to eth0: not supported",
                "fence": {"arp": 3, "advertisements": 1, "solicitations": 0}},
                {"interface": "eth1", "mode": "off", "fence": null,
                "no_fence": super::NO_FENCE}],
            "election": {"backend": "raft", "leader": "n2", "term": 3, "deadline_ms": 480,
                "waits": {"reason": "other_back_end", "message": "speakers on n2 elect otherwise"},
                "drained": ["n3"],
                "sessions": [{"node": "n1", "state": "open"}, {"node": "n2", "state": "revoked"}]},
            "vips": [{"address": "192.168.1.240", "service": "default/echo", "pool": "first",
                "holder": "n1", "term": 2, "expires_ms": 480, "ineligible": [],
                "kept": ["default/echo"], "uncertain": "pool_unknown",
                "backends": [{"address": "10.244.1.2", "port": 8080, "node": "n1", "used": true,
                     "weight": 1},
                    {"address": "10.244.2.2", "port": 8080, "node": "n2", "used": false,
                     "reason": "node_session_lost"}]}],
            "services": [{"name": "default/late", "reason": "pool_exhausted",
                "message": "no free address in pool first"}],
            "problems": [],
            "flows": {"every": 1024, "reason": null, "read": 37, "lost": {"rate_limited": 2}},
        });
        let received: Received = serde_json::from_value(report).unwrap();
        assert_eq!(
            received.table(),
            "\
node n1: may speak for 480 ms more; raft leader n2, term 3, 1 of 2 sessions open
datapath on eth0: generic (cannot attach herald_xdp to eth0: not supported); fence held back 3 ARP, 1 NA, 0 NS
datapath on eth1: off; no fence: this speaker falls silent in time by its own clock, but what the \
kernel itself says for a VIP is not held back
flow samples: 1 of 1024 packets, 37 read, lost 2 rate_limited

VIP            SERVICE       HOLDER  TERM  EXPIRES  BACKENDS  POOL
192.168.1.240  default/echo  n1      2     480 ms   1/2       first

NOT                                               REASON                  MESSAGE
speaking on n1                                    other_back_end          speakers on n2 elect otherwise
VIPs for n3                                       drained                 holds and takes nothing until `herald undrain n3`
address for default/late                          pool_exhausted          no free address in pool first
ready endpoint of default/echo for 192.168.1.240  all_not_ready_together  all endpoints turned not ready together: kept
certainty about 192.168.1.240                     pool_unknown            announced as before; what says so cannot be read
backend 10.244.2.2 8080                           node_session_lost       of default/echo, on n2
"
        );
    }
}
