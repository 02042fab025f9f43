//! Flow samples: of which packets there is one, what it says, and never more than the rate.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use herald_ebpf::common::sample::RATE;
use herald_ebpf::sample::{End, FlowSample};
use herald_ebpf::{Datapath, Network, Policy, Samples, WhenEmpty};

use crate::build::{Frame, arp};
use crate::kernel::{self, IFINDEX, Kernel};
use crate::{BROADCAST, CLIENT, CLIENT4, PEER, Pods, VIP4, ip, picture, pod, requests};

/// All that are in the ring.
fn read(samples: &mut Samples) -> Vec<FlowSample> {
    samples.map(Result::unwrap).collect()
}

fn end(address: SocketAddr) -> End {
    End { ip: address.ip(), port: Some(address.port()) }
}

#[test]
fn a_packet_that_was_carried_or_refused_has_a_sample() {
    let mut kernel = Kernel::with(&picture(Pods::Elsewhere));
    let mut samples = kernel.datapath.samples().unwrap();
    assert!(kernel.datapath.samples().is_none(), "one reader");
    samples.set_every(1).unwrap();
    let refusing = |policy: Policy| {
        let mut refusing = picture(Pods::Nowhere);
        refusing.policies =
            refusing.services.keys().map(|port| (*port, policy.clone().into())).collect();
        refusing
    };
    let stranger = Network { address: ip("10.9.0.0"), prefix: 16 };
    let rows = [
        ("forwarded", picture(Pods::Elsewhere)),
        ("delivered", picture(Pods::Here)),
        ("pass_no_backend", picture(Pods::Nowhere)),
        ("rejected_no_backend", refusing(Policy { empty: WhenEmpty::Reject, ..Policy::default() })),
        (
            "drop_source_not_allowed",
            refusing(Policy { sources: [stranger].into(), ..Policy::default() }),
        ),
    ];
    for (verdict, picture) in rows {
        kernel.datapath.apply(&picture).unwrap();
        for request in requests() {
            let (_, left, reason) = kernel.xdp(&request.bytes());
            assert_eq!(reason, verdict, "{request:?}");
            let found = read(&mut samples);
            let [sample] = &found[..] else { panic!("{verdict}: {found:?} of {request:?}") };
            let expected = FlowSample {
                at: sample.at,
                reason: sample.reason,
                packets: sample.packets,
                ifindex: IFINDEX,
                length: left.len() as u32,
                protocol: sample.protocol,
                client: end(request.from),
                vip: Some(end(request.to)),
                next_hop: (verdict == "forwarded").then_some(PEER),
                pod: (verdict == "delivered").then(|| end(pod(request.to.ip(), true))),
            };
            assert_eq!(*sample, expected, "{verdict}");
            assert_eq!(sample.reason.label(), verdict);
            assert_eq!(sample.protocol.number(), request.protocol);
        }
    }
    let ours = requests()[0].clone();
    let others = [
        ("pass_not_for_vip", Frame { to: (VIP4, 81).into(), ..ours.clone() }.bytes()),
        ("pass_other_mac", Frame { destination: [2, 0, 0, 0, 9, 9], ..ours }.bytes()),
        ("arp_answered", arp(BROADCAST, 1, (CLIENT, CLIENT4), ([0; 6], VIP4))),
    ];
    for (verdict, packet) in others {
        let (_, _, reason) = kernel.xdp(&packet);
        assert_eq!((reason, read(&mut samples)), (verdict, vec![]));
    }
    let taken = samples.taken().unwrap();
    assert_eq!((taken.written, taken.limited, taken.full), (5 * requests().len() as u64, 0, 0));

    // A process that takes over reads what the one before left, and what comes.
    let left_unread = kernel.xdp(&requests()[0].bytes());
    assert_eq!(left_unread.2, "drop_source_not_allowed");
    drop(samples);
    let (next, fence) = Datapath::open(kernel.directory.path()).unwrap();
    (kernel.datapath, kernel.fence) = (next, fence);
    let mut samples = kernel.datapath.samples().unwrap();
    let _ = kernel.xdp(&requests()[1].bytes());
    let clients: Vec<_> = read(&mut samples).iter().map(|sample| sample.client).collect();
    assert_eq!(clients, [end(requests()[0].from), end(requests()[1].from)]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the rate is the kernel's own clock's")]
fn samples_are_as_many_as_asked_for_and_never_above_the_rate() {
    let refused = Policy {
        sources: [Network { address: ip("10.9.0.0"), prefix: 16 }].into(),
        ..Policy::default()
    };
    let mut picture = picture(Pods::Here);
    picture.policies =
        picture.services.keys().map(|port| (*port, refused.clone().into())).collect();
    let mut kernel = Kernel::with(&picture);
    let mut samples = kernel.datapath.samples().unwrap();
    // Each CPU draws for itself.
    kernel::stay_on_this_cpu();
    // Dropped as it is, so that the same packet can be run again.
    let packet = requests()[0].bytes();
    let mut on_one_cpu = |count| kernel.repeat(&packet, count);

    // Off, as at first: nothing, however many there are.
    assert_eq!(on_one_cpu(5_000), "drop_source_not_allowed");
    assert_eq!(read(&mut samples), []);

    // The programs notice a change within 1,024 packets.
    samples.set_every(16).unwrap();
    on_one_cpu(1_024);
    let found = read(&mut samples);
    assert!(!found.is_empty(), "no sample of 1,024 packets");
    let before = samples.taken().unwrap();
    on_one_cpu(160);
    let (found, after) = (read(&mut samples), samples.taken().unwrap());
    let due = (after.written - before.written) + (after.limited - before.limited);
    // Gaps of 1 to 31 packets.
    assert!((160 / 31..=80).contains(&due), "{due} of 160 at 1 of 16");
    assert_eq!(found.len() as u64, after.written - before.written);

    // All of them, as far as the rate goes.
    samples.set_every(1).unwrap();
    on_one_cpu(64);
    let _ = read(&mut samples);
    let (before, begin) = (samples.taken().unwrap(), Instant::now());
    on_one_cpu(10_000);
    let (after, took) = (samples.taken().unwrap(), begin.elapsed());
    let (written, limited) = (after.written - before.written, after.limited - before.limited);
    assert_eq!((written + limited, after.full), (10_000, 0));
    let earned = took.as_nanos() / Duration::from_nanos(RATE.interval).as_nanos();
    let most = u128::from(RATE.burst) + earned + 1;
    assert!(u128::from(written) <= most, "{written} samples, at most {most}");
    let found = read(&mut samples);
    assert_eq!(found.len() as u64, written);
    // Together they stand for all packets up to the last of them, whatever was not written.
    let stood_for: u64 = found.iter().map(|sample| sample.packets).sum();
    assert!(found.len() < 2 || stood_for > 32, "{stood_for}");
}
