//! Pools of Cilium's that close: disabled, or in conflict with another of its pools or MetalLB's.

use super::*;

impl Cluster {
    /// A pool of Cilium's is disabled, overlaps with another, and with one of MetalLB's: nobody's
    /// address changes, nor whose it is, also after a restart; the pool says so, and no longer than
    /// it is so.
    pub(super) async fn pools_of_cilium_that_close(
        &self,
        allocator: Allocator,
        client: &Client,
    ) -> Allocator {
        let pools = "ciliumloadbalancerippools";
        let conflict = |is_so: &'static str| {
            move |status: &Value| {
                let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
                let found = conditions.iter().find(|it| it["type"] == "cilium.io/PoolConflict");
                found.is_some_and(|it| it["status"] == is_so)
            }
        };
        let before = self.all_addresses().await;
        assert_eq!(before["two"], ["192.168.202.2", "192.168.202.3"]);
        self.disable("test-c", true).await;
        // In herald-system pools count as in metallb-system, and nowhere else.
        for (namespace, range) in [
            // The first of two addresses: where the pool's name is not written down, it goes by
            // that.
            ("herald-system", "192.168.202.2-192.168.202.2"),
            ("default", "192.168.203.1-192.168.203.9"),
        ] {
            let body = json!({"spec": {"addresses": [range]}});
            let (kind, plural) = ("IPAddressPool", "ipaddresspools");
            self.apply("metallb.io/v1beta1", kind, plural, Some(namespace), "test-f", body).await;
        }
        self.until_pool(pools, "test-c", conflict("True")).await;
        // Younger than the other: this one yields.
        self.cilium_pool("test-e", "192.168.204.1", "192.168.204.9").await;
        self.until_pool(pools, "test-e", conflict("False")).await;
        // The API server tells time in whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.cilium_pool("test-g", "192.168.204.9", "192.168.204.12").await;
        self.until_pool(pools, "test-g", conflict("True")).await;
        self.until_pool(pools, "test-e", conflict("False")).await;

        allocator.stop().await;
        let allocator = start(client.clone()).await;
        self.service("asks", json!({"lbipam.cilium.io/ips": "192.168.204.10"})).await;
        self.service("nowhere", json!({"metallb.io/loadBalancerIPs": "192.168.203.1"})).await;
        // The allocator has seen all of this when it has served one that came later.
        self.service("seen", json!({"lbipam.cilium.io/ips": "192.168.204.1"})).await;
        self.until("seen", |it| addresses(it) == ["192.168.204.1"]).await;
        let mut now = self.all_addresses().await;
        now.remove("seen");
        for refused in ["asks", "nowhere"] {
            assert_eq!(now.remove(refused), Some(vec![]), "{refused}");
        }
        assert_eq!(now, before);
        let two = self.get("two").await;
        let conditions = two.status.as_ref().and_then(|status| status.conditions.as_ref());
        let said: Vec<_> =
            conditions.into_iter().flatten().map(|it| (&it.type_[..], &it.status[..])).collect();
        assert_eq!(said, [("cilium.io/IPAMRequestSatisfied", "True")], "{two:?}");
        assert_eq!(two.annotations().get("metallb.io/ip-allocated-from-pool"), None);

        for namespace in ["herald-system", "default"] {
            self.delete_test_f(namespace).await;
        }
        self.cilium_pool("test-g", "192.168.204.10", "192.168.204.12").await;
        self.until_pool(pools, "test-g", conflict("False")).await;
        self.until_pool(pools, "test-c", conflict("False")).await;
        self.until("asks", |it| addresses(it) == ["192.168.204.10"]).await;
        self.disable("test-c", false).await;
        for service in ["asks", "nowhere", "seen"] {
            let _ = self.services().delete(service, &Default::default()).await;
        }
        for pool in ["test-e", "test-g"] {
            self.delete_pool(pools, "cilium.io/v2", pool).await;
        }
        assert_eq!(self.all_addresses().await, before);
        allocator
    }

    async fn all_addresses(&self) -> BTreeMap<String, Vec<String>> {
        let list = self.services().list(&Default::default()).await.unwrap();
        list.items.iter().map(|it| (it.name_any(), addresses(it))).collect()
    }

    async fn disable(&self, pool: &str, disabled: bool) {
        let patch = Patch::Merge(json!({"spec": {"disabled": disabled}}));
        let api = self.api("cilium.io/v2", "Pool", "ciliumloadbalancerippools", None);
        api.patch(pool, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn delete_test_f(&self, namespace: &str) {
        let api = self.api("metallb.io/v1beta1", "Pool", "ipaddresspools", Some(namespace));
        let _ = api.delete("test-f", &Default::default()).await;
    }
}
