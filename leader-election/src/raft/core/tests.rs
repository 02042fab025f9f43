//! The core as a reader can check it by eye: input in, exact actions out.
//!
//! Node `a` is under test; `b` and `c` are played by hand. What only shows over time and among many
//! is in `tests/simulation.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{Claim, ClaimKey, Session, SessionState};
use crate::raft::frame::{LogEntry, Renewal};
use crate::raft::store::Hard;

const VIP: ClaimKey = ClaimKey::Allocator;

pub(super) fn at(ms: u64) -> BootTime {
    BootTime(Duration::from_millis(10_000 + ms))
}

pub(super) fn names(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|name| NodeName::from(*name)).collect()
}

pub(super) fn config(nodes: &[&str]) -> CoreConfig {
    CoreConfig {
        node: "a".into(),
        nodes: names(nodes),
        voters: Voters::Exactly(names(nodes)),
        timing: Timing::default(),
        patience: Patience::default(),
        facts: b"mac".to_vec(),
        seed: 1,
    }
}

/// A raft id that a reader can tell the node by.
pub(super) fn id(node: &str) -> u64 {
    u64::from(node.as_bytes()[0])
}

/// The disk of `a` once these nodes have founded a cluster.
fn image(founders: &[&str]) -> Image {
    let founders = founders.iter().map(|name| (NodeName::from(*name), id(name))).collect();
    Image { id: id("a"), founders, epoch: 1, ..Image::default() }
}

pub(super) fn core(voters: &[&str]) -> Core {
    Core::new(config(voters), &image(voters), at(0)).unwrap()
}

pub(super) fn entry(index: u64, term: u64, command: Option<&Command>) -> LogEntry {
    LogEntry { index, term, data: command.map(Command::encode).unwrap_or_default() }
}

fn open(node: &str, epoch: u64) -> Command {
    Command::OpenSession { node: node.into(), epoch, facts: Arc::from(&b"mac"[..]) }
}

pub(super) fn message(kind: RaftKind, term: u64) -> RaftMessage {
    RaftMessage {
        from: 0,
        to: id("a"),
        kind,
        term,
        log_term: 0,
        index: 0,
        commit: 0,
        commit_term: 0,
        reject: false,
        reject_hint: 0,
        context: Vec::new(),
        entries: Vec::new(),
        snapshot: None,
    }
}

pub(super) fn from(node: &str, frame: Frame) -> Input {
    Input::Frame(node.into(), frame)
}

pub(super) fn raft(node: &str, message: RaftMessage) -> Input {
    from(node, Frame::Raft(RaftMessage { from: id(node), ..message }))
}

/// The log `b` has written as leader of term 1: it leads, and the session of `a` is open.
fn log_of_b() -> Vec<LogEntry> {
    let lead = Command::Lead { node: "b".into() };
    vec![entry(1, 1, None), entry(2, 1, Some(&lead)), entry(3, 1, Some(&open("a", 1)))]
}

fn append(entries: Vec<LogEntry>, commit: u64) -> RaftMessage {
    let (index, log_term) = entries.first().map_or((0, 0), |e| (e.index - 1, e.term));
    let log_term = if index == 0 { 0 } else { log_term };
    RaftMessage { index, log_term, entries, commit, ..message(RaftKind::Append, 1) }
}

/// `a` as follower of `b` with an open session, and the number of its latest renewal.
pub(super) fn follower() -> (Core, u64) {
    let mut core = core(&["a", "b", "c"]);
    let actions = core.handle(raft("b", append(log_of_b(), 3)), at(10));
    let seq = actions.iter().find_map(renewal_in).unwrap().seq;
    (core, seq)
}

fn renewal_in(action: &Action) -> Option<Renewal> {
    match action {
        Action::Send(_, Frame::Renew(_, renewal)) => Some(*renewal),
        _ => None,
    }
}

pub(super) fn grant(raft_term: u64, epoch: u64, seq: u64) -> Frame {
    Frame::Grant(Renewal { raft_term, epoch, seq })
}

