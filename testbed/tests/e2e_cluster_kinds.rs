//! MetalLB's and Cilium's own definitions of their kinds, as these products publish them: those
//! that are there stay as they are, those that come later are watched from then on, and both take
//! what Herald writes.

use std::time::Duration;

use anyhow::Context;
use herald_testbed::cluster::Change;
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::e2e;
use herald_testbed::metrics::scrape;
use serde_json::{Value, json};

const METALLB: &str = include_str!("../../src/source/testdata/reference/metallb-homelab.yaml");
const CILIUM: &str = include_str!("../../src/source/testdata/reference/cilium-homelab.yaml");

const ADVERTISEMENT: &str = "
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2-advert, namespace: metallb-system}
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
";

const OF_CILIUM: &str = "
apiVersion: v1
kind: Service
metadata: {name: later, annotations: {lbipam.cilium.io/ips: 192.168.68.155}}
spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn the_products_own_definitions_are_left_alone_and_take_what_herald_writes() -> anyhow::Result<()> {
    let definitions = e2e::definitions()?;
    let theirs = |product: &str| definitions.join(product).display().to_string();
    e2e::in_cluster("manifests/install", |cluster| {
        install(cluster, &theirs("metallb"))?;
        let before = installed(cluster)?;
        assert_eq!(before.len(), 9, "{before:?}");
        cluster.change(Change::Start)?;
        assert_eq!(installed(cluster)?, before, "Herald's manifests changed MetalLB's definitions");
        metallb(cluster)?;
        for addresses in ["192.0.2.1", "192.0.2.0/33", "192.0.2.1-2001:db8::1", "a-b-c"] {
            refused(cluster, &pool_of_metallb(addresses), "expected CIDRs such as")?;
        }
        refused(cluster, &pool_of_metallb("' 192.0.2.0/28'"), "must not begin with a blank")?;

        // Cilium's kinds are not installed yet.
        cluster.apply(OF_CILIUM)?;
        cluster.apply(CILIUM).err().context("there are no kinds of Cilium's yet")?;
        install(cluster, &theirs("cilium"))?;
        let both = installed(cluster)?;
        cilium(cluster)?;
        for block in [
            "stop: 192.0.2.9",
            "start: 192.0.2.1, cidr: 192.0.2.0/28",
            "stop: 192.0.2.1, cidr: 192.0.2.0/28",
            "start: 192.0.2.1, stop: '2001:db8::1'",
            "start: here",
        ] {
            for version in ["v2", "v2alpha1"] {
                refused(cluster, &pool_of_cilium(version, block), "expected blocks with either")?;
            }
        }
        address(cluster, "web", "192.168.1.240")?;
        assert_eq!(installed(cluster)?, both, "a definition was changed");
        Ok(())
    })
}

