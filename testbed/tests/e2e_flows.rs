//! Living flows stay where they are: while backends come and go, and while the holder changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use herald_testbed::beside::rules;
use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::flows::{self, Flows, manifests, on_all_pods};
use herald_testbed::lab::addresses::{NODES, nodes};
use herald_testbed::lab::process::Process;
use herald_testbed::pod::Answer;
use herald_testbed::scenario::{MANIFESTS, Scenario, service};
use herald_testbed::status::{Backend, Vip};

/// With six pods on each, 102 backends; two are left out to have a hundred.
const PORTS: std::ops::RangeInclusive<u16> = 9000..=9016;

type Backends = BTreeMap<u16, Vec<(String, String, String)>>;

/// A hundred backends, and servers for a few more.
fn hundred(scenario: &Scenario) -> anyhow::Result<(Backends, Vec<Process>)> {
    let servers = flows::servers(&scenario.lab, PORTS)?;
    let mut backends = on_all_pods(PORTS);
    backends.get_mut(PORTS.end()).context("no ports")?.truncate(4);
    Ok((backends, servers))
}

/// Puts the Service with these backends and waits until every node uses them all.
fn serve(scenario: &mut Scenario, backends: &Backends) -> anyhow::Result<IpAddr> {
    serve_as(scenario, backends, "")
}

/// As [`serve`], with further lines in the Service's spec.
fn serve_as(scenario: &mut Scenario, backends: &Backends, spec: &str) -> anyhow::Result<IpAddr> {
    let vips = serve_all(scenario, backends, spec)?;
    vips.into_iter().next().context("no VIP")
}

/// As [`serve_as`], of backends that may be of both families: the VIPs, IPv4 first.
fn serve_all(
    scenario: &mut Scenario,
    backends: &Backends,
    spec: &str,
) -> anyhow::Result<Vec<IpAddr>> {
    let text = manifests("many", backends).replacen("spec:\n", &format!("spec:\n{spec}"), 1);
    scenario.put_manifest("service.yaml", &text)?;
    let addresses = || backends.values().flatten().map(|(_, _, address)| address);
    let count = |is_v6| addresses().filter(|it| it.contains(':') == is_v6).count();
    let wanted: Vec<usize> = [count(false), count(true)].into_iter().filter(|it| *it > 0).collect();
    scenario.wait("every node uses all backends", 20, |scenario| {
        let mut announced = BTreeSet::new();
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            let of = |vip: &Vip| vip.backends.iter().filter(|backend| backend.used).count();
            let mut vips: Vec<_> = status.vips.iter().collect();
            vips.sort_by_key(|vip| vip.address);
            if vips.iter().map(|vip| of(vip)).ne(wanted.iter().copied()) {
                return Ok(None);
            }
            announced.extend(vips.iter().filter(|vip| vip.announcing).map(|vip| vip.address));
        }
        Ok((announced.len() == wanted.len()).then(|| announced.into_iter().collect()))
    })
}

