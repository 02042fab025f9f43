//! The election's objects as Lease objects, and back (pure).
//!
//! The fields of a Lease say what people and `kubectl get leases` look for: who holds it, since
//! when, in which term. What only speakers need is in annotations. Reading never fails: whatever is
//! missing or spoilt by hand reads as the least it can be, so that the next write repairs it.
//!
//! A [`Version`] here is uid and resourceVersion. A PUT of a Lease that is no longer there would
//! create it anew; the uid forbids that (apiserver, `rest.DefaultUpdatedObjectInfo`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use herald_leader_election::lease::{ClaimObject, Object, ObjectKey, SessionObject, Version};
use herald_leader_election::model::SessionState;
use herald_leader_election::{ClaimKey, NodeName};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::names;

/// The label of all our Leases; its value is `session` or `claim`.
pub const KIND: &str = "herald.io/lease";
/// The label that says who decides: `lease`, or `raft` for a mirrored claim.
pub const DECIDED_BY: &str = "herald.io/decided-by";

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const EPOCH: &str = "herald.io/epoch";
const SINCE: &str = "herald.io/since-epoch";
const STATE: &str = "herald.io/state";
const PLACE: &str = "herald.io/place";
const RENEWAL: &str = "herald.io/renewal";
const DRAINING: &str = "herald.io/draining";
const DRAINED: &str = "herald.io/drained";
const FACTS: &str = "herald.io/facts";
const MOVE_TO: &str = "herald.io/move-to";
const RECORD: &str = "herald.io/record";
const RECORD_VALUE: &str = "herald.io/record-value";
/// Marks facts that are no text.
const HEX: &str = "hex:";

/// What all Leases of one back end have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    decided_by: &'static str,
    /// Whole seconds, as Kubernetes counts; the exact ttl is the speakers' own.
    duration: Option<i32>,
}

impl Shape {
    /// The Leases decide, with sessions of this ttl.
    pub fn decided_by_leases(ttl: Duration) -> Self {
        let seconds = ttl.as_millis().div_ceil(1000).max(1);
        Self { decided_by: "lease", duration: Some(i32::try_from(seconds).unwrap_or(i32::MAX)) }
    }

    /// Raft decides, and the Leases only show it.
    pub fn decided_by_raft() -> Self {
        Self { decided_by: "raft", duration: None }
    }

    /// The Lease for an object: to be created without a version, else to replace that version.
    pub fn lease(
        &self,
        key: &ObjectKey,
        object: &Object,
        expected: Option<&Version>,
        now: Timestamp,
    ) -> Lease {
        let (kind, spec, annotations) = match object {
            Object::Session(session) => {
                ("session", session_spec(key, session, now), session_annotations(session))
            }
            Object::Claim(claim) => ("claim", claim_spec(claim, now), claim_annotations(claim)),
        };
        let labels = [(MANAGED_BY, "herald"), (KIND, kind), (DECIDED_BY, self.decided_by)];
        let (uid, resource_version) = expected.map(parts).unzip();
        Lease {
            metadata: ObjectMeta {
                name: Some(names::name(key)),
                labels: Some(labels.map(owned).into()),
                annotations: Some(annotations),
                uid: uid.flatten(),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec { lease_duration_seconds: self.duration, ..spec }),
        }
    }
}

/// What a Lease says; none if its name is nothing of ours, or it comes without a version.
///
/// A claim that raft decides is nobody's here: its holder was elected by others, with whom these
/// sessions have nothing to do.
pub fn read(lease: &Lease) -> Option<(ObjectKey, Object, Version)> {
    let key = names::key(lease.metadata.name.as_deref()?)?;
    let version = version(lease)?;
    let read = Read { lease, spec: lease.spec.clone().unwrap_or_default() };
    let object = match &key {
        ObjectKey::Session(_) => Object::Session(read.session()),
        ObjectKey::Claim(_) => Object::Claim(read.claim()),
    };
    Some((key, object, version))
}

/// Which writing of which object this is.
pub fn version(lease: &Lease) -> Option<Version> {
    let uid = lease.metadata.uid.as_deref()?;
    let resource_version = lease.metadata.resource_version.as_deref()?;
    Some(Version(format!("{uid}/{resource_version}").into()))
}

/// What the Lease is a claim on; none if it is a session, or nothing of ours.
pub fn claim_key(lease: &Lease) -> Option<ClaimKey> {
    match names::key(lease.metadata.name.as_deref()?)? {
        ObjectKey::Claim(key) => Some(key),
        ObjectKey::Session(_) => None,
    }
}

/// Whether the Lease only shows what raft decided.
pub fn is_mirror(lease: &Lease) -> bool {
    let label = lease.metadata.labels.as_ref().and_then(|labels| labels.get(DECIDED_BY));
    label.is_some_and(|by| by == "raft")
}

