//! When a leader places keys, as opposed to where.

use super::tests::{at, core, kinds};
use super::*;

fn vip(last: u8) -> ClaimKey {
    ClaimKey::Vip([192, 168, 1, last].into())
}

fn wanted(last: u8) -> Wanted {
    Wanted { claims: [(vip(last), ["a".into()].into())].into() }
}

#[test]
fn a_heartbeat_that_finds_all_as_it_was_places_nothing_anew() {
    let mut core = core(&["a"]);
    core.handle(Input::Tick, at(0));
    let actions = core.handle(Input::Wanted(wanted(1)), at(1));
    assert_eq!(kinds(&actions), ["persist", "publish"]);
    // Until the time of settling has passed, fewer keys are given out than wanted.
    for beat in 1..6 {
        core.handle(Input::Tick, at(beat * 100));
    }
    // Nobody was told of this: whoever looks at every key at each heartbeat finds it all the same.
    core.wanted = Some(wanted(2));
    for beat in 6..10 {
        let actions = core.handle(Input::Tick, at(beat * 100));
        assert!(!kinds(&actions).contains(&"persist"), "{actions:?}");
    }
    let actions = core.handle(Input::Wanted(wanted(2)), at(951));
    assert_eq!(kinds(&actions), ["persist", "publish"]);
}