/// Gives nodes weights and waits until every node goes by them.
fn weigh(scenario: &mut Scenario, weights: &[(&str, u32)]) -> anyhow::Result<()> {
    let mut text = MANIFESTS[0].1.to_owned();
    for (node, weight) in weights {
        let name = format!("  name: {node}\n");
        let weighed = format!("{name}  annotations: {{herald.io/weight: \"{weight}\"}}\n");
        text = text.replacen(&name, &weighed, 1);
    }
    scenario.put_manifest(MANIFESTS[0].0, &text)?;
    let weights: BTreeMap<_, _> = weights.iter().copied().collect();
    scenario.wait("every node goes by the weights", 20, |scenario| {
        for node in nodes() {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            let [vip] = &status.vips[..] else { return Ok(None) };
            let is_weighed = |backend: &Backend| {
                let weight = backend.node.as_deref().and_then(|node| weights.get(node)).copied();
                weight == Some(backend.weight) && backend.used == (backend.weight > 0)
            };
            if !vip.backends.iter().all(is_weighed) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

fn start(scenario: &mut Scenario) -> anyhow::Result<()> {
    drop_invalid(scenario)?;
    scenario.start_all(&[])?;
    for (name, text) in &MANIFESTS[1..3] {
        scenario.put_manifest(name, text)?;
    }
    Ok(())
}

/// Every node drops what its conntrack does not understand, as kube-proxy makes it.
fn drop_invalid(scenario: &Scenario) -> anyhow::Result<()> {
    nodes().try_for_each(|node| rules::load(scenario.lab.netns(&node)?, rules::NOTHING_INVALID))
}

/// Nothing of it all was dropped for being invalid, on any node.
fn nothing_was_invalid(scenario: &Scenario) -> anyhow::Result<()> {
    for node in nodes() {
        let dropped = rules::counted(scenario.lab.netns(&node)?, "strict", "invalid")?;
        assert_eq!(dropped, 0, "packets dropped as invalid on {node}");
    }
    Ok(())
}

#[test]
fn ten_thousand_flows_keep_their_backends_while_others_come_and_go() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (mut backends, _servers) = hundred(scenario)?;
        let vip = serve(scenario, &backends)?;
        let vip = SocketAddr::new(vip, 80);
        let mut flows = Flows::open(scenario.lab.netns("c1")?, vip, 10_000)?;
        let reached = flows.backends();
        assert_eq!(reached.len(), 100, "a hundred flows each, on average: {reached:?}");
        assert_eq!(flows.ask(), []);

        // One of a hundred is removed: its flows may break, no others.
        let removed = backends.get_mut(&9000).context("no such port")?.remove(0);
        let removed = format!("{}:9000", removed.0);
        serve(scenario, &backends)?;
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(backend, _)| *backend != removed).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows of surviving backends");
        let fresh = Flows::open(scenario.lab.netns("c1")?, vip, 1_000)?;
        assert!(!fresh.backends().contains_key(&removed), "a removed backend gets no new flows");

        // Two are added.
        let added = on_all_pods(PORTS).remove(PORTS.end()).context("no such port")?;
        backends.insert(*PORTS.end(), added);
        serve(scenario, &backends)?;
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(backend, _)| *backend != removed).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows of surviving backends");
        let fresh = Flows::open(scenario.lab.netns("c1")?, vip, 2_000)?.backends();
        for new in ["n3-p1:9016", "n3-p2:9016"] {
            assert!(fresh.contains_key(new), "{new} gets no flows: {fresh:?}");
        }

        // One node's pods are to get three times the flows, and another's none.
        weigh(scenario, &[("n1", 3), ("n2", 0), ("n3", 1)])?;
        let broken = flows.ask();
        let others: Vec<_> = broken.iter().filter(|(backend, _)| *backend != removed).collect();
        assert_eq!(others, Vec::<&(String, String)>::new(), "flows of surviving backends");
        let fresh = Flows::open(scenario.lab.netns("c1")?, vip, 2_000)?.backends();
        let of = |node: &str| -> usize {
            fresh.iter().filter(|(backend, _)| backend.starts_with(node)).map(|(_, n)| n).sum()
        };
        let [first, second, third] = ["n1-", "n2-", "n3-"].map(of);
        // Three quarters are expected on the first; half is 25 standard deviations away.
        assert!(second == 0 && third > 0 && first > 1_000, "{first} {second} {third}");
        nothing_was_invalid(scenario)
    })
}

/// The lines of a Service whose clients stay so many seconds.
fn sticky(seconds: u32) -> String {
    format!(
        "  sessionAffinity: ClientIP\n  \
         sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n"
    )
}

#[test]
fn a_client_with_affinity_stays_for_the_timeout_when_backends_come() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (mut many, _servers) = hundred(scenario)?;
        let few = BTreeMap::from([(9001, many[&9001].clone())]);
        let vip = SocketAddr::new(serve_as(scenario, &few, &sticky(3600))?, 80);
        let open = |scenario: &Scenario| Flows::open(scenario.lab.netns("c1")?, vip, 20);
        let mut flows = open(scenario)?;
        let before = flows.backends();
        assert_eq!(before.len(), 1, "{before:?}");

        // Sixteen times as many backends: the client's slot would go to one of the new ones.
        serve_as(scenario, &many, &sticky(3600))?;
        assert_eq!(open(scenario)?.backends(), before, "new flows");
        assert_eq!(flows.ask(), [], "established flows");

        // A timeout that is over.
        serve_as(scenario, &many, &sticky(1))?;
        let after = scenario.wait("the client has another backend", 20, |scenario| {
            let now = open(scenario)?.backends();
            let is_new = now.len() == 1 && now != before;
            Ok(is_new.then(|| now.into_keys().next()).flatten())
        })?;
        assert_eq!(flows.ask(), [], "established flows stay all the same");

        // That one goes away.
        let (pod, port) = after.split_once(':').context("no port")?;
        many.get_mut(&port.parse()?).context("no such port")?.retain(|(name, ..)| name != pod);
        serve_as(scenario, &many, &sticky(3600))?;
        let now = open(scenario)?.backends();
        assert!(now.len() == 1 && !now.contains_key(&after), "{now:?}");
        assert_eq!(flows.ask(), [], "flows of the first backend");
        Ok(())
    })
}

