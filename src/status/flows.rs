//! The part of a report that is about flow samples, the answer behind `herald flows`, and their
//! words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::{grid, list, rows, text};

/// What the samples of single packets add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// One packet of so many is sampled; 0 is none.
    pub every: u32,
    /// Why none is.
    pub reason: Option<String>,
    /// Samples read since this process began.
    pub read: u64,
    /// Samples that were not taken or not understood, by the named reason.
    pub lost: BTreeMap<String, u64>,
    /// Samples by where they were to and what became of them.
    pub sums: Vec<FlowSum>,
}

/// Samples of one Service's port that had the same end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowSum {
    /// The VIP, unless it could not be told any more.
    pub vip: Option<IpAddr>,
    /// The Service's port; fragments but the first have none.
    pub port: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The Service, as `namespace/name`.
    pub service: Option<String>,
    /// What became of them: a reason of the programs, as in `counters`.
    pub verdict: &'static str,
    /// The node whose pod got them, if any did.
    pub node: Option<String>,
    /// How many samples.
    pub samples: u64,
    /// How many packets they stand for.
    pub packets: u64,
}

/// One sampled packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Grows by one with each sample this process reads.
    pub number: u64,
    /// When, by this machine's clock (RFC 3339).
    pub time: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The client's address and port.
    pub client: String,
    /// The VIP and the Service's port.
    pub vip: Option<String>,
    /// The Service, as `namespace/name`.
    pub service: Option<String>,
    /// What became of it: a reason of the programs, as in `counters`.
    pub verdict: &'static str,
    /// The node whose pod got it, if any did.
    pub node: Option<String>,
    /// The pod's address and port, where it is one of this node.
    pub pod: Option<String>,
    /// Octets of the frame.
    pub length: u32,
    /// How many packets it stands for.
    pub packets: u64,
}

/// The answer to `herald flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recent {
    /// The node that answers.
    pub node: String,
    /// The sums.
    #[serde(flatten)]
    pub flows: Flows,
    /// The last samples that were not shown before, the oldest first.
    pub recent: Vec<Flow>,
}

/// A line for the heading of `herald status`; nothing for a report without samples.
pub(super) fn heading(flows: &Value) -> Option<String> {
    let every = flows["every"].as_u64()?;
    if let Some(reason) = flows["reason"].as_str() {
        return Some(format!("flow samples: none ({reason})"));
    }
    let lost = list_of_lost(flows);
    let lost = if lost.is_empty() { lost } else { format!(", lost {lost}") };
    Some(format!("flow samples: 1 of {every} packets, {} read{lost}", text(&flows["read"])))
}

/// One screen about an answer: the sums, then the samples.
pub fn table(answer: &Value) -> String {
    let mut out = String::new();
    let heading = heading(answer).unwrap_or_default();
    let _ = writeln!(out, "node {}: {heading}\n", text(&answer["node"]));
    let sums = rows(&answer["sums"], |sum| {
        vec![
            text(&sum["vip"]),
            format!("{}/{}", text(&sum["port"]), text(&sum["protocol"])),
            text(&sum["service"]),
            text(&sum["verdict"]),
            text(&sum["node"]),
            text(&sum["samples"]),
            text(&sum["packets"]),
        ]
    });
    let heads = ["VIP", "PORT", "SERVICE", "VERDICT", "NODE", "SAMPLES", "PACKETS"];
    grid(&mut out, &heads, &sums);
    let recent = rows(&answer["recent"], cells);
    if !recent.is_empty() {
        out.push('\n');
        grid(&mut out, &HEADS, &recent);
    }
    out
}

/// One line about a sample.
pub fn line(flow: &Value) -> String {
    cells(flow).join("  ")
}

const HEADS: [&str; 6] = ["TIME", "PROTOCOL", "FLOW", "VERDICT", "TO", "PACKETS"];

fn cells(flow: &Value) -> Vec<String> {
    let to = match (flow["node"].as_str(), flow["pod"].as_str()) {
        (Some(node), Some(pod)) => format!("{pod} on {node}"),
        (None, Some(one)) | (Some(one), None) => one.to_owned(),
        (None, None) => "-".to_owned(),
    };
    vec![
        text(&flow["time"]),
        text(&flow["protocol"]),
        format!("{} -> {}", text(&flow["client"]), text(&flow["vip"])),
        text(&flow["verdict"]),
        to,
        text(&flow["packets"]),
    ]
}

fn list_of_lost(flows: &Value) -> String {
    let lost = flows["lost"].as_object().into_iter().flatten();
    lost.map(|(why, count)| format!("{count} {why}")).collect::<Vec<_>>().join(", ")
}

/// The answer's samples.
pub fn samples(answer: &Value) -> impl Iterator<Item = &Value> {
    list(&answer["recent"])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{heading, line, table};

    fn answer() -> Value {
        let flow = |vip: Value, verdict: &str, node: Value, pod: Value| {
            json!({"number": 1, "time": "2026-11-21T19:20:00.125Z", "protocol": "TCP",
                "client": "192.168.1.100:40001", "vip": vip, "service": "default/echo",
                "verdict": verdict, "node": node, "pod": pod, "length": 74, "packets": 1024})
        };
        json!({
            "node": "n1", "every": 1024, "reason": null, "read": 120,
            "lost": {"rate_limited": 3, "ring_full": 1},
            "sums": [
                {"vip": "192.168.1.240", "port": 80, "protocol": "TCP", "service": "default/echo",
                 "verdict": "forwarded", "node": "n2", "samples": 12, "packets": 12000},
                {"vip": null, "port": null, "protocol": "UDP", "service": null,
                 "verdict": "delivered", "node": "n1", "samples": 1, "packets": 9},
            ],
            "recent": [
                flow(json!("192.168.1.240:80"), "forwarded", json!("n2"), Value::Null),
                flow(Value::Null, "delivered", json!("n1"), json!("10.244.1.2:8080")),
                flow(json!("192.168.1.240:80"), "rejected_no_backend", Value::Null, Value::Null),
            ],
        })
    }

    #[test]
    fn shows_the_sums_and_the_last_samples() {
        assert_eq!(
            table(&answer()),
            "\
node n1: flow samples: 1 of 1024 packets, 120 read, lost 3 rate_limited, 1 ring_full

VIP            PORT    SERVICE       VERDICT    NODE  SAMPLES  PACKETS
192.168.1.240  80/TCP  default/echo  forwarded  n2    12       12000
-              -/UDP   -             delivered  n1    1        9

TIME                      PROTOCOL  FLOW                                     VERDICT              TO                     PACKETS
2026-11-21T19:20:00.125Z  TCP       192.168.1.100:40001 -> 192.168.1.240:80  forwarded            n2                     1024
2026-11-21T19:20:00.125Z  TCP       192.168.1.100:40001 -> -                 delivered            10.244.1.2:8080 on n1  1024
2026-11-21T19:20:00.125Z  TCP       192.168.1.100:40001 -> 192.168.1.240:80  rejected_no_backend  -                      1024
"
        );
    }

    #[test]
    fn a_line_is_a_row() {
        assert_eq!(
            line(&answer()["recent"][0]),
            "2026-11-21T19:20:00.125Z  TCP  192.168.1.100:40001 -> 192.168.1.240:80  forwarded  n2  1024"
        );
    }

    #[test]
    fn says_why_there_are_none() {
        let none = json!({"every": 0, "reason": "turned off by --flow-samples 0", "lost": {}});
        let said = heading(&none);
        assert_eq!(said.as_deref(), Some("flow samples: none (turned off by --flow-samples 0)"));
        assert_eq!(heading(&Value::Null), None);
    }
}
