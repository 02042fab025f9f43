//! What only a raft leader does: grant, revoke, place, and hand leadership on.
//!
//! A leader acts only while a quorum has lately confirmed it, and only after its own `Lead` is
//! applied. It revokes a session after a ttl of silence, except that of the leader before it,
//! whose voice has ended by then (the argument is in [`crate::raft`]). It must never grant after it
//! proposed a revocation in the same term, nor after it asked another node to take over.
//!
//! A dead follower's VIPs are thus back a ttl after its last renewal came, to the millisecond
//! (`revokes_at`), and no sooner: until then that renewal's grant may still be in force. To renew
//! more often does not help. The last renewal would be younger when the node dies, and the ttl,
//! which counts from it, would end later: with 25 ms instead of 50, by 12.5 ms on average. It pays
//! only with a shorter ttl, and that has to outlast an election ([`crate::Timing::check`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::raft::GetEntriesContext;

use super::tending::Tending;
use super::{Core, Out};
use crate::model::{BootTime, Claim, ClaimKey, NodeName, SessionState, Wanted};
use crate::placement;
use crate::raft::command::Command;
use crate::raft::convert;
use crate::raft::frame::{Frame, Renewal};

/// A new leader gives out keys that nobody ever held only after this many heartbeats, or once all
/// nodes are there; else the first node up would get everything, and keep it.
const SETTLING_HEARTBEATS: u32 = 3;
/// A node that was silent for this many heartbeats is given nothing new.
const FRESH_HEARTBEATS: u32 = 3;

/// A move that was asked for.
pub(super) struct Moving {
    /// The claim's term.
    pub(super) term: u64,
    /// Since when this leader knows of it.
    pub(super) since: BootTime,
    /// It is this leader's own wish, in the log and not applied yet.
    pub(super) proposed: bool,
}

/// One leadership of this node.
pub(super) struct Leading {
    /// Raft's term.
    pub(super) term: u64,
    elected: BootTime,
    /// The leader before this one.
    predecessor: Option<NodeName>,
    lead_applied: bool,
    /// Until when no other node can have won.
    lease: Option<BootTime>,
    /// Another node was asked to take over: this one has no voice in this term any more.
    forfeited: bool,
    heard: BTreeMap<NodeName, BootTime>,
    /// The members.
    pub(super) tending: Tending,
    renewals: BTreeMap<NodeName, Renewal>,
    revoking: BTreeSet<(NodeName, u64)>,
    pub(super) claiming: BTreeMap<ClaimKey, Claim>,
    /// Moves this leader knows of.
    pub(super) moving: BTreeMap<ClaimKey, Moving>,
    /// When something was decided last.
    changed: BootTime,
    read_due: bool,
    /// What should be held, or is, has changed.
    pub(super) place_due: bool,
    /// Time has passed, so who can take something may have changed.
    look_due: bool,
    /// What keys were last placed on; none if not everything could be.
    ground: Option<Ground>,
}

/// What placement depends on besides what is wanted and held. Looking at it takes a moment for each
/// node, placing one for each VIP: a leader with a thousand VIPs and nothing to do took twice the
/// CPU of a follower when it placed anew at each heartbeat.
#[derive(PartialEq, Eq)]
struct Ground {
    living: BTreeMap<NodeName, u64>,
    candidates: BTreeSet<NodeName>,
    settled: bool,
}

impl Leading {
    /// This node's own deadline: a leader needs no grant, its quorum is one.
    pub(super) fn own_deadline(&self) -> Option<BootTime> {
        self.lease.filter(|_| self.lead_applied && !self.forfeited)
    }

    /// A quorum answered the heartbeat with this context.
    pub(super) fn heard_quorum(&mut self, context: &[u8], lease: Duration) {
        let Some((term, sent)) = read_context(context) else { return };
        if term == self.term {
            self.lease = self.lease.max(Some(sent + lease));
            self.tending.confirmed = self.tending.confirmed.max(Some(sent));
        }
    }

