//! Against a real API server: manifests go in, statuses come out, with the rights of Herald's own
//! ServiceAccount.
//!
//! Runs against the cluster that KUBECONFIG names, which must have `manifests/` or
//! `manifests/install` applied, no pools and no speaker running, and let the caller impersonate.
//! Without KUBECONFIG the test brings up one of the testbed's, which `cargo build --workspace
//! --bins` must have built.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use herald::allocator::{self, Config};
use herald::kubernetes::report::{self, Component, Held, Verdict};
use herald::kubernetes::writer::{self, Tally, Wanted};
use herald::kubernetes::{Target, Write};
use herald::source::kubernetes as source;
use herald_leader_election::{BootTime, clock};
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod asking;
mod closing;
mod foreign;
mod refused;

const NAMESPACE: &str = "herald-test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_pools_of_both_kinds_on_a_real_api_server() {
    let testbed = std::env::var_os("KUBECONFIG").is_none().then(Testbed::up);
    let kubeconfig = match &testbed {
        Some(testbed) => testbed.kubeconfig(),
        None => std::env::var_os("KUBECONFIG").unwrap().into(),
    };
    let clients = clients(kubeconfig).await;
    let cluster = Cluster { admin: clients.0 };
    cluster.is_fit().await;
    cluster.clear().await;
    cluster.apply("v1", "Namespace", "namespaces", None, NAMESPACE, json!({})).await;

    // A pool of MetalLB's: address, annotation, counters, Event.
    let allocator = start(clients.1.clone()).await;
    cluster.metallb_pool("test-a", "192.168.201.1-192.168.201.9").await;
    cluster.service("web", json!({})).await;
    let web = cluster.until("web", |it| addresses(it) == ["192.168.201.1"]).await;
    assert_eq!(web.annotations()["metallb.io/ip-allocated-from-pool"], "test-a");
    let ingress = &web.status.as_ref().unwrap().load_balancer.as_ref().unwrap().ingress;
    let ingress = &ingress.as_ref().unwrap()[0];
    assert_eq!(ingress.ip_mode.as_deref(), Some("VIP"));
    cluster
        .until_pool("ipaddresspools", "test-a", |status| {
            (&status["assignedIPv4"], &status["availableIPv4"]) == (&json!(1), &json!(8))
        })
        .await;
    cluster.until_event("web", "IPAllocated").await;

    // An impossible edit of the pool: the last good state stays, and ConfigurationState says why.
    cluster.metallb_pool("test-a", "192.168.201.9-192.168.201.1").await;
    cluster.service("later", json!({})).await;
    cluster.until("later", |it| addresses(it) == ["192.168.201.2"]).await;
    cluster
        .until_own("configurationstates", "ConfigurationState", "herald-controller", |status| {
            status["result"] == "Invalid"
                && status["errorSummary"].as_str().unwrap().contains("range is reversed")
        })
        .await;

    // A restart with the pool still invalid: nobody's address changes.
    allocator.stop().await;
    let allocator = start(clients.1.clone()).await;
    cluster.service("after", json!({})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(addresses(&cluster.get("web").await), ["192.168.201.1"]);
    assert_eq!(addresses(&cluster.get("later").await), ["192.168.201.2"]);
    assert_eq!(addresses(&cluster.get("after").await), [""; 0]);
    cluster.metallb_pool("test-a", "192.168.201.1-192.168.201.9").await;
    cluster.until("after", |it| addresses(it) == ["192.168.201.3"]).await;

    // Its last pool goes and comes back under another name.
    cluster.delete_pool("ipaddresspools", "metallb.io/v1beta1", "test-a").await;
    cluster.until("later", |it| addresses(it).is_empty()).await;
    cluster.metallb_pool("test-b", "192.168.201.1-192.168.201.9").await;
    cluster.until("web", |it| addresses(it) == ["192.168.201.1"]).await;
    cluster.until("later", |it| addresses(it) == ["192.168.201.2"]).await;
    cluster.until("after", |it| addresses(it) == ["192.168.201.3"]).await;

    // A pool of Cilium's: its rules, and its condition.
    cluster.cilium_pool("test-c", "192.168.202.1", "192.168.202.3").await;
    let ask = json!({"lbipam.cilium.io/ips": "192.168.202.2,192.168.202.3"});
    cluster.service("two", ask).await;
    let two = cluster.until("two", |it| addresses(it) == ["192.168.202.2", "192.168.202.3"]).await;
    let condition = &two.status.unwrap().conditions.unwrap()[0];
    assert_eq!(
        (condition.type_.as_str(), condition.reason.as_str()),
        ("cilium.io/IPAMRequestSatisfied", "satisfied",)
    );
    cluster
        .until_pool("ciliumloadbalancerippools", "test-c", |status| {
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|it| it["type"] == "cilium.io/IPsAvailable" && it["message"] == "1")
        })
        .await;

    let allocator = cluster.pools_of_cilium_that_close(allocator, &clients.1).await;
    cluster.services_that_ask().await;
    cluster.pools_that_are_refused().await;

    // A type that changes gives the address back, with everything that was written down about it.
    let ours = ["metallb.io/ip-allocated-from-pool", "herald.io/assigned-addresses"];
    assert!(ours.iter().all(|name| web.annotations().contains_key(*name)), "{web:?}");
    cluster.patch_service("web", json!({"spec": {"type": "ClusterIP"}})).await;
    cluster
        .until("web", |it| {
            addresses(it).is_empty()
                && !ours.iter().any(|name| it.annotations().contains_key(*name))
        })
        .await;

    // A policy that cannot be read carries Cilium's condition until it can.
    cluster.cilium_policy("[").await;
    let faults = |status: &Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let is_bad = |status: &Value| faults(status) == ["io.cilium/bad-interface-regex"];
    cluster.until_status(cluster.policies(), "test-d", is_bad).await;
    cluster.cilium_policy("^eth[0-9]$").await;
    cluster.until_status(cluster.policies(), "test-d", |status| faults(status).is_empty()).await;

    // What the allocator tells once, by MetalLB's name.
    let both = json!({"metallb.io/loadBalancerIPs": "no-address"});
    cluster.patch_service("later", json!({"metadata": {"annotations": both}})).await;
    cluster.until_event("later", "LoadBalancerFailed").await;
    assert_eq!(addresses(&cluster.get("later").await), ["192.168.201.2"]);

    // A decision about a version that is no more changes nothing: the other allocator's stands.
    let stale = cluster.get("after").await;
    cluster.patch_service("after", json!({"metadata": {"labels": {"seen": "later"}}})).await;
    let patch = json!({
        "metadata": {"resourceVersion": stale.resource_version()},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.168.201.9"}]}},
    });
    let target = Target::service(&format!("{NAMESPACE}/after").parse().unwrap());
    let write = Write::Status { target, patch: patch.into() };
    let answer = writer::perform(clients.1.clone(), write).await.unwrap_err();
    assert!(matches!(&answer, kube::Error::Api(status) if status.code == 409), "{answer}");
    assert_eq!(addresses(&cluster.get("after").await), ["192.168.201.3"]);

    // What the speaker says about itself.
    cluster
        .until_own("servicel2statuses", "ServiceL2Status", &allocator.l2_name, |status| {
            status["addresses"][0]["mac"] == "02:00:00:00:00:01"
        })
        .await;
    allocator.stop().await;
    cluster.clear().await;
}

