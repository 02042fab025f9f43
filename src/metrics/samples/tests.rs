//! What dashboards find.

use serde_json::json;

use super::*;
use crate::metrics::render;

fn report() -> Value {
    json!({
        "node": "n1", "version": "0.1.0",
        "datapath": [{"interface": "eth0", "mode": "native", "reason": null}],
        "election": {
            "backend": "raft", "leader": "n2", "term": 3, "deadline_ms": 250,
            "sessions": [{"node": "n1", "state": "open"}, {"node": "n2", "state": "revoked"}],
        },
        "vips": [{
            "address": "192.168.1.240", "service": "default/web", "holder": "n1", "term": 7,
            "announcing": true, "conflict": null,
            "frames": {"requests": 5, "replies": 4, "announcements": 12},
            "backends": [{"used": true}, {"used": true}, {"used": false}],
        }],
        "services": [
            {"name": "default/web", "reason": null},
            {"name": "default/late", "reason": "pools_exhausted"},
        ],
        "counters": {"xdp_forwarded": 12, "announcer_probes": 3, "peer_refused_wrong_key": 1,
            "api_updates": 9, "api_update_errors": 2},
        "problems": [],
        "flows": {
            "every": 1024, "reason": null, "read": 12, "lost": {"rate_limited": 3},
            "sums": [
                {"vip": "192.168.1.240", "port": 80, "protocol": "TCP",
                 "service": "default/web", "verdict": "forwarded", "node": "n2",
                 "samples": 12, "packets": 12000},
                {"vip": null, "port": null, "protocol": "UDP", "service": null,
                 "verdict": "delivered", "node": "n1", "samples": 1, "packets": 9},
            ],
        },
        "pools": [
            {
                "name": "lan", "kind": "metallb", "services": 1, "conflict": null,
                "ipv4": {"total": 11, "used": 1}, "ipv6": {"total": 0, "used": 0},
            },
            {
                "name": "cilium.io/blue", "kind": "cilium", "services": 0,
                "conflict": "lan",
                "ipv4": {"total": 4, "used": 0}, "ipv6": {"total": 0, "used": 0},
            },
        ],
    })
}

/// The lines that are no comments, for one metric.
fn lines(text: &str, name: &str) -> Vec<String> {
    let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    text.lines().filter(of_it).map(ToOwned::to_owned).collect()
}

