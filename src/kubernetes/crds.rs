//! The CustomResourceDefinitions, generated from the types. `manifests/crds/` holds the same as
//! files, and a test keeps them equal.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::api::cilium::{CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool};
use crate::api::metallb::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};

/// All definitions by the name of their file.
///
/// # Errors
///
/// If a schema cannot be generated, which is a mistake in the types.
pub fn all() -> Result<Vec<(&'static str, Value)>, serde_json::Error> {
    Ok(vec![
        ("metallb.io_ipaddresspools.json", definition(IPAddressPool::crd(), &[])?),
        ("metallb.io_l2advertisements.json", definition(L2Advertisement::crd(), &[])?),
        ("metallb.io_servicel2statuses.json", definition(ServiceL2Status::crd(), &[])?),
        ("metallb.io_configurationstates.json", definition(ConfigurationState::crd(), &[])?),
        (
            "cilium.io_ciliumloadbalancerippools.json",
            definition(CiliumLoadBalancerIPPool::crd(), &["v2alpha1"])?,
        ),
        (
            "cilium.io_ciliuml2announcementpolicies.json",
            definition(CiliumL2AnnouncementPolicy::crd(), &[])?,
        ),
    ])
}

/// As JSON, with further versions of the same schema. An object may lack its spec where all of it
/// has defaults: people write such L2Advertisements.
fn definition(crd: CustomResourceDefinition, more: &[&str]) -> Result<Value, serde_json::Error> {
    let mut crd = serde_json::to_value(crd)?;
    let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let has_needs = name == "ipaddresspools.metallb.io" || name == POOLS_OF_CILIUM;
    relax(&mut crd, has_needs);
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    if name == "ipaddresspools.metallb.io" {
        spec["required"] = json!(["addresses"]);
        // The type's default is no addresses, which is what the schema refuses.
        if let Some(addresses) = spec["properties"]["addresses"].as_object_mut() {
            addresses.remove("default");
        }
    }
    if name == POOLS_OF_CILIUM {
        let rule = |list: &str| {
            format!("!has(self.{list}) || self.{list}.all(b, has(b.cidr) != has(b.start))")
        };
        spec["x-kubernetes-validations"] = json!(["blocks", "cidrs"].map(|list| json!({
            "rule": rule(list),
            "message": format!("each of {list} is either cidr, or start with or without stop"),
        })));
        for list in ["blocks", "cidrs"] {
            spec["properties"][list]["maxItems"] = json!(1024);
        }
    }
    let first = crd["spec"]["versions"][0].clone();
    for version in more {
        let mut next = first.clone();
        next["name"] = json!(version);
        next["storage"] = json!(false);
        if let Some(versions) = crd["spec"]["versions"].as_array_mut() {
            versions.push(next);
        }
    }
    Ok(crd)
}

const POOLS_OF_CILIUM: &str = "ciliumloadbalancerippools.cilium.io";

fn relax(crd: &mut Value, needs_spec: bool) {
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["required"] = if needs_spec { json!(["spec"]) } else { json!([]) };
    if !needs_spec && let Some(schema) = schema.as_object_mut() {
        schema.remove("required");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// To accept a change of the types on purpose: HERALD_WRITE_CRDS=1 cargo test crds.
    #[test]
    fn the_files_are_equal_to_the_types() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/crds");
        for (name, definition) in all().unwrap() {
            let path = directory.join(name);
            let text = serde_json::to_string_pretty(&definition).unwrap() + "\n";
            if std::env::var_os("HERALD_WRITE_CRDS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let file = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(file, text, "{name}");
            let listed = std::fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
            assert!(listed.contains(name), "{name} is not in the kustomization");
        }
    }
}
