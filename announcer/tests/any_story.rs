//! Whatever is wanted, heard and waited for in whatever order, the promises of
//! `herald_announcer::conflict` hold: at most one defence in an interval and only of what is
//! announced, no peer called foreign, no standing that nobody is told of, no timer that fires
//! without end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use herald_announcer::burst::Key;
use herald_announcer::claim::{Claim, Form};
use herald_announcer::conflict::{Action, Conflicts, Input, Intent, Standing, Timing, Want};
use herald_announcer::wire::MacAddr;
use proptest::collection::vec;
use proptest::prelude::*;

fn vip(number: u8) -> IpAddr {
    IpAddr::from([192, 168, 1, number])
}

/// The first two are ours.
fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

fn ours() -> BTreeSet<MacAddr> {
    BTreeSet::from([mac(0), mac(1)])
}

fn want() -> impl Strategy<Value = Want> {
    let intent = prop_oneof![Just(Intent::Probe), Just(Intent::Announce)];
    let links = proptest::collection::btree_set(2_u32..4, 0..=2);
    (0_u64..2, intent, links).prop_map(|(since, intent, links)| {
        let interfaces = links.into_iter().map(|index| (index, format!("eth{index}"))).collect();
        Want { since, intent, interfaces }
    })
}

fn wants() -> impl Strategy<Value = Input> {
    let wants = proptest::collection::btree_map((0_u8..3).prop_map(vip), want(), 0..=3);
    wants.prop_map(|vips| Input::Wanted { vips, ours: ours() })
}

fn input() -> impl Strategy<Value = Input> {
    let form = prop_oneof![Just(Form::Use), Just(Form::Probe)];
    let heard = (2_u32..4, 0_u8..3, 0_u8..4, form).prop_map(|(ifindex, address, by, form)| {
        let claim = Claim { address: vip(address), mac: mac(by), form };
        Input::Heard { ifindex, claim }
    });
    prop_oneof![
        1 => wants(),
        12 => heard,
        4 => Just(Input::Tick),
    ]
}

/// Inputs with the milliseconds that pass before each.
fn story() -> impl Strategy<Value = Vec<(Duration, Input)>> {
    let wait = prop_oneof![4 => 0_u64..30, 4 => 0_u64..12_000, 1 => 0_u64..400_000];
    let wait = wait.prop_map(Duration::from_millis);
    (wants(), vec((wait, input()), 0..60))
        .prop_map(|(first, rest)| std::iter::once((Duration::ZERO, first)).chain(rest).collect())
}

fn is_heard_from_ours(input: &Input) -> bool {
    matches!(input, Input::Heard { claim, .. } if ours().contains(&claim.mac))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_promises_hold_in_every_story(story in story()) {
        let timing = Timing::default();
        let mut conflicts = Conflicts::new(timing);
        let mut now = Duration::from_secs(1000);
        let mut wanted = BTreeMap::new();
        let mut defended: BTreeMap<IpAddr, (u64, Duration)> = BTreeMap::new();
        for (wait, input) in story {
            now += wait;
            if let Input::Wanted { vips, .. } = &input {
                wanted = vips.clone();
                defended.retain(|vip, (since, _)| {
                    wanted.get(vip).is_some_and(|want| want.since == *since)
                });
            }
            let before = (conflicts.standings(), conflicts.conflicts());
            let (is_ours, is_tick) = (is_heard_from_ours(&input), input == Input::Tick);
            let actions = conflicts.handle(input, now);
            if is_ours {
                prop_assert_eq!(&actions, &[]);
                prop_assert_eq!((conflicts.standings(), conflicts.conflicts()), before.clone());
            }
            if is_tick {
                prop_assert!(conflicts.next_deadline().is_none_or(|due| due > now));
            }
            for action in actions {
                match action {
                    Action::Probe(Key { vip, ifindex }) => {
                        prop_assert!(!conflicts.is_clear(vip));
                        prop_assert!(wanted[&vip].interfaces.contains_key(&ifindex));
                    }
                    Action::Defend(Key { vip, ifindex }) => {
                        prop_assert!(conflicts.is_clear(vip));
                        let want = &wanted[&vip];
                        prop_assert_eq!(want.intent, Intent::Announce);
                        prop_assert!(want.interfaces.contains_key(&ifindex));
                        if let Some((_, last)) = defended.insert(vip, (want.since, now)) {
                            prop_assert!(now - last >= timing.defend_interval);
                        }
                    }
                }
            }
            let standings = conflicts.standings();
            prop_assert!(standings.keys().eq(wanted.keys()));
            for (vip, standing) in &standings {
                let known = conflicts.conflicts().contains_key(vip);
                prop_assert!(*standing != Standing::Blocked || known, "blocked by nobody");
            }
            prop_assert!(conflicts.conflicts().values().all(|c| !ours().contains(&c.mac)));
            prop_assert!(conflicts.take_news() || before.0 == standings, "nobody was told");
        }
    }

    /// Left alone, every VIP that has an interface is clear in the end.
    #[test]
    fn without_foreigners_every_vip_becomes_clear(story in story()) {
        let mut conflicts = Conflicts::new(Timing::default());
        let mut now = Duration::from_secs(1000);
        let mut wanted = BTreeMap::new();
        for (wait, input) in story {
            now += wait;
            if let Input::Wanted { vips, .. } = &input {
                wanted = vips.clone();
            }
            conflicts.handle(input, now);
        }
        while let Some(due) = conflicts.next_deadline() {
            now = now.max(due);
            conflicts.handle(Input::Tick, now);
        }
        for (vip, want) in wanted {
            let can_ask = !want.interfaces.is_empty();
            prop_assert!(conflicts.is_clear(vip) || !can_ask, "{} {:?}", vip, want);
        }
    }
}
