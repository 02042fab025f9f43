//! What Services ask for, in every spelling, and whom they share an address with.

use super::*;

impl Cluster {
    /// Each gets what it asks for, once and for all; one that asks for what another has gets
    /// nothing, and one of another load balancer's class is left alone.
    pub(super) async fn services_that_ask(&self) {
        let range = json!(["192.168.205.1-192.168.205.9", "fd00:205::1-fd00:205::9"]);
        let body = json!({"spec": {"addresses": range, "autoAssign": false}});
        let (kind, plural, namespace) = ("IPAddressPool", "ipaddresspools", Some("metallb-system"));
        self.apply("metallb.io/v1beta1", kind, plural, namespace, "test-h", body).await;
        self.cilium_pool("test-i", "192.168.206.1", "192.168.206.9").await;
        let asks = [
            ("a", json!({"metallb.io/loadBalancerIPs": "192.168.205.1"}), json!({}), "205.1"),
            (
                "b",
                json!({"metallb.universe.tf/loadBalancerIPs": "192.168.205.2"}),
                json!({}),
                "205.2",
            ),
            ("c", json!({"kube-vip.io/loadbalancerIPs": "192.168.205.3"}), json!({}), "205.3"),
            ("d", json!({}), json!({"loadBalancerIP": "192.168.205.4"}), "205.4"),
            (
                "e",
                json!({"serviceloadbalancer.kubernetes.io/ipaddress": "192.168.205.5"}),
                json!({}),
                "205.5",
            ),
            ("f", json!({"io.cilium/lb-ipam-ips": "192.168.206.1"}), json!({}), "206.1"),
            (
                "tcp",
                json!({
                    "metallb.io/allow-shared-ip": "key",
                    "metallb.io/loadBalancerIPs": "192.168.205.6",
                }),
                json!({}),
                "205.6",
            ),
            (
                "udp",
                json!({
                    "metallb.universe.tf/allow-shared-ip": "key",
                    "metallb.io/loadBalancerIPs": "192.168.205.6",
                }),
                json!({"ports": [{"port": 80, "protocol": "UDP"}]}),
                "205.6",
            ),
            (
                "one",
                json!({
                    "lbipam.cilium.io/sharing-key": "key",
                    "lbipam.cilium.io/ips": "192.168.206.2",
                }),
                json!({}),
                "206.2",
            ),
            (
                "other",
                json!({
                    "io.cilium/lb-ipam-sharing-key": "key",
                    "io.cilium/lb-ipam-ips": "192.168.206.2",
                }),
                json!({"ports": [{"port": 81}]}),
                "206.2",
            ),
        ];
        for (name, annotations, spec, _) in &asks {
            self.service_of(name, annotations.clone(), spec.clone()).await;
        }
        for (name, _, _, wanted) in &asks {
            self.until(name, |it| addresses(it) == [format!("192.168.{wanted}")]).await;
        }
        self.until_event("b", "deprecatedAnnotation").await;

        let foreign = json!({"loadBalancerClass": "example.com/another"});
        self.service_of("foreign", json!({}), foreign).await;
        let late = json!({
            "metallb.io/allow-shared-ip": "another", "metallb.io/loadBalancerIPs": "192.168.205.6",
        });
        self.service_of("late", late, json!({"ports": [{"port": 81}]})).await;
        self.until_event("late", "AllocationFailed").await;
        // In a cluster with two service ranges it has two addresses.
        let pool = json!({"metallb.io/address-pool": "test-h"});
        self.service_of("both", pool, json!({"ipFamilyPolicy": "PreferDualStack"})).await;
        let inner = self.get("both").await.spec.unwrap().cluster_ips.unwrap();
        let wanted = inner.iter().map(|ip| match ip.contains(':') {
            true => "fd00:205::1",
            false => "192.168.205.7",
        });
        let wanted: Vec<_> = wanted.collect();
        self.until("both", |it| addresses(it) == wanted).await;
        for nothing in ["late", "foreign"] {
            assert_eq!(addresses(&self.get(nothing).await), [""; 0], "{nothing}");
        }
        for (name, _, _, wanted) in &asks {
            let kept = addresses(&self.get(name).await);
            assert_eq!(kept, [format!("192.168.{wanted}")], "{name}");
        }
    }

    async fn service_of(&self, name: &str, annotations: Value, mut spec: Value) {
        spec["type"] = json!("LoadBalancer");
        if spec["ports"].is_null() {
            spec["ports"] = json!([{"port": 80}]);
        }
        let body = json!({"metadata": {"annotations": annotations}, "spec": spec});
        self.apply("v1", "Service", "services", Some(NAMESPACE), name, body).await;
    }
}
