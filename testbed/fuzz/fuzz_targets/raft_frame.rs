//! Any bytes as a frame between speakers: never a panic, and what is accepted is written back as it
//! was read.
#![no_main]

use herald_leader_election::raft::frame::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(frame.encode(), bytes);
    }
});
