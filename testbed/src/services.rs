//! Manifests of many Services, each with an address of its own and the demo's pods behind it
//! (pure).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for 121 VIPs of [`vip`] and for 4096 of [`vip6`].
pub const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first-pool, namespace: metallb-system}
spec:
  addresses: [192.168.1.130-192.168.1.250, \"fd00:1::1000-fd00:1::1fff\"]
";

/// 192.168.1.130 and on, up to .250.
pub fn vip(index: u16) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 1, 130).to_bits() + u32::from(index)).into()
}

/// fd00:1::1000 and on.
pub fn vip6(index: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x1000 + index).into()
}

/// A Service for each address, named with the prefix and a number, and its EndpointSlice.
pub fn manifests(prefix: &str, vips: &[IpAddr]) -> String {
    let mut text = String::new();
    for (index, vip) in vips.iter().enumerate() {
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: {prefix}-{index}, namespace: default}}
spec:
  type: LoadBalancer
  ipFamilies: [{family}]
  loadBalancerIP: \"{vip}\"
  ports:
    - {{name: tcp, protocol: TCP, port: 80, targetPort: 8080}}
    - {{name: udp, protocol: UDP, port: 5353, targetPort: 8080}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {prefix}-{index}
  namespace: default
  labels: {{kubernetes.io/service-name: {prefix}-{index}}}
addressType: {family}
ports:
  - {{name: tcp, protocol: TCP, port: 8080}}
  - {{name: udp, protocol: UDP, port: 8080}}
endpoints:
"
        );
        for node in 1..=3 {
            let pod = match vip {
                IpAddr::V4(_) => format!("10.244.{node}.2"),
                IpAddr::V6(_) => format!("fd00:244:{node}::2"),
            };
            let _ = writeln!(
                text,
                "  - {{addresses: [\"{pod}\"], nodeName: n{node}, \
                 conditions: {{ready: true, serving: true}}}}"
            );
        }
    }
    text
}
