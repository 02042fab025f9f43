//! Pods in a network of VXLAN tunnels, as flannel's: the LAN is served through their nodes as ever,
//! and what pods say to each other goes its own way.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use herald_testbed::beside::overlay;
use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{CLIENTS, POD_PORT, client_address};
use herald_testbed::scenario::service;

const REQUESTS: usize = 10;

#[test]
fn the_lan_is_served_and_pods_in_tunnels_are_left_alone() -> anyhow::Result<()> {
    in_lab(|scenario| {
        overlay::lay(&scenario.lab)?;
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let mut nodes = BTreeSet::new();
        for client in CLIENTS {
            for (vip, _) in &served {
                for transport in [Transport::Tcp, Transport::Udp] {
                    for _ in 0..REQUESTS {
                        let answer = scenario.request(client, *vip, transport)?.answer;
                        assert_eq!(Some(answer.client), client_address(client, *vip));
                        nodes.insert(answer.node);
                    }
                }
                scenario.lab.netns(client)?.inside(|| {
                    client::upload(service(*vip, Transport::Tcp), 5_000_000)?;
                    client::download(service(*vip, Transport::Tcp), 5_000_000)
                })?;
            }
        }
        assert_eq!(Vec::from_iter(nodes), ["n1", "n2", "n3"]);

        // Between nodes there is no other way than the tunnel.
        let asker = scenario.lab.netns("n1-p1")?;
        for node in 1..=3 {
            let pod = SocketAddr::from(([10, 244, node, 3], POD_PORT));
            for transport in [Transport::Tcp, Transport::Udp] {
                let answer = asker.inside(|| client::who(transport, pod))?.answer;
                assert_eq!(answer.client, IpAddr::from([10, 244, 1, 2]), "{pod} over {transport}");
                assert_eq!(answer.pod, format!("n{node}-p2"));
            }
            asker.inside(|| {
                client::upload(pod, 2_000_000)?;
                client::download(pod, 2_000_000)
            })?;
        }
        Ok(())
    })
}
