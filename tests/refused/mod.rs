//! What the API server refuses at once, because of Herald's definitions or its admission policies.

use super::*;

impl Cluster {
    /// Pools that can never work are refused in both products' kinds and versions, and their
    /// authors are told what is expected.
    pub(super) async fn pools_that_are_refused(&self) {
        let (form, value) = ("should match", "expected CIDRs");
        for (addresses, why) in [
            ("192.0.2.1", form),
            ("here-there", form),
            (" 192.0.2.0/28", form),
            ("a-b", value),
            ("192.0.2.0/33", value),
            ("192.0.2.1-2001:db8::1", value),
        ] {
            let spec = json!({"addresses": [addresses]});
            self.until_refused("metallb.io/v1beta1", "IPAddressPool", spec, why).await;
        }
        for version in ["cilium.io/v2", "cilium.io/v2alpha1"] {
            for block in [
                json!({"stop": "192.0.2.9"}),
                json!({"start": "192.0.2.1", "cidr": "192.0.2.0/28"}),
                json!({"start": "192.0.2.1", "stop": "2001:db8::1"}),
                json!({"start": "here"}),
            ] {
                let spec = json!({"blocks": [block]});
                let kind = "CiliumLoadBalancerIPPool";
                self.until_refused(version, kind, spec, "either").await;
            }
        }
    }

    /// A policy is in force some time after it was applied.
    async fn until_refused(&self, version: &str, kind: &str, spec: Value, why: &str) {
        let namespace = (kind == "IPAddressPool").then_some("metallb-system");
        let plural = format!("{}s", kind.to_lowercase());
        let api = self.api(version, kind, &plural, namespace);
        let body = json!({
            "apiVersion": version, "kind": kind, "metadata": {"name": "test-bad"}, "spec": spec,
        });
        let params = PatchParams::apply("test").dry_run();
        for _ in 0..PATIENCE {
            match api.patch("test-bad", &params, &Patch::Apply(&body)).await {
                Ok(_) => tokio::time::sleep(STEP).await,
                Err(kube::Error::Api(status)) if status.code == 422 => {
                    assert!(status.message.contains(why), "{body}: {}", status.message);
                    return;
                }
                Err(error) => panic!("{body}: {error}"),
            }
        }
        panic!("{body} was not refused");
    }
}