    pub(super) fn applied(
        &mut self,
        raft_term: u64,
        command: &Command,
        me: &NodeName,
        now: BootTime,
    ) {
        self.place_due = true;
        self.changed = now;
        match command {
            Command::Lead { node } if node == me && raft_term == self.term => {
                self.lead_applied = true;
                self.read_due = true;
            }
            Command::OpenSession { node, .. } => {
                self.heard.insert(node.clone(), now);
            }
            Command::Claim { key, term, .. } => self.no_longer_claiming(key, *term),
            Command::Move { key, .. } => {
                if let Some(moving) = self.moving.get_mut(key) {
                    moving.proposed = false;
                }
            }
            Command::HandOver { key, term, .. } => self.no_longer_claiming(key, term + 1),
            _ => {}
        }
    }

    /// Whatever came of a claim in this term, it is in the applied state now.
    fn no_longer_claiming(&mut self, key: &ClaimKey, term: u64) {
        if self.claiming.get(key).is_some_and(|claim| claim.term == term) {
            self.claiming.remove(key);
        }
    }

    /// Counts a stall of this node in nobody's disfavour.
    pub(super) fn forgive(&mut self, stall: Duration, now: BootTime) {
        for heard in self.heard.values_mut().chain([&mut self.elected]) {
            *heard = (*heard + stall).min(now);
        }
    }

    pub(super) fn elected(&self) -> BootTime {
        self.elected
    }

    pub(super) fn forfeited(&self) -> bool {
        self.forfeited
    }

    pub(super) fn last_change(&self) -> BootTime {
        self.changed
    }

    pub(super) fn confirmed(&self, now: BootTime) -> bool {
        self.lead_applied && !self.forfeited && self.lease.is_some_and(|until| now < until)
    }

    fn silent_since(&self, node: &NodeName) -> BootTime {
        self.heard.get(node).copied().unwrap_or(self.elected)
    }
}

impl Core {
    /// Called as soon as raft made this node leader, with nothing of this leadership said yet.
    pub(super) fn begin_leading(&mut self, term: u64) {
        self.leading = Some(Leading {
            term,
            elected: self.now,
            predecessor: self.last_lead(),
            lead_applied: false,
            lease: None,
            forfeited: false,
            heard: BTreeMap::new(),
            tending: Tending::default(),
            renewals: BTreeMap::new(),
            revoking: BTreeSet::new(),
            claiming: BTreeMap::new(),
            moving: BTreeMap::new(),
            changed: self.now,
            read_due: false,
            place_due: true,
            look_due: true,
            ground: None,
        });
        let node = self.me.clone();
        // Nothing is in this leader's way yet, so the library takes it.
        self.propose(&Command::Lead { node });
    }

    /// The last `Lead` in this node's log, decided or not.
    fn last_lead(&self) -> Option<NodeName> {
        let log = &self.raft.raft.raft_log;
        let first = log.first_index().max(self.machine.applied + 1);
        let context = GetEntriesContext::empty(false);
        let open = log.slice(first, log.last_index() + 1, None, context).unwrap_or_default();
        let lead =
            open.iter().rev().find_map(|entry| match Command::decode(convert::data_of(entry)) {
                Ok(Command::Lead { node }) => Some(node),
                _ => None,
            });
        lead.or_else(|| self.machine.last_lead.clone())
    }

    pub(super) fn take_renewal(&mut self, from: &NodeName, renewal: Renewal) {
        let Some(leading) = &mut self.leading else { return };
        let session = self.machine.sessions.get(from);
        // A higher epoch is a restarted process that is about to open its session.
        let current = session.is_none_or(|s| renewal.epoch >= s.epoch);
        if renewal.raft_term != leading.term || !current {
            return;
        }
        leading.place_due |= leading.heard.insert(from.clone(), self.now).is_none();
        leading.renewals.insert(from.clone(), renewal);
    }

    pub(super) fn lead(&mut self, beat: bool, out: &mut Out) {
        let Some(leading) = &mut self.leading else { return };
        if beat && !leading.lead_applied {
            self.raft.ping();
        } else if beat || leading.read_due {
            leading.read_due = false;
            // A read by quorum proves that no other leader was elected before `now` (raft thesis,
            // section 6.4), and its round of heartbeats is the only one this leader sends.
            self.raft.read_index(write_context(leading.term, self.now));
            leading.look_due = true;
        }
        if self.leading.as_ref().is_some_and(|leading| leading.confirmed(self.now)) {
            self.revoke_silent();
            self.grant(out);
            self.place();
            if beat {
                self.tend(out);
            }
        }
        if beat {
            self.lead_where_vips_are(out);
        }
    }

