//! What stays in force through bad edits, conflicts and deletions.

mod fields;
mod served;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::observed::{EndpointPort, Protocol};

/// A directory that a test edits.
#[derive(Default)]
struct Directory {
    files: BTreeMap<String, FileState>,
    assembler: Assembler,
}

impl Directory {
    fn with(mut self, name: &str, text: &str) -> Self {
        self.files.insert(name.to_owned(), FileState::Bytes(text.as_bytes().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.files.remove(name);
        self
    }

    fn look(&mut self) -> Snapshot {
        self.assembler.update(self.files.clone())
    }
}

fn pool(name: &str, range: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}}}\nspec:\n  \
         addresses:\n  - {range}\n---\n"
    )
}

fn service(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}}}\n---\n")
}

fn pools(snapshot: &Snapshot) -> Vec<String> {
    let show = |pool: &crate::observed::Pool| format!("{} {}", pool.name, pool.ranges[0]);
    snapshot.observed.pools.values().map(show).collect()
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    snapshot.problems.iter().map(ToString::to_string).collect()
}

fn reasons(snapshot: &Snapshot) -> Vec<&'static str> {
    snapshot.problems.iter().map(|problem| problem.reason.label()).collect()
}

#[test]
fn files_that_are_as_they_were_are_known_to_change_nothing() {
    let mut directory = Directory::default()
        .with("a.yaml", &pool("a", "192.0.2.0/28"))
        .with("b.yaml", REVERSED)
        .with("c.yaml", &service("web"));
    let has_seen = |directory: &Directory| directory.assembler.has_seen(&directory.files);
    assert!(!has_seen(&directory), "nothing was looked at");
    let before = directory.look();
    assert!(has_seen(&directory));
    assert_eq!(directory.look(), before);
    for other in ["d.yaml", "a.yaml"] {
        directory = directory.with(other, &pool("other", "192.0.2.0/27"));
        assert!(!has_seen(&directory), "{other} is new or differs");
        directory.look();
        assert!(has_seen(&directory));
    }
    directory = directory.without("c.yaml");
    assert!(!has_seen(&directory), "one is gone");
}

const REVERSED: &str = "192.0.2.9-192.0.2.1";

#[test]
fn keeps_the_last_good_state_of_a_file_that_becomes_invalid() {
    let mut directory = Directory::default().with("a.yaml", &pool("a", "192.0.2.0/28"));
    let good = directory.look();
    assert_eq!(problems(&good), [""; 0]);
    let mut directory = directory
        .with("a.yaml", &(service("x") + &pool("a", REVERSED)))
        .with("b.yaml", &pool("b", "198.51.100.0/28"));
    let bad = directory.look();
    assert_eq!(
        pools(&bad),
        ["a 192.0.2.0-192.0.2.15", "b 198.51.100.0-198.51.100.15"],
        "the other file still applies"
    );
    assert!(bad.observed.services.is_empty(), "nothing of an invalid file applies");
    assert!(!bad.observed.pools_incomplete);
    assert_eq!(
        problems(&bad),
        [
            "a.yaml: warning: the last good content stays in force (1 objects)",
            "a.yaml:8:5: spec.addresses[0]: \"192.0.2.9-192.0.2.1\": range is reversed; expected \
             first address <= last",
        ]
    );
    let repaired = directory.with("a.yaml", &pool("a", "192.0.2.0/28")).without("b.yaml").look();
    assert_eq!(repaired, good);
}

#[test]
fn leaves_out_a_file_that_never_was_good_and_says_that_pools_may_be_missing() {
    let mut directory = Directory::default().with("a.yaml", "{").with("b.yaml", &service("x"));
    let snapshot = directory.look();
    assert_eq!(reasons(&snapshot), ["yaml_syntax"]);
    assert_eq!(snapshot.observed.services.len(), 1);
    assert!(snapshot.observed.pools_incomplete);
    assert!(snapshot.observed.services_incomplete);
    assert!(snapshot.observed.advertisements_incomplete);
    let snapshot = directory.without("a.yaml").look();
    assert!(!snapshot.observed.pools_incomplete);
    assert!(!snapshot.observed.services_incomplete);
    assert!(!snapshot.observed.advertisements_incomplete);
}

#[test]
fn keeps_the_last_good_state_of_a_file_that_cannot_be_read() {
    let mut directory = Directory::default().with("a.yaml", &pool("a", "192.0.2.0/28"));
    let good = directory.look();
    let unreadable = FileState::Unreadable("cannot read the file: permission denied".into());
    directory.files.insert("a.yaml".into(), unreadable);
    let snapshot = directory.look();
    assert_eq!(snapshot.observed, good.observed);
    assert_eq!(reasons(&snapshot), ["unreadable", "last_good_kept"]);
    directory.files.insert("a.yaml".into(), FileState::TooLarge(1 << 40));
    assert_eq!(reasons(&directory.look()), ["too_large", "last_good_kept"]);
}

