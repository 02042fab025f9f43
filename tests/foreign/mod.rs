//! What the cluster must be like that KUBECONFIG names, told in a sentence where it is not.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;

use super::*;

impl Cluster {
    /// Herald's manifests are applied, nobody else allocates, and all pools are of this test.
    pub(super) async fn is_fit(&self) {
        let kinds = [
            ("metallb.io/v1beta1", "IPAddressPool", "ipaddresspools"),
            ("cilium.io/v2", "CiliumLoadBalancerIPPool", "ciliumloadbalancerippools"),
        ];
        for (version, kind, plural) in kinds {
            let pools = self.api(version, kind, plural, None).list(&ListParams::default()).await;
            let pools = match pools {
                Ok(pools) => pools.items,
                Err(error) => panic!("no {plural} ({error}): apply manifests/ first"),
            };
            let names: Vec<_> = pools.iter().map(ResourceExt::name_any).collect();
            let others = names.iter().filter(|name| !name.starts_with("test-"));
            let others: Vec<_> = others.collect();
            assert!(others.is_empty(), "this test needs a cluster without pools: {others:?}");
        }
        let (before, later) = (self.renewals().await, async {
            // Twice a speaker's usual pace.
            tokio::time::sleep(Duration::from_secs(3)).await;
            self.renewals().await
        });
        if !before.is_empty() {
            assert_eq!(before, later.await, "speakers run in this cluster: stop them first");
        }
    }

    /// When each speaker was heard of last.
    async fn renewals(&self) -> BTreeMap<String, String> {
        let api: Api<Lease> = Api::namespaced(self.admin.clone(), "herald-system");
        let sessions = ListParams::default().labels("herald.io/lease=session");
        let leases = api.list(&sessions).await.unwrap().items;
        let seen = |it: &Lease| (it.name_any(), it.resource_version().unwrap_or_default());
        leases.iter().map(seen).collect()
    }
}