/// The allocator of a speaker, without the rest of it.
struct Allocator {
    task: JoinHandle<()>,
    writer: JoinHandle<()>,
    l2_name: String,
}

impl Allocator {
    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
        // The writer ends by itself once nobody tells it what is wanted.
        self.writer.await.unwrap();
    }
}

async fn start(client: Client) -> Allocator {
    let config = source::Config::default();
    let (mut snapshots, _watch) = source::watch(client.clone(), config).await.unwrap();
    let known = writer::left_behind(client.clone(), "herald-system", "test-node").await.unwrap();
    let (sender, wanted) = watch::channel(Arc::new(Wanted::default()));
    let deadline = BootTime(clock::boot_now().0 + Duration::from_secs(600));
    let (keep, deadline) = watch::channel(Some(deadline));
    let writer = writer::start(client, wanted, deadline, Tally::default());
    let held = Held {
        services: vec!["herald-test/web".parse().unwrap()],
        interfaces: [("eth0".to_owned(), Some("02:00:00:00:00:01".to_owned()))].into(),
        since: "2025-01-01T00:00:00Z".into(),
    };
    let held = BTreeMap::from([([192, 168, 201, 1].into(), held)]);
    let observed = herald::observed::Observed::default();
    let own = report::announced("test-node", "herald-system", &observed, &held, &known);
    let l2_name = own
        .iter()
        .find_map(|write| match write {
            Write::Own { target, .. } => Some(target.name.clone()),
            _ => None,
        })
        .unwrap();
    let own: Vec<_> =
        own.into_iter().filter(|write| !matches!(write, Write::Event { .. })).collect();
    let task = tokio::spawn(async move {
        let _keep = keep;
        let config = Config::default();
        let mut verdict = Verdict::unknown(&writer::now_text());
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let current = allocator::reported(&snapshot.observed, &config);
            let plan = allocator::allocate(&snapshot.observed, &current, &config);
            let mut wanted = Wanted { node: own.clone(), ..Wanted::default() };
            wanted.allocator = report::writes(&snapshot.observed, &plan, &writer::now_text());
            let problems = &snapshot.problems;
            let now = writer::now_text();
            wanted.allocator.extend(report::policies(&snapshot.observed, problems, &now));
            verdict = verdict.next(problems, &now);
            let controller = Component::Controller;
            wanted.node.push(report::configuration(controller, "herald-system", &verdict));
            sender.send_replace(Arc::new(wanted));
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    });
    Allocator { task, writer, l2_name }
}

