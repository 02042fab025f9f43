//! The protocol over API objects as a model, searched exhaustively.
//!
//! Node 0 holds the VIP, and everything happens to it: its writes and their answers are late or
//! lost, its process freezes, crashes and comes back, its clock is as slow as the margin allows.
//! Nodes 1 and 2 race for the VIP; their own sessions never fail, which makes them the loudest
//! rivals there can be. The server does one compare-and-swap at a time; each node sees each object
//! late, and in any order. Node 0 also gives the VIP away, once: the write may arrive when its
//! process is long gone, and another one goes on in its place. Losing is not doing a step. The
//! numbers in brackets are points of the argument in `herald_leader_election::lease`.

use stateright::{Checker, Model, Property};

const RIVALS: usize = 2;
/// What a renewal lasts, in steps; clocks differ by up to the margin.
const TTL: u8 = 3;
const MARGIN: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// A claim is taken from a session that is open.
    TakeoverWithoutRevocation,
    /// A session is revoked although a renewal slipped in (2).
    RevocationOfAnyVersion,
    /// The kernel speaks as long as the process has not told it otherwise.
    NoFence,
    /// The deadline counts from the answer (1).
    CountsFromTheAnswer,
    /// A claim is taken though somebody has written it since it was seen (3).
    ClaimOfAnyVersion,
    /// A claim of a session newer than the one seen is taken for dead (3).
    UnseenIsDead,
    /// The VIP is given away before it is silenced (5).
    GivesAwayAloud,
    /// A process speaks for what it inherits though it was silenced, and has not written it (5).
    InheritsUnwritten,
    /// Clocks differ by more than the margin.
    Drift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protocol {
    flaw: Flaw,
    /// How often its process crashes or freezes; whether the VIP is given away; the search goes so
    /// far.
    faults: u8,
    gives: bool,
    most_term: u8,
}