pub(super) fn kinds(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .map(|action| match action {
            Action::SetDeadline(None) => "silence",
            Action::SetDeadline(Some(_)) => "deadline",
            Action::Persist(_) => "persist",
            Action::Rewrite(_) => "rewrite",
            Action::Send(_, Frame::Raft(_)) => "raft",
            Action::Send(_, Frame::Propose(_)) => "propose",
            Action::Send(_, Frame::Renew(..)) => "renew",
            Action::Send(_, Frame::Grant(_)) => "grant",
            Action::Send(_, Frame::Hello { .. }) => "hello",
            Action::Send(_, Frame::Knock(_)) => "knock",
            Action::Send(_, Frame::Fresh(..)) => "fresh",
            Action::Send(_, Frame::Member) => "member",
            Action::Send(_, Frame::Founded(_)) => "founded",
            Action::Send(_, Frame::Gone(_)) => "gone",
            Action::Publish(_) => "publish",
            Action::Refused(..) => "refused",
            Action::Stopped => "stopped",
        })
        .collect()
}

#[test]
fn a_single_node_leads_opens_its_session_and_may_speak_at_once() {
    let mut core = core(&["a"]);
    let actions = core.handle(Input::Tick, at(0));
    let me = core.raft.raft.id;
    let hard = |commit| Some(Hard { term: 1, vote: me, commit });
    let lead = Command::Lead { node: "a".into() };
    let session = Session {
        node: "a".into(),
        epoch: 1,
        facts: Arc::from(&b"mac"[..]),
        draining: false,
        state: SessionState::Open,
    };
    let view = View {
        me: "a".into(),
        epoch: 1,
        sessions: [("a".into(), session)].into(),
        claims: BTreeMap::new(),
        handovers: BTreeMap::new(),
        drained: BTreeSet::new(),
        records: BTreeMap::new(),
        leader: Some("a".into()),
        raft_term: 1,
        applied: 3,
    };
    let batch = |entries, hard| Action::Persist(Batch { entries, hard, epoch: None });
    let expected = [
        Action::SetDeadline(None),
        batch(vec![entry(1, 1, None), entry(2, 1, Some(&lead))], hard(0)),
        batch(vec![entry(3, 1, Some(&open("a", 1)))], None),
        Action::Publish(Arc::new(view)),
        Action::SetDeadline(Some(at(0) + Timing::default().lease())),
    ];
    assert_eq!(actions, expected);
}

#[test]
fn a_wanted_key_is_claimed_and_a_released_one_comes_back_in_the_next_term() {
    let mut core = core(&["a"]);
    core.handle(Input::Tick, at(0));
    let wanted = Wanted { claims: [(VIP, ["a".into()].into())].into() };
    let actions = core.handle(Input::Wanted(wanted), at(1));
    assert_eq!(kinds(&actions), ["persist", "publish"]);
    let held = |term| Claim { key: VIP, holder: Some(("a".into(), 1)), term };
    assert_eq!(core.view().claims[&VIP], held(1));
    // Nobody else is there, so the release is followed by the next claim.
    let actions = core.handle(Input::Release(VIP), at(2));
    assert_eq!(kinds(&actions), ["persist", "persist", "publish"]);
    assert_eq!(core.view().claims[&VIP], held(2));
}

#[test]
fn a_follower_that_learns_of_a_leader_persists_answers_and_renews() {
    let mut core = core(&["a", "b", "c"]);
    let actions = core.handle(raft("b", append(log_of_b(), 2)), at(10));
    let kinds = kinds(&actions);
    // The session is in the log but not yet decided, so it is asked for again.
    assert_eq!(kinds, ["persist", "publish", "raft", "propose", "renew"]);
    assert!(actions.contains(&Action::Send("b".into(), Frame::Propose(open("a", 1)))));
}

#[test]
fn a_grant_counts_from_when_the_renewal_was_sent() {
    let (mut core, seq) = follower();
    let actions = core.handle(from("b", grant(1, 1, seq)), at(40));
    let until = at(10) + Duration::from_millis(593);
    assert_eq!(actions, [Action::SetDeadline(Some(until))]);
    // A second copy changes nothing.
    assert_eq!(core.handle(from("b", grant(1, 1, seq)), at(41)), []);
}

#[test]
fn a_grant_of_another_leader_term_session_or_renewal_counts_nothing() {
    let (mut core, seq) = follower();
    for (node, frame) in [
        ("c", grant(1, 1, seq)),
        ("b", grant(2, 1, seq)),
        ("b", grant(1, 2, seq)),
        ("b", grant(1, 1, seq + 1)),
    ] {
        assert_eq!(core.handle(from(node, frame), at(11)), []);
    }
}

#[test]
fn a_grant_before_the_session_is_applied_counts_nothing() {
    let mut core = core(&["a", "b", "c"]);
    let actions = core.handle(raft("b", append(log_of_b(), 2)), at(10));
    let seq = actions.iter().find_map(renewal_in).unwrap().seq;
    assert_eq!(core.handle(from("b", grant(1, 1, seq)), at(11)), []);
}