/// The Lease of a session, ended for its node by somebody else; it demands the version that was
/// seen.
pub fn revoked(mut lease: Lease) -> Lease {
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.extend([owned((STATE, "revoked"))]);
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
    }
    lease
}

/// The first part of a version names the object through time.
fn parts(version: &Version) -> (Option<String>, String) {
    match version.0.split_once('/') {
        Some((uid, resource_version)) => (Some(uid.to_owned()), resource_version.to_owned()),
        None => (None, version.to_string()),
    }
}

fn session_spec(key: &ObjectKey, session: &SessionObject, now: Timestamp) -> LeaseSpec {
    let holder = match key {
        ObjectKey::Session(node) if session.state == SessionState::Open => Some(node.to_string()),
        _ => None,
    };
    LeaseSpec {
        holder_identity: holder,
        lease_transitions: Some(transitions(session.epoch)),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    }
}

fn session_annotations(session: &SessionObject) -> BTreeMap<String, String> {
    let state = match session.state {
        SessionState::Open => "open",
        SessionState::Revoked => "revoked",
        SessionState::Closed => "closed",
    };
    let mut annotations = BTreeMap::from([
        owned((STATE, state)),
        (EPOCH.to_owned(), session.epoch.to_string()),
        (SINCE.to_owned(), session.since.to_string()),
        owned((PLACE, &session.place)),
        (RENEWAL.to_owned(), session.renewal.to_string()),
        (FACTS.to_owned(), to_text(&session.facts)),
    ]);
    let marks = [(DRAINING, session.draining), (DRAINED, session.drained)];
    let marks = marks.into_iter().filter(|(_, is)| *is);
    annotations.extend(marks.map(|(name, _)| owned((name, "true"))));
    annotations
}

fn claim_spec(claim: &ClaimObject, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: claim.holder.as_ref().map(|(node, _)| node.to_string()),
        lease_transitions: Some(transitions(claim.term)),
        acquire_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    }
}

fn claim_annotations(claim: &ClaimObject) -> BTreeMap<String, String> {
    let epoch = claim.holder.as_ref().map(|(_, epoch)| (EPOCH.to_owned(), epoch.to_string()));
    let move_to = claim.move_to.as_ref().map(|node| (MOVE_TO.to_owned(), node.to_string()));
    let record = claim.record.iter().flat_map(|(name, value)| {
        [(RECORD.to_owned(), name.clone()), (RECORD_VALUE.to_owned(), to_text(value))]
    });
    epoch.into_iter().chain(move_to).chain(record).collect()
}

struct Read<'a> {
    lease: &'a Lease,
    spec: LeaseSpec,
}

