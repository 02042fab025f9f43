//! Ten thousand Services. Nothing here asserts a time: `--no-capture` shows what it took.

use super::*;
use crate::allocator::share::work::COMPARED;
use crate::observed::{CiliumSharing, PoolKind, Protocol, ServicePort, TargetPort};

const MANY: u32 = 10_000;

/// Plans, and prints how long that took.
#[expect(clippy::disallowed_methods, reason = "edge: a test that measures")]
fn timed(what: &str, picture: &Observed, current: &Assignments) -> Plan {
    let begin = std::time::Instant::now();
    let plan = allocate(picture, current, &Config::default());
    println!("{what}: {} Services in {:?}", picture.services.len(), begin.elapsed());
    plan
}

/// Plans; the plan, and how often two Services were compared for it.
fn counted(what: &str, picture: &Observed, current: &Assignments) -> (Plan, usize) {
    COMPARED.set(0);
    let plan = timed(what, picture, current);
    (plan, COMPARED.get())
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
    picture.services.insert(ServiceName::new("default", "new"), Arc::new(service("new")));
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

fn port(port: u16) -> ServicePort {
    let target = TargetPort::Number(80);
    ServicePort { name: String::new(), protocol: Protocol::Tcp, port, target }
}

fn sharing_its_own(name: &str) -> Service {
    Service { sharing_key: Some(name.to_owned()), ports: vec![port(80)], ..service(name) }
}

/// All with one key, each listening at the ports that are said.
fn sharing(ports: impl Fn(u16) -> Vec<u16>) -> Vec<Service> {
    let mut services = many(service);
    for (number, service) in (0..).zip(&mut services) {
        let cilium = CiliumSharing { key: "all".into(), ..CiliumSharing::default() };
        service.sharing_key = Some("all".into());
        service.cilium_sharing = Some(cilium);
        service.ports = ports(number).into_iter().map(port).collect();
    }
    services
}

/// How many addresses the plan uses.
fn addresses(plan: &Plan) -> usize {
    let all: BTreeSet<_> = plan.assignments.values().flat_map(|it| &it.addresses).collect();
    all.len()
}

#[test]
fn ten_thousand_services_with_one_key_are_not_each_compared_with_all() {
    type Case<'a> = (&'a str, fn(u16) -> Vec<u16>, usize);
    let cases: [Case<'_>; 4] = [
        ("one key, one address", |n| vec![n + 1], 1),
        ("one key, a hundred addresses", |n| vec![n % 100 + 1], 100),
        ("one key, an address each", |_| vec![80], 10_000),
        ("one key, one port of two in common", |n| vec![80, 1000 + n], 10_000),
    ];
    for (what, ports, expected) in cases {
        for kind in [PoolKind::MetalLb, PoolKind::Cilium] {
            let services = sharing(ports);
            let pool = Pool { kind, ..wide()[0].clone() };
            let picture = observed(&[pool], &services);
            let (plan, compared) = counted(what, &picture, &NOBODY);
            assert_eq!(addresses(&plan), expected, "{what}");
            let (again, compared_again) = counted(what, &picture, &plan.assignments);
            assert_eq!(again.changes, [], "{what}");
            for compared in [compared, compared_again] {
                assert!(compared <= 5 * services.len(), "{what}: {compared} comparisons");
            }
        }
    }
}

#[test]
fn plans_ten_thousand_services_where_there_is_no_pool() {
    let (plan, _) = counted("no pool", &observed(&[], &many(service)), &NOBODY);
    assert_eq!((plan.assignments.len(), plan.refusals.len()), (0, services_left(0)));
}
