//! The client of the benchmark (edge): makes Services, writes statuses as a bare client would, and
//! sees when all have addresses.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::clock;
use crate::cluster::control_plane::keys;
use crate::cluster::speakers;

/// The Services of the floor, of a class that is not Herald's.
pub const FLOOR: Kind = Kind { namespace: "bench-floor", class: Some("bench.invalid/floor") };
/// The Services that Herald serves.
pub const HERALD: Kind = Kind { namespace: "bench-herald", class: None };

/// Which Services.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    namespace: &'static str,
    class: Option<&'static str>,
}

/// How long it took from the first Service's being created.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the last one was created.
    pub created: Duration,
    /// Until all had addresses.
    pub all: Duration,
}

/// Clients for Services of one kind.
pub struct Load {
    kind: Kind,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    pools: Api<DynamicObject>,
    /// With the rights of Herald, which the API server may treat otherwise than an administrator.
    as_herald: Api<Service>,
}

impl Load {
    /// For Services of this kind.
    ///
    /// # Errors
    ///
    /// If a kubeconfig cannot be used.
    pub async fn new(kind: Kind) -> anyhow::Result<Self> {
        let admin = client(&keys().join("bootstrap.kubeconfig")).await?;
        let herald = client(&speakers::kubeconfig()).await?;
        let pools = GroupVersionKind::gvk("metallb.io", "v1beta1", "IPAddressPool");
        let pools = ApiResource::from_gvk(&pools);
        Ok(Self {
            kind,
            services: Api::namespaced(admin.clone(), kind.namespace),
            slices: Api::namespaced(admin.clone(), kind.namespace),
            pools: Api::namespaced_with(admin, "metallb-system", &pools),
            as_herald: Api::namespaced(herald, kind.namespace),
        })
    }

