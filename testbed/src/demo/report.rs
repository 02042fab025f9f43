//! The measured values, as `testbed/demo --json` writes them (pure). The field names are fixed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// How the speakers carry traffic: `native`, `generic` or `off`; all of them, if they differ.
    pub datapath: String,
    /// The VIPs assigned to the Service, IPv4 first.
    pub vips: Vec<IpAddr>,
    /// From the manifests' being written to both VIPs' being announced.
    pub assigned_ms: u64,
    /// The node that held the IPv4 VIP first.
    pub holder: String,
    /// The requests before the failover.
    pub requests: Requests,
    /// The address of the client on the LAN as pods saw it over IPv4; none if they saw another.
    pub client_ip_seen: Option<IpAddr>,
    /// Whether the holder saw replies of pods on other nodes.
    pub holder_saw_replies: bool,
    /// Whether all bulk transfers arrived whole.
    pub bulk_ok: bool,
    /// The failover.
    pub failover: Failover,
    /// Whether the node that was cut off held anything again after it came back.
    pub returned_took_back: bool,
}

/// How requests went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// How many were sent.
    pub sent: u32,
    /// How many were answered by a pod that saw the client's real address.
    pub ok: u32,
    /// How many were answered from each node.
    pub per_node: BTreeMap<String, u32>,
}

/// What the probe saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failover {
    /// The longest time without an answer, on a flow whose pod survived; none if not measured.
    pub outage_ms: Option<u64>,
    /// Who holds the IPv4 VIP afterwards.
    pub new_holder: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_that_others_read() {
        let report = Report {
            datapath: "native".into(),
            vips: vec!["192.168.1.240".parse().unwrap(), "fd00:1::f0".parse().unwrap()],
            assigned_ms: 40,
            holder: "n1".into(),
            requests: Requests { sent: 2, ok: 2, per_node: BTreeMap::from([("n2".into(), 2)]) },
            client_ip_seen: Some("192.168.1.100".parse().unwrap()),
            holder_saw_replies: false,
            bulk_ok: true,
            failover: Failover { outage_ms: Some(640), new_holder: Some("n3".into()) },
            returned_took_back: false,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"datapath\":\"native\",\"vips\":[\"192.168.1.240\",\"fd00:1::f0\"],\
             \"assigned_ms\":40,\"holder\":\"n1\",\
             \"requests\":{\"sent\":2,\"ok\":2,\"per_node\":{\"n2\":2}},\
             \"client_ip_seen\":\"192.168.1.100\",\"holder_saw_replies\":false,\"bulk_ok\":true,\
             \"failover\":{\"outage_ms\":640,\"new_holder\":\"n3\"},\"returned_took_back\":false}"
        );
    }
}
