//! One VIP on `eth0` (2) and sometimes `eth1` (3): what is heard of it at which millisecond, and
//! what is done about it.

use super::*;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x01]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x02]);
const FOREIGN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x98]);

/// The VIP's story; times are in milliseconds from its beginning.
struct Story {
    conflicts: Conflicts,
    vip: IpAddr,
}

fn at(ms: u64) -> Duration {
    Duration::from_secs(1000) + Duration::from_millis(ms)
}

impl Story {
    fn of(vip: &str) -> Self {
        let (vip, conflicts) = (vip.parse().unwrap(), Conflicts::new(Timing::default()));
        Self { conflicts, vip }
    }

    /// A VIP that is to be asked for from the beginning, on `eth0`.
    fn probing() -> Self {
        let mut story = Self::of("192.168.1.240");
        story.want(1, Intent::Probe, &[2], 0);
        story
    }

    /// A VIP taken over at the beginning.
    fn taken_over() -> Self {
        let mut story = Self::of("192.168.1.240");
        story.want(1, Intent::Announce, &[2], 0);
        story
    }

    /// A VIP that was found free at 30 ms, and announced from then on.
    fn introduced() -> Self {
        let mut story = Self::probing();
        story.until(30);
        story.want(1, Intent::Announce, &[2], 30);
        story
    }

    fn want(&mut self, since: u64, intent: Intent, links: &[u32], ms: u64) {
        let interfaces = links.iter().map(|n| (*n, format!("eth{}", n - 2))).collect();
        let vips = BTreeMap::from([(self.vip, Want { since, intent, interfaces })]);
        let ours = BTreeSet::from([OWN, PEER]);
        assert_eq!(self.conflicts.handle(Input::Wanted { vips, ours }, at(ms)), []);
    }

    fn claim(&mut self, mac: MacAddr, form: Form, ifindex: u32, ms: u64) -> Vec<Action> {
        let claim = Claim { address: self.vip, mac, form };
        self.conflicts.handle(Input::Heard { ifindex, claim }, at(ms))
    }

    /// Somebody uses the VIP, on `eth0`. True if it is defended.
    fn used_by(&mut self, mac: MacAddr, ms: u64) -> bool {
        let actions = self.claim(mac, Form::Use, 2, ms);
        let defence = [Action::Defend(Key { vip: self.vip, ifindex: 2 })];
        assert!(actions.is_empty() || actions == defence, "{actions:?}");
        !actions.is_empty()
    }

    /// Follows the deadlines and returns the times of all probes, in milliseconds.
    fn until(&mut self, ms: u64) -> Vec<(u128, u32)> {
        let mut probes = Vec::new();
        while let Some(now) = self.conflicts.next_deadline().filter(|due| *due <= at(ms)) {
            let early = now.saturating_sub(Duration::from_nanos(1));
            assert_eq!(self.conflicts.handle(Input::Tick, early), [], "nothing before its time");
            for action in self.conflicts.handle(Input::Tick, now) {
                let Action::Probe(Key { ifindex, .. }) = action else { panic!("{action:?}") };
                probes.push(((now - at(0)).as_millis(), ifindex));
            }
        }
        probes
    }

    fn standing(&self) -> Standing {
        self.conflicts.standings()[&self.vip]
    }

    fn conflict(&self) -> Option<Conflict> {
        self.conflicts.conflicts().remove(&self.vip)
    }
}

fn conflict(mac: MacAddr, since: u64, count: u64, state: ConflictState) -> Option<Conflict> {
    Some(Conflict { mac, interface: "eth0".to_owned(), since: at(since), count, state })
}

#[test]
fn a_free_vip_is_asked_for_three_times_and_clear_after_30_ms() {
    let mut story = Story::probing();
    assert_eq!(story.until(29), [(0, 2), (10, 2), (20, 2)]);
    assert_eq!(story.standing(), Standing::Probing);
    assert_eq!(story.until(30), []);
    assert_eq!(story.standing(), Standing::Clear);
    assert_eq!(story.conflicts.next_deadline(), None);
}