#[test]
fn says_what_status_says() {
    let text = render(&report()).unwrap();
    let expected = [
        ("herald_session_left_seconds", vec![r#"{backend="raft"} 0.25"#]),
        ("herald_session_open", vec![r#"{node="n1"} 1.0"#, r#"{node="n2"} 0.0"#]),
        ("herald_vip_holder", vec![r#"{vip="192.168.1.240",node="n1"} 1.0"#]),
        ("herald_claim_term", vec![r#"{vip="192.168.1.240"} 7.0"#]),
        ("herald_vip_conflict", vec![]),
        (
            "herald_backends",
            vec![
                r#"{vip="192.168.1.240",state="used"} 2.0"#,
                r#"{vip="192.168.1.240",state="unused"} 1.0"#,
            ],
        ),
        (
            "herald_vip_frames_total",
            vec![
                r#"{vip="192.168.1.240",event="requests"} 5.0"#,
                r#"{vip="192.168.1.240",event="replies"} 4.0"#,
                r#"{vip="192.168.1.240",event="announcements"} 12.0"#,
            ],
        ),
        ("herald_services", vec![r#"{reason="none"} 1.0"#, r#"{reason="pools_exhausted"} 1.0"#]),
        ("herald_packets_total", vec![r#"{reason="forwarded"} 12.0"#]),
        ("herald_announcer_total", vec![r#"{event="probes"} 3.0"#]),
        ("herald_peer_refused_total", vec![r#"{reason="wrong_key"} 1.0"#]),
        (
            "herald_events_total",
            vec![r#"{event="api_update_errors"} 2.0"#, r#"{event="api_updates"} 9.0"#],
        ),
        ("herald_flow_sampling", vec![" 1024.0"]),
        (
            "herald_flow_packets_total",
            vec![
                r#"{service="default/web",vip="192.168.1.240",port="80",protocol="TCP",node="n2",verdict="forwarded"} 12000.0"#,
                r#"{service="",vip="",port="",protocol="UDP",node="n1",verdict="delivered"} 9.0"#,
            ],
        ),
        ("herald_flow_samples_lost_total", vec![r#"{reason="rate_limited"} 3.0"#]),
    ];
    for (name, samples) in expected {
        let wanted: Vec<_> = samples.iter().map(|rest| format!("{name}{rest}")).collect();
        assert_eq!(lines(&text, name), wanted, "{name}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn keeps_the_names_dashboards_know() {
    let text = render(&report()).unwrap();
    for line in [
        r#"metallb_speaker_announced{service="default/web",protocol="layer2",node="n1",ip="192.168.1.240"} 1.0"#,
        r#"metallb_allocator_addresses_total{pool="lan"} 11.0"#,
        r#"metallb_allocator_ipv4_addresses_in_use_total{pool="lan"} 1.0"#,
        r#"metallb_allocator_services_allocated_total{pool="lan"} 1.0"#,
        "metallb_k8s_client_updates_total 9.0",
        "metallb_k8s_client_update_errors_total 2.0",
        "metallb_k8s_client_config_loaded_bool 1.0",
        "metallb_k8s_client_config_stale_bool 0.0",
        r#"metallb_layer2_gratuitous_sent{ip="192.168.1.240"} 12.0"#,
        "cilium_operator_lbipam_conflicting_pools_total 1.0",
        r#"cilium_operator_lbipam_ips_available_total{pool="blue"} 4.0"#,
        "cilium_operator_lbipam_services_unsatisfied_total 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn ciliums_services_are_those_of_its_pools() {
    let totals = |report: &Value| {
        let text = render(report).unwrap();
        ["matching", "unsatisfied"].map(|what| {
            let name = format!("cilium_operator_lbipam_services_{what}_total");
            lines(&text, &name)[0].rsplit_once(' ').unwrap().1.to_owned()
        })
    };
    let mut report = report();
    report["vips"] = json!([
        {"address": "192.168.1.240", "pool": "lan"},
        {"address": "192.168.2.1", "pool": "cilium.io/blue"},
    ]);
    report["services"] = json!([
        {"name": "default/web", "addresses": ["192.168.1.240"], "reason": null},
        {"name": "default/kept", "addresses": ["192.168.1.240"], "reason": "pool_not_for_service"},
        {"name": "default/blue", "addresses": ["192.168.2.1"], "reason": null},
        {"name": "default/late", "addresses": [], "reason": "pools_exhausted"},
    ]);
    assert_eq!(totals(&report), ["1.0", "0.0"], "MetalLB's pools would have to serve the last");
    report["services"][2]["reason"] = json!("pool_not_for_service");
    assert_eq!(totals(&report), ["1.0", "1.0"]);
    report["pools"].as_array_mut().unwrap().remove(0);
    assert_eq!(totals(&report), ["2.0", "2.0"], "nobody else could");
}

#[test]
fn the_configuration_is_stale_only_where_an_earlier_version_is_in_force() {
    let problem = |level: &str, reason: &str, object: Value, file: &str| {
        let location = json!({"file": file, "line": 1, "column": 1});
        json!({"level": level, "reason": reason, "object": object, "location": location})
    };
    let pool = || json!("IPAddressPool metallb-system/a");
    let bad = || problem("error", "range_reversed", pool(), "a");
    let kept = || problem("warning", "last_good_kept", Value::Null, "a");
    let other = || problem("error", "bad_value", json!("L2Advertisement x/b"), "b");
    let service = || problem("error", "bad_address", json!("Service default/web"), "c");
    for (what, problems, loaded_and_stale) in [
        ("nothing wrong", vec![], [true, false]),
        ("a warning", vec![problem("warning", "deprecated", pool(), "a")], [true, false]),
        ("an earlier version", vec![bad(), kept()], [true, true]),
        ("there was no good one", vec![bad()], [false, false]),
        ("one of each", vec![bad(), kept(), other()], [false, true]),
        ("a Service is no configuration", vec![service()], [true, false]),
    ] {
        assert_eq!(configuration(&problems), loaded_and_stale, "{what}");
    }
}

#[test]
fn is_calm_about_a_report_of_another_version() {
    for report in [Value::Null, json!({"vips": 3, "counters": [], "pools": [{}]})] {
        assert!(render(&report).unwrap().ends_with("# EOF\n"));
    }
}
