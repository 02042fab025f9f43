//! Any bytes as a frame for the data plane, whose parser this is: it ends, stays in the frame, and
//! its short way for usual packets finds nothing that the long one does not.
#![no_main]

use herald_ebpf_common::parse::{self, Transport, Ways};
use herald_ebpf_common::{FragmentKey, Reason, protocol};
use libfuzzer_sys::fuzz_target;

/// The length of the frame, and whether it turned out to be a whole request.
struct Check(usize);

impl Ways for Check {
    type Verdict = bool;

    fn pass(self, _reason: Reason) -> bool {
        false
    }

    fn arp(self) -> bool {
        false
    }

    fn request(self, transport: &Transport) -> bool {
        let least = if transport.is_v4 { 20 } else { 40 };
        assert!(transport.l3 >= 14 && transport.l4 >= transport.l3 + least);
        assert!(transport.l4 + 4 <= self.0, "the ports are in the frame");
        let number = transport.key.protocol;
        assert!(matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP));
        !transport.pieces.are_expected()
    }

    fn later_fragment(self, l3: usize, is_v4: bool, _key: &FragmentKey) -> bool {
        assert!(l3 + if is_v4 { 20 } else { 40 } <= self.0);
        false
    }

    fn icmp(self, l3: usize, l4: usize) -> bool {
        assert!(l3 + 20 <= l4);
        false
    }

    fn icmpv6(self, l3: usize, l4: usize) -> bool {
        assert!(l3 + 40 <= l4 && l4 + 2 <= self.0);
        false
    }

    fn solicitation(self) -> bool {
        assert!(self.0 >= 56);
        false
    }
}

fuzz_target!(|bytes: &[u8]| {
    let is_request = parse::walk(bytes, Check(bytes.len()));
    let is_usual = match bytes.get(12..14) {
        Some([0x08, 0x00]) => parse::usual_v4(bytes).is_some(),
        Some([0x86, 0xdd]) => parse::usual_v6(bytes).is_some(),
        _ => false,
    };
    assert!(is_request || !is_usual, "the short way took what the long one does not");
});
