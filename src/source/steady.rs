//! What counts as ready while it is the control plane that fails and not the pods.
//!
//! A node that the API server hears nothing of is called not ready, and so are its pods, though
//! they may run as before. When that happens to everything at once, believing it would take every
//! address off the network. Two rules, both about what was counted before:
//!
//! - While *every* Node is not ready, an endpoint counts as it did when its own Node last was.
//! - When *all* ready endpoints of a Service, two at least, stop being ready in one change of the
//!   picture, they count on, until one of the Service's endpoints says that it is ready.
//!
//! Endpoints that leave one by one leave; so do those that are deleted or terminating, which
//! somebody wants, and those of a Service that is deleted. A lone endpoint may well be ill.
//!
//! Pure, and decided by the sequence of pictures alone. A process that starts in the middle of such
//! a failure knows of no time before it and believes what it reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::observed::{Endpoint, EndpointPort, Node, Observed, Service, ServiceName};
use crate::problem::{Level, Problem, Reason};

/// Fewer endpoints than this may be ill together.
const TOGETHER: usize = 2;

/// Remembers how endpoints counted.
#[derive(Debug, Default)]
pub struct Steady {
    services: BTreeMap<ServiceName, Pasts>,
}

/// What is known of a Service's endpoints, in the order in which a picture has them: by address,
/// then by ports, because one pod may be ready at one port and not at another.
#[derive(Debug, Default)]
struct Pasts(Vec<(IpAddr, Arc<[EndpointPort]>, Past)>);

/// An endpoint as it counted in the last picture.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// It counted as ready.
    counted: bool,
    /// It did so although it said otherwise.
    kept: bool,
    /// It counted as ready when its Node last was ready.
    trusted: bool,
}

impl Steady {
    /// Marks the endpoints of the picture that count as ready although they say otherwise. Says so
    /// while every Node is not ready, before any endpoint follows: that alone is news.
    #[must_use]
    pub fn keep(&mut self, observed: &mut Observed) -> Option<Problem> {
        let Observed { services, endpoints, nodes, .. } = observed;
        let all_nodes_failed = !nodes.is_empty() && nodes.values().all(|node| node.not_ready);
        let before = std::mem::take(&mut self.services);
        let none = Pasts::default();
        for (name, endpoints) in endpoints {
            if !services.get(name).is_some_and(|it| is_announced(it)) {
                continue;
            }
            let pasts = before.get(name).unwrap_or(&none);
            let keeps = pasts.kept(endpoints, all_nodes_failed);
            if keeps.contains(&true) {
                for (endpoint, keep) in Arc::make_mut(endpoints).iter_mut().zip(keeps) {
                    endpoint.kept = keep;
                    endpoint.ready |= keep;
                    endpoint.serving |= keep;
                }
            }
            let remembered = endpoints.iter().map(|endpoint| {
                let past = counted(endpoint, pasts.of(endpoint), nodes);
                (endpoint.address, Arc::clone(&endpoint.ports), past)
            });
            self.services.insert(name.clone(), Pasts(remembered.collect()));
        }
        all_nodes_failed.then(|| Problem {
            level: Level::Warning,
            object: Some("Nodes".to_owned()),
            location: None,
            reason: Reason::AllNodesNotReady,
            message: "every Node is not ready: taken for a failing control plane; endpoints count \
                      as they did while their Nodes were ready"
                .to_owned(),
        })
    }
}

impl Pasts {
    fn of(&self, endpoint: &Endpoint) -> Option<Past> {
        let wanted = (endpoint.address, &endpoint.ports);
        let found = self.0.binary_search_by(|(address, ports, _)| (*address, ports).cmp(&wanted));
        self.0.get(found.ok()?).map(|(_, _, past)| *past)
    }

