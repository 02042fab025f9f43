//! What Herald asks of the API server, as that records it itself (edge): only where the control
//! plane was told to keep such a record ([`Extent`](super::control_plane::Extent)).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};

use anyhow::Context;
use serde_json::Value;

use super::control_plane::audit_log;

/// The part of the record that was not counted yet.
#[derive(Debug)]
pub struct Audit(BufReader<File>);

/// Requests that have ended, watches included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All.
    pub all: u64,
    /// Those that change something.
    pub writes: u64,
    /// Those of them that renew the session of a node.
    pub renewals: u64,
}

impl Audit {
    /// What is asked from now on.
    ///
    /// # Errors
    ///
    /// If there is no record.
    pub fn from_now() -> anyhow::Result<Self> {
        let path = audit_log();
        let mut file =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(BufReader::new(file)))
    }

    /// Counts what has come since the last time.
    ///
    /// # Errors
    ///
    /// If the record cannot be read.
    pub fn count(&mut self) -> anyhow::Result<Counted> {
        let mut counted = Counted::default();
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Ok(counted);
            }
            counted.add(&line);
        }
    }
}

impl Counted {
    fn add(&mut self, line: &str) {
        // The last line may be half written; it is one request of many.
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        if event["stage"] != "ResponseComplete" {
            return;
        }
        self.all += 1;
        let verb = event["verb"].as_str().unwrap_or_default();
        self.writes += u64::from(matches!(verb, "create" | "update" | "patch" | "delete"));
        let object = &event["objectRef"];
        let is_session = object["name"].as_str().is_some_and(|name| name.starts_with("node-"));
        let is_renewal = verb == "update" && object["resource"] == "leases" && is_session;
        self.renewals += u64::from(is_renewal);
    }
}

/// What its rights let Herald do, and what they never did, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Kinds of requests that were allowed.
    pub used: BTreeSet<String>,
    /// Kinds that were refused each time. An API server that starts refuses everybody until it has
    /// read the roles; who has the right is allowed when asking again.
    pub missing: BTreeSet<String>,
}

impl Rights {
    /// Of all requests in the record.
    ///
    /// # Errors
    ///
    /// If there is no record.
    pub fn so_far() -> anyhow::Result<Self> {
        let path = audit_log();
        let record = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::of(String::from_utf8_lossy(&record).lines()))
    }

    fn of<'r>(record: impl Iterator<Item = &'r str>) -> Self {
        let mut rights = Self::default();
        // The last line may be half written.
        for event in record.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            match event["annotations"]["authorization.k8s.io/decision"].as_str() {
                Some("allow") => rights.used.insert(kind(&event)),
                Some("forbid") => rights.missing.insert(kind(&event)),
                _ => false,
            };
        }
        rights.missing.retain(|kind| !rights.used.contains(kind));
        rights
    }
}

/// A request but for the object's name, such as `patch services/status in default`.
fn kind(event: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let verb = word(&event["verb"]);
    if !object.is_object() {
        return format!("{verb} {}", word(&event["requestURI"]));
    }
    let parts = ["apiGroup", "resource", "subresource"].map(|part| word(&object[part]));
    let path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    match object["namespace"].as_str() {
        Some(namespace) => format!("{verb} {path} in {namespace}"),
        None => format!("{verb} {path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_missing_if_it_was_never_granted() {
        let event = |decision, verb, object| {
            format!(
                r#"{{"verb":"{verb}","objectRef":{object},"requestURI":"/version",
                    "annotations":{{"authorization.k8s.io/decision":"{decision}"}}}}"#
            )
        };
        let status = r#"{"resource":"services","subresource":"status","namespace":"default"}"#;
        let leases = r#"{"apiGroup":"coordination.k8s.io","resource":"leases"}"#;
        let record = [
            event("forbid", "patch", status),
            event("forbid", "watch", leases),
            event("allow", "watch", leases),
            event("allow", "get", "null"),
            event("forbid", "list", leases)[..40].to_owned(),
        ];
        let set = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let expected = Rights {
            used: set(&["get /version", "watch coordination.k8s.io/leases"]),
            missing: set(&["patch services/status in default"]),
        };
        assert_eq!(Rights::of(record.iter().map(String::as_str)), expected);
    }

    #[test]
    fn counts_requests_once_and_writes_apart() {
        let mut counted = Counted::default();
        for line in [
            r#"{"stage":"ResponseComplete","verb":"patch"}"#,
            r#"{"stage":"ResponseStarted","verb":"watch"}"#,
            r#"{"stage":"ResponseComplete","verb":"watch"}"#,
            r#"{"stage":"ResponseComplete","verb":"update",
                "objectRef":{"resource":"leases","name":"node-n1"}}"#,
            r#"{"stage":"ResponseComplete","verb":"update",
                "objectRef":{"resource":"leases","name":"vip-192.0.2.1"}}"#,
            r#"{"stage":"Respon"#,
        ] {
            counted.add(line);
        }
        assert_eq!(counted, Counted { all: 4, writes: 3, renewals: 1 });
    }
}