#[test]
fn takes_away_what_a_deleted_file_said() {
    let mut directory = Directory::default()
        .with("a.yaml", &pool("a", "192.0.2.0/28"))
        .with("b.yaml", &pool("b", "198.51.100.0/28"));
    directory.look();
    let snapshot = directory.without("a.yaml").look();
    assert_eq!(pools(&snapshot), ["b 198.51.100.0-198.51.100.15"]);
    assert_eq!(problems(&snapshot), [""; 0]);
}

#[test]
fn frees_the_addresses_and_names_of_a_deleted_file() {
    let mut directory = Directory::default().with("a.yaml", &pool("a", "192.0.2.0/28"));
    directory.look();
    let mut directory = directory.without("a.yaml");
    directory.look();
    let snapshot = directory.with("b.yaml", &pool("a", "192.0.2.0/24")).look();
    assert_eq!(pools(&snapshot), ["a 192.0.2.0-192.0.2.255"]);
    assert_eq!(problems(&snapshot), [""; 0]);
}

#[test]
fn rejects_the_file_whose_change_brings_the_conflict() {
    let mut directory = Directory::default()
        .with("a.yaml", &pool("a", "192.0.2.0/28"))
        .with("b.yaml", &pool("b", "198.51.100.0/28"));
    let good = directory.look();
    // The earlier name is the one that changed, so it is the one that is rejected.
    let mut directory = directory.with("a.yaml", &pool("a", "198.51.100.8-198.51.100.20"));
    let snapshot = directory.look();
    assert_eq!(snapshot.observed, good.observed);
    assert_eq!(
        problems(&snapshot),
        [
            "a.yaml: warning: the last good content stays in force (1 objects)",
            "a.yaml:6:5: spec.addresses: 198.51.100.8-198.51.100.20 shares addresses with \
             198.51.100.0-198.51.100.15 of IPAddressPool default/b at b.yaml:1; expected pools \
             that do not overlap",
        ]
    );
    // It takes effect by itself once the other gives way.
    let snapshot = directory.with("b.yaml", &pool("b", "203.0.113.0/28")).look();
    assert_eq!(pools(&snapshot), ["a 198.51.100.8-198.51.100.20", "b 203.0.113.0-203.0.113.15"]);
    assert_eq!(problems(&snapshot), [""; 0]);
}

#[test]
fn lets_two_files_exchange_their_pools() {
    let (one, two) = (pool("one", "192.0.2.0/28"), pool("two", "198.51.100.0/28"));
    let mut directory = Directory::default().with("a.yaml", &one).with("b.yaml", &two);
    let before = directory.look();
    let after = directory.with("a.yaml", &two).with("b.yaml", &one).look();
    assert_eq!(after.observed, before.observed);
    assert_eq!(problems(&after), [""; 0]);
}

#[test]
fn accepts_other_changes_beside_a_conflict() {
    let mut directory = Directory::default()
        .with("a.yaml", &pool("a", "192.0.2.0/28"))
        .with("z.yaml", &pool("z", "203.0.113.0/28"));
    directory.look();
    // b takes what z gives up, c takes what a keeps.
    let snapshot = directory
        .with("b.yaml", &pool("b", "203.0.113.0/28"))
        .with("c.yaml", &pool("c", "192.0.2.0/24"))
        .with("z.yaml", &pool("z", "198.51.100.0/28"))
        .look();
    assert_eq!(
        pools(&snapshot),
        ["a 192.0.2.0-192.0.2.15", "b 203.0.113.0-203.0.113.15", "z 198.51.100.0-198.51.100.15"]
    );
    assert_eq!(reasons(&snapshot), ["pool_overlap"]);
}

#[test]
fn rejects_the_later_of_two_files_that_define_one_object() {
    let mut directory = Directory::default()
        .with("b.yaml", &(service("x") + &service("y")))
        .with("a.yaml", &service("x"));
    let snapshot = directory.look();
    assert_eq!(
        problems(&snapshot),
        ["b.yaml:1:1: Service default/x is defined at a.yaml:1 already; expected every \
             Service once"]
    );
    assert_eq!(snapshot.objects, 1);
}

#[test]
fn knows_pools_by_name_whatever_their_namespace() {
    let other = pool("a", "198.51.100.0/28").replace("{name: a}", "{name: a, namespace: other}");
    let snapshot = Directory::default()
        .with("a.yaml", &pool("a", "192.0.2.0/28"))
        .with("b.yaml", &other)
        .look();
    assert_eq!(
        problems(&snapshot),
        ["b.yaml:1:1: IPAddressPool default/a is defined at a.yaml:1 already; expected every \
          IPAddressPool once, in whichever namespace: pools are known by name alone"]
    );
}

#[test]
fn announcements_of_one_name_in_different_namespaces_both_count() {
    let ad = |namespace: &str| {
        format!(
            "{{apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {{name: a, \
             namespace: {namespace}}}, spec: {{interfaces: [{namespace}]}}}}\n"
        )
    };
    let mut directory = Directory::default().with("a.yaml", &ad("one")).with("b.yaml", &ad("two"));
    let snapshot = directory.look();
    let names: Vec<_> = snapshot.observed.advertisements.keys().cloned().collect();
    assert_eq!((names, problems(&snapshot)), (strings(&["one/a", "two/a"]), vec![]));
    let twice = directory.with("c.yaml", &ad("one")).look();
    assert_eq!(reasons(&twice), ["duplicate_object"]);
}

