//! Definitions of MetalLB's kinds that are there already stay as they are, and kinds that come later
//! are watched from then on.

use std::time::Duration;

use anyhow::Context;
use herald_testbed::cluster::Change;
use herald_testbed::cluster::whole::Cluster;
use herald_testbed::e2e;
use serde_json::{Value, json};

const CILIUM: &str = include_str!("../../src/source/testdata/reference/cilium-homelab.yaml");

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}
";

const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: [192.168.1.240/32]}
";

#[test]
fn uses_the_definitions_that_are_there_and_those_that_come_later() -> anyhow::Result<()> {
    e2e::in_cluster("manifests/install", |cluster| {
        for (kind, plural) in
            [("IPAddressPool", "ipaddresspools"), ("L2Advertisement", "l2advertisements")]
        {
            cluster.apply(&theirs(kind, plural).to_string())?;
        }
        let before = definitions(cluster)?;
        cluster.change(Change::Start)?;
        assert_eq!(definitions(cluster)?, before);

        cluster
            .wait("pools of MetalLB can be made", LIMIT, |cluster| Ok(cluster.apply(POOL).ok()))?;
        cluster.apply(SERVICE)?;
        wait_for_address(cluster, "web", "192.168.1.240")?;

        // The pool is used up; Cilium's kinds are not installed yet.
        cluster.apply(&SERVICE.replace("name: web", "name: later"))?;
        cluster.apply(CILIUM).err().context("there are no kinds of Cilium's yet")?;
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds");
        for kind in ["ciliumloadbalancerippools", "ciliuml2announcementpolicies"] {
            cluster.kubectl(&["apply", "-f", &format!("{root}/cilium.io_{kind}.json")])?;
        }
        cluster
            .wait("pools of Cilium can be made", LIMIT, |cluster| Ok(cluster.apply(CILIUM).ok()))?;
        wait_for_address(cluster, "later", "192.168.68.150")?;
        wait_for_address(cluster, "web", "192.168.1.240")?;
        let after = definitions(cluster)?;
        assert_eq!(&after[..before.len()], &before[..]);
        Ok(())
    })
}

/// A definition as another product installs it: other fields, other notes, an owner's label.
fn theirs(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.metallb.io"),
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"controller-gen.kubebuilder.io/version": "v0.16.3"},
        },
        "spec": {
            "group": "metallb.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    })
}

/// Each of MetalLB's definitions: its name, identity and version, which a change of its spec or
/// its notes would change.
fn definitions(cluster: &Cluster) -> anyhow::Result<Vec<(String, String, Value, Value)>> {
    let list = cluster.get(&["customresourcedefinitions"])?;
    let mut found = Vec::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        if name.ends_with(".metallb.io") {
            let uid = item["metadata"]["uid"].as_str().unwrap_or_default();
            let metadata = json!([item["metadata"]["labels"], item["metadata"]["annotations"]]);
            found.push((name.to_owned(), uid.to_owned(), metadata, item["spec"].clone()));
        }
    }
    Ok(found)
}

fn wait_for_address(cluster: &mut Cluster, name: &str, wanted: &str) -> anyhow::Result<()> {
    let mut last = Value::Null;
    let result = cluster.wait("the Service has its address", LIMIT, |cluster| {
        last = cluster.get(&["service", name])?["status"].clone();
        Ok((last["loadBalancer"]["ingress"][0]["ip"] == wanted).then_some(()))
    });
    result.with_context(|| format!("{name} should have {wanted}, has {last}"))
}

const LIMIT: Duration = Duration::from_secs(60);