    /// Creates so many Services.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub async fn create(&self, count: u16) -> anyhow::Result<Duration> {
        let begin = clock::now();
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |number| self.create_one(number))
            .await?;
        Ok(begin.elapsed())
    }

    /// Creates so many and writes the status of each as soon as it is there.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub async fn create_and_write(&self, count: u16) -> anyhow::Result<Duration> {
        let begin = clock::now();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let created = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|number| (anyhow::Ok(number), receiver))
        });
        let write =
            created.try_for_each_concurrent(AT_ONCE, |number| self.write_one(number, FIRST_BLOCK));
        let create = async {
            // Ends when it is dropped, and with it the stream.
            let sender = sender;
            stream::iter((0..count).map(anyhow::Ok))
                .try_for_each_concurrent(AT_ONCE, |number| {
                    let sender = &sender;
                    async move {
                        self.create_one(number).await?;
                        sender.send(number).context("nobody writes any more")
                    }
                })
                .await
        };
        tokio::try_join!(create, write)?;
        Ok(begin.elapsed())
    }

    /// Writes other addresses to Services that are there.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub async fn write_again(&self, count: u16) -> anyhow::Result<Duration> {
        let begin = clock::now();
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |number| self.write_one(number, OTHER_BLOCK))
            .await?;
        Ok(begin.elapsed())
    }

    /// Creates so many Services and waits until all have addresses.
    ///
    /// # Errors
    ///
    /// What the API server answers, or that they do not get any.
    pub async fn create_and_wait(&self, count: u16) -> anyhow::Result<Times> {
        let watch = self.watch().await?;
        let begin = clock::now();
        let (created, ()) = tokio::try_join!(self.create(count), watch.until_served(count))?;
        Ok(Times { created, all: begin.elapsed() })
    }

    /// Makes the pool and waits until all Services have addresses.
    ///
    /// # Errors
    ///
    /// What the API server answers, or that they do not get any.
    pub async fn serve_from_pool(&self, count: u16) -> anyhow::Result<Duration> {
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": POOL, "namespace": "metallb-system"},
            "spec": {"addresses": ["172.20.64.0-172.20.127.255"]},
        });
        let pool: DynamicObject = serde_json::from_value(pool)?;
        let watch = self.watch().await?;
        let begin = clock::now();
        self.pools.create(&PostParams::default(), &pool).await.context("no pool")?;
        watch.until_served(count).await?;
        Ok(begin.elapsed())
    }

    /// Takes the pool away.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub async fn remove_pool(&self) -> anyhow::Result<()> {
        self.pools.delete(POOL, &DeleteParams::default()).await.context("the pool stays")?;
        Ok(())
    }

    /// Waits until Kubernetes has made the slices of so many Services.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn wait_for_slices(&self, count: u16) -> anyhow::Result<()> {
        let all = async {
            loop {
                let list = self.slices.list_metadata(&ListParams::default()).await?;
                if list.items.len() >= usize::from(count) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, all).await.context("Kubernetes makes no EndpointSlices")?
    }

    /// Deletes them and waits until neither they nor their slices are there.
    ///
    /// # Errors
    ///
    /// What the API server answers.
    pub async fn remove_all(&self, count: u16) -> anyhow::Result<()> {
        stream::iter((0..count).map(Ok))
            .try_for_each_concurrent(AT_ONCE, |number| async move {
                self.services.delete(&name(number), &DeleteParams::default()).await?;
                anyhow::Ok(())
            })
            .await
            .context("cannot delete the Services")?;
        let gone = async {
            loop {
                let list = self.slices.list_metadata(&ListParams::default()).await?;
                if list.items.is_empty() {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.context("EndpointSlices stay")?
    }

    async fn create_one(&self, number: u16) -> anyhow::Result<()> {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)},
            "spec": {
                "type": "LoadBalancer", "selector": {"app": "echo"},
                "allocateLoadBalancerNodePorts": false,
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        });
        if let Some(class) = self.kind.class {
            service["spec"]["loadBalancerClass"] = json!(class);
        }
        let service: Service = serde_json::from_value(service)?;
        self.services.create(&PostParams::default(), &service).await?;
        Ok(())
    }

    async fn write_one(&self, number: u16, block: u8) -> anyhow::Result<()> {
        let [high, low] = number.to_be_bytes();
        let patch: Value = json!({
            "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "bench"}},
            "status": {"loadBalancer": {"ingress": [
                {"ip": format!("10.{block}.{high}.{low}"), "ipMode": "VIP"},
            ]}},
        });
        let params = PatchParams::default();
        self.as_herald.patch_status(&name(number), &params, &Patch::Merge(&patch)).await?;
        Ok(())
    }

    async fn watch(&self) -> anyhow::Result<Watch> {
        let mut watch = Watch {
            events: Box::pin(watcher(self.services.clone(), watcher::Config::default())),
            served: BTreeSet::new(),
        };
        // From here on nothing is missed.
        while !matches!(watch.next().await?, Event::InitDone) {}
        Ok(watch)
    }
}

/// Which Services have addresses.
struct Watch {
    events: std::pin::Pin<Box<dyn Stream + Send>>,
    served: BTreeSet<String>,
}

trait Stream: futures_util::Stream<Item = Result<Event<Service>, watcher::Error>> {}
impl<T: futures_util::Stream<Item = Result<Event<Service>, watcher::Error>>> Stream for T {}

impl Watch {
    async fn until_served(mut self, count: u16) -> anyhow::Result<()> {
        let mut told = clock::now();
        let all = async {
            while self.served.len() < usize::from(count) {
                match self.next().await? {
                    Event::Apply(service) | Event::InitApply(service) if is_served(&service) => {
                        self.served.insert(service.name_any());
                    }
                    _ => {}
                }
                if told.elapsed() > Duration::from_secs(5) {
                    println!("          {} of {count} have addresses", self.served.len());
                    told = clock::now();
                }
            }
            anyhow::Ok(())
        };
        let result = tokio::time::timeout(LIMIT, all).await;
        let served = self.served.len();
        result.with_context(|| format!("only {served} of {count} Services have addresses"))?
    }

    async fn next(&mut self) -> anyhow::Result<Event<Service>> {
        let event = self.events.next().await.context("the watch has ended")?;
        event.context("the watch was interrupted")
    }
}

fn is_served(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

async fn client(path: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(path).context("cannot read a kubeconfig")?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("cannot make a client")
}

fn name(number: u16) -> String {
    format!("service-{number:05}")
}

/// As many requests at once as Herald has under way.
const AT_ONCE: usize = 32;
const POOL: &str = "bench";
const FIRST_BLOCK: u8 = 20;
const OTHER_BLOCK: u8 = 21;
const LIMIT: Duration = Duration::from_secs(600);
