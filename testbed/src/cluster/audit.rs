//! What Herald asks of the API server, as that records it itself (edge): only where the control plane
//! was told to keep such a record ([`Extent::Benchmark`](super::control_plane::Extent)).

use std::fs::File;
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

#[cfg(test)]
mod tests {
    use super::*;

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
