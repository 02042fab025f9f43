//! The sessions: this node's own opened, renewed and closed, those of silent nodes revoked.
//!
//! A session is revoked only at exactly the version that stood still for a ttl.

use std::sync::Arc;

use super::{Known, LeaseCore, MOST_SENT, RETRY};
use crate::lease::object::{Object, ObjectKey, SessionObject, Write};
use crate::model::{BootTime, NodeName, SessionState};

impl LeaseCore {
    /// Opens, renews or closes this node's session.
    pub(super) fn keep_session(&mut self, writes: &mut Vec<Write>) {
        let known = self.sessions.get(&self.me).cloned();
        let before = known.as_ref().map(|known| &known.object);
        if let Some(silent_at) = self.doubled_until()
            && self.now < silent_at
        {
            self.renew_at = silent_at;
            return;
        }
        let open = before.is_some_and(|session| {
            session.state == SessionState::Open && Some(session.epoch) == self.epoch
        }) && !self.is_doubled();
        let unsaid = before.is_some_and(|session| {
            session.facts != self.facts || session.draining != self.draining
        });
        let state = match (self.closing, open) {
            (Some(_), true) => SessionState::Closed,
            (Some(_), false) => return,
            (None, true) if self.now < self.renew_at && !unsaid => return,
            (None, _) => SessionState::Open,
        };
        let (epoch, since) = match before {
            Some(session) if open => (session.epoch, session.since),
            // The process before was not missed: what it held, this one holds.
            Some(session) if session.state == SessionState::Open && !self.is_doubled() => {
                (session.epoch + 1, session.since)
            }
            // Ended, also by this very write of a session that stood still elsewhere.
            _ => {
                let epoch = self.highest_epoch() + 1;
                (epoch, epoch)
            }
        };
        self.renewal += 1;
        let object = SessionObject {
            epoch,
            since,
            state,
            place: Arc::clone(&self.place),
            renewal: self.renewal,
            draining: self.draining,
            drained: before.is_some_and(|session| session.drained),
            facts: Arc::clone(&self.facts),
        };
        let expected = known.map(|known| known.version);
        let key = ObjectKey::Session(self.me.clone());
        if self.write(key, expected, Object::Session(object), writes) {
            self.epoch = Some(epoch);
            self.sent.push_back((self.renewal, epoch, self.now));
            if self.sent.len() > MOST_SENT {
                self.sent.pop_front();
            }
            self.renew_at = self.now + self.timing.renew;
        } else {
            self.renew_at = self.renew_at.max(self.now + RETRY / 4);
        }
    }

    /// Whether a process elsewhere has an open session under this node's name. Its fence is another
    /// one: what it holds, this one must not take for its own.
    pub(super) fn is_doubled(&self) -> bool {
        self.sessions.get(&self.me).is_some_and(|known| {
            known.object.state == SessionState::Open && self.is_elsewhere(&known.object)
        })
    }

    /// One that does not say where it is was written by an earlier version, here.
    pub(super) fn is_elsewhere(&self, session: &SessionObject) -> bool {
        !session.place.is_empty() && session.place != self.place
    }

    /// When that session, if it stands still, may be ended like any other's.
    fn doubled_until(&self) -> Option<BootTime> {
        let known = self.sessions.get(&self.me).filter(|_| self.is_doubled())?;
        Some(known.since + self.timing.patience())
    }

    /// The highest epoch that anything says this node ever had.
    fn highest_epoch(&self) -> u64 {
        let session = self.sessions.get(&self.me).map(|known| known.object.epoch);
        let holders = self.claims.values().filter_map(|known| known.object.holder.as_ref());
        let mine = holders.filter(|(node, _)| *node == self.me).map(|(_, epoch)| *epoch);
        mine.chain(session).chain(self.epoch).max().unwrap_or(0)
    }

    /// Ends sessions that stood still for a ttl, at exactly the version that stood still.
    pub(super) fn revoke_silent(&mut self, writes: &mut Vec<Write>) {
        if self.alive_until().is_none_or(|until| until <= self.now) {
            self.alive_since = None;
        } else {
            self.alive_since = self.alive_since.or(Some(self.now));
        }
        // After an outage of the API server everybody stood still; who is back first must not take
        // everything from those that are back a moment later.
        let Some(alive_since) = self.alive_since else { return };
        let silent: Vec<(NodeName, Known<SessionObject>)> = self
            .sessions
            .iter()
            .filter(|(node, known)| {
                **node != self.me
                    && known.object.state == SessionState::Open
                    && self.now >= known.since.max(alive_since) + self.timing.patience()
            })
            .map(|(node, known)| (node.clone(), known.clone()))
            .collect();
        for (node, known) in silent {
            let object = SessionObject { state: SessionState::Revoked, ..known.object };
            let key = ObjectKey::Session(node);
            self.write(key, Some(known.version), Object::Session(object), writes);
        }
    }
}