#[test]
fn is_asked_for_on_every_interface() {
    let mut story = Story::of("fd00:1::f0");
    story.want(1, Intent::Probe, &[2, 3], 0);
    assert_eq!(story.until(5), [(0, 2), (0, 3)]);
}

#[test]
fn a_takeover_is_clear_at_once_and_asks_nobody() {
    let mut story = Story::taken_over();
    assert_eq!(story.standing(), Standing::Clear);
    assert_eq!(story.until(100_000), []);
}

/// RFC 5227 2.1.1: a claim in use, and the probe of another host.
#[test]
fn a_foreign_claim_while_asking_blocks() {
    for form in [Form::Use, Form::Probe] {
        let mut story = Story::probing();
        story.until(12);
        assert_eq!(story.claim(FOREIGN, form, 2, 12), []);
        assert_eq!(story.standing(), Standing::Blocked);
        assert_eq!(story.conflict(), conflict(FOREIGN, 12, 1, ConflictState::Blocked));
        assert_eq!(story.until(30_011), [], "no more probes");
    }
}

#[test]
fn a_foreign_claim_between_verdict_and_announcement_blocks() {
    let mut story = Story::probing();
    story.until(30);
    story.used_by(FOREIGN, 31);
    assert_eq!(story.standing(), Standing::Blocked);
    // The caller has not heard of it yet and announces.
    story.want(1, Intent::Announce, &[2], 32);
    assert_eq!(story.standing(), Standing::Blocked);
}

#[test]
fn our_own_and_our_peers_frames_are_no_conflict() {
    for mac in [OWN, PEER] {
        for mut story in [Story::probing(), Story::taken_over(), Story::introduced()] {
            let _ = story.conflicts.take_news();
            let before = story.standing();
            assert_eq!(story.claim(mac, Form::Use, 2, 40), []);
            assert_eq!(story.claim(mac, Form::Probe, 2, 40), []);
            assert_eq!((story.standing(), story.conflict()), (before, None));
            assert!(!story.conflicts.take_news());
        }
    }
}

#[test]
fn a_blocked_vip_is_asked_for_again_until_it_is_free() {
    let mut story = Story::probing();
    story.used_by(FOREIGN, 0);
    assert_eq!(story.until(30_005), [(30_000, 2)]);
    assert_eq!(story.standing(), Standing::Probing);
    story.used_by(FOREIGN, 30_006);
    assert_eq!(story.conflict(), conflict(FOREIGN, 0, 2, ConflictState::Blocked));
    assert_eq!(story.until(60_035), [(60_006, 2), (60_016, 2), (60_026, 2)]);
    assert_eq!(story.standing(), Standing::Probing);
    assert!(story.conflict().is_some(), "told until the verdict");
    story.until(60_036);
    assert_eq!((story.standing(), story.conflict()), (Standing::Clear, None));
}

#[test]
fn a_blocked_vip_is_asked_for_at_once_when_gained_again_or_on_a_new_link() {
    for (since, links) in [(2, &[2][..]), (1, &[2, 3])] {
        let mut story = Story::probing();
        story.used_by(FOREIGN, 0);
        story.want(since, Intent::Probe, links, 500);
        assert_eq!(story.until(505).len(), links.len());
    }
    let mut story = Story::probing();
    story.used_by(FOREIGN, 0);
    story.want(1, Intent::Probe, &[2], 500);
    assert_eq!(story.until(505), [], "a picture that changes nothing");
}

#[test]
fn waits_for_a_link_to_ask_on() {
    let mut story = Story::of("192.168.1.240");
    story.want(1, Intent::Probe, &[], 0);
    assert_eq!((story.until(1000), story.standing()), (vec![], Standing::Probing));
    story.want(1, Intent::Probe, &[2], 1000);
    assert_eq!(story.until(1029).len(), 3);
}

#[test]
fn a_takeover_in_the_middle_of_asking_does_not_wait() {
    let mut story = Story::probing();
    story.until(10);
    story.want(1, Intent::Announce, &[2], 11);
    assert_eq!(story.standing(), Standing::Clear);
}

