//! From a report to metrics (pure). Labels come from closed sets: nodes, VIPs, Services, pools,
//! interfaces and named reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Kind, Metric, Sample};

/// All metrics of a report.
pub(super) fn of(report: &Value) -> Vec<Metric> {
    let mut metrics = itself(report);
    metrics.extend(election(&report["election"]));
    metrics.extend(vips(report));
    metrics.extend(services(report));
    metrics.extend(counters(&report["counters"]));
    metrics.extend(flows(&report["flows"]));
    metrics.extend(pools(list(&report["pools"])));
    metrics.extend(metallb(report));
    metrics.extend(cilium(report));
    metrics
}

fn itself(report: &Value) -> Vec<Metric> {
    let version = vec![("node", text(&report["node"])), ("version", text(&report["version"]))];
    let modes = list(&report["datapath"]).iter().map(|interface| {
        let name = ("interface", text(&interface["interface"]));
        sample(vec![name, ("mode", text(&interface["mode"]))], 1.0)
    });
    let problems = list(&report["problems"]).len();
    vec![
        gauge("herald_info", "This speaker.", vec![sample(version, 1.0)]),
        gauge("herald_datapath", "How an interface carries traffic.", modes.collect()),
        gauge(
            "herald_configuration_problems",
            "What is wrong with the configuration, or not supported.",
            vec![sample(vec![], count(problems))],
        ),
    ]
}

fn election(election: &Value) -> Vec<Metric> {
    let backend = || vec![("backend", text(&election["backend"]))];
    let left = election["deadline_ms"].as_u64().map_or(0.0, |ms| float(ms) / 1000.0);
    let sessions = list(&election["sessions"]).iter().map(|session| {
        let is_open = session["state"] == "open";
        sample(vec![("node", text(&session["node"]))], f64::from(u8::from(is_open)))
    });
    vec![
        gauge(
            "herald_session_left_seconds",
            "For how long this node may still speak; 0 if it may not.",
            vec![sample(backend(), left)],
        ),
        gauge(
            "herald_election_term",
            "The election's own term; not that of any claim.",
            vec![sample(backend(), number(&election["term"]))],
        ),
        gauge("herald_session_open", "Whether a node has a session.", sessions.collect()),
    ]
}