    /// Which endpoints of the Service are to count although they are not ready, in their order.
    fn kept(&self, endpoints: &[Endpoint], all_nodes_failed: bool) -> Vec<bool> {
        let past_of = |e: &Endpoint| self.of(e).unwrap_or_default();
        let may_be_kept = |e: &Endpoint| !e.ready && !e.terminating;
        let is_any_ready = endpoints.iter().any(|e| e.ready);
        let counted = self.0.iter().filter(|(_, _, past)| past.counted).count();
        let turned = endpoints.iter().filter(|e| may_be_kept(e) && past_of(e).counted).count();
        // One that is gone or terminating says that somebody is at work.
        let turned_together = turned >= TOGETHER && turned == counted;
        let keeps = |e: &Endpoint| {
            let past = past_of(e);
            let by_nodes = all_nodes_failed && past.trusted;
            let by_service = !is_any_ready && (past.kept || past.counted && turned_together);
            may_be_kept(e) && (by_nodes || by_service)
        };
        endpoints.iter().map(keeps).collect()
    }
}

fn is_announced(service: &Service) -> bool {
    service.load_balancer || !service.external_ips.is_empty()
}

fn counted(endpoint: &Endpoint, past: Option<Past>, nodes: &BTreeMap<String, Node>) -> Past {
    let node = endpoint.node.as_ref().and_then(|name| nodes.get(name));
    let counted = endpoint.ready;
    let trusted = match past {
        Some(past) if node.is_some_and(|node| node.not_ready) => past.trusted,
        _ => counted,
    };
    Past { counted, kept: endpoint.kept, trusted }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{endpoint, observed, service_name};

    /// What endpoints 1, 2, ... say: `+` ready, `-` not ready, `x` terminating, a blank: not there.
    fn say(text: &str, nodes: &str) -> Observed {
        let mut observed = observed();
        let listed = (1..).zip(text.chars()).filter(|(_, sign)| *sign != ' ');
        let endpoints = listed.map(|(n, sign)| {
            let ready = sign == '+';
            Endpoint { ready, serving: ready, terminating: sign == 'x', ..endpoint(n) }
        });
        observed.endpoints.insert(service_name(), endpoints.collect());
        for (node, sign) in observed.nodes.values_mut().zip(nodes.chars()) {
            node.not_ready = sign == '-';
        }
        observed
    }

    /// How they count, one picture after the other: `k` for kept, `.` for one that does not.
    fn counts(story: &[(&str, &str)]) -> Vec<String> {
        let mut steady = Steady::default();
        let step = |(text, nodes): &(&str, &str)| {
            let mut observed = say(text, nodes);
            let said = steady.keep(&mut observed);
            assert_eq!(said.is_some(), !nodes.contains('+'), "{nodes}: {said:?}");
            let sign = |e: &Endpoint| match (e.ready, e.kept) {
                (true, true) => 'k',
                (true, false) => '+',
                (false, _) => '.',
            };
            observed.endpoints[&service_name()].iter().map(sign).collect()
        };
        story.iter().map(step).collect()
    }

    /// All Nodes are ready throughout.
    fn alone(story: &[&str]) -> Vec<String> {
        counts(&story.iter().map(|text| (*text, "+++")).collect::<Vec<_>>())
    }

    #[test]
    fn all_endpoints_that_turn_together_count_on_until_one_is_ready() {
        assert_eq!(alone(&["+++", "---", "---", "-+-"]), ["+++", "kkk", "kkk", ".+."]);
        assert_eq!(alone(&["++-", "---"]), ["++.", "kk."], "not the one that was ill before");
        assert_eq!(alone(&["+++", "---", "- -", "---"]), ["+++", "kkk", "kk", "k.k"]);
    }

    #[test]
    fn endpoints_that_go_one_by_one_leave() {
        assert_eq!(alone(&["+++", "++-", "+--", "---"]), ["+++", "++.", "+..", "..."]);
        assert_eq!(alone(&["+", "-"]), ["+", "."], "a lone one may well be ill");
        assert_eq!(alone(&["---", "---"]), ["...", "..."], "never ready");
    }

    #[test]
    fn what_somebody_ends_on_purpose_is_not_kept() {
        assert_eq!(alone(&["+++", "xxx"]), ["+++", "..."], "scaled to nothing");
        assert_eq!(alone(&["+++", "--x"]), ["+++", "..."], "a bad rollout");
        assert_eq!(alone(&["+++", "-- "]), ["+++", ".."]);
        assert_eq!(alone(&["+++", "---", "xxx"]), ["+++", "kkk", "..."]);
        assert_eq!(alone(&["+++", "---", "   ", "---"]), ["+++", "kkk", "", "..."]);
    }

    #[test]
    fn while_every_node_has_failed_endpoints_count_as_before() {
        // One node after the other falls silent, and each time its pod is called not ready.
        let story = [
            ("+++", "+++"),
            ("+++", "-++"),
            ("-++", "-++"),
            ("--+", "--+"),
            ("--+", "---"),
            ("---", "---"),
        ];
        assert_eq!(counts(&story), ["+++", "+++", ".++", "..+", "kk+", "kkk"]);
        let back = [("---", "-+-"), ("-+-", "-+-"), ("-+-", "++-")];
        let story: Vec<_> = story.into_iter().chain(back).collect();
        assert_eq!(counts(&story)[6..], ["kkk", ".+.", ".+."], "until one is ready again");
    }

    #[test]
    fn every_node_not_ready_is_told_while_all_endpoints_still_read_ready() {
        let mut steady = Steady::default();
        assert_eq!(steady.keep(&mut say("+++", "--+")), None);
        let told = steady.keep(&mut say("+++", "---")).unwrap();
        assert_eq!((told.reason, told.level), (Reason::AllNodesNotReady, Level::Warning));
        assert_eq!(steady.keep(&mut say("+++", "-+-")), None);
        let mut nobody = say("+++", "");
        nobody.nodes.clear();
        assert_eq!(steady.keep(&mut nobody), None, "no Nodes at all is another matter");
    }

    #[test]
    fn a_lone_endpoint_counts_on_when_every_node_has_failed() {
        assert_eq!(counts(&[("+", "+++"), ("+", "---"), ("-", "---")]), ["+", "+", "k"]);
        assert_eq!(counts(&[("-", "+++"), ("-", "---")]), [".", "."], "it was ill before");
    }

    #[test]
    fn a_deleted_service_is_forgotten() {
        let mut steady = Steady::default();
        assert_eq!(steady.keep(&mut say("+++", "+++")), None);
        let mut without = say("---", "+++");
        without.services.clear();
        assert_eq!(steady.keep(&mut without), None);
        let mut again = say("---", "+++");
        assert_eq!(steady.keep(&mut again), None);
        assert!(again.endpoints[&service_name()].iter().all(|e| !e.ready));
    }

    proptest! {
        #[test]
        fn never_keeps_what_is_ready_or_terminating_and_looks_twice_the_same(
            story in prop::collection::vec(("[-+x ]{4}", "[-+]{3}"), 1..12)
        ) {
            let mut steady = Steady::default();
            for (text, nodes) in story {
                let said = say(&text, &nodes);
                let mut counted = said.clone();
                let told = steady.keep(&mut counted);
                let said_by = &said.endpoints[&service_name()];
                let all_failed = !nodes.contains('+');
                for (raw, counts) in said_by.iter().zip(&*counted.endpoints[&service_name()]) {
                    prop_assert!(!counts.kept || (!raw.ready && !raw.terminating));
                    prop_assert!(!counts.kept || all_failed || !text.contains('+'));
                    prop_assert_eq!(counts.ready, raw.ready || counts.kept);
                }
                let mut again = said.clone();
                prop_assert_eq!(steady.keep(&mut again), told);
                prop_assert_eq!(again, counted);
            }
        }
    }
}