/// The holder: node 0's life, or a rival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Zero(u8),
    Rival(usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rival {
    holds: bool,
    /// Node 0's session as last seen: which life, open, and for how long it must stand still yet;
    /// whether that is still what stands in the server.
    life: u8,
    open: bool,
    patience: u8,
    session_is_current: bool,
    /// The claim as last seen, likewise.
    claim: Option<u8>,
    term: u8,
    claim_is_current: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    // The server.
    life: u8,
    open: bool,
    holder: Holder,
    term: u8,
    // Node 0.
    up: bool,
    frozen: bool,
    holds: bool,
    deadline: u8,
    /// A renewal under way and what it is worth; whether it still expects what stands there.
    renewal: u8,
    renewal_is_current: bool,
    /// What the answer under way is worth.
    answer: u8,
    /// The node knows its object as it stands; its life as it knows it.
    knows: bool,
    known_life: u8,
    /// The process that runs has written the claim itself.
    wrote: bool,
    /// The claim was given away, once; the write is under way, and whether it expects what stands
    /// there.
    gave: bool,
    gift: bool,
    gift_is_current: bool,
    rivals: [Rival; RIVALS],
    faults: u8,
    term_fell: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Time,
    Crash,
    Restart,
    Freeze,
    Thaw,
    Send,
    Written,
    Answered,
    /// Node 0 reads its session, and the claim.
    See,
    /// It opens a new life after a revocation, and claims the VIP if it is free.
    Reopen,
    Reclaim,
    /// It gives the VIP to a rival: silences it and writes, and the write arrives.
    Give,
    Given,
    SeeSession(usize),
    SeeClaim(usize),
    Revoke(usize),
    Claim(usize),
}

impl State {
    fn acts(&self) -> bool {
        self.up && !self.frozen
    }

    /// The session object has changed: nobody's picture of it is current.
    fn session_changed(&mut self) {
        self.renewal_is_current = false;
        self.knows = false;
        self.rivals.iter_mut().for_each(|rival| rival.session_is_current = false);
    }

    /// A claim is written, in the term after the one its writer has seen.
    fn claim_changed(&mut self, holder: Holder, seen: u8) {
        self.term_fell |= seen < self.term;
        (self.holder, self.term) = (holder, seen + 1);
        self.gift_is_current = false;
        self.rivals.iter_mut().for_each(|rival| rival.claim_is_current = false);
    }
}

impl Protocol {
    fn worth(&self) -> u8 {
        TTL - MARGIN + if self.flaw == Flaw::Drift { MARGIN + 1 } else { MARGIN }
    }

    fn voices(&self, s: &State) -> usize {
        let zero = s.holds && (s.deadline > 0 || self.flaw == Flaw::NoFence);
        usize::from(zero) + s.rivals.iter().filter(|rival| rival.holds).count()
    }

    /// Whether a rival takes the claim for dead, by what it has seen.
    fn is_free(&self, rival: &Rival) -> bool {
        let Some(life) = rival.claim else { return false };
        match self.flaw {
            Flaw::TakeoverWithoutRevocation => true,
            Flaw::UnseenIsDead => !(rival.open && life == rival.life),
            _ => life < rival.life || (!rival.open && life <= rival.life),
        }
    }

    fn can(&self, s: &State, step: Step) -> bool {
        match step {
            Step::Time => true,
            Step::Crash => s.up && s.faults < self.faults,
            Step::Restart => !s.up,
            Step::Freeze => s.acts() && s.faults < self.faults,
            Step::Thaw => s.frozen,
            Step::Send => s.acts() && s.renewal == 0 && s.knows && s.known_life == s.life,
            // What was sent arrives without its sender.
            Step::Written => s.renewal > 0,
            Step::Answered => s.acts() && s.answer > 0,
            Step::See => s.acts() && (!s.knows || s.holds != (s.holder == Holder::Zero(s.life))),
            Step::Give => {
                let holds = s.acts() && s.holds && s.holder == Holder::Zero(s.life);
                self.gives && !s.gave && holds && s.open && s.knows
            }
            // Like any write it arrives without its sender.
            Step::Given => s.gift && s.term < self.most_term,
            Step::Reopen => s.acts() && !s.open && s.knows && !s.holds && s.life < 2,
            // It knows of its own revocation, so the claim of its life before is free. What it
            // inherits in silence it writes anew.
            Step::Reclaim => {
                let own = matches!(s.holder, Holder::Zero(life) if life < s.life || !s.holds);
                s.acts() && s.open && s.knows && own && !s.wrote && s.term < self.most_term
            }
            Step::SeeSession(n) => !s.rivals[n].session_is_current,
            Step::SeeClaim(n) => !s.rivals[n].claim_is_current,
            Step::Revoke(n) => {
                let rival = &s.rivals[n];
                let current = rival.session_is_current || self.flaw == Flaw::RevocationOfAnyVersion;
                rival.open && rival.patience == 0 && current && s.open
            }
            Step::Claim(n) => {
                let current = s.rivals[n].claim_is_current || self.flaw == Flaw::ClaimOfAnyVersion;
                self.is_free(&s.rivals[n]) && current && s.term < self.most_term
            }
        }
    }

    fn after(&self, s: &State, step: Step) -> State {
        let mut s = *s;
        match step {
            Step::Time => {
                let less = |time: &mut u8| *time = time.saturating_sub(1);
                less(&mut s.deadline);
                if s.renewal > 1 {
                    less(&mut s.renewal);
                }
                less(&mut s.answer);
                s.rivals.iter_mut().for_each(|rival| less(&mut rival.patience));
            }
            Step::Crash => {
                (s.up, s.frozen, s.answer, s.knows) = (false, false, 0, false);
                s.wrote = false;
                s.faults += 1;
            }
            Step::Restart => s.up = true,
            Step::Freeze => {
                s.frozen = true;
                s.faults += 1;
            }
            Step::Thaw => s.frozen = false,
            // A worth of one stays: it is written in vain as late as it likes.
            Step::Send => (s.renewal, s.renewal_is_current) = (self.worth() + 1, true),
            Step::Written => {
                let worth = s.renewal - 1;
                if s.renewal_is_current && s.open {
                    s.session_changed();
                    s.answer = if s.up { worth } else { 0 };
                    s.knows = s.up;
                }
                s.renewal = 0;
            }
            Step::Answered => {
                let counted = self.flaw == Flaw::CountsFromTheAnswer;
                s.deadline = s.deadline.max(if counted { self.worth() } else { s.answer });
                s.answer = 0;
            }
            Step::See => {
                (s.knows, s.known_life) = (true, s.life);
                let may = s.holds || s.wrote || self.flaw == Flaw::InheritsUnwritten;
                s.holds = s.open && s.holder == Holder::Zero(s.life) && may;
            }
            Step::Reopen => {
                (s.open, s.life) = (true, s.life + 1);
                s.session_changed();
                (s.knows, s.known_life, s.wrote) = (true, s.life, false);
                // The opening is a renewal like any other.
                s.answer = self.worth();
            }
            Step::Reclaim => {
                let (life, seen) = (s.life, s.term);
                s.claim_changed(Holder::Zero(life), seen);
                s.wrote = true;
            }
            Step::Give => {
                (s.gave, s.gift, s.gift_is_current) = (true, true, true);
                s.holds = self.flaw == Flaw::GivesAwayAloud;
                s.wrote = false;
            }
            Step::Given => {
                s.gift = false;
                if s.gift_is_current {
                    let seen = s.term;
                    s.claim_changed(Holder::Rival(0), seen);
                }
            }
            Step::SeeSession(n) => {
                let (life, open) = (s.life, s.open);
                let rival = &mut s.rivals[n];
                (rival.life, rival.open, rival.patience) = (life, open, TTL);
                rival.session_is_current = true;
            }
            Step::SeeClaim(n) => {
                let (holder, term) = (s.holder, s.term);
                let rival = &mut s.rivals[n];
                (rival.claim_is_current, rival.term) = (true, term);
                rival.claim = match holder {
                    Holder::Zero(life) => Some(life),
                    Holder::Rival(_) => None,
                };
                rival.holds = holder == Holder::Rival(n);
            }
            Step::Revoke(_) => {
                s.open = false;
                s.session_changed();
            }
            Step::Claim(n) => {
                let seen = s.rivals[n].term;
                s.claim_changed(Holder::Rival(n), seen);
            }
        }
        s
    }

    fn steps() -> Vec<Step> {
        let mut steps = vec![Step::Crash, Step::Restart, Step::Freeze, Step::Thaw, Step::Send];
        steps.extend([Step::Written, Step::Answered, Step::See, Step::Reopen, Step::Reclaim]);
        steps.extend([Step::Give, Step::Given]);
        for n in 0..RIVALS {
            steps.extend([Step::SeeSession(n), Step::SeeClaim(n), Step::Revoke(n), Step::Claim(n)]);
        }
        steps.push(Step::Time);
        steps
    }

    /// Whether the VIP has a voice again once nothing goes wrong any more.
    fn heals(&self, from: &State) -> bool {
        let well = Self { most_term: u8::MAX, ..*self };
        let mut s = *from;
        for _ in 0..6 * TTL {
            if well.voices(&s) > 0 {
                return true;
            }
            for step in Self::steps() {
                let goes_wrong = matches!(step, Step::Crash | Step::Freeze);
                if !goes_wrong && well.can(&s, step) {
                    s = well.after(&s, step);
                }
            }
        }
        false
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            life: 1,
            open: true,
            holder: Holder::Zero(1),
            term: 1,
            up: true,
            frozen: false,
            holds: true,
            deadline: 0,
            renewal: 0,
            renewal_is_current: false,
            answer: 0,
            knows: true,
            known_life: 1,
            wrote: false,
            gave: false,
            gift: false,
            gift_is_current: false,
            rivals: [Rival::default(); RIVALS],
            faults: 0,
            term_fell: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Step>) {
        actions.extend(Self::steps().into_iter().filter(|step| self.can(s, *step)));
    }

    fn next_state(&self, s: &State, step: Step) -> Option<State> {
        let next = self.after(s, step);
        (next != *s).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let one_voice =
            Property::<Self>::always("one voice", |protocol, s| protocol.voices(s) <= 1);
        let terms_grow = Property::<Self>::always("terms grow", |_, s| !s.term_fell);
        match self.flaw {
            Flaw::Nothing => {}
            Flaw::ClaimOfAnyVersion => return vec![one_voice, terms_grow],
            _ => return vec![one_voice],
        }
        let mut properties = vec![
            one_voice,
            terms_grow,
            Property::<Self>::sometimes("the VIP moves", |_, s| {
                s.rivals.iter().any(|rival| rival.holds)
            }),
            Property::<Self>::sometimes("it is taken back after a return", |_, s| {
                s.holds && s.life == 2 && s.deadline > 0
            }),
            Property::<Self>::always("a holder is found once all is well", |protocol, s| {
                protocol.heals(s)
            }),
        ];
        if self.gives {
            properties.push(Property::sometimes("it is given away", |_, s: &State| {
                s.gave && s.life == 1 && s.open && s.rivals[0].holds
            }));
            properties
                .push(Property::sometimes("what was inherited is spoken for", |_, s: &State| {
                    s.gave && s.holds && s.wrote && s.life == 1 && s.deadline > 0
                }));
        }
        properties
    }
}

const SOUND: Protocol = Protocol { flaw: Flaw::Nothing, faults: 2, gives: false, most_term: 4 };
const GIVES: Protocol = Protocol { faults: 1, gives: true, most_term: 3, ..SOUND };

fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{protocol:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

fn is_caught(flaw: Flaw) {
    is_caught_in(SOUND, flaw);
}

fn is_caught_in(protocol: Protocol, flaw: Flaw) {
    let checker = Protocol { flaw, ..protocol }.checker().threads(2).spawn_bfs().join();
    println!("{flaw:?}: {} states", checker.unique_state_count());
    assert!(checker.discovery("one voice").is_some(), "{flaw:?} is not caught");
}

#[test]
fn one_voice_and_a_holder_in_the_end() {
    holds(SOUND);
}

#[test]
fn one_voice_and_a_holder_in_the_end_though_the_vip_is_given_away() {
    holds(GIVES);
}

#[test]
fn a_takeover_without_revocation_is_caught() {
    is_caught(Flaw::TakeoverWithoutRevocation);
}

#[test]
fn a_revocation_of_another_version_than_the_stale_one_is_caught() {
    is_caught(Flaw::RevocationOfAnyVersion);
}

#[test]
fn a_missing_fence_is_caught() {
    is_caught(Flaw::NoFence);
}

#[test]
fn a_deadline_that_counts_from_the_answer_is_caught() {
    is_caught(Flaw::CountsFromTheAnswer);
}

#[test]
fn a_claim_taken_without_its_version_is_caught() {
    is_caught(Flaw::ClaimOfAnyVersion);
    let protocol = Protocol { flaw: Flaw::ClaimOfAnyVersion, ..SOUND };
    let checker = protocol.checker().spawn_bfs().join();
    assert!(checker.discovery("terms grow").is_some());
}

#[test]
fn a_claim_of_a_session_not_seen_yet_taken_for_dead_is_caught() {
    is_caught(Flaw::UnseenIsDead);
}

#[test]
fn clocks_beyond_the_margin_are_caught() {
    is_caught(Flaw::Drift);
}

#[test]
fn a_vip_given_away_aloud_is_caught() {
    is_caught_in(GIVES, Flaw::GivesAwayAloud);
}

#[test]
fn an_inherited_claim_spoken_for_before_it_is_written_is_caught() {
    is_caught_in(GIVES, Flaw::InheritsUnwritten);
}
