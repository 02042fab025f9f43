//! What kube-proxy would have on a node (pure): the chains a packet for a Service meets, in
//! nftables' and in iptables' syntax. Left out: what a packet for a LoadBalancer address does not
//! meet (node ports, health checks, session affinity).
//!
//! The source: Kubernetes, pkg/proxy/nftables/proxier.go and pkg/proxy/iptables/proxier.go.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::pictures::{POD_PORT, PORT, pod4, vip4};

/// nftables' rules of so many Services with so many endpoints each, for `nft -f`.
pub fn nftables(services: u32, endpoints: u32) -> String {
    let mut text = String::from(NFT_BASE);
    for service in 0..services {
        let (vip, name) = (vip4(service), format!("svc-{service}"));
        let pods = || (0..endpoints).map(|i| (i, pod(service, endpoints, i)));
        let mut choices = String::new();
        for (i, ip) in pods() {
            let endpoint = format!("endpoint-{service}-{i}");
            let _ = write!(choices, "{i} : goto {endpoint}, ");
            let _ = writeln!(
                text,
                "add chain ip kube-proxy {endpoint}\n\
                 add rule ip kube-proxy {endpoint} ip saddr {ip} jump mark-for-masquerade\n\
                 add rule ip kube-proxy {endpoint} meta l4proto tcp dnat to {ip}:{POD_PORT}"
            );
        }
        let _ = writeln!(
            text,
            "add chain ip kube-proxy {name}\n\
             add rule ip kube-proxy {name} numgen random mod {endpoints} vmap {{ {choices} }}\n\
             add chain ip kube-proxy external-{name}\n\
             add rule ip kube-proxy external-{name} jump mark-for-masquerade\n\
             add rule ip kube-proxy external-{name} goto {name}\n\
             add element ip kube-proxy service-ips \
             {{ {vip} . tcp . {PORT} : goto external-{name} }}"
        );
    }
    text
}

const NFT_BASE: &str = "\
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set mark or 0x4000; }
  chain masquerading {
    mark and 0x4000 == 0 return;
    mark set mark xor 0x4000;
    masquerade fully-random;
  }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services;
  }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
  chain filter-prerouting {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check;
  }
  chain filter-forward {
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check;
  }
}
";

/// iptables' rules of the same, for `iptables-legacy-restore`.
pub fn iptables(services: u32, endpoints: u32) -> String {
    let mut chains = String::from(IPTABLES_CHAINS);
    let mut rules = String::from(IPTABLES_RULES);
    for service in 0..services {
        let vip = vip4(service);
        let _ = writeln!(chains, ":KUBE-EXT-{service} - [0:0]\n:KUBE-SVC-{service} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {vip}/32 -p tcp -m comment --comment \"loadbalancer IP\" \
             -m tcp --dport {PORT} -j KUBE-EXT-{service}\n\
             -A KUBE-EXT-{service} -m comment --comment \"masquerade\" -j KUBE-MARK-MASQ\n\
             -A KUBE-EXT-{service} -j KUBE-SVC-{service}"
        );
        for i in 0..endpoints {
            let ip = pod(service, endpoints, i);
            let left = endpoints - i;
            let statistic = match left {
                1 => String::new(),
                _ => {
                    let probability = 1.0 / f64::from(left);
                    format!("-m statistic --mode random --probability {probability:.10} ")
                }
            };
            let _ = writeln!(chains, ":KUBE-SEP-{service}-{i} - [0:0]");
            let _ = writeln!(
                rules,
                "-A KUBE-SVC-{service} -m comment --comment \"to a pod\" {statistic}\
                 -j KUBE-SEP-{service}-{i}\n\
                 -A KUBE-SEP-{service}-{i} -s {ip}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{service}-{i} -p tcp -m tcp -j DNAT --to-destination {ip}:{POD_PORT}"
            );
        }
    }
    format!("{chains}{rules}COMMIT\n")
}

const IPTABLES_CHAINS: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const IPTABLES_RULES: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
";

const fn pod(service: u32, endpoints: u32, endpoint: u32) -> Ipv4Addr {
    pod4(service * endpoints + endpoint)
}
