//! The part of a report that is about the group that votes, and its words.

use serde::Serialize;
use serde_json::Value;

use super::{list, text};

/// A node that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The node.
    pub node: String,
    /// Whether it votes; others only follow.
    pub voter: bool,
}

/// Why this node takes no part yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Founding {
    /// Nodes that found the cluster together, if there is none.
    pub founders: Vec<String>,
    /// Those of them that this node waits for.
    pub waiting_for: Vec<String>,
    /// There is a cluster, which has not taken this node in yet.
    pub cluster_exists: bool,
    /// For how long this process has waited.
    pub since_ms: u64,
}

/// Lines below the heading.
pub(super) fn lines(election: &Value) -> Vec<String> {
    let of = |voter: bool| {
        let members = list(&election["members"]).filter(|member| member["voter"] == voter);
        members.map(|member| text(&member["node"])).collect::<Vec<_>>().join(", ")
    };
    let (voters, learners) = (of(true), of(false));
    let mut lines = Vec::new();
    if !voters.is_empty() {
        let learners = match learners.is_empty() {
            true => String::new(),
            false => format!("; without a vote: {learners}"),
        };
        lines.push(format!("voters: {voters}{learners}"));
    }
    lines.extend(founding(&election["founding"]));
    lines
}

/// What peers said that was not taken, by reason; none if all was.
pub(super) fn refused(counters: &Value) -> Option<String> {
    let counters = counters.as_object()?.iter();
    let refused = counters.filter_map(|(name, count)| {
        let reason = name.strip_prefix("peer_refused_")?;
        let hint = hint(reason).map(|hint| format!(" ({hint})")).unwrap_or_default();
        Some(format!("{} {reason}{hint}", text(count)))
    });
    let refused = refused.collect::<Vec<_>>();
    (!refused.is_empty()).then(|| format!("refused so far from peers: {}", refused.join(", ")))
}

/// What a person can do about it.
fn hint(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "wrong_key" => "another --key-file than here, or none",
        "foreign_cluster" => "other --voters than here",
        "duplicate_name" => "a second speaker under one --node-name",
        "unknown_sender" => "no Node of that name here",
        "other_founders" => "other Nodes, or other --voters, than here",
        "commit_beyond_log" => "a state directory was lost or is an old copy",
        _ => return None,
    })
}

fn founding(founding: &Value) -> Option<String> {
    let seconds = founding["since_ms"].as_u64()? / 1000;
    if founding["cluster_exists"] == true {
        return Some(format!(
            "not taken into the cluster yet, since {seconds} s: its leader must reach this node, and \
             list its Node"
        ));
    }
    let names = |what: &str| list(&founding[what]).map(text).collect::<Vec<_>>().join(", ");
    let (founders, missing) = (names("founders"), names("waiting_for"));
    // The first founder decides, once all others have answered it; they wait for nobody else.
    if list(&founding["founders"]).next().is_some_and(|first| text(first) == missing) {
        return Some(format!(
            "no cluster yet, since {seconds} s: {missing} founds it once all founders run \
             ({founders}); `herald status` there says whom it waits for"
        ));
    }
    let missing = if missing.is_empty() { "more nodes".to_owned() } else { missing };
    Some(format!(
        "no cluster yet, since {seconds} s: waiting for the first answer of {missing} (founders: \
         {founders}); start the speaker there, or delete the Node of one that will never run"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_voters_from_learners() {
        let election = json!({"members": [
            {"node": "n1", "voter": true}, {"node": "n2", "voter": false}, {"node": "n3", "voter": true},
        ]});
        assert_eq!(lines(&election), ["voters: n1, n3; without a vote: n2"]);
        assert!(lines(&json!({})).is_empty());
    }

    #[test]
    fn says_what_peers_were_refused_for_and_what_to_look_at() {
        let none = json!({"xdp_forwarded": 12});
        assert_eq!(refused(&none), None);
        let some =
            json!({"peer_refused_malformed": 2, "peer_refused_wrong_key": 17, "xdp_pass": 1});
        assert_eq!(
            refused(&some).as_deref(),
            Some(
                "refused so far from peers: 2 malformed, 17 wrong_key (another --key-file than here, \
                 or none)"
            )
        );
    }

    #[test]
    fn says_who_is_waited_for_and_what_to_do() {
        let waiting = Founding {
            founders: vec!["n1".into(), "n2".into(), "n3".into()],
            waiting_for: vec!["n3".into()],
            cluster_exists: false,
            since_ms: 12_345,
        };
        assert_eq!(
            lines(&json!({"founding": waiting})),
            [
                "no cluster yet, since 12 s: waiting for the first answer of n3 (founders: n1, n2, n3); \
              start the speaker there, or delete the Node of one that will never run"
            ]
        );
        let other = Founding { waiting_for: vec!["n1".into()], ..waiting.clone() };
        assert_eq!(
            lines(&json!({"founding": other})),
            [
                "no cluster yet, since 12 s: n1 founds it once all founders run (n1, n2, n3); `herald \
              status` there says whom it waits for"
            ]
        );
        let outside = Founding { cluster_exists: true, ..waiting };
        assert_eq!(
            lines(&json!({"founding": outside})),
            [
                "not taken into the cluster yet, since 12 s: its leader must reach this node, and list \
              its Node"
            ]
        );
    }
}
