//! The programs answer as the announcer's userspace responder does, which was written apart from
//! them: mutated questions through both, byte for byte.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use herald_announcer::MacAddr;
use herald_announcer::responder::{LinkIdentity, Verdict, respond};
use proptest::prelude::*;

use crate::kernel::{Action, Kernel};
use crate::{
    BROADCAST, CLIENT, CLIENT4, CLIENT6, OURS, Pods, VIP4, VIP6, arp, ip, picture, solicitation, v6,
};

fn questions() -> Vec<Vec<u8>> {
    let ask = |to| arp(to, 1, (CLIENT, CLIENT4), ([0; 6], VIP4));
    vec![
        ask(BROADCAST),
        ask(OURS),
        arp(BROADCAST, 1, (CLIENT, [0; 4]), ([0; 6], VIP4)),
        solicitation(Some(CLIENT), CLIENT6, None),
        solicitation(None, CLIENT6, Some(v6(VIP6))),
        solicitation(None, "::", None),
    ]
}

/// A question, up to three changed octets in it, and how many octets its end loses or gains.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let length = prop_oneof![8 => Just(0isize), 1 => -8..0isize, 1 => 0..20isize];
    let changes = prop::collection::vec(change, 0..4);
    (prop::sample::select(questions()), changes, length).prop_map(|(mut frame, changes, by)| {
        for (at, octet) in changes {
            let at = at.index(frame.len());
            frame[at] = octet;
        }
        frame.resize(frame.len().saturating_add_signed(by), 0);
        frame
    })
}

#[test]
fn the_kernel_answers_what_the_responder_answers() {
    let vips = [IpAddr::from(VIP4), ip(VIP6)];
    let link = LinkIdentity { mac: MacAddr(OURS) };
    let kernel = RefCell::new(Kernel::with(&picture(Pods::Here)));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let answered = Cell::new(0);
    let result = runner.run(&mutated(), |frame| {
        let (action, out, reason) = kernel.borrow_mut().xdp(&frame);
        if reason == "echo_answered" {
            // A question mutated into an echo request: that is not the responder's business.
            prop_assert_eq!(action, Action::Transmit);
            return Ok(());
        }
        match respond(&frame, &link, |asked| vips.contains(&asked)) {
            Verdict::Reply(reply) => {
                answered.set(answered.get() + 1);
                prop_assert_eq!(action, Action::Transmit, "{}", reason);
                // An ARP question keeps its padding; an advertisement is cut to length.
                prop_assert_eq!(&out[..reply.len()], &reply[..]);
            }
            Verdict::Ignore(why) => {
                prop_assert_eq!(action, Action::Pass, "{}, but {}", reason, why.label());
            }
        }
        Ok(())
    });
    result.unwrap();
    assert!(answered.get() > 1_000, "the mutations leave some questions valid: {answered:?}");
}
