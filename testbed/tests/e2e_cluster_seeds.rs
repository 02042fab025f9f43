//! The manifests that Herald's first users have, unmodified, on a real API server: applied with
//! kubectl, seen with kubectl, and used by a client on the LAN through XDP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::client::{self, Transport};
use herald_testbed::cluster::Change;
use herald_testbed::cluster::audit::Rights;
use herald_testbed::cluster::speakers::{Container, herald, kubeconfig};
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::judge::Judge;
use herald_testbed::lab::addresses::host;
use herald_testbed::sandbox::SCRATCH;
use herald_testbed::watch::PACE;
use herald_testbed::{clock, e2e};

const METALLB: &str = include_str!("../../src/source/testdata/reference/metallb-homelab.yaml");
const METALLB_KIND: &str = include_str!("../../src/source/testdata/reference/metallb-kind.yaml");
const CILIUM: &str = include_str!("../../src/source/testdata/reference/cilium-homelab.yaml");
const GRAFANA: &str = include_str!("../../src/source/testdata/reference/grafana-service.yaml");
const K3S: &str = include_str!("../../src/source/testdata/reference/k3s-service.yaml");

/// A Service in front of the lab's pods.
const ECHO: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080}]
";

/// Where a pool of this MetalLB user lies, so that a K3s user's own choice can be granted. Nothing
/// announces it: the address is a client's here.
const CHOSEN: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: chosen, namespace: metallb-system}
spec: {addresses: [192.168.1.100/32], autoAssign: false}
";

const ADVERTISEMENT: &str = "
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2-advert, namespace: metallb-system}
spec: {ipAddressPools: [first-pool]}
";

const EDITED: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: [192.168.1.230-192.168.1.250]}
";

const REVERSED: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: [192.168.1.250-192.168.1.230]}
";

const NO_ADDRESS: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: [192.168.1.0-nonsense]}
";

/// What Herald's own definitions refuse, and its admission policy about what these let pass.
const REFUSED: [(&str, &str); 4] = [
    (
        "{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: bad}, \
         spec: {blocks: [{stop: 192.0.2.9}]}}",
        "each of blocks is either cidr, or start with or without stop",
    ),
    (
        "{apiVersion: cilium.io/v2alpha1, kind: CiliumLoadBalancerIPPool, metadata: {name: bad}, \
         spec: {cidrs: [{cidr: nonsense}]}}",
        "expected cidrs with either",
    ),
    (
        "{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: bad}, \
         spec: {blocks: [{start: 192.0.2.1, stop: '2001:db8::1'}]}}",
        "expected blocks with either",
    ),
    (
        "{apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {name: bad, namespace: \
         metallb-system}, spec: {preferredNodeSelectors: [{weight: 101, preference: {}}]}}",
        "weight",
    ),
];

/// Two Services of one address: one port each, and not of one protocol.
const SHARED: &str = "
apiVersion: v1
kind: Service
metadata:
  name: shared-tcp
  annotations: {metallb.io/allow-shared-ip: key, metallb.io/loadBalancerIPs: 192.168.1.245}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata:
  name: shared-udp
  annotations: {metallb.universe.tf/allow-shared-ip: key, metallb.io/loadBalancerIPs: 192.168.1.245}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ports: [{port: 53, protocol: UDP, targetPort: 8080}]
";