    /// When the first of the sessions that are silent now may be revoked if it stays so: a tick
    /// later its VIPs would be gone for that much longer.
    pub(super) fn revokes_at(&self) -> Option<BootTime> {
        let leading = self.leading.as_ref()?;
        let ends = self.open_sessions_of_others(leading);
        let ends = ends.map(|(node, _)| leading.silent_since(node) + self.timing.patience());
        // One that is over and could not be acted on is looked at again with the next tick.
        ends.filter(|end| *end > self.now).min()
    }

    /// Those this leader is not about to revoke.
    fn open_sessions_of_others<'a>(
        &'a self,
        leading: &'a Leading,
    ) -> impl Iterator<Item = (&'a NodeName, u64)> {
        let open = self.machine.sessions.values().filter(|s| s.state == SessionState::Open);
        open.filter(move |session| session.node != self.me)
            .filter(move |s| !leading.revoking.contains(&(s.node.clone(), s.epoch)))
            .map(|session| (&session.node, session.epoch))
    }

    fn revoke_silent(&mut self) {
        let (now, patience) = (self.now, self.timing.patience());
        let Some(leading) = &self.leading else { return };
        let silent: Vec<(NodeName, u64)> = self
            .open_sessions_of_others(leading)
            .filter(|(node, _)| {
                let never_heard = !leading.heard.contains_key(*node);
                let led_before = leading.predecessor.as_ref() == Some(*node);
                (never_heard && led_before) || now >= leading.silent_since(node) + patience
            })
            .map(|(node, epoch)| (node.clone(), epoch))
            .collect();
        for (node, epoch) in silent {
            let proposed = self.propose(&Command::Revoke { node: node.clone(), epoch });
            if let Some(leading) = self.leading.as_mut().filter(|_| proposed) {
                leading.revoking.insert((node, epoch));
            }
        }
    }

    fn grant(&mut self, out: &mut Out) {
        let Some(leading) = &mut self.leading else { return };
        leading.renewals.retain(|node, renewal| {
            let granted = self.machine.is_open(node, renewal.epoch)
                && !leading.revoking.contains(&(node.clone(), renewal.epoch));
            if granted {
                out.send(node.clone(), Frame::Grant(*renewal));
            }
            !granted
        });
    }

    fn place(&mut self) {
        let is_due = |leading: &&mut Leading| leading.place_due || leading.look_due;
        let Some(leading) = self.leading.as_mut().filter(is_due) else { return };
        let changed = std::mem::take(&mut leading.place_due);
        leading.look_due = false;
        let elected = leading.elected;
        if self.wanted.is_none() {
            return;
        }
        let (living, candidates) = (self.living(), self.candidates());
        let settled = candidates.len() == self.machine.member_names().len()
            || self.now >= elected + self.timing.heartbeat * SETTLING_HEARTBEATS;
        let ground = Ground { living, candidates, settled };
        let known = self.leading.as_ref().and_then(|leading| leading.ground.as_ref());
        if changed || known != Some(&ground) {
            let whole = self.place_on(&ground);
            if let Some(leading) = &mut self.leading {
                leading.ground = whole.then_some(ground);
            }
        }
        self.move_along();
    }

    /// Gives out what nobody holds. False if the log did not take all of it.
    fn place_on(&mut self, ground: &Ground) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        let wanted = if ground.settled {
            Cow::Borrowed(wanted)
        } else {
            let once_held = |key: &ClaimKey| self.machine.claims.contains_key(key);
            let claims = wanted.claims.iter().filter(|(key, _)| once_held(key));
            Cow::Owned(Wanted { claims: claims.map(|(k, v)| (*k, v.clone())).collect() })
        };
        let Ground { living, candidates, .. } = ground;
        let placed = placement::place(&wanted, &self.claims_ahead(), living, candidates);
        let mut whole = true;
        for (key, node) in placed {
            let term = self.machine.claims.get(&key).map_or(0, |claim| claim.term) + 1;
            let Some(&epoch) = living.get(&node) else { continue };
            let command = Command::Claim { key, node: node.clone(), epoch, term };
            let proposed = self.propose(&command);
            whole &= proposed;
            if let Some(leading) = self.leading.as_mut().filter(|_| proposed) {
                let holder = Some((node, epoch));
                leading.claiming.insert(key, Claim { key, holder, term });
            }
        }
        whole
    }

    /// Epochs of the open sessions that this leader is not about to revoke. A claim of one that it
    /// is may be given away in the same breath: it stands behind the revocation in the log.
    pub(super) fn living(&self) -> BTreeMap<NodeName, u64> {
        let mut living = self.machine.living();
        if let Some(leading) = &self.leading {
            let session = |node: &NodeName, epoch: u64| (node.clone(), epoch);
            living.retain(|node, epoch| !leading.revoking.contains(&session(node, *epoch)));
        }
        living
    }

    /// Nodes that may be given something now: they take, and were heard lately.
    pub(super) fn candidates(&self) -> BTreeSet<NodeName> {
        let Some(leading) = &self.leading else { return BTreeSet::new() };
        let fresh = self.now.earlier(self.timing.heartbeat * FRESH_HEARTBEATS);
        let sessions = self.machine.sessions.values().filter(|s| self.machine.takes(&s.node));
        let may_take = sessions.filter(|s| {
            if s.node == self.me {
                return s.epoch == self.member.epoch && !self.member.leaves();
            }
            leading.heard.get(&s.node).is_some_and(|heard| *heard >= fresh)
                && !leading.revoking.contains(&(s.node.clone(), s.epoch))
        });
        may_take.map(|s| s.node.clone()).collect()
    }

    /// The claims as they will be once all that this leader proposed is decided.
    pub(super) fn claims_ahead(&self) -> Cow<'_, BTreeMap<ClaimKey, Claim>> {
        let mut claims = Cow::Borrowed(&self.machine.claims);
        if let Some(leading) = self.leading.as_ref().filter(|l| !l.claiming.is_empty()) {
            claims.to_mut().extend(leading.claiming.clone());
        }
        claims
    }

    /// Asks the follower that is furthest along to take over. True once there is nobody to ask.
    pub(super) fn hand_leadership_on(&mut self, beat: bool, out: &mut Out) -> bool {
        let log = &self.raft.raft.raft_log;
        let all_decided = log.last_index() == self.machine.applied;
        let fresh = self.now.earlier(self.timing.heartbeat * FRESH_HEARTBEATS);
        let Some(leading) = &mut self.leading else { return true };
        if self.machine.voters().count() == 1 {
            return true;
        }
        if !all_decided || (leading.forfeited && !beat) {
            return false;
        }
        let heard = leading.heard.iter().filter(|(_, heard)| **heard >= fresh);
        let ids = heard.filter_map(|(node, _)| self.machine.id_of(node));
        let voters = ids.filter(|id| self.machine.voters().any(|voter| voter == *id));
        let matched =
            voters.filter_map(|id| self.raft.raft.prs().get(id).map(|pr| (pr.matched, id)));
        let Some((_, next)) = matched.max() else { return false };
        self.ask_to_lead(next, out);
        false
    }

    /// Asks a voter to take over. Silent before the request leaves, and for the rest of the term:
    /// the next leader is elected against the promises this leader's voice rests on.
    pub(super) fn ask_to_lead(&mut self, next: u64, out: &mut Out) {
        if let Some(leading) = &mut self.leading {
            leading.forfeited = true;
        }
        self.silence(out);
        self.raft.transfer_leader(next);
    }
}

fn write_context(term: u64, now: BootTime) -> Vec<u8> {
    [term.to_be_bytes(), now.as_nanos().to_be_bytes()].concat()
}

fn read_context(context: &[u8]) -> Option<(u64, BootTime)> {
    let (term, rest) = context.split_first_chunk()?;
    let sent = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*term), BootTime::from_nanos(u64::from_be_bytes(sent))))
}