fn vips(report: &Value) -> Vec<Metric> {
    let (mut holders, mut terms, mut announced) = (Vec::new(), Vec::new(), Vec::new());
    let (mut conflicts, mut backends, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    for vip in list(&report["vips"]) {
        let name = || ("vip", text(&vip["address"]));
        if let Some(holder) = vip["holder"].as_str() {
            holders.push(sample(vec![name(), ("node", holder.to_owned())], 1.0));
        }
        terms.push(sample(vec![name()], number(&vip["term"])));
        let speaks = vip["announcing"] == true;
        announced.push(sample(vec![name()], f64::from(u8::from(speaks))));
        if let Some(state) = vip["conflict"]["state"].as_str() {
            conflicts.push(sample(vec![name(), ("state", state.to_owned())], 1.0));
        }
        for event in ["requests", "replies", "announcements"] {
            if let Some(count) = vip["frames"][event].as_u64() {
                let labels = vec![name(), ("event", event.to_owned())];
                frames.push(sample(labels, float(count)));
            }
        }
        let (used, idle): (Vec<_>, Vec<_>) =
            list(&vip["backends"]).iter().partition(|backend| backend["used"] == true);
        for (state, backends_of) in [("used", used), ("unused", idle)] {
            let labels = vec![name(), ("state", state.to_owned())];
            backends.push(sample(labels, count(backends_of.len())));
        }
    }
    vec![
        gauge("herald_vip_holder", "The node that holds a VIP, as this node knows.", holders),
        gauge("herald_claim_term", "The term of a VIP's claim; it only grows.", terms),
        gauge("herald_vip_announced", "Whether this node speaks for a VIP.", announced),
        gauge("herald_vip_conflict", "A foreign machine uses a VIP.", conflicts),
        gauge("herald_backends", "Endpoints of a VIP's Services.", backends),
        Metric {
            name: "herald_vip_frames",
            help: "Frames about a VIP that the announcer sent or was asked by; what XDP answers is \
                   not among them.",
            kind: Kind::Counter,
            samples: frames,
        },
    ]
}

fn services(report: &Value) -> Vec<Metric> {
    let mut by_reason: BTreeMap<String, usize> = BTreeMap::new();
    for service in list(&report["services"]) {
        let reason = service["reason"].as_str().unwrap_or("none");
        *by_reason.entry(reason.to_owned()).or_default() += 1;
    }
    let samples =
        by_reason.into_iter().map(|(reason, n)| sample(vec![("reason", reason)], count(n)));
    vec![gauge(
        "herald_services",
        "Services of type LoadBalancer, by the reason for not having what they want.",
        samples.collect(),
    )]
}

/// The report's counters, whose names begin with the part that counts.
fn counters(counters: &Value) -> Vec<Metric> {
    let parts = [
        ("xdp_", "herald_packets", "reason", "Packets by the programs' reason."),
        ("peer_refused_", "herald_peer_refused", "reason", "Refused calls and frames of peers."),
        ("announcer_", "herald_announcer", "event", "Frames of the announcer."),
        ("", "herald_events", "event", "Everything else that is counted."),
    ];
    let mut metrics = parts.map(|(_, name, _, help)| Metric {
        name,
        help,
        kind: Kind::Counter,
        samples: Vec::new(),
    });
    for (name, value) in counters.as_object().into_iter().flatten() {
        let found = parts.iter().zip(&mut metrics).find_map(|((prefix, _, label, _), metric)| {
            Some((name.strip_prefix(prefix)?, *label, metric))
        });
        if let Some((rest, label, metric)) = found {
            metric.samples.push(sample(vec![(label, rest.to_owned())], number(value)));
        }
    }
    metrics.into()
}

/// Flow samples. Clients are in no label: there is no end to them.
fn flows(flows: &Value) -> Vec<Metric> {
    let (mut samples, mut packets) = (Vec::new(), Vec::new());
    for sum in list(&flows["sums"]) {
        let port = sum["port"].as_u64().map_or(String::new(), |port| port.to_string());
        let labels = vec![
            ("service", text(&sum["service"])),
            ("vip", text(&sum["vip"])),
            ("port", port),
            ("protocol", text(&sum["protocol"])),
            ("node", text(&sum["node"])),
            ("verdict", text(&sum["verdict"])),
        ];
        samples.push(sample(labels.clone(), number(&sum["samples"])));
        packets.push(sample(labels, number(&sum["packets"])));
    }
    let lost = flows["lost"].as_object().into_iter().flatten();
    let lost = lost.map(|(why, n)| sample(vec![("reason", why.clone())], number(n))).collect();
    let counter = |name, help, samples| Metric { name, help, kind: Kind::Counter, samples };
    let every = flows["every"].as_u64().map(|every| sample(vec![], float(every)));
    vec![
        gauge(
            "herald_flow_sampling",
            "One packet of so many is sampled; 0 is none.",
            every.into_iter().collect(),
        ),
        counter("herald_flow_samples", "Sampled packets, by the node they went to.", samples),
        counter("herald_flow_packets", "How many packets the samples stand for.", packets),
        counter("herald_flow_samples_lost", "Samples not taken or not understood.", lost),
    ]
}

fn pools(pools: &[Value]) -> Vec<Metric> {
    let mut samples = Vec::new();
    for pool in pools {
        for family in ["ipv4", "ipv6"] {
            let (total, used) = (number(&pool[family]["total"]), number(&pool[family]["used"]));
            for (state, value) in [("used", used), ("free", (total - used).max(0.0))] {
                let labels = vec![
                    ("pool", text(&pool["name"])),
                    ("family", family.to_owned()),
                    ("state", state.to_owned()),
                ];
                samples.push(sample(labels, value));
            }
        }
    }
    vec![gauge("herald_pool_addresses", "Addresses of a pool.", samples)]
}

/// What MetalLB 0.16 exports under these names (reference, section 1a). Its counters of questions
/// and answers by VIP are not among them: the answers are given in the kernel, which does not count
/// by VIP.
fn metallb(report: &Value) -> Vec<Metric> {
    let announced = list(&report["vips"]).iter().filter(|vip| vip["announcing"] == true);
    let announced = announced.map(|vip| {
        let labels = vec![
            ("service", text(&vip["service"])),
            ("protocol", "layer2".to_owned()),
            ("node", text(&report["node"])),
            ("ip", text(&vip["address"])),
        ];
        sample(labels, 1.0)
    });
    let gratuitous = list(&report["vips"]).iter().filter_map(|vip| {
        let sent = vip["frames"]["announcements"].as_u64()?;
        Some(sample(vec![("ip", text(&vip["address"]))], float(sent)))
    });
    // Only who writes to an API server counts that.
    let counter = |name, help, counted: &str| {
        let counted = report["counters"][counted].as_u64();
        let samples = counted.map(|count| sample(vec![], float(count))).into_iter().collect();
        Metric { name, help, kind: Kind::Counter, samples }
    };
    let [is_loaded, is_stale] = configuration(list(&report["problems"]));
    let mut metrics = vec![
        // It only grows, but the format would append `_total` to the name of a counter.
        gauge(
            "metallb_layer2_gratuitous_sent",
            "Frames of announcements sent for a VIP.",
            gratuitous.collect(),
        ),
        gauge(
            "metallb_speaker_announced",
            "Services announced from this node.",
            announced.collect(),
        ),
        gauge(
            "metallb_k8s_client_config_loaded_bool",
            "1 if all of the configuration is in force, be it an earlier version of it.",
            vec![sample(vec![], f64::from(u8::from(is_loaded)))],
        ),
        gauge(
            "metallb_k8s_client_config_stale_bool",
            "1 if part of the configuration is an earlier one, because the newest is invalid.",
            vec![sample(vec![], f64::from(u8::from(is_stale)))],
        ),
    ];
    metrics.extend([
        counter(
            "metallb_k8s_client_updates",
            "Writes to the API server that have ended: statuses, objects of Herald's and Events.",
            "api_updates",
        ),
        counter(
            "metallb_k8s_client_update_errors",
            "Those of them that the API server did not do; one that met a newer version is none.",
            "api_update_errors",
        ),
    ]);
    let pools: Vec<_> = list(&report["pools"]).iter().filter(|p| p["kind"] == "metallb").collect();
    let of_pools = |read: &dyn Fn(&Value) -> f64| {
        let pools = pools.iter();
        pools.map(|pool| sample(vec![("pool", text(&pool["name"]))], read(pool))).collect()
    };
    let of =
        |family: &'static str, what: &'static str| move |pool: &Value| number(&pool[family][what]);
    let sum = |what: &'static str| {
        move |pool: &Value| number(&pool["ipv4"][what]) + number(&pool["ipv6"][what])
    };
    metrics.extend([
        gauge("metallb_allocator_addresses_total", "All addresses.", of_pools(&sum("total"))),
        gauge("metallb_allocator_ipv4_addresses_total", "IPv4.", of_pools(&of("ipv4", "total"))),
        gauge("metallb_allocator_ipv6_addresses_total", "IPv6.", of_pools(&of("ipv6", "total"))),
        gauge("metallb_allocator_addresses_in_use_total", "In use.", of_pools(&sum("used"))),
        gauge(
            "metallb_allocator_ipv4_addresses_in_use_total",
            "IPv4 in use.",
            of_pools(&of("ipv4", "used")),
        ),
        gauge(
            "metallb_allocator_ipv6_addresses_in_use_total",
            "IPv6 in use.",
            of_pools(&of("ipv6", "used")),
        ),
        gauge(
            "metallb_allocator_services_allocated_total",
            "Services with an address.",
            of_pools(&|pool| number(&pool["services"])),
        ),
    ]);
    metrics
}

