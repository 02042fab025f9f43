use std::sync::Arc;

use herald_leader_election::SessionState;

use super::*;
use crate::desired::tests::{seen, the_vip};
use crate::desired::{Memory, desired, facts};
use crate::fixture::{
    assignments, endpoint, mac, node, not_ready, observed, service_name, terminating, view,
};
use crate::observed::{Observed, Protocol};

#[test]
fn a_pod_that_is_not_ready_keeps_its_flows() {
    let mut observed = observed();
    observed.endpoints.insert(service_name(), vec![not_ready(2)].into());
    let vip = the_vip(&observed, &view(1));
    let backend = &vip.backends[0];
    assert_eq!((backend.target, backend.draining), (Err(Unused::NotReady), Some(mac(2))));
}

#[test]
fn sends_to_ready_pods_by_their_nodes_mac() {
    let vip = the_vip(&observed(), &view(1));
    let targets: Vec<_> = vip.backends.iter().map(|b| (b.port, b.protocol, b.target)).collect();
    let expected =
        (1..=3).flat_map(|n| [(80, Protocol::Tcp, Ok(mac(n))), (53, Protocol::Udp, Ok(mac(n)))]);
    assert_eq!(targets, expected.collect::<Vec<_>>());
}

#[test]
fn every_unused_endpoint_has_its_reason() {
    let mut observed = observed();
    let nowhere = Endpoint { node: None, ..endpoint(2) };
    let endpoints = vec![not_ready(1), nowhere, endpoint(3), terminating(1)];
    observed.endpoints.insert(service_name(), endpoints.into());
    let mut view = view(1);
    let reasons = |view: &View, gone: &[NodeName]| -> Vec<_> {
        let gone = gone.iter().cloned().collect();
        let (assignments, facts) = (assignments(), facts(view));
        let seen = seen(&observed, &assignments, view, &facts, &gone);
        let (_, vip) = desired(&seen, &mut Memory::default()).pop_first().unwrap();
        vip.backends.iter().map(|b| b.target.err()).step_by(2).collect()
    };
    let (ill, nowhere) = (Some(Unused::NotReady), Some(Unused::NoNode));
    let ends = Some(Unused::Terminating);
    for state in [SessionState::Revoked, SessionState::Closed] {
        view.sessions.get_mut(&node(3)).unwrap().state = state;
        assert_eq!(reasons(&view, &[]), [ill, nowhere, None, ends], "its kernel still delivers");
        let lost = Some(Unused::NodeSessionLost);
        assert_eq!(reasons(&view, &[node(3)]), [ill, nowhere, lost, ends]);
    }
    view.sessions.remove(&node(3));
    assert_eq!(reasons(&view, &[]), [ill, nowhere, Some(Unused::NodeSessionLost), ends]);
}

#[test]
fn an_endpoint_on_a_node_without_programs_has_its_reason_also_in_what_status_says() {
    let without = |nodes: &[u8]| {
        let mut view = view(1);
        for n in nodes {
            let session = view.sessions.get_mut(&node(*n)).unwrap();
            let mut facts = Facts::decode(&session.facts);
            facts.interfaces[0].carrier = Carrier::Off;
            session.facts = facts.encode().into();
        }
        let backends = the_vip(&observed(), &view).backends.into_iter().step_by(2);
        backends.map(|it| it.target.map_err(Unused::label)).collect::<Vec<_>>()
    };
    assert_eq!(without(&[2]), [Ok(mac(1)), Err("node_without_xdp"), Ok(mac(3))]);
    // This node's kube-proxy gets everywhere.
    assert_eq!(without(&[1, 2]), [Ok(mac(1)), Ok(mac(2)), Ok(mac(3))]);
}

/// The weights of nodes n1 to n3; what they make of the web port's backends there, as weight or
/// reason.
fn weighed(weights: [Option<u32>; 3], edit: impl Fn(&mut Observed)) -> Vec<Result<u32, Unused>> {
    let mut observed = observed();
    for (node, weight) in observed.nodes.values_mut().zip(weights) {
        node.weight = weight;
    }
    edit(&mut observed);
    let vip = the_vip(&observed, &view(1));
    let web = vip.backends.iter().filter(|backend| backend.port == 80);
    web.map(|backend| backend.target.map(|_| backend.weight)).collect()
}

#[test]
fn a_pod_weighs_what_its_node_does() {
    let as_is = |weights| weighed(weights, |_| ());
    assert_eq!(as_is([None; 3]), [Ok(1); 3]);
    assert_eq!(as_is([Some(100), None, Some(2)]), [Ok(100), Ok(1), Ok(2)]);
    let zero = Err(Unused::NodeWeightZero);
    assert_eq!(as_is([Some(0), None, Some(0)]), [zero, Ok(1), zero]);
    assert_eq!(as_is([Some(0); 3]), [Ok(1); 3], "somebody has to");
    let local = |observed: &mut Observed| {
        let services = observed.services.values_mut().map(Arc::make_mut);
        services.for_each(|it| it.external_traffic_policy = TrafficPolicy::Local);
    };
    assert_eq!(weighed([Some(0), Some(3), None], local), [Ok(1); 3], "each node has its own pods");
    let one_ready = |observed: &mut Observed| {
        let endpoints = vec![endpoint(1), not_ready(2), terminating(3)];
        observed.endpoints.insert(service_name(), endpoints.into());
    };
    let others = [Err(Unused::NotReady), Err(Unused::Terminating)];
    assert_eq!(weighed([Some(0), None, None], one_ready)[0], Ok(1), "it alone is ready");
    assert_eq!(weighed([Some(2), Some(0), Some(0)], one_ready)[1..], others);
}

#[test]
fn a_pod_on_a_node_of_no_weight_keeps_its_flows() {
    let mut observed = observed();
    observed.nodes.get_mut("n2").unwrap().weight = Some(0);
    let backends = the_vip(&observed, &view(1)).backends;
    let draining: Vec<_> = backends.iter().map(|it| it.draining).collect();
    let second = Some(mac(2));
    assert_eq!(draining, [None, None, second, second, None, None]);
}