#[test]
fn a_node_renews_each_heartbeat_and_stays_quiet_otherwise() {
    let (mut core, seq) = follower();
    let mut renewals = Vec::new();
    for ms in 11..=310 {
        let input =
            if ms % 100 == 0 { raft("b", message(RaftKind::Heartbeat, 1)) } else { Input::Tick };
        renewals.extend(core.handle(input, at(ms)).iter().filter_map(renewal_in));
    }
    let expected = (1..=3).map(|n| Renewal { raft_term: 1, epoch: 1, seq: seq + n });
    assert_eq!(renewals, expected.collect::<Vec<_>>());
}

pub(super) fn vote(kind: RaftKind) -> Input {
    let mut vote = message(kind, 5);
    (vote.index, vote.log_term) = (9, 4);
    raft("c", vote)
}

#[test]
fn a_node_that_just_started_votes_for_nobody() {
    let mut core = core(&["a", "b", "c"]);
    assert_eq!(core.handle(vote(RaftKind::PreVote), at(10)), []);
    assert_eq!(core.handle(vote(RaftKind::Vote), at(349)), []);
    let actions = core.handle(vote(RaftKind::Vote), at(350));
    assert_eq!(kinds(&actions), ["persist", "publish", "raft"]);
}

#[test]
fn a_node_that_answered_its_leader_votes_for_nobody_else_for_a_while() {
    let (mut core, _) = follower();
    for ms in [200, 300, 400, 500] {
        core.handle(raft("b", message(RaftKind::Heartbeat, 1)), at(ms));
    }
    // 500 ms + 3.5 heartbeats.
    assert!(!kinds(&core.handle(vote(RaftKind::Vote), at(849))).contains(&"persist"));
    assert!(kinds(&core.handle(vote(RaftKind::Vote), at(850))).contains(&"persist"));
}

#[test]
fn a_node_stands_only_after_its_own_promise_and_soon_again() {
    let (mut core, _) = follower();
    core.handle(raft("b", message(RaftKind::Heartbeat, 1)), at(200));
    let mut stood = Vec::new();
    for ms in 201..=1000 {
        let actions = core.handle(Input::Tick, at(ms));
        let asks = |action: &Action| matches!(action, Action::Send(_, Frame::Raft(m)) if m.kind == RaftKind::PreVote);
        stood.extend(actions.iter().any(asks).then_some(ms));
    }
    // 200 ms + 350 ms + a tenth of a heartbeat, and a turn of 25 ms if it is the second in line.
    assert!([560, 585].contains(&stood[0]), "{stood:?}");
    let waits: Vec<u64> = stood.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // By then it knows no leader, so there may be two in front of it.
    assert!((50..=125).contains(&waits[0]) && (100..=175).contains(&waits[1]), "{stood:?}");
}

#[test]
fn a_node_whose_leader_asks_for_it_votes_at_once() {
    let (mut core, _) = follower();
    let Input::Frame(node, Frame::Raft(mut asked)) = vote(RaftKind::Vote) else { unreachable!() };
    asked.context = TRANSFER.to_vec();
    let actions = core.handle(raft(node.as_str(), asked), at(11));
    assert!(kinds(&actions).starts_with(&["persist", "publish", "raft"]), "{actions:?}");
}

#[test]
fn a_new_leader_is_silent_before_it_says_anything() {
    let (mut core, seq) = follower();
    core.handle(from("b", grant(1, 1, seq)), at(12));
    // The leader hands on: `a` stands, and `c` votes for it.
    let actions = core.handle(raft("b", message(RaftKind::TimeoutNow, 1)), at(13));
    assert_eq!(kinds(&actions), ["persist", "publish", "raft", "raft"]);
    let yes = message(RaftKind::VoteResponse, 2);
    let actions = core.handle(raft("c", yes), at(14));
    let kinds = kinds(&actions);
    assert_eq!(kinds[..2], ["silence", "persist"]);
    assert!(!kinds.contains(&"deadline"));
}

/// `a` with an empty disk, among three that are to vote.
pub(super) fn newcomer() -> Core {
    let disk = Image { id: id("a"), epoch: 1, ..Image::default() };
    Core::new(config(&["a", "b", "c"]), &disk, at(0)).unwrap()
}