/// The administrator, and Herald's ServiceAccount.
async fn clients(path: PathBuf) -> (Client, Client) {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let admin = Client::try_from(config.clone()).unwrap();
    let mut herald = config;
    herald.auth_info.impersonate = Some("system:serviceaccount:herald-system:herald".into());
    (admin, Client::try_from(herald).unwrap())
}

/// A cluster of the testbed's, with `manifests/` applied. It ends with the value.
struct Testbed {
    directory: PathBuf,
    kubernetes: String,
}

impl Testbed {
    fn up() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/testbed/lib/kubernetes.sh");
        assert!(Command::new(script).status().unwrap().success(), "Kubernetes cannot be built");
        let output = Command::new(script).arg("--directory").output().unwrap();
        let kubernetes = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let unique = format!("herald-kubernetes-{}", std::process::id());
        let directory = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&directory).unwrap();
        let testbed = Self { directory, kubernetes };
        let kubeconfig = testbed.kubeconfig();
        testbed.run(testbed.lab().args(["up", "--nodes", "1", "--kubeconfig"]).arg(&kubeconfig));
        let mut kubectl = Command::new(format!("{}/kubectl", testbed.kubernetes));
        kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["apply", "-k", MANIFESTS]);
        testbed.run(kubectl.env("KUBECACHEDIR", testbed.directory.join("cache")));
        testbed
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The testbed is no dependency of Herald, but lies beside it once all is built.
    fn lab(&self) -> Command {
        let own = std::env::current_exe().unwrap();
        let lab = own.ancestors().nth(2).unwrap().join("herald-lab");
        assert!(lab.is_file(), "build it first: cargo build --workspace --bins");
        let mut command = Command::new(lab);
        command.arg("cluster").env("XDG_RUNTIME_DIR", &self.directory);
        command.env("HERALD_KUBERNETES", &self.kubernetes).env("HERALD_MANIFESTS", MANIFESTS);
        command
    }

    fn run(&self, command: &mut Command) {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = self.lab().arg("down").stdin(Stdio::null()).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Cluster {
    admin: Client,
}

impl Cluster {
    fn api(
        &self,
        version: &str,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        }
    }

    async fn apply(
        &self,
        version: &str,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        mut body: Value,
    ) {
        body["apiVersion"] = json!(version);
        body["kind"] = json!(kind);
        body["metadata"]["name"] = json!(name);
        let params = PatchParams::apply("test").force();
        let api = self.api(version, kind, plural, namespace);
        api.patch(name, &params, &Patch::Apply(&body)).await.unwrap();
    }

    async fn metallb_pool(&self, name: &str, range: &str) {
        let body = json!({"spec": {"addresses": [range]}});
        let namespace = Some("metallb-system");
        self.apply("metallb.io/v1beta1", "IPAddressPool", "ipaddresspools", namespace, name, body)
            .await;
    }

    async fn cilium_pool(&self, name: &str, start: &str, stop: &str) {
        let body = json!({"spec": {"blocks": [{"start": start, "stop": stop}]}});
        let plural = "ciliumloadbalancerippools";
        self.apply("cilium.io/v2alpha1", "CiliumLoadBalancerIPPool", plural, None, name, body)
            .await;
    }

    async fn cilium_policy(&self, interface: &str) {
        let body = json!({"spec": {"interfaces": [interface], "loadBalancerIPs": true}});
        let (kind, plural) = ("CiliumL2AnnouncementPolicy", "ciliuml2announcementpolicies");
        self.apply("cilium.io/v2alpha1", kind, plural, None, "test-d", body).await;
    }

    fn policies(&self) -> Api<DynamicObject> {
        let (kind, plural) = ("CiliumL2AnnouncementPolicy", "ciliuml2announcementpolicies");
        self.api("cilium.io/v2alpha1", kind, plural, None)
    }

    async fn delete_pool(&self, plural: &str, version: &str, name: &str) {
        let namespace = (plural == "ipaddresspools").then_some("metallb-system");
        let _ =
            self.api(version, "Pool", plural, namespace).delete(name, &Default::default()).await;
    }

    async fn clear(&self) {
        for name in ["test-a", "test-b", "test-h"] {
            self.delete_pool("ipaddresspools", "metallb.io/v1beta1", name).await;
        }
        for name in ["test-c", "test-e", "test-g", "test-i"] {
            self.delete_pool("ciliumloadbalancerippools", "cilium.io/v2", name).await;
        }
        for namespace in ["herald-system", "default"] {
            self.delete_test_f(namespace).await;
        }
        self.delete_pool("ciliuml2announcementpolicies", "cilium.io/v2alpha1", "test-d").await;
        // What an earlier run was told must not be taken for an answer to this one.
        for (kind, plural) in [
            ("ServiceL2Status", "servicel2statuses"),
            ("ConfigurationState", "configurationstates"),
        ] {
            let api = self.api("metallb.io/v1beta1", kind, plural, Some("herald-system"));
            api.delete_collection(&Default::default(), &Default::default()).await.unwrap();
        }
        self.services().delete_collection(&Default::default(), &Default::default()).await.unwrap();
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    async fn service(&self, name: &str, annotations: Value) {
        let body = json!({
            "metadata": {"annotations": annotations},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        });
        self.apply("v1", "Service", "services", Some(NAMESPACE), name, body).await;
    }

    async fn patch_service(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.services().patch(name, &params, &Patch::Merge(&patch)).await.unwrap();
    }

    async fn get(&self, name: &str) -> Service {
        self.services().get(name).await.unwrap()
    }

    async fn until(&self, name: &str, condition: impl Fn(&Service) -> bool) -> Service {
        let mut last = None;
        for _ in 0..PATIENCE {
            let service = self.get(name).await;
            if condition(&service) {
                return service;
            }
            last = service.status;
            tokio::time::sleep(STEP).await;
        }
        panic!("Service {name} stays {last:?}");
    }

    async fn until_pool(&self, plural: &str, name: &str, condition: impl Fn(&Value) -> bool) {
        let (version, namespace) = match plural {
            "ipaddresspools" => ("metallb.io/v1beta1", Some("metallb-system")),
            _ => ("cilium.io/v2", None),
        };
        self.until_status(self.api(version, "Pool", plural, namespace), name, condition).await;
    }

    async fn until_own(
        &self,
        plural: &str,
        kind: &str,
        name: &str,
        condition: impl Fn(&Value) -> bool,
    ) {
        let api = self.api("metallb.io/v1beta1", kind, plural, Some("herald-system"));
        self.until_status(api, name, condition).await;
    }

    async fn until_status(
        &self,
        api: Api<DynamicObject>,
        name: &str,
        condition: impl Fn(&Value) -> bool,
    ) {
        let mut last = None;
        for _ in 0..PATIENCE {
            if let Some(object) = api.get_opt(name).await.unwrap() {
                let status = object.data["status"].clone();
                if !status.is_null() && condition(&status) {
                    return;
                }
                last = Some(status);
            }
            tokio::time::sleep(STEP).await;
        }
        panic!("{name} stays {last:?}");
    }

    async fn until_event(&self, service: &str, reason: &str) {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), NAMESPACE);
        // Events of an earlier run of this test are about other Services of the same name.
        let uid = self.get(service).await.metadata.uid;
        for _ in 0..PATIENCE {
            let list = events.list(&Default::default()).await.unwrap();
            let is_it =
                |it: &&Event| it.reason.as_deref() == Some(reason) && it.involved_object.uid == uid;
            if list.items.iter().any(|it| is_it(&it)) {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
        panic!("no Event {reason} about {service}");
    }
}

fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.iter().flat_map(|it| it.load_balancer.iter());
    let ingress = status.flat_map(|it| it.ingress.iter().flatten());
    ingress.filter_map(|it| it.ip.clone()).collect()
}

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");
const STEP: Duration = Duration::from_millis(100);
/// 15 s, since the machine may be busy.
const PATIENCE: usize = 150;
