//! Pods in a network of VXLAN tunnels, as flannel's: the LAN is served through their nodes as ever,
//! and what pods say to each other goes its own way; and to the world, under their nodes'
//! addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use herald_testbed::beside::{overlay, rules};
use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{CLIENTS, POD_PORT, client_address, host, nodes};
use herald_testbed::scenario::service;

const REQUESTS: usize = 10;

#[test]
fn the_lan_is_served_and_pods_in_tunnels_are_left_alone() -> anyhow::Result<()> {
    in_lab(|scenario| {
        overlay::lay(&scenario.lab)?;
        for node in nodes() {
            rules::load(scenario.lab.netns(&node)?, rules::CNI_MASQUERADE)?;
        }
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

        // What a pod says to the world of its own accord is another matter.
        let asker = scenario.lab.netns("n1-p1")?;
        let at = SocketAddr::from((host("c1").context("no client")?.v4(), 9_999));
        let listener = scenario.lab.netns("c1")?.inside(|| Ok(UdpSocket::bind(at)?))?;
        listener.set_read_timeout(Some(Duration::from_secs(10)))?;
        asker.inside(|| Ok(client::udp(at, 0)?.send(b"hello")?))?;
        let (_, from) = listener.recv_from(&mut [0; 16]).context("nothing came out")?;
        assert_eq!(Some(from.ip()), host("n1").map(|node| node.v4().into()), "masqueraded");

        // Between nodes there is no other way than the tunnel.
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