/// `a` as leader of term 2, elected by `c` when `b` handed on.
pub(super) fn leader() -> Core {
    let (mut core, _) = follower();
    core.handle(raft("b", message(RaftKind::TimeoutNow, 1)), at(13));
    core.handle(raft("c", message(RaftKind::VoteResponse, 2)), at(14));
    let taken = RaftMessage { index: 5, commit: 5, ..message(RaftKind::AppendResponse, 2) };
    core.handle(raft("c", taken), at(15));
    core
}

/// The answer of `node` to the latest question of the leader, if there is one.
fn answer(node: &str, asked: &[Action]) -> Option<Input> {
    let context = asked.iter().rev().find_map(|action| match action {
        Action::Send(_, Frame::Raft(m)) if m.kind == RaftKind::Heartbeat => Some(&m.context),
        _ => None,
    });
    let context = context?.clone();
    Some(raft(node, RaftMessage { context, ..message(RaftKind::HeartbeatResponse, 2) }))
}

#[test]
fn a_leader_speaks_and_grants_only_once_its_quorum_confirmed_it() {
    let mut core = leader();
    let renewal = Renewal { raft_term: 2, epoch: 1, seq: 1 };
    assert_eq!(core.handle(from("c", Frame::Renew(id("c"), renewal)), at(20)), []);
    let opened = core.handle(from("c", Frame::Propose(open("c", 1))), at(20));
    assert!(kinds(&opened).contains(&"persist"));
    let taken = RaftMessage { index: 6, commit: 5, ..message(RaftKind::AppendResponse, 2) };
    let applied = core.handle(raft("c", taken), at(21));
    assert!(!kinds(&applied).contains(&"grant"));
    let asked = core.handle(Input::Tick, at(100));
    let actions = core.handle(answer("c", &asked).unwrap(), at(101));
    let until = at(100) + Timing::default().lease();
    assert_eq!(actions[0], Action::SetDeadline(Some(until)));
    // The renewal that waited is answered now; it counts from when it was sent.
    assert!(actions.contains(&Action::Send("c".into(), Frame::Grant(renewal))));
}

/// Sessions that these actions put a revocation of into the log.
fn revoked(actions: &[Action]) -> Vec<NodeName> {
    let batches = actions.iter().filter_map(|action| match action {
        Action::Persist(batch) => Some(&batch.entries),
        _ => None,
    });
    let commands = batches.flatten().filter_map(|entry| Command::decode(&entry.data).ok());
    let revoked = commands.filter_map(|command| match command {
        Command::Revoke { node, .. } => Some(node),
        _ => None,
    });
    revoked.collect()
}

#[test]
fn the_leader_before_is_revoked_at_once_and_other_silent_nodes_after_a_ttl() {
    let (mut core, _) = follower();
    let sessions = vec![entry(4, 1, Some(&open("b", 1))), entry(5, 1, Some(&open("c", 1)))];
    core.handle(raft("b", append(sessions, 5)), at(12));
    core.handle(raft("b", message(RaftKind::TimeoutNow, 1)), at(13));
    core.handle(raft("c", message(RaftKind::VoteResponse, 2)), at(14));
    let taken = RaftMessage { index: 7, commit: 7, ..message(RaftKind::AppendResponse, 2) };
    let asked = core.handle(raft("c", taken), at(15));
    assert_eq!(revoked(&asked), []);
    let confirmed = core.handle(answer("c", &asked).unwrap(), at(16));
    assert_eq!(revoked(&confirmed), [NodeName::from("b")]);
    // `c` answers as raft must, but does not renew: 14 ms + 600 ms + 1 % + 1 ms, not a tick later.
    let (mut now, mut first) = (at(16), None);
    while first.is_none() && now < at(700) {
        now = core.next_deadline().unwrap();
        let actions = core.handle(Input::Tick, now);
        let mut revocations = revoked(&actions);
        if let Some(answer) = answer("c", &actions) {
            revocations.extend(revoked(&core.handle(answer, now)));
        }
        first = (!revocations.is_empty()).then_some((now, revocations));
    }
    assert_eq!(first, Some((at(621), vec![NodeName::from("c")])));
}