#[test]
fn a_user_of_metallb_is_served_and_keeps_the_addresses() -> anyhow::Result<()> {
    e2e::in_cluster("manifests", |cluster| {
        for (node, host) in [("n1", 11), ("n2", 12), ("n3", 13), ("c1", 100)] {
            let address = format!("addr add 172.18.0.{host}/16 dev eth0\n");
            cluster.lab.netns(node)?.ip(&address)?;
        }
        cluster.change(Change::Start)?;
        confined(cluster)?;
        cluster.apply(METALLB)?;
        cluster.apply(ECHO)?;
        shown(cluster, "echo", "192.168.1.240")?;
        cluster.apply(ADVERTISEMENT)?;
        served(cluster, "192.168.1.240", "192.168.1.100", &["n1", "n2", "n3"])?;

        cluster.apply(GRAFANA)?;
        shown(cluster, "grafana", "192.168.1.241")?;
        cluster.apply(CHOSEN)?;
        cluster.apply(K3S)?;
        shown(cluster, "nginx", "192.168.1.100")?;

        // An edit that still contains an address does not change it, nor does what is wrong.
        // Another machine has the first of the new addresses already.
        cluster.lab.netns("r1")?.ip("addr add 192.168.1.230/32 dev eth0\n")?;
        cluster.apply(EDITED)?;
        cluster.apply(&ECHO.replace("name: echo", "name: after"))?;
        shown(cluster, "after", "192.168.1.230")?;
        let conflict = told(cluster, ["service", "after", "default"], "AddressConflict")?;
        let router = host("r1").context("no router")?.mac().to_string();
        assert!(conflict.contains("192.168.1.230") && conflict.contains(&router), "{conflict}");
        let refused = cluster.apply(NO_ADDRESS);
        let refused = refused.err().context("nonsense was not refused")?;
        assert!(format!("{refused:#}").contains("spec.addresses[0]"), "{refused:#}");
        cluster.apply(REVERSED)?;
        let summary = cluster.wait("ConfigurationState says Invalid", LIMIT, |cluster| {
            let what = ["configurationstates", "herald-controller", "-n", "herald-system"];
            let status = cluster.get(&what).ok().map(|state| state["status"].clone());
            let status = status.filter(|status| status["result"] == "Invalid");
            Ok(status.map(|status| status["errorSummary"].to_string()))
        })?;
        assert!(summary.contains("first-pool") && summary.contains("reversed"), "{summary}");
        let pool = ["ipaddresspool", "first-pool", "metallb-system"];
        let event = told(cluster, pool, "ConfigurationInvalid")?;
        assert!(event.ends_with("; what it said before stays in force"), "{event}");
        let kept = addresses(cluster)?;
        let wanted = [
            ("after", "192.168.1.230"),
            ("echo", "192.168.1.240"),
            ("grafana", "192.168.1.241"),
            ("nginx", "192.168.1.100"),
        ];
        assert_eq!(kept, wanted.map(|(name, ip)| (name.to_owned(), ip.to_owned())).into());
        served(cluster, "192.168.1.240", "192.168.1.100", &["n1", "n2", "n3"])?;

        // All speakers start again, as the DaemonSet says.
        cluster.apply(EDITED)?;
        cluster.change(Change::Restart)?;
        let held = cluster.wait("a node announces again", LIMIT, |cluster| {
            Ok(holder(cluster, "192.168.1.240"))
        })?;
        served(cluster, "192.168.1.240", "192.168.1.100", &["n1", "n2", "n3"])?;
        assert_eq!(addresses(cluster)?, kept, "held by {held}");
        took_over(cluster)?;
        assert_eq!(cluster.status(&held)?.election.backend, "lease");
        shared(cluster)?;
        local(cluster)?;

        // Another user's pool of the same name does not contain the addresses any more.
        let before = addresses(cluster)?;
        assert_eq!(check(cluster, EDITED)?, (BTreeMap::new(), Some(0)), "nothing would change");
        let (told, code) = check(cluster, METALLB_KIND)?;
        assert_eq!(code, Some(1));
        cluster.apply(METALLB_KIND)?;
        let mut wanted = before;
        for (service, address) in &told {
            match address {
                Some(address) => wanted.insert(service.clone(), address.clone()),
                None => wanted.remove(service),
            };
        }
        let mut found = BTreeMap::new();
        let result = cluster.wait("what `herald check` said comes true", LIMIT, |cluster| {
            found = addresses(cluster)?;
            Ok((found == wanted).then_some(()))
        });
        result.with_context(|| format!("wanted {wanted:?}, last seen {found:?}"))?;
        let vip = told["echo"].as_ref().context("echo would get none")?;
        assert!(vip.starts_with("172.18.255.2"), "{told:?}");
        shown(cluster, "echo", vip)?;
        served(cluster, vip, "172.18.0.100", &["n1", "n2", "n3"])?;

        // The holder's node dies, its pods with it: by Leases too another one speaks soon.
        let dead = holder(cluster, vip).context("nobody holds the VIP")?;
        cluster.lab.cut(&dead)?;
        cluster.wait("another node announces", LIMIT, |cluster| {
            let mut others = cluster.nodes.iter().filter(|node| **node != dead);
            Ok(others.any(|node| announces(cluster, node, vip)).then_some(()))
        })?;
        let alive: Vec<&str> =
            ["n1", "n2", "n3"].into_iter().filter(|node| *node != dead).collect();
        served(cluster, vip, "172.18.0.100", &alive)?;
        nothing_was_forbidden(cluster)
    })
}

