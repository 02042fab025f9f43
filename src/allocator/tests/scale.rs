//! Ten thousand Services. Nothing here asserts a time: `--no-capture` shows what it took.

use super::*;
use crate::observed::{Protocol, ServicePort, TargetPort};

const MANY: u32 = 10_000;

/// Plans, and prints how long that took.
#[expect(clippy::disallowed_methods, reason = "edge: a test that measures")]
fn timed(what: &str, picture: &Observed, current: &Assignments) -> Plan {
    let begin = std::time::Instant::now();
    let plan = allocate(picture, current, &Config::default());
    println!("{what}: {} Services in {:?}", picture.services.len(), begin.elapsed());
    plan
}

fn many(service: impl Fn(&str) -> Service) -> Vec<Service> {
    (0..MANY).map(|number| service(&format!("s{number:05}"))).collect()
}

fn wide() -> [Pool; 1] {
    [pool("p", &["10.0.0.0-10.0.255.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"])]
}

#[test]
fn plans_ten_thousand_services_and_then_one_more() {
    let services = many(|name| dual(name, RequireDualStack));
    let mut picture = observed(&wide(), &services);
    let first = timed("all new", &picture, &NOBODY);
    assert_eq!(first.assignments.len(), services.len());
    picture.services.insert(ServiceName::new("default", "new"), service("new"));
    let second = timed("one new", &picture, &first.assignments);
    assert_eq!(show(&Plan { changes: second.changes, ..Plan::default() }), ["new! pending"]);
}

#[test]
fn plans_ten_thousand_services_that_find_nothing() {
    let picture = observed(&[pool("p", &["192.0.2.1-192.0.2.9"])], &many(service));
    let plan = timed("pool used up", &picture, &NOBODY);
    assert_eq!((plan.assignments.len(), plan.refusals.len()), (9, services_left(9)));
}

fn services_left(served: u32) -> usize {
    usize::try_from(MANY - served).unwrap()
}

#[test]
fn plans_ten_thousand_services_that_all_move() {
    let picture = observed(&[pool("q", &["10.1.0.0-10.1.255.255"])], &many(sharing_its_own));
    let before = observed(&wide(), &many(sharing_its_own));
    let before = timed("each with a key", &before, &NOBODY).assignments;
    let plan = timed("all move", &picture, &before);
    assert_eq!(plan.changes.len(), services_left(0));
    assert!(plan.changes.iter().all(|change| change.reason == ChangeReason::PoolGone));
}

fn sharing_its_own(name: &str) -> Service {
    let target = TargetPort::Number(80);
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, target };
    Service { sharing_key: Some(name.to_owned()), ports: vec![port], ..service(name) }
}