/// The same pods over IPv6 as well.
fn over_both(mut backends: Backends) -> anyhow::Result<Backends> {
    for pods in backends.values_mut() {
        for (name, node, address) in pods.clone() {
            let [_, _, number, last] = address.parse::<Ipv4Addr>()?.octets();
            pods.push((name, node, format!("fd00:244:{number}::{last}")));
        }
    }
    Ok(backends)
}

/// Of each family; the holder of either VIP leaves in its turn.
#[test]
fn a_thousand_flows_do_not_notice_that_the_holder_leaves() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (backends, _servers) = hundred(scenario)?;
        let vips = serve_all(scenario, &over_both(backends)?, "")?;
        let families: Vec<bool> = vips.iter().map(IpAddr::is_ipv6).collect();
        assert_eq!(families, [false, true]);
        let client = scenario.lab.netns("c1")?;
        let open = |vip: &IpAddr| Flows::open(client, SocketAddr::new(*vip, 80), 1_000);
        let mut flows = vips.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        let mut ask = |when: &str| {
            for (vip, flows) in vips.iter().zip(&mut flows) {
                assert_eq!(flows.ask(), [], "to {vip} {when}");
            }
        };
        for vip in &vips {
            let holder = scenario.status("n1")?.holders()[vip].clone();
            scenario.speaker(&holder)?.terminate(Duration::from_secs(20))?;
            scenario.forget(&holder);
            ask(&format!("right after {holder} left"));
            scenario.start(&holder, &[])?;
            scenario.wait("another node holds the VIP, and all have sessions", 20, |scenario| {
                let Ok(status) = scenario.status("n1") else { return Ok(None) };
                let now = status.holders().get(vip).cloned();
                let moved = now.is_some_and(|now| now != holder);
                Ok((moved && status.open_sessions() == usize::from(NODES)).then_some(()))
            })?;
            ask(&format!("after {holder} returned"));
        }
        nothing_was_invalid(scenario)
    })
}

/// Flows opened before a change, and as many after it.
const EACH: usize = 200;

/// A new holder knows nothing of the flows that were opened after a slot had changed: they go to
/// the slot's former backend until they connect anew. Those that were there before the change do
/// not notice; and the change is forgotten when the drain time is over.
#[test]
fn flows_older_than_a_change_outlive_the_holder_and_not_the_drain_time() -> anyhow::Result<()> {
    in_lab(|scenario| {
        start(scenario)?;
        let (many, _servers) = hundred(scenario)?;
        let few = BTreeMap::from([(9001, many[&9001].clone())]);
        let address = serve(scenario, &few)?;
        let vip = SocketAddr::new(address, 80);
        let mut before = Flows::open(scenario.lab.netns("c1")?, vip, EACH)?;
        serve(scenario, &many)?;
        let mut since = Flows::open(scenario.lab.netns("c1")?, vip, EACH)?;
        assert_eq!((before.ask(), since.ask()), (vec![], vec![]));

        let holder = scenario.status("n1")?.holders()[&address].clone();
        scenario.speaker(&holder)?.terminate(Duration::from_secs(20))?;
        scenario.forget(&holder);
        assert_eq!(before.ask(), [], "opened before the change, after {holder} left");
        let broken = since.ask();
        println!("{} of {EACH} flows opened since the change are broken", broken.len());
        let strange: Vec<_> = broken.iter().filter(|(_, how)| how.contains("answered")).collect();
        assert_eq!(strange, Vec::<&(String, String)>::new(), "a flow in another's hands");

        // The next speakers remember what was changed for a second more.
        for node in nodes().filter(|node| *node != holder) {
            scenario.speaker(&node)?.kill()?;
            scenario.forget(&node);
        }
        scenario.start_all(&["--drain-time", "1s"])?;
        let broken = scenario.wait("what has moved is let go", 20, |_| {
            let broken = before.ask();
            Ok((!broken.is_empty()).then_some(broken))
        })?;
        let stayed = before.backends().values().sum::<usize>();
        assert_eq!(broken.len() + stayed, EACH);
        Ok(())
    })
}

#[test]
fn two_hundred_megabytes_each_way_arrive_intact() -> anyhow::Result<()> {
    in_lab(|scenario| {
        drop_invalid(scenario)?;
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        for (vip, holder) in scenario.served()? {
            let server = service(vip, Transport::Tcp);
            // Through one node, and through two.
            for is_here in [true, false] {
                let is_wanted = |answer: &Answer| (answer.node == holder) == is_here;
                scenario.lab.netns("c1")?.inside(|| {
                    client::upload_to(server, 200_000_000, is_wanted)?;
                    client::download_from(server, 200_000_000, is_wanted)
                })?;
            }
        }
        nothing_was_invalid(scenario)
    })
}
