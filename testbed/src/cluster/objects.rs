//! What is written into a new cluster (pure): the lab's pods as Pods, under their own names and
//! addresses; and what a user writes there first. Nodes write themselves
//! (testbed/kubernetes/node.go).

use serde_json::{Value, json};

use crate::lab::addresses::{self, POD_PORT, PODS, number, pod_name};

/// What a user of MetalLB has: addresses of the lab's LAN, announced by whichever node.
pub const POOL: &str = r#"
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec: {addresses: ["192.168.1.240-192.168.1.250", "fd00:1::f0-fd00:1::ff"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2-advert, namespace: metallb-system}
"#;

/// A Service of both families in front of all the lab's pods.
pub const ECHO: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080}
  - {name: udp, protocol: UDP, port: 5353, targetPort: 8080}
";

/// A ServiceAccount for the Pods and the Pods themselves: the lab's, under their own names.
pub fn pods(nodes: &[String]) -> Value {
    // Kubernetes would make it too, but only once its controllers run; Pods are refused without.
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default"},
    })];
    for node in nodes {
        let Some(host) = addresses::host(node) else { continue };
        for pod in 1..=PODS {
            items.push(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": pod_name(number(host), pod), "namespace": "default",
                    "labels": {"app": "echo"},
                },
                "spec": {
                    "nodeName": node,
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "echo", "image": "herald.invalid/lab-pod",
                        "ports": [
                            {"name": "tcp", "containerPort": POD_PORT, "protocol": "TCP"},
                            {"name": "udp", "containerPort": POD_PORT, "protocol": "UDP"},
                        ],
                    }],
                },
            }));
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_bound_to_their_nodes_and_carry_the_label_of_the_example() {
        let written = pods(&["n1".into(), "n3".into()]);
        let items = written["items"].as_array().unwrap();
        let names: Vec<_> = items.iter().map(|item| &item["metadata"]["name"]).collect();
        assert_eq!(names, ["default", "n1-p1", "n1-p2", "n3-p1", "n3-p2"]);
        assert_eq!(items[3]["spec"]["nodeName"], "n3");
        assert_eq!(items[3]["metadata"]["labels"]["app"], "echo");
    }
}
