//! Whether a VIP had one voice (pure), judged from all frames that claim it, wherever they were
//! sent, in the order of the kernel's time stamps.
//!
//! The rule. The nodes that held a VIP in turn are known: A, then B, then C. A node's *turn* begins
//! with its first frame that claims the VIP and ends with the first frame of a node later in that
//! order. **A frame of a node whose turn is not running and not yet to come is a second voice**: an
//! old holder that speaks after its successor began, or somebody who never held the VIP. So two
//! turns never overlap, not even by one frame. A node that holds the VIP twice is in the order
//! twice; a node that held it in silence begins no turn and harms none. A turn of which only the
//! term is known, not the node, is the turn of whoever speaks first in it, and of nobody else.
//!
//! It counts what was *sent*, heard or not: a node cut off from the LAN must be silent too when its
//! successor speaks, for the cut may heal in that very instant.

use std::net::IpAddr;

use herald_announcer::MacAddr;

use super::ports::Claim;

/// A frame out of turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondVoice {
    /// What was said, by whom and when.
    pub claim: Claim,
    /// Whose turn it was; none if nobody had spoken yet.
    pub turn: Option<MacAddr>,
}

/// The frames that claim an address out of turn, for claims in order of time; `None` in the order
/// is a holder that nobody knows.
#[must_use = "a second voice is what must never be"]
pub fn second_voices(
    claims: &[Claim],
    address: IpAddr,
    order: &[Option<MacAddr>],
) -> Vec<SecondVoice> {
    let mut order = order.to_vec();
    let mut running = None;
    let mut second = Vec::new();
    for claim in claims.iter().filter(|claim| claim.address == address) {
        let from = running.unwrap_or(0);
        // The first that fits leaves most turns to come, so no other choice finds fewer voices.
        let fits = |turn: &Option<MacAddr>| turn.is_none_or(|mac| mac == claim.mac);
        match order.iter().skip(from).position(fits) {
            Some(ahead) => {
                running = Some(from + ahead);
                order[from + ahead] = Some(claim.mac);
            }
            None => {
                let turn = running.and_then(|at| order.get(at)).copied().flatten();
                second.push(SecondVoice { claim: claim.clone(), turn });
            }
        }
    }
    second
}

/// Who spoke for an address, each as often as its frames were not preceded by its own.
pub fn speakers(claims: &[Claim], address: IpAddr) -> Vec<MacAddr> {
    let mut macs: Vec<MacAddr> =
        claims.iter().filter(|claim| claim.address == address).map(|claim| claim.mac).collect();
    macs.dedup();
    macs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tap::Kind;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 240));

    fn mac(letter: char) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, letter as u8])
    }

    /// One frame each millisecond, each letter a node.
    fn trace(picture: &str) -> Vec<Claim> {
        let claim = |(at, letter)| Claim {
            at: Duration::from_millis(at),
            port: "n1",
            address: VIP,
            mac: mac(letter),
            kind: Kind::Answer,
        };
        (0..).zip(picture.chars()).map(claim).collect()
    }

    /// `?` is a holder that nobody knows.
    fn order(letters: &str) -> Vec<Option<MacAddr>> {
        letters.chars().map(|letter| (letter != '?').then(|| mac(letter))).collect()
    }

    /// The milliseconds at which somebody spoke out of turn.
    fn out_of_turn(picture: &str, letters: &str) -> Vec<u128> {
        let second = second_voices(&trace(picture), VIP, &order(letters));
        second.iter().map(|voice| voice.claim.at.as_millis()).collect()
    }

    #[test]
    fn turns_in_order_are_one_voice() {
        for (picture, letters) in
            [("", "A"), ("AAAA", "A"), ("AAABBB", "AB"), ("AABBAA", "ABA"), ("AACC", "ABC")]
        {
            assert_eq!(out_of_turn(picture, letters), [0; 0], "{picture} in the order {letters}");
        }
    }

    #[test]
    fn an_old_holder_after_the_new_ones_first_frame_is_a_second_voice() {
        assert_eq!(out_of_turn("AABABB", "AB"), [3]);
        assert_eq!(out_of_turn("ABABAB", "AB"), [2, 4]);
        let second = second_voices(&trace("ABA"), VIP, &order("AB"));
        assert_eq!(second[0].turn, Some(mac('B')));
    }

    #[test]
    fn an_unknown_holder_is_whoever_speaks_first_and_nobody_else() {
        for (picture, letters) in
            [("AABBCC", "A?C"), ("AACC", "A?C"), ("AAACAA", "A??"), ("BB", "?A"), ("AABB", "A?B")]
        {
            assert_eq!(out_of_turn(picture, letters), [0; 0], "{picture} in the order {letters}");
        }
        assert_eq!(out_of_turn("ABCB", "A?"), [2]);
        assert_eq!(out_of_turn("ABAC", "A?C"), [2]);
        assert_eq!(out_of_turn("ABABA", "A??"), [3]);
    }

    #[test]
    fn a_node_that_held_it_twice_may_not_speak_between_its_turns() {
        // Its early word is taken for the begin of its second turn: then B speaks out of turn.
        assert_eq!(out_of_turn("AABABBAA", "ABA"), [4, 5]);
    }

    #[test]
    fn somebody_who_never_held_it_is_a_second_voice() {
        assert_eq!(out_of_turn("CAAC", "AB"), [0, 3]);
        assert_eq!(second_voices(&trace("CA"), VIP, &order("AB"))[0].turn, None);
    }

    #[test]
    fn what_is_said_about_other_addresses_does_not_count() {
        let mut claims = trace("ABA");
        claims[1].address = "192.168.1.241".parse().unwrap();
        assert_eq!(second_voices(&claims, VIP, &order("A")), []);
    }

    #[test]
    fn counts_how_often_the_voice_changed() {
        assert_eq!(speakers(&trace("AABBBA"), VIP), ['A', 'B', 'A'].map(mac));
    }
}