fn limited(ranges: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: x}}, spec: {{type: LoadBalancer, \
         loadBalancerSourceRanges: [{ranges}]}}}}\n"
    )
}

#[test]
fn reads_the_clients_that_may_reach_a_service() {
    let text = limited("192.0.2.77/24, ' 2001:db8::/32 '");
    let snapshot = Directory::default().with("a.yaml", &text).look();
    let service = snapshot.observed.services.values().next().unwrap();
    let ranges: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!((ranges, snapshot.problems), (strings(&["192.0.2.0/24", "2001:db8::/32"]), vec![]));
}

#[test]
fn refuses_an_edit_whose_clients_cannot_be_read() {
    let mut directory = Directory::default().with("a.yaml", &service("x"));
    let good = directory.look();
    let text = limited("192.0.2.0/24, everybody");
    let snapshot = directory.with("a.yaml", &text).look();
    assert_eq!(snapshot.observed, good.observed);
    assert_eq!(reasons(&snapshot), ["last_good_kept", "bad_address"]);
    let snapshot = Directory::default().with("a.yaml", &text).look();
    assert!(snapshot.observed.services.is_empty());
    assert!(snapshot.observed.services_incomplete, "so that nobody else gets its address");
}

#[test]
fn a_served_service_whose_clients_cannot_be_read_admits_nobody() {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["everybody"]},
    });
    let served = Served { kind: Kind::Service, tree: Tree::from_json(&object) };
    let files = [("x".to_owned(), FileState::Served(Box::new(served)))].into();
    let snapshot = Assembler::default().update(files);
    let service = snapshot.observed.services.values().next().unwrap();
    let ranges: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["0.0.0.0/32", "::/128"], "the addresses that no client has");
    assert_eq!(service.bad_source_ranges, ["everybody"]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn joins_the_slices_of_a_service() {
    let slice = |name: &str, port: &str, ready: bool| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
             labels: {{kubernetes.io/service-name: web}}\naddressType: IPv4\nports:\n- {port}\n\
             endpoints:\n- addresses: [10.0.0.2]\n  nodeName: n\n  conditions: {{ready: {ready}}}\n\
             - addresses: [10.0.0.1]\n"
        )
    };
    let snapshot = Directory::default()
        .with("a.yaml", &slice("web-a", "{name: http, port: 80}", false))
        .with("b.yaml", &slice("web-b", "{name: http, port: 80}", true))
        .with("c.yaml", &slice("web-c", "{name: http, port: 81}", false))
        .look();
    let endpoints = &snapshot.observed.endpoints[&ServiceName::new("default", "web")];
    let endpoint = |address: &str, node: Option<&str>, port, ready| Endpoint {
        address: address.parse().unwrap(),
        node: node.map(str::to_owned),
        ready,
        serving: ready,
        terminating: false,
        kept: false,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port }].into(),
    };
    assert_eq!(
        **endpoints,
        [
            endpoint("10.0.0.1", None, 80, true),
            endpoint("10.0.0.1", None, 81, true),
            endpoint("10.0.0.2", Some("n"), 80, true),
            endpoint("10.0.0.2", Some("n"), 81, false),
        ]
    );
}

proptest! {
    /// Whatever is edited, pools never overlap, and the same files always end in a state that
    /// looking again does not change.
    #[test]
    fn pools_in_force_never_overlap(
        edits in prop::collection::vec((0..4u8, 0..4u8, 0..20u8, 0..6u8), 1..12)
    ) {
        let mut directory = Directory::default();
        for (file, name, first, length) in edits {
            let range = format!("192.0.2.{first}-192.0.2.{}", first + length);
            directory = match length {
                5 => directory.without(&format!("{file}.yaml")),
                _ => directory.with(&format!("{file}.yaml"), &pool(&format!("p{name}"), &range)),
            };
            let snapshot = directory.look();
            let ranges: Vec<_> =
                snapshot.observed.pools.values().flat_map(|pool| pool.ranges.clone()).collect();
            for (index, range) in ranges.iter().enumerate() {
                prop_assert!(ranges[index + 1..].iter().all(|other| !other.overlaps(*range)));
            }
            prop_assert_eq!(directory.look(), snapshot);
        }
    }

    #[test]
    fn never_panics_on_objects_of_any_shape(
        kind in prop::sample::select(Kind::ALL),
        body in "(spec|metadata|status|endpoints|items): [\\[\\]{}a-z0-9:,. '\"\n-]{0,60}",
    ) {
        let text = format!("apiVersion: {}\nkind: {}\n{body}\n", kind.api_versions()[0], kind.name());
        let _ = Directory::default().with("a.yaml", &text).look();
    }
}