#[test]
fn a_user_of_cilium_is_served_also_when_the_holder_or_the_api_server_dies() -> anyhow::Result<()> {
    e2e::in_cluster("manifests", |cluster| {
        for (node, host) in [("n1", 11), ("n2", 12), ("n3", 13), ("c1", 100)] {
            let address = format!("addr add 192.168.68.{host}/24 dev eth0\n");
            cluster.lab.netns(node)?.ip(&address)?;
        }
        let (vip, client) = ("192.168.68.150", "192.168.68.100");
        // Raft, so that Herald goes on where the API server does not.
        cluster.start(&["--voters", "n1,n2,n3"])?;
        cluster.apply(CILIUM)?;
        cluster.apply(ECHO)?;
        shown(cluster, "echo", vip)?;
        served(cluster, vip, client, &["n1", "n2", "n3"])?;

        for (manifest, why) in REFUSED {
            let refused = cluster.apply(manifest).err().context("was not refused")?;
            let refused = format!("{refused:#}");
            assert!(refused.contains(why), "{manifest}: {refused}");
        }

        // Without API server and etcd nothing moves, and everything is answered.
        let judge = Judge::begin(&cluster.lab, &[vip.parse()?], PACE)?;
        let before = claims(cluster)?;
        cluster.plane.kill_server()?;
        let end = clock::now() + OUTAGE;
        while clock::now() < end {
            let reply = request(cluster, vip)?;
            assert_eq!(reply.answer.client.to_string(), client);
            clock::pause(Duration::from_millis(100));
        }
        assert_eq!(claims(cluster)?, before);
        cluster.plane.start_server()?;
        cluster.apply(&ECHO.replace("name: echo", "name: after"))?;
        shown(cluster, "after", "192.168.68.151")?;
        assert_eq!(claims(cluster)?.get(&vip.parse()?), before.get(&vip.parse()?));

        // The holder's node dies, its pods with it.
        let dead = holder(cluster, vip).context("nobody holds the VIP")?;
        cluster.lab.cut(&dead)?;
        let next = cluster.wait("another node announces", LIMIT, |cluster| {
            let mut others = cluster.nodes.iter().filter(|node| **node != dead);
            Ok(others.find(|node| announces(cluster, node, vip)).cloned())
        })?;
        assert_ne!(next, dead);
        let alive: Vec<&str> =
            ["n1", "n2", "n3"].into_iter().filter(|node| *node != dead).collect();
        served(cluster, vip, client, &alive)?;
        cluster.lab.heal(&dead)?;
        served(cluster, vip, client, &["n1", "n2", "n3"])?;
        assert_eq!(
            holder(cluster, vip).as_ref(),
            Some(&next),
            "a returning node takes nothing back"
        );
        // All the while one node spoke for it.
        judge.end(|| cluster.status(&next))?;
        nothing_was_forbidden(cluster)
    })
}

/// Each speaker has the capabilities that the DaemonSet lists, and no others.
fn confined(cluster: &mut Cluster) -> anyhow::Result<()> {
    let mask = Container::of(&cluster.plane)?.confinement.mask();
    for node in cluster.nodes.clone() {
        let id = cluster.speakers.on(&node)?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let line = format!("{set}:\t{mask:016x}");
            ensure!(status.lines().any(|it| it == line), "{node}: no {line} in\n{status}");
        }
        ensure!(status.contains("NoNewPrivs:\t1\n"), "{node}: {status}");
    }
    Ok(())
}

/// Each speaker found the programs of the one before, and did not have them verified again.
fn took_over(cluster: &mut Cluster) -> anyhow::Result<()> {
    for node in cluster.nodes.clone() {
        let what = format!("{node} takes over the programs of the process before");
        cluster.wait(&what, LIMIT, |cluster| {
            let log = cluster.speakers.log(&node);
            Ok(log.contains("taking over the programs of the process before").then_some(()))
        })?;
    }
    Ok(())
}

