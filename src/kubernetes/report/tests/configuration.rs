//! ConfigurationState.

use super::*;
use crate::observed::Faulty;
use crate::problem::Location;

fn problem(object: &str, level: Level) -> Problem {
    Problem {
        level,
        object: Some(object.into()),
        location: None,
        reason: Reason::BadAddress,
        message: "wrong".into(),
    }
}

fn unreadable(list: &str) -> Problem {
    Problem {
        level: Level::Warning,
        object: None,
        location: Some(Location { file: list.into(), line: 0, column: 0 }),
        reason: Reason::Unreadable,
        message: "cannot watch".into(),
    }
}

const LATER: &str = "2026-01-01T00:00:00Z";

fn state(component: Component<'_>, verdict: &Verdict) -> (String, Value, Value) {
    let write = configuration(component, "herald-system", verdict);
    let Write::Own { target, labels, status } = write else { panic!("{write:?}") };
    assert_eq!(target.kind, "ConfigurationState");
    (target.name, labels.value(), status.value())
}

#[test]
fn is_unknown_until_it_is_read_and_while_a_part_cannot_be() {
    let pool = "IPAddressPool metallb-system/a";
    let table: [(&[Problem], &str); 8] = [
        (&[], "Valid"),
        (&[problem(pool, Level::Error)], "Invalid"),
        (&[problem(pool, Level::Warning)], "Valid"),
        (&[problem("Service default/a", Level::Error)], "Valid"),
        (&[problem("CiliumL2AnnouncementPolicy a", Level::Error)], "Invalid"),
        (&[unreadable("ipaddresspools")], "Unknown"),
        (&[unreadable("endpointslices")], "Valid"),
        (&[unreadable("ipaddresspools"), problem(pool, Level::Error)], "Invalid"),
    ];
    let unknown = Verdict::unknown(NOW);
    assert_eq!(state(Component::Controller, &unknown).2["result"], "Unknown");
    for (problems, expected) in table {
        let (_, _, status) = state(Component::Controller, &unknown.next(problems, LATER));
        assert_eq!(status["result"], expected, "{problems:?}");
    }
}

#[test]
fn names_the_component_and_says_the_same_as_a_condition() {
    let verdict = Verdict::unknown(NOW).next(&[problem("IPAddressPool x/a", Level::Error)], LATER);
    let (name, labels, status) = state(Component::Speaker("n1"), &verdict);
    assert_eq!(name, "herald-speaker-n1");
    assert_eq!(
        labels,
        json!({"metallb.io/component-type": "speaker", "metallb.io/node-name": "n1"})
    );
    assert_eq!(
        status,
        json!({
            "result": "Invalid", "errorSummary": "wrong",
            "conditions": [{
                "type": "Valid", "status": "False", "reason": "ConfigurationInvalid",
                "message": "wrong", "lastTransitionTime": LATER,
            }],
        })
    );
    let (name, labels, _) = state(Component::Controller, &verdict);
    assert_eq!(name, "herald-controller");
    assert_eq!(labels, json!({"metallb.io/component-type": "controller"}));
}

#[test]
fn keeps_the_time_while_the_result_is_the_same() {
    let first = Verdict::unknown("then").next(&[], NOW);
    assert_eq!(first.next(&[], LATER), first);
    assert_ne!(first.next(&[unreadable("ipaddresspools")], LATER), first);
}

#[test]
fn tells_the_author_on_the_object_whether_the_last_good_content_is_in_force() {
    let mut observed = observed();
    let name = "CiliumLoadBalancerIPPool a";
    for (kept, effect) in
        [(true, "what it said before stays in force"), (false, "it has no effect")]
    {
        let faulty = Faulty {
            api_version: "cilium.io/v2alpha1",
            kind: "CiliumLoadBalancerIPPool",
            plural: "ciliumloadbalancerippools",
            namespace: None,
            name: "a".into(),
            uid: "u".into(),
            kept,
        };
        observed.faulty.insert(name.into(), faulty);
        let problems = [
            problem(name, Level::Error),
            problem(name, Level::Warning),
            problem("CiliumLoadBalancerIPPool b", Level::Error),
        ];
        let about = Target {
            api_version: "cilium.io/v2alpha1",
            kind: "CiliumLoadBalancerIPPool",
            plural: "ciliumloadbalancerippools",
            namespace: None,
            name: "a".into(),
        };
        let event = Write::Event {
            about,
            uid: "u".into(),
            severity: Severity::Warning,
            reason: "ConfigurationInvalid",
            message: format!("wrong; {effect}"),
        };
        assert_eq!(faults(&observed, &problems), [event]);
    }
}