#[test]
fn what_only_a_leader_may_propose_is_refused_from_others() {
    let (mut core, _) = follower();
    let refused = |reason| [Action::Refused("c".into(), reason)];
    for command in [
        Command::Revoke { node: "b".into(), epoch: 1 },
        Command::Lead { node: "c".into() },
        Command::Claim { key: VIP, node: "c".into(), epoch: 1, term: 1 },
        Command::Drain { node: "b".into(), epoch: 1 },
    ] {
        let actions = core.handle(from("c", Frame::Propose(command)), at(11));
        assert_eq!(actions, refused(Refusal::ForeignCommand));
    }
    let hello = Frame::Hello { cluster: "lan".into(), node: "c".into() };
    let actions = core.handle(from("c", hello), at(11));
    assert_eq!(actions, refused(Refusal::UnexpectedHello));
    let actions = core.handle(from("x", grant(1, 1, 1)), at(11));
    assert_eq!(actions, [Action::Refused("x".into(), Refusal::UnknownSender)]);
    let actions = core.handle(from("a", grant(1, 1, 1)), at(11));
    assert_eq!(actions, [Action::Refused("a".into(), Refusal::UnknownSender)]);
}

#[test]
fn a_revoked_session_is_followed_by_one_of_a_higher_epoch_on_disk_first() {
    let (mut core, seq) = follower();
    core.handle(from("b", grant(1, 1, seq)), at(12));
    let revoke = Command::Revoke { node: "a".into(), epoch: 1 };
    let actions = core.handle(raft("b", append(vec![entry(4, 1, Some(&revoke))], 4)), at(700));
    let epoch = Action::Persist(Batch { epoch: Some(2), ..Batch::default() });
    assert_eq!(actions[0], Action::SetDeadline(None));
    let place = |wanted: &Action| actions.iter().position(|action| action == wanted);
    let asked = Action::Send("b".into(), Frame::Propose(open("a", 2)));
    assert!(place(&epoch).unwrap() < place(&asked).unwrap(), "{actions:?}");
}

#[test]
fn a_drained_node_shows_its_claims_as_released_before_anybody_heard() {
    let (mut core, _) = follower();
    let claim = Command::Claim { key: VIP, node: "a".into(), epoch: 1, term: 1 };
    core.handle(raft("b", append(vec![entry(4, 1, Some(&claim))], 4)), at(12));
    assert_eq!(core.view().holder(&VIP), Some(&"a".into()));
    let actions = core.handle(Input::Drain, at(13));
    assert_eq!(kinds(&actions), ["publish", "propose"]);
    assert_eq!(core.view().holder(&VIP), None);
}

#[test]
fn a_closing_node_is_silent_first_and_stops_once_its_goodbye_is_applied() {
    let (mut core, seq) = follower();
    core.handle(from("b", grant(1, 1, seq)), at(12));
    let actions = core.handle(Input::Close, at(13));
    assert_eq!(kinds(&actions), ["silence", "publish", "propose"]);
    let close = Command::CloseSession { node: "a".into(), epoch: 1 };
    let actions = core.handle(raft("b", append(vec![entry(4, 1, Some(&close))], 4)), at(14));
    assert_eq!(actions.last(), Some(&Action::Stopped));
    assert_eq!(core.next_deadline(), None);
    assert_eq!(core.handle(Input::Tick, at(15)), []);
}

#[test]
fn a_closing_node_that_nobody_hears_stops_after_two_ttl() {
    let (mut core, _) = follower();
    core.handle(Input::Close, at(13));
    assert!(!core.handle(Input::Tick, at(1212)).contains(&Action::Stopped));
    assert!(core.handle(Input::Tick, at(1213)).contains(&Action::Stopped));
}

#[test]
fn ticks_fall_on_a_grid_and_a_long_stop_costs_only_a_few() {
    let mut core = core(&["a", "b", "c"]);
    assert_eq!(core.next_deadline(), Some(at(50)));
    core.handle(Input::Tick, at(60));
    assert_eq!(core.next_deadline(), Some(at(100)));
    // It stands for election soon, but not before it has read what peers said meanwhile.
    core.handle(Input::Tick, at(3_600_000));
    assert_eq!(core.next_deadline(), Some(at(3_600_025)));
    core.handle(Input::Tick, at(3_600_025));
    assert_eq!(core.next_deadline(), Some(at(3_600_050)));
}

#[test]
fn impossible_configurations_are_refused() {
    let refused = |config: CoreConfig| Core::new(config, &image(&["a"]), at(0)).err().unwrap();
    assert!(matches!(refused(config(&["b"])), Error::UnknownNode { .. }));
    assert!(matches!(refused(config(&["a", ""])), Error::BadName { .. }));
    let many: Vec<String> = (0..33).map(|n| format!("n{n}")).chain(["a".into()]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(refused(config(&many)), Error::TooManyVoters { count: 34, .. }));
}