/// Two Services with one key answer at one address.
fn shared(cluster: &mut Cluster) -> anyhow::Result<()> {
    let vip = "192.168.1.245";
    cluster.apply(SHARED)?;
    for service in ["shared-tcp", "shared-udp"] {
        shown(cluster, service, vip)?;
    }
    for (transport, port) in [(Transport::Tcp, 80), (Transport::Udp, 53)] {
        let server = SocketAddr::new(vip.parse()?, port);
        let reply = cluster.wait("the shared address answers", LIMIT, |cluster| {
            Ok(cluster.lab.netns("c1")?.inside(|| client::who(transport, server)).ok())
        });
        let client = reply.with_context(|| format!("{transport}"))?.answer.client;
        assert_eq!(client.to_string(), "192.168.1.100", "{transport}");
    }
    Ok(())
}

/// With externalTrafficPolicy Local a node with a ready pod holds the VIP, and its pods alone
/// answer.
fn local(cluster: &mut Cluster) -> anyhow::Result<()> {
    let vip = "192.168.1.246";
    let spec = "spec:\n  loadBalancerIP: 192.168.1.246\n  externalTrafficPolicy: Local\n";
    let manifest = ECHO.replace("name: echo", "name: local").replace("spec:\n", spec);
    cluster.apply(&manifest)?;
    shown(cluster, "local", vip)?;
    let old = cluster.wait("a node announces it", LIMIT, |cluster| Ok(holder(cluster, vip)))?;
    served(cluster, vip, "192.168.1.100", &[old.as_str()])?;
    let pods = [format!("{old}-p1"), format!("{old}-p2")];
    let annotate = |cluster: &Cluster, annotation: &str| {
        cluster.kubectl(&["annotate", "pod", &pods[0], &pods[1], annotation])
    };
    annotate(cluster, "testbed.herald/ready=false")?;
    let new = cluster.wait("a node with a ready pod announces it", LIMIT, |cluster| {
        Ok(holder(cluster, vip).filter(|new| *new != old))
    })?;
    served(cluster, vip, "192.168.1.100", &[new.as_str()])?;
    annotate(cluster, "testbed.herald/ready-")?;
    Ok(())
}

/// Services and the addresses that they would get, or none.
type Changes = BTreeMap<String, Option<String>>;

/// What `herald check --against-cluster` says about Services: those that would get another address
/// and which, or none; and its exit code. It reads with no more rights than the speakers have.
fn check(cluster: &Cluster, manifest: &str) -> anyhow::Result<(Changes, Option<i32>)> {
    let path = Path::new(SCRATCH).join("edit.yaml");
    std::fs::write(&path, manifest)?;
    let mut command = Command::new(herald()?);
    command.args(["check", "--against-cluster"]).arg(path).env("KUBECONFIG", kubeconfig());
    command.env("RUST_LOG", "warn");
    let output = cluster.plane.netns.inside(|| Ok(command.output()?))?;
    let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(wrong.is_empty(), "{wrong}");
    // default/echo: 192.0.2.1 from pool a became 192.0.2.2 from pool b, because ...
    // default/echo: 192.0.2.1 from pool a released, because ...
    let change = |line: &str| {
        let (service, rest) = line.strip_prefix("default/")?.split_once(": ")?;
        let after = match rest.split_once(" became ") {
            Some((_, after)) => Some(after.split_once(" from pool ")?.0.to_owned()),
            None => rest.contains(" released, ").then_some(None)?,
        };
        Some((service.to_owned(), after))
    };
    let changes: BTreeMap<_, _> = said.lines().filter_map(change).collect();
    let is_understood = match changes.len() {
        0 => said == "No Service in the cluster would get another address.\n",
        number => number == said.lines().count(),
    };
    ensure!(is_understood, "{said}");
    Ok((changes, output.status.code()))
}

/// `kubectl get service` shows this as the external address.
fn shown(cluster: &mut Cluster, service: &str, address: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    let result = cluster.wait("kubectl shows the address", LIMIT, |cluster| {
        last = cluster.kubectl(&["get", "service", service])?;
        let column = last.lines().nth(1).and_then(|line| line.split_whitespace().nth(3));
        Ok((column == Some(address)).then_some(()))
    });
    result.with_context(|| format!("wanted {address}, last seen:\n{last}"))
}

