//! The main job: VIPs assigned, one voice for each, requests answered by pods on every node with
//! the client's address kept, replies sent straight from the pod's node.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{CLIENTS, client_address, host};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::service;
use herald_testbed::tap::{Direction, Tap};

/// Enough flows for each of six pods to get one but by a chance of one in a million.
const REQUESTS: usize = 10;

#[test]
fn answers_arp_and_requests_through_vip() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&[])?;
        scenario.put_all_manifests()?;
        let served = scenario.served()?;
        let addresses: Vec<String> = served.iter().map(|(vip, _)| vip.to_string()).collect();
        assert_eq!(addresses, ["192.168.1.240", "fd00:1::f0"]);
        for (vip, holder) in &served {
            let mac = host(holder).unwrap().mac();
            assert_eq!(who_has(&scenario.lab, *vip)?, [mac], "voices for {vip}");
        }

        let vips: Vec<_> = served.iter().map(|(vip, _)| *vip).collect();
        let (_, holder) = &served[0];
        let tap = Tap::at(holder, &vips[..1])?;
        let mut nodes = BTreeSet::new();
        let mut flows_of_others = BTreeSet::new();
        for client in CLIENTS {
            for vip in &vips {
                for transport in [Transport::Tcp, Transport::Udp] {
                    for _ in 0..REQUESTS {
                        let reply = scenario.request(client, *vip, transport)?;
                        let real = client_address(client, *vip).unwrap();
                        assert_eq!(reply.answer.client, real, "{client} to {vip}");
                        if reply.answer.node != *holder {
                            flows_of_others.insert(SocketAddr::new(real, reply.from.port()));
                        }
                        nodes.insert(reply.answer.node);
                    }
                }
            }
        }
        assert_eq!(Vec::from_iter(nodes), ["n1", "n2", "n3"]);

        let capture = tap.finish()?;
        assert_eq!(capture.missed, 0);
        assert_eq!(capture.clients(Direction::ToHost).next(), None, "replies went to the holder");
        let passed: Vec<_> = capture
            .clients(Direction::FromHost)
            .filter(|client| flows_of_others.contains(client))
            .collect();
        assert_eq!(passed, [], "replies of other nodes' pods left the holder");

        for client in CLIENTS {
            for vip in &vips {
                scenario.lab.netns(client)?.inside(|| {
                    client::upload(service(*vip, Transport::Tcp), 5_000_000)?;
                    client::download(service(*vip, Transport::Tcp), 5_000_000)
                })?;
            }
        }
        Ok(())
    })
}