impl Read<'_> {
    fn session(&self) -> SessionObject {
        let epoch = self.number(EPOCH);
        let state = match self.annotation(STATE) {
            Some("revoked") => SessionState::Revoked,
            Some("closed") => SessionState::Closed,
            _ => SessionState::Open,
        };
        SessionObject {
            epoch,
            since: self.number(SINCE).min(epoch),
            state,
            place: self.annotation(PLACE).unwrap_or_default().into(),
            renewal: self.number(RENEWAL),
            draining: self.annotation(DRAINING) == Some("true"),
            drained: self.annotation(DRAINED) == Some("true"),
            facts: self.annotation(FACTS).map_or_else(|| Arc::from(&b""[..]), from_text),
        }
    }

    fn claim(&self) -> ClaimObject {
        let is_held = |node: &&str| !node.is_empty() && !is_mirror(self.lease);
        let holder = self.spec.holder_identity.as_deref().filter(is_held);
        ClaimObject {
            holder: holder.map(|node| (NodeName::from(node), self.number(EPOCH))),
            term: self.spec.lease_transitions.and_then(|it| u64::try_from(it).ok()).unwrap_or(0),
            move_to: self.annotation(MOVE_TO).map(NodeName::from),
            record: self.annotation(RECORD).map(|name| {
                (name.to_owned(), from_text(self.annotation(RECORD_VALUE).unwrap_or_default()))
            }),
        }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.lease.metadata.annotations.as_ref()?.get(name)?)
    }

    fn number(&self, name: &str) -> u64 {
        self.annotation(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// A term beyond 31 bits is not reached in the life of a cluster: it grows with every new holder.
fn transitions(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Facts are text as a rule; what is not is written in hexadecimal, so that nothing is changed.
fn to_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => bytes.iter().fold(HEX.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

fn from_text(text: &str) -> Arc<[u8]> {
    let Some(digits) = text.strip_prefix(HEX) else { return Arc::from(text.as_bytes()) };
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Shape {
        Shape::decided_by_leases(Duration::from_secs(5))
    }

    fn session() -> SessionObject {
        SessionObject {
            epoch: 7,
            since: 5,
            state: SessionState::Open,
            place: "here".into(),
            renewal: 42,
            draining: true,
            drained: false,
            facts: Arc::from(&br#"{"interfaces":[]}"#[..]),
        }
    }

    fn claim() -> ClaimObject {
        ClaimObject {
            holder: Some(("n1".into(), 7)),
            term: 3,
            move_to: Some("n2".into()),
            record: Some(("announced/192.168.1.240".into(), Arc::from(&b"n1"[..]))),
        }
    }

    /// As the API server would give it back.
    fn stored(shape: &Shape, key: &ObjectKey, object: &Object) -> Lease {
        let mut lease = shape.lease(key, object, None, Timestamp::UNIX_EPOCH);
        assert_eq!((&lease.metadata.uid, &lease.metadata.resource_version), (&None, &None));
        lease.metadata.uid = Some("u".into());
        lease.metadata.resource_version = Some("12".into());
        lease
    }

    fn vip() -> ObjectKey {
        ObjectKey::Claim(ClaimKey::Vip([192, 168, 1, 240].into()))
    }

    #[test]
    fn every_object_reads_back_as_it_was_written() {
        let odd = SessionObject {
            state: SessionState::Revoked,
            drained: true,
            facts: Arc::from(&[0xff, 0x00][..]),
            ..session()
        };
        let disguised = SessionObject { facts: Arc::from(&b"hex:41"[..]), ..session() };
        let released = ClaimObject { holder: None, move_to: None, record: None, ..claim() };
        for (key, object) in [
            (ObjectKey::Session("n1".into()), Object::Session(session())),
            (ObjectKey::Session("n1".into()), Object::Session(odd)),
            (ObjectKey::Session("n1".into()), Object::Session(disguised)),
            (vip(), Object::Claim(claim())),
            (ObjectKey::Claim(ClaimKey::Allocator), Object::Claim(released)),
        ] {
            let lease = stored(&leases(), &key, &object);
            assert_eq!(read(&lease), Some((key, object, Version("u/12".into()))));
        }
    }

    #[test]
    fn the_table_says_who_holds_what_in_which_term() {
        let shown = stored(&leases(), &vip(), &Object::Claim(claim()));
        let spec = shown.spec.unwrap();
        assert_eq!(shown.metadata.name.as_deref(), Some("vip-192.168.1.240"));
        assert_eq!(spec.holder_identity.as_deref(), Some("n1"));
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(3), Some(5)));
        let ended = SessionObject { state: SessionState::Closed, ..session() };
        let shown = stored(&leases(), &ObjectKey::Session("n1".into()), &Object::Session(ended));
        assert_eq!(shown.spec.unwrap().holder_identity, None, "nobody speaks for n1 any more");
    }

    #[test]
    fn a_write_demands_the_very_object_that_was_seen() {
        let expected = Version("u/12".into());
        let lease =
            leases().lease(&vip(), &Object::Claim(claim()), Some(&expected), Timestamp::UNIX_EPOCH);
        assert_eq!(lease.metadata.uid.as_deref(), Some("u"));
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("12"));
    }

    #[test]
    fn a_session_that_is_ended_from_outside_reads_as_revoked_and_keeps_its_version() {
        let key = ObjectKey::Session("n1".into());
        let lease = stored(&leases(), &key, &Object::Session(session()));
        let ended = SessionObject { state: SessionState::Revoked, ..session() };
        let (_, before, version) = read(&lease).unwrap();
        assert_ne!(before, Object::Session(ended.clone()));
        assert_eq!(read(&revoked(lease)), Some((key, Object::Session(ended), version)));
    }

    #[test]
    fn what_raft_decided_is_held_by_nobody_here() {
        let lease = stored(&Shape::decided_by_raft(), &vip(), &Object::Claim(claim()));
        assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_deref(), Some("n1"));
        let Some((_, Object::Claim(claim), _)) = read(&lease) else { panic!("no claim") };
        assert_eq!((claim.holder, claim.term), (None, 3));
    }

    #[test]
    fn what_was_spoilt_by_hand_reads_as_the_least() {
        let mut lease = stored(&leases(), &vip(), &Object::Claim(claim()));
        lease.spec = Some(LeaseSpec { lease_transitions: Some(-1), ..LeaseSpec::default() });
        lease.metadata.annotations = None;
        let nothing = ClaimObject { holder: None, term: 0, move_to: None, record: None };
        assert_eq!(read(&lease).map(|it| it.1), Some(Object::Claim(nothing)));
        let key = ObjectKey::Session("n1".into());
        let mut lease = stored(&leases(), &key, &Object::Session(session()));
        lease.metadata.annotations = None;
        let Some((_, Object::Session(found), _)) = read(&lease) else { panic!("no session") };
        assert_eq!((found.epoch, found.since, found.renewal), (0, 0, 0));
        lease.metadata.name = Some("of-somebody-else".into());
        assert_eq!(read(&lease), None);
    }
}