/// What the full schedule would have heard takes the VIP back.
#[test]
fn a_claim_on_probation_blocks_and_one_after_it_is_defended() {
    let mut story = Story::introduced();
    assert!(!story.used_by(FOREIGN, 7_029));
    assert_eq!(story.standing(), Standing::Blocked);
    let mut story = Story::introduced();
    assert!(story.used_by(FOREIGN, 7_030));
    assert_eq!(story.standing(), Standing::Clear);
}

#[test]
fn a_question_for_an_announced_vip_is_no_conflict() {
    let mut story = Story::introduced();
    assert_eq!(story.claim(FOREIGN, Form::Probe, 2, 100), []);
    assert_eq!((story.standing(), story.conflict()), (Standing::Clear, None));
}

/// RFC 5227 2.4 (c): one defence in ten seconds, the address is kept.
#[test]
fn a_takeover_is_defended_once_in_ten_seconds() {
    let mut story = Story::taken_over();
    assert!(story.used_by(FOREIGN, 100));
    assert!(!story.used_by(FOREIGN, 101));
    assert!(!story.used_by(FOREIGN, 10_099));
    assert_eq!(story.conflict(), conflict(FOREIGN, 100, 3, ConflictState::Defended));
    assert!(story.used_by(FOREIGN, 10_100));
    assert_eq!(story.conflict(), conflict(FOREIGN, 100, 4, ConflictState::Defended));
    assert_eq!(story.standing(), Standing::Clear);
}

#[test]
fn is_defended_where_it_was_claimed() {
    let mut story = Story::taken_over();
    story.want(1, Intent::Announce, &[2, 3], 0);
    let defence = Action::Defend(Key { vip: story.vip, ifindex: 3 });
    assert_eq!(story.claim(FOREIGN, Form::Use, 3, 100), [defence]);
    assert_eq!(story.conflict().unwrap().interface, "eth1");
    assert_eq!(story.claim(FOREIGN, Form::Use, 4, 20_000), [], "not an interface of the VIP");
}

#[test]
fn claims_without_end_are_news_only_with_a_defence() {
    let mut story = Story::taken_over();
    let mut news = 0;
    for ms in 0..20_000 {
        story.used_by([FOREIGN, OTHER][ms as usize % 2], ms);
        news += usize::from(story.conflicts.take_news());
    }
    assert_eq!(news, 2);
    let mut blocked = Story::probing();
    let _ = blocked.conflicts.take_news();
    let news = (0..20_000).filter(|ms| {
        blocked.used_by(FOREIGN, *ms);
        blocked.conflicts.take_news()
    });
    assert_eq!(news.count(), 1);
}

#[test]
fn a_defended_conflict_is_forgotten_when_nothing_is_heard_of_it() {
    let mut story = Story::taken_over();
    story.used_by(FOREIGN, 0);
    story.used_by(FOREIGN, 5_000);
    assert_eq!(story.until(304_999), []);
    assert!(story.conflict().is_some());
    story.until(305_000);
    assert_eq!((story.conflict(), story.conflicts.next_deadline()), (None, None));
}

#[test]
fn a_claimant_that_turns_out_a_peer_has_claimed_nothing() {
    for mut story in [Story::probing(), Story::taken_over()] {
        story.used_by(OTHER, 10);
        assert!(story.conflict().is_some());
        let vips = story.conflicts.watches[&story.vip].want.clone();
        let vips = BTreeMap::from([(story.vip, vips)]);
        let ours = BTreeSet::from([OWN, PEER, OTHER]);
        story.conflicts.handle(Input::Wanted { vips, ours }, at(20));
        assert_eq!(story.conflict(), None);
        story.until(50);
        assert_eq!(story.standing(), Standing::Clear);
    }
}

#[test]
fn a_vip_no_longer_held_is_forgotten() {
    let mut story = Story::probing();
    story.used_by(FOREIGN, 0);
    let nothing = Input::Wanted { vips: BTreeMap::new(), ours: BTreeSet::new() };
    story.conflicts.handle(nothing, at(1));
    assert!(story.conflicts.take_news());
    assert!(story.conflicts.standings().is_empty() && story.conflicts.conflicts().is_empty());
    assert!(!story.used_by(FOREIGN, 2));
}