/// Each status as MetalLB's definitions store it.
fn metallb(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.apply(METALLB)?;
    cluster.apply(ADVERTISEMENT)?;
    cluster.apply(SERVICE)?;
    address(cluster, "web", "192.168.1.240")?;

    let counters =
        json!({"assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 10, "availableIPv6": 0});
    let pool = ["ipaddresspool", "first-pool", "-n", "metallb-system"];
    stored(cluster, &pool, |pool| pool["status"] == counters)?;

    // Herald's fields are kept where MetalLB's definition has no place for them.
    let announced = ["servicel2statuses", "-n", "herald-system"];
    let announced = stored(cluster, &announced, |list| {
        list["items"][0]["metadata"]["annotations"]["herald.io/more-status"].is_string()
    })?;
    let announced = &announced["items"][0];
    let node = announced["status"]["node"].as_str().context("no node")?.to_owned();
    assert_eq!(
        announced["status"],
        json!({
            "node": node, "serviceName": "web", "serviceNamespace": "default",
            "interfaces": [{"name": "eth0"}],
        })
    );
    let more = announced["metadata"]["annotations"]["herald.io/more-status"].as_str();
    let more: Value = serde_json::from_str(more.context("no annotation")?)?;
    let address = &more["addresses"][0];
    assert_eq!((&address["ip"], &address["interface"]), (&json!("192.168.1.240"), &json!("eth0")));
    assert!(address["mac"].is_string() && address["since"].is_string(), "{more}");

    for component in ["controller", &format!("speaker-{node}")] {
        let name = format!("herald-{component}");
        let state = ["configurationstate", &name, "-n", "herald-system"];
        let state = stored(cluster, &state, |state| state["status"]["result"] == "Valid")?;
        let mut status = state["status"].clone();
        let since = status["conditions"][0]["lastTransitionTime"].take();
        assert!(since.is_string(), "{state}");
        assert_eq!(
            status,
            json!({
                "result": "Valid", "errorSummary": "",
                "conditions": [{
                    "type": "Valid", "status": "True", "reason": "ConfigurationValid",
                    "message": "", "lastTransitionTime": null,
                }],
            })
        );
        let annotations = &state["metadata"]["annotations"];
        assert!(annotations.is_null(), "a field was dropped: {annotations}");
    }
    let counts = |name: &str, text: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    cluster.wait("the metrics count what was written", LIMIT, |cluster| {
        let Ok(text) = cluster.lab.netns(&node)?.inside(|| scrape(METRICS)) else {
            return Ok(None);
        };
        let written = counts("metallb_k8s_client_updates_total ", &text);
        let failed = counts("metallb_k8s_client_update_errors_total ", &text);
        Ok((written.is_some_and(|it| it > 0.0) && failed.is_some()).then_some(()))
    })
}

/// The conditions as Cilium's definitions store them, and the columns that they show.
fn cilium(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.wait("pools of Cilium can be made", LIMIT, |cluster| Ok(cluster.apply(CILIUM).ok()))?;
    address(cluster, "later", "192.168.68.155")?;
    let service = ["service", "later"];
    let satisfied = ["cilium.io/IPAMRequestSatisfied True satisfied "];
    stored(cluster, &service, |service| conditions(service) == satisfied)?;
    let numbers = [
        "cilium.io/PoolConflict False resolved ",
        "cilium.io/IPsTotal Unknown noreason 21",
        "cilium.io/IPsAvailable Unknown noreason 20",
        "cilium.io/IPsUsed Unknown noreason 1",
    ];
    let pool = ["ciliumloadbalancerippool", "ip-pool"];
    stored(cluster, &pool, |pool| conditions(pool) == numbers)?;
    let table = cluster.kubectl(&["get", "ippools"])?;
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row[..4], ["ip-pool", "false", "False", "20"], "{table}");

    let policy = ["ciliuml2announcementpolicy", "default-l2-announcement-policy"];
    for (interfaces, wanted) in
        [("[", &["io.cilium/bad-interface-regex True error"][..]), ("^eth", &[])]
    {
        let patch = json!({"spec": {"interfaces": [interfaces]}}).to_string();
        cluster.kubectl(&["patch", policy[0], policy[1], "--type=merge", "-p", &patch])?;
        stored(cluster, &policy, |policy| {
            let found = conditions(policy);
            let pairs = found.iter().zip(wanted);
            found.len() == wanted.len() && pairs.clone().all(|(it, start)| it.starts_with(start))
        })?;
    }
    Ok(())
}

fn pool_of_metallb(addresses: &str) -> String {
    format!(
        "{{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {{name: bad, namespace: \
         metallb-system}}, spec: {{addresses: [{addresses}]}}}}"
    )
}

fn pool_of_cilium(version: &str, block: &str) -> String {
    format!(
        "{{apiVersion: cilium.io/{version}, kind: CiliumLoadBalancerIPPool, metadata: {{name: bad}}, \
         spec: {{blocks: [{{{block}}}]}}}}"
    )
}

/// Applied for trial, the manifest is refused with these words. The product's own definition lets
/// it pass, so that only Herald's admission policy can refuse it; that fails open, and silently.
fn refused(cluster: &mut Cluster, manifest: &str, why: &str) -> anyhow::Result<()> {
    // A policy is in force some time after it was applied.
    let what = format!("{manifest} is refused");
    let said = cluster.wait(&what, LIMIT, |cluster| {
        let apply = ["apply", "--dry-run=server", "-f", "-"];
        Ok(cluster.plane.kubectl(&apply, Some(manifest)).err())
    })?;
    let said = format!("{said:#}");
    anyhow::ensure!(said.contains("ValidatingAdmissionPolicy") && said.contains(why), "{said}");
    Ok(())
}

/// Applies all definitions in a directory and waits until they are in effect.
fn install(cluster: &Cluster, directory: &str) -> anyhow::Result<()> {
    cluster.kubectl(&["apply", "-f", directory])?;
    let established = ["wait", "--for=condition=Established", "--timeout=60s", "-f", directory];
    cluster.kubectl(&established).map(drop)
}

/// Each definition: its name, identity and version, which any write to it would change.
fn installed(cluster: &Cluster) -> anyhow::Result<Vec<[String; 3]>> {
    let list = cluster.get(&["customresourcedefinitions"])?;
    let items = list["items"].as_array().into_iter().flatten();
    let of =
        |item: &Value, field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
    Ok(items.map(|item| ["name", "uid", "resourceVersion"].map(|field| of(item, field))).collect())
}

fn address(cluster: &mut Cluster, service: &str, wanted: &str) -> anyhow::Result<()> {
    let is_it = |it: &Value| it["status"]["loadBalancer"]["ingress"][0]["ip"] == wanted;
    stored(cluster, &["service", service], is_it).map(drop)
}

/// `type status reason message` of each condition.
fn conditions(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let words = |it: &Value| -> [String; 4] {
        ["type", "status", "reason", "message"]
            .map(|field| it[field].as_str().unwrap_or("?").into())
    };
    conditions.map(|it| words(it).join(" ")).collect()
}

/// Waits until the API server has the object so.
fn stored(
    cluster: &mut Cluster,
    what: &[&str],
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let result = cluster.wait("the object is as it should be", LIMIT, |cluster| {
        last = cluster.get(what).unwrap_or_default();
        Ok(is_so(&last).then(|| last.clone()))
    });
    result.with_context(|| format!("{what:?} is {last:#}"))
}

/// Where the DaemonSet's speakers tell their metrics.
const METRICS: &str = "127.0.0.1:7947";
const LIMIT: Duration = Duration::from_secs(60);