/// What a Warning of this reason says about an object: its kind, name and namespace.
fn told(cluster: &mut Cluster, about: [&str; 3], reason: &str) -> anyhow::Result<String> {
    let [kind, name, namespace] = about;
    let object = cluster.get(&[kind, name, "-n", namespace])?;
    let uid = object["metadata"]["uid"].as_str().context("no uid")?;
    // As `kubectl describe` finds them.
    let selector = format!("involvedObject.uid={uid},type=Warning,reason={reason}");
    let message = cluster.wait("the Event has been written", LIMIT, |cluster| {
        let list = ["events", "-n", namespace, "--field-selector", &selector];
        let message = &cluster.get(&list)?["items"][0]["message"];
        Ok(message.as_str().map(str::to_owned))
    });
    message.with_context(|| format!("{reason} about {kind} {name}"))
}

/// All Services' addresses, as the API server has them.
fn addresses(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    let services = cluster.get(&["services", "-n", "default"])?;
    let mut found = BTreeMap::new();
    for service in services["items"].as_array().into_iter().flatten() {
        let ip = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        if let (Some(name), Some(ip)) = (service["metadata"]["name"].as_str(), ip.as_str()) {
            found.insert(name.to_owned(), ip.to_owned());
        }
    }
    Ok(found)
}

fn request(cluster: &Cluster, vip: &str) -> anyhow::Result<client::Reply> {
    let server = SocketAddr::new(vip.parse()?, 80);
    cluster.lab.netns("c1")?.inside(|| client::who(Transport::Tcp, server))
}

/// The client on the LAN is answered by pods on exactly these nodes, which see its own address,
/// and the traffic takes the way through XDP.
fn served(cluster: &mut Cluster, vip: &str, client: &str, nodes: &[&str]) -> anyhow::Result<()> {
    cluster.wait("the client is answered", LIMIT, |cluster| Ok(request(cluster, vip).ok()))?;
    let wanted: BTreeSet<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
    let mut seen = BTreeSet::new();
    let result = cluster.wait("pods on all these nodes answer", LIMIT, |cluster| {
        seen.clear();
        for _ in 0..REQUESTS {
            let Ok(reply) = request(cluster, vip) else { return Ok(None) };
            ensure!(reply.answer.client.to_string() == client, "seen as {}", reply.answer.client);
            seen.insert(reply.answer.node);
        }
        Ok((seen == wanted).then_some(()))
    });
    result.with_context(|| format!("answered by pods on {seen:?}"))?;
    for node in nodes {
        // One that has just been started may have loaded nothing yet.
        cluster.wait(&format!("{node} carries traffic through XDP"), LIMIT, |cluster| {
            let modes = cluster.status(node).map(|status| status.datapath).unwrap_or_default();
            let is_native = modes.iter().any(|it| it.interface == "eth0" && it.mode == "native");
            Ok(is_native.then_some(()))
        })?;
    }
    Ok(())
}

fn announces(cluster: &Cluster, node: &str, vip: &str) -> bool {
    let (Ok(status), Ok(vip)) = (cluster.status(node), vip.parse::<IpAddr>()) else { return false };
    status.vip(vip).is_some_and(|vip| vip.announcing)
}

fn holder(cluster: &Cluster, vip: &str) -> Option<String> {
    cluster.nodes.iter().find(|node| announces(cluster, node, vip)).cloned()
}

/// Who holds what in which term.
fn claims(cluster: &Cluster) -> anyhow::Result<BTreeMap<IpAddr, (Option<String>, u64)>> {
    let vips = cluster.status("n1")?.vips;
    Ok(vips.into_iter().map(|vip| (vip.address, (vip.holder, vip.term))).collect())
}

/// The speakers had all the rights they needed, being no administrators.
fn nothing_was_forbidden(cluster: &mut Cluster) -> anyhow::Result<()> {
    let all = cluster.kubectl(&["auth", "can-i", "*", "*", "--as", HERALD]);
    ensure!(all.is_err(), "Herald's ServiceAccount may do everything");
    let mut rights = Rights::default();
    let result = cluster.wait("all that Herald asks for is allowed", LIMIT, |_| {
        rights = Rights::so_far()?;
        let is_recorded = rights.used.contains("patch services/status in default");
        Ok((is_recorded && rights.missing.is_empty()).then_some(()))
    });
    result.with_context(|| format!("{rights:#?}"))
}

const HERALD: &str = "system:serviceaccount:herald-system:herald";
const LIMIT: Duration = Duration::from_secs(60);
/// Longer than any session lasts and any request to the API server waits for a retry.
const OUTAGE: Duration = Duration::from_secs(5);
/// So many that each of six pods is chosen with near certainty.
const REQUESTS: usize = 60;
