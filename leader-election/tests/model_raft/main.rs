//! The sessions-over-raft protocol as a model, searched exhaustively for three nodes and one VIP.
//!
//! Raft itself is taken for granted: one log, decided at once, by whoever was elected last. Time is
//! a number of steps that anything may happen between; timers say how much real time is left of
//! something, so that the slowest clock that the margin allows for is what deadlines are counted
//! with. A claim is decided as it is proposed, or, in a search of its own, any time later: then its
//! term says whether it still applies. Losing a message is not doing a step, duplication is doing
//! it twice, delay is letting time pass before it. Processes crash and restart, and freeze, while
//! their kernel speaks on. Read the argument in `herald_leader_election::raft` first, then
//! `protocol`, where the numbers in brackets are its points.
//!
//! Left out once, and caught: the promise over a restart (1), the grant dropped by a new leader and
//! the silence of one that hands on (2), the decided `Lead` before a grant, the wait before a
//! revocation and the margin (3), that only a predecessor which has not renewed is revoked at once
//! (4), the silence before a handover (7), the proof of a leader that resumes (12), the term of a
//! claim, the revocation itself and the fence. Three nodes cannot show that a grant needs a valid
//! lease (3): with one node deposed, the other one is the new leader's quorum, and takes nothing
//! from the old one any more. Nor (5) and (6), since raft's log and sessions are taken for granted
//! here; the bad days of the real cores, from `invariants::one_voice` on, go through both. At most
//! one crash and one frozen process, or a crash and a handover, and two terms, or three where it
//! takes three to break something. In each state of every search it is looked ahead, too: once
//! nothing goes wrong any more, the VIP has a voice again.
//!
//! Membership is left out: three voters, for good. What a change of voters could break is only what
//! `Elect` and `Ask` take for granted, that the quorum which promised meets every quorum which can
//! elect. (8) and (9) restore just that: configurations that follow each other differ in one voter,
//! so their quorums meet, and no further change is proposed before a quorum of the present voters
//! has promised anew. Whatever the configuration, a lease then rests on promises of a quorum that
//! meets every quorum that can still elect, and the steps here use no more. A node under a second
//! id (10), or a removed one (11), is here one that crashed: it speaks no longer than its deadline,
//! is revoked like any other, and opens a session afterwards. So a model with changes would search
//! this one again for each of a few overlapping sets of voters. What it could not show either, that
//! the code keeps (8) to (11), `membership` searches with the real cores, seed after seed, while
//! members come, go and lose their disks.

mod protocol;
mod state;

use stateright::{Checker, Model};

use self::protocol::{Flaw, Protocol};

fn sound(crashes: u8, freezes: u8) -> Protocol {
    Protocol {
        flaw: Flaw::Nothing,
        crashes,
        only_leaders_crash: false,
        freezes,
        most_raft_term: 2,
        most_claim_term: 2,
        hands: 0,
        late_claims: false,
        reopens: false,
    }
}

fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{protocol:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

fn is_caught(protocol: Protocol, flaw: Flaw) {
    let protocol = Protocol { flaw, ..protocol };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{flaw:?}: {} states", checker.unique_state_count());
    let property = if flaw == Flaw::AppliesAnyTerm { "terms grow" } else { "one voice" };
    assert!(checker.discovery(property).is_some(), "{flaw:?} is not caught");
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_losses_only() {
    holds(sound(0, 0));
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_crash() {
    holds(sound(1, 0));
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_leader_that_resumes_and_another_after_it() {
    holds(Protocol { most_raft_term: 3, only_leaders_crash: true, ..sound(1, 0) });
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_frozen_process() {
    holds(sound(0, 1));
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_crash_and_a_frozen_process() {
    holds(sound(1, 1));
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_handover() {
    holds(Protocol { hands: 1, ..sound(0, 0) });
}

#[test]
fn one_voice_and_a_holder_in_the_end_with_a_leader_that_hands_on_crashes_and_resumes() {
    holds(Protocol { hands: 1, only_leaders_crash: true, ..sound(1, 0) });
}

#[test]
fn terms_grow_and_a_holder_in_the_end_though_claims_are_decided_late() {
    holds(Protocol { late_claims: true, ..sound(0, 0) });
}

#[test]
fn a_takeover_without_revocation_is_caught() {
    is_caught(sound(0, 0), Flaw::TakeoverWithoutRevocation);
}

#[test]
fn a_revocation_without_waiting_is_caught() {
    is_caught(sound(0, 0), Flaw::RevocationWithoutWaiting);
}

#[test]
fn a_missing_fence_is_caught() {
    is_caught(sound(0, 0), Flaw::NoFence);
}

#[test]
fn clocks_beyond_the_margin_are_caught() {
    is_caught(sound(0, 0), Flaw::Drift);
}

#[test]
fn a_promise_forgotten_by_a_restart_is_caught() {
    is_caught(sound(1, 0), Flaw::ForgetsPromise);
}

#[test]
fn leading_on_without_having_led_is_caught() {
    is_caught(sound(1, 0), Flaw::ResumesWithoutProof);
}

#[test]
fn a_grant_kept_by_a_new_leader_is_caught() {
    is_caught(Protocol { most_raft_term: 3, ..sound(0, 0) }, Flaw::KeepsGrantAsLeader);
}

#[test]
fn leadership_handed_on_aloud_is_caught() {
    is_caught(Protocol { hands: 1, ..sound(0, 0) }, Flaw::HandsOnAloud);
}

#[test]
fn a_grant_before_the_lead_is_decided_is_caught() {
    is_caught(Protocol { most_raft_term: 3, ..sound(0, 0) }, Flaw::GrantsBeforeLead);
}

#[test]
fn a_predecessor_that_renewed_and_is_revoked_at_once_is_caught() {
    is_caught(sound(0, 0), Flaw::RevokesAnyPredecessor);
}

#[test]
fn a_claim_handed_over_aloud_is_caught() {
    is_caught(Protocol { hands: 1, ..sound(0, 0) }, Flaw::HandsOverAloud);
}

#[test]
fn a_claim_applied_in_any_term_is_caught() {
    is_caught(Protocol { late_claims: true, ..sound(0, 0) }, Flaw::AppliesAnyTerm);
}
