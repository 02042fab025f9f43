//! `herald check` as its users meet it: whole manifests in, what is printed out.

use std::process::ExitCode;

use clap::Parser;
use herald::cli::check::{CheckArgs, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: CheckArgs,
}

fn table(paths: &[&str]) -> (String, bool) {
    let args = ["check"].iter().chain(paths);
    let args = Cli::parse_from(args).args;
    let mut out = Vec::new();
    let success = run(&args, &mut out) == ExitCode::SUCCESS;
    (String::from_utf8_lossy(&out).into_owned(), success)
}

/// To accept a new output on purpose, write it to the file that is compared with.
#[test]
fn says_what_is_wrong_with_broken_manifests() {
    let (printed, success) = table(&["src/source/testdata/broken"]);
    assert!(!success);
    let expected = include_str!("../src/source/testdata/broken.expected");
    assert_eq!(printed, expected);
}

#[test]
fn accepts_the_manifests_that_people_have() {
    let (printed, success) = table(&["src/source/testdata/reference/metallb-kind.yaml"]);
    assert_eq!(printed, "1 file, 2 objects: 0 errors, 0 warnings\n");
    assert!(success);
    let (printed, success) = table(&["src/source/testdata/reference/cilium-homelab.yaml"]);
    assert_eq!(printed, "1 file, 2 objects: 0 errors, 0 warnings\n");
    assert!(success);
}

#[test]
fn serves_from_the_pools_of_cilium() {
    let (printed, success) = table(&[
        "src/source/testdata/reference/cilium-homelab.yaml",
        "src/source/testdata/reference/grafana-service.yaml",
    ]);
    let expected = "\
SERVICE          POOL               ADDRESSES
default/grafana  cilium.io/ip-pool  192.168.68.150

2 files, 3 objects: 0 errors, 0 warnings
";
    assert_eq!(printed, expected);
    assert!(success);
}

#[test]
fn shows_which_addresses_services_would_get() {
    let (printed, success) = table(&[
        "src/source/testdata/reference/metallb-homelab.yaml",
        "src/source/testdata/reference/grafana-service.yaml",
        "src/source/testdata/reference/k3s-service.yaml",
    ]);
    let expected = "\
SERVICE          POOL        ADDRESSES
default/grafana  first-pool  192.168.1.240
default/nginx    -           none: asks for 192.168.1.100, which is in no pool

3 files, 3 objects: 0 errors, 0 warnings
";
    assert_eq!(printed, expected);
    assert!(success);
}

#[test]
fn prints_json_for_programs() {
    let args = Cli::parse_from(["check", "--output=json", "src/source/testdata/broken"]).args;
    let mut out = Vec::new();
    run(&args, &mut out);
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let reasons: Vec<_> =
        value["problems"].as_array().unwrap().iter().map(|problem| &problem["reason"]).collect();
    assert!(reasons.contains(&&serde_json::json!("range_reversed")), "{reasons:?}");
}

#[test]
fn tells_a_wrong_command_from_wrong_manifests() {
    let args = Cli::parse_from(["check", "no/such/file.yaml"]).args;
    assert_eq!(run(&args, &mut Vec::new()), ExitCode::from(2));
    assert!(Cli::try_parse_from(["check"]).is_err());
    let delete = ["check", "--delete", "IPAddressPool/first"];
    assert!(Cli::try_parse_from(delete).is_err(), "deleted from where?");
    assert!(Cli::try_parse_from(delete.into_iter().chain(["--against-cluster"])).is_ok());
}
