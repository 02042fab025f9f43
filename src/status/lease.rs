//! The part of a report that is about an election by Leases, and its words.

use serde::Serialize;
use serde_json::Value;

/// How the API server serves the election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Where the Leases are.
    pub namespace: String,
    /// How long a renewal lasts.
    pub ttl_ms: u64,
    /// How long ago this node's session was last renewed, if ever.
    pub renewed_ms: Option<u64>,
    /// Since when nothing gets through to the API server, if so.
    pub silent_ms: Option<u64>,
    /// What the last failure says.
    pub silent_why: Option<String>,
}

/// What the heading says in place of raft's leader and term.
pub(super) fn heading(lease: &Value) -> String {
    let namespace = lease["namespace"].as_str().unwrap_or("-");
    let renewed = match lease["renewed_ms"].as_u64() {
        Some(ms) => format!("renewed {ms} ms ago"),
        None => "never renewed".into(),
    };
    format!("lease in {namespace}, {renewed}")
}

/// The line about an outage of the API server, if there is one; `deadline_ms` is how long this node
/// may still speak.
pub(super) fn outage(lease: &Value, deadline_ms: Option<u64>) -> Option<String> {
    let since = seconds(lease["silent_ms"].as_u64()?);
    let silence = match deadline_ms {
        Some(ms) => format!("silent in {} s unless it does", seconds(ms)),
        None => "silent until it does".into(),
    };
    let why = lease["silent_why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!(
        "the API server does not answer since {since} s: {silence}; with --election raft the \
         speakers would go on without it{why}"
    ))
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{}", milliseconds / 1000, milliseconds % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(silent_ms: Option<u64>) -> Value {
        let lease = Lease {
            namespace: "herald-system".into(),
            ttl_ms: 5000,
            renewed_ms: Some(520),
            silent_ms,
            silent_why: silent_ms.map(|_| "no answer within 1s".into()),
        };
        serde_json::to_value(lease).unwrap()
    }

    #[test]
    fn says_when_the_session_was_renewed() {
        assert_eq!(heading(&lease(None)), "lease in herald-system, renewed 520 ms ago");
        assert_eq!(outage(&lease(None), Some(4000)), None);
    }

    #[test]
    fn an_outage_says_until_when_and_what_would_be_better() {
        assert_eq!(
            outage(&lease(Some(2140)), Some(1350)).unwrap(),
            "the API server does not answer since 2.1 s: silent in 1.3 s unless it does; with \
             --election raft the speakers would go on without it (no answer within 1s)"
        );
        assert_eq!(
            outage(&lease(Some(12_000)), None).unwrap(),
            "the API server does not answer since 12.0 s: silent until it does; with --election \
             raft the speakers would go on without it (no answer within 1s)"
        );
    }
}
