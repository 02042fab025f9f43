//! The main job: VIPs assigned, one voice for each, requests answered by pods on every node with
//! the client's address kept, replies sent straight from the pod's node.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use herald_testbed::client::{self, Transport};
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{CLIENTS, client_address, host};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::service;
use herald_testbed::status::FlowSum;
use herald_testbed::tap::{Direction, Tap};

/// Enough flows for each of six pods to get one but by a chance of one in a million.
const REQUESTS: usize = 10;

#[test]
fn answers_arp_and_requests_through_vip() -> anyhow::Result<()> {
    in_lab(|scenario| {
        // Every packet is sampled, as far as the rate goes.
        scenario.start_all(&["--flow-samples", "1"])?;
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

        for (vip, holder) in &served {
            let of_vip = |node: &str, verdict: &str| -> anyhow::Result<Vec<FlowSum>> {
                let flows = scenario.status(node)?.flows;
                assert_eq!(flows.reason, None, "{node}");
                let is_asked = |it: &FlowSum| it.vip == Some(*vip) && it.verdict == verdict;
                Ok(flows.sums.into_iter().filter(is_asked).collect())
            };
            // The first packets of all are sampled at any rate.
            let forwarded = of_vip(holder, "forwarded")?;
            assert!(!forwarded.is_empty(), "no sample of what {holder} sent on for {vip}");
            for sum in &forwarded {
                assert_eq!(sum.service.as_deref(), Some("default/echo"), "{sum:?}");
                assert!(sum.packets >= sum.samples && sum.samples > 0, "{sum:?}");
                let node = sum.node.as_deref().filter(|node| node != holder);
                let node = node.unwrap_or_else(|| panic!("{holder} sends to itself: {sum:?}"));
                let arrived = of_vip(node, "delivered_from_peer")?;
                let has_it =
                    |it: &FlowSum| it.service == sum.service && it.node.as_deref() == Some(node);
                assert!(arrived.iter().any(has_it), "{node} knows nothing of {sum:?}: {arrived:?}");
            }
            let (is_done, text) = scenario.command(holder, &["flows"])?;
            assert!(is_done && text.contains(" default/echo  forwarded "), "{text}");
        }

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