/// Whether each part of the configuration is in force in some version; and whether some part is in
/// force in an earlier one, because its newest has an error.
fn configuration(problems: &[Value]) -> [bool; 2] {
    let place = |problem: &&Value| text(&problem["location"]["file"]);
    let is_configuration = |problem: &&Value| {
        let kind = problem["object"].as_str();
        kind.is_none_or(|object| KINDS.iter().any(|kind| object.starts_with(kind)))
    };
    let wrong = problems.iter().filter(|problem| problem["level"] == "error");
    let wrong: BTreeSet<String> = wrong.filter(is_configuration).map(|it| place(&it)).collect();
    let kept = problems.iter().filter(|problem| problem["reason"] == "last_good_kept");
    let kept: BTreeSet<String> = kept.map(|it| place(&it)).collect();
    [wrong.is_subset(&kept), !wrong.is_disjoint(&kept)]
}

/// What objects of the configuration are called in problems.
const KINDS: [&str; 4] = ["IPAddressPool", "L2Advertisement", "Cilium", "ConfigMap"];

/// What Cilium's operator exports under these names (reference, section 2a).
fn cilium(report: &Value) -> Vec<Metric> {
    let pools: Vec<_> = list(&report["pools"]).iter().filter(|p| p["kind"] == "cilium").collect();
    if pools.is_empty() {
        return Vec::new();
    }
    let of_pools = |read: &dyn Fn(f64, f64) -> f64| {
        let sum = |pool: &Value, what| number(&pool["ipv4"][what]) + number(&pool["ipv6"][what]);
        let samples = pools.iter().map(|pool| {
            let name = text(&pool["name"]);
            let name = name.strip_prefix("cilium.io/").unwrap_or(&name).to_owned();
            sample(vec![("pool", name)], read(sum(pool, "total"), sum(pool, "used")))
        });
        samples.collect()
    };
    let conflicting = pools.iter().filter(|pool| !pool["conflict"].is_null()).count();
    // As with Cilium's condition: those its pools serve, or would have to.
    let vips = list(&report["vips"]).iter();
    let of_metallb: BTreeSet<String> = vips
        .filter(|vip| !text(&vip["pool"]).starts_with("cilium.io/"))
        .map(|vip| text(&vip["address"]))
        .collect();
    let has_metallb = pools.len() < list(&report["pools"]).len();
    let is_ours = |service: &&Value| match list(&service["addresses"]) {
        [] => !has_metallb,
        [first, ..] => !of_metallb.contains(&text(first)),
    };
    let services: Vec<_> = list(&report["services"]).iter().filter(is_ours).collect();
    let unsatisfied = services.iter().filter(|service| !service["reason"].is_null()).count();
    let single = |value: usize| vec![sample(vec![], count(value))];
    vec![
        gauge(
            "cilium_operator_lbipam_conflicting_pools_total",
            "Pools that overlap with another.",
            single(conflicting),
        ),
        gauge(
            "cilium_operator_lbipam_ips_available_total",
            "Free addresses.",
            of_pools(&|total, used| (total - used).max(0.0)),
        ),
        gauge(
            "cilium_operator_lbipam_ips_used_total",
            "Addresses in use.",
            of_pools(&|_, used| used),
        ),
        gauge(
            "cilium_operator_lbipam_services_matching_total",
            "Services that want addresses.",
            single(services.len()),
        ),
        gauge(
            "cilium_operator_lbipam_services_unsatisfied_total",
            "Services that do not have what they want.",
            single(unsatisfied),
        ),
    ]
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric { name, help, kind: Kind::Gauge, samples }
}

fn sample(labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { labels, value }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn count(number: usize) -> f64 {
    float(number as u64)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats; 2^53 is enough for a gauge")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
