//! What the egress program should do with any frame of a node whose pods have been asked, written
//! apart from it, and half a million mutated replies that it is held to: never a wrong rewrite.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::build::{Frame, tagged};
use crate::kernel::{Action, Kernel};
use crate::model::{Expected, Kind, Sum, half, kind, one};
use crate::network::{fragments, pieces_with_options};
use crate::random::Random;
use crate::{CLIENT, OURS, Pods, picture, pod, requests};

const FRAMES: usize = 500_000;
/// Printed with a failure; another one gives other frames.
const SEED: u64 = 0x72_6570_6c69_6573;

/// What is allowed to become of a frame.
enum Fate {
    Untouched,
    Dropped,
    Restored(Expected),
    /// Left as it is, or restored as this: what depends on memory that may have been given to
    /// others, and forms that pods' replies do not have.
    Either(Option<Expected>),
}

/// The flows that were asked for, and what was seen of them.
struct Model {
    requests: Vec<Frame>,
    /// Packets of which a first fragment left.
    firsts: HashSet<Vec<u8>>,
}

/// Where a frame's headers are, and what they say.
struct Headers {
    l4: usize,
    protocol: u8,
    is_v4: bool,
    /// The fragment's, in units of 8 octets.
    offset: u16,
    has_more: bool,
    name: Vec<u8>,
    /// Whether a local stack sends the like.
    is_usual: bool,
}

/// `None` wherever a frame ends too early, and of what is no IP.
fn walk(frame: &[u8]) -> Option<Headers> {
    match half(frame, 12)? {
        0x0800 => {
            let header = frame.get(14..34)?;
            let length = usize::from(header[0] & 15) * 4;
            let fragment = half(header, 6)?;
            (length >= 20).then(|| Headers {
                l4: 14 + length,
                protocol: header[9],
                is_v4: true,
                offset: fragment & 0x1fff,
                has_more: fragment & 0x2000 != 0,
                name: [&header[12..20], &header[4..6], &[header[9]]].concat(),
                is_usual: header[0] >> 4 == 4 && usize::from(half(frame, 16).unwrap()) >= length,
            })
        }
        0x86dd => {
            let header = frame.get(14..54)?;
            let is_usual = header[0] >> 4 == 6;
            let mut headers = Headers {
                l4: 54,
                protocol: header[6],
                is_v4: false,
                offset: 0,
                has_more: false,
                name: vec![],
                is_usual,
            };
            // Extension headers, the fragment's among them; a later fragment has none behind it.
            for _ in 0..4 {
                let at = headers.l4;
                let octets = match headers.protocol {
                    0 | 43 | 60 => 8 + 8 * usize::from(*frame.get(at + 1)?),
                    44 => 8,
                    _ => break,
                };
                if headers.protocol == 44 {
                    let field = half(frame, at + 2)?;
                    headers.name = [&header[8..40], frame.get(at + 4..at + 8)?].concat();
                    (headers.offset, headers.has_more) = (field >> 3, field & 1 != 0);
                }
                headers.protocol = *frame.get(at)?;
                headers.l4 += octets;
                if headers.offset != 0 {
                    break;
                }
            }
            Some(headers)
        }
        _ => None,
    }
}

impl Model {
    fn fate(&mut self, frame: &[u8]) -> Fate {
        if matches!(half(frame, 12), Some(0x8100 | 0x88a8)) {
            return Fate::Either(self.behind_tags(frame));
        }
        let Some(headers) = walk(frame) else { return Fate::Untouched };
        let fate = self.of(frame, &headers).unwrap_or(Fate::Untouched);
        match fate {
            Fate::Restored(expected) if !headers.is_usual => Fate::Either(Some(expected)),
            Fate::Dropped if !headers.is_usual => Fate::Either(None),
            fate => fate,
        }
    }

    fn of(&mut self, frame: &[u8], headers: &Headers) -> Option<Fate> {
        let Headers { l4, protocol, is_v4, offset, has_more, ref name, .. } = *headers;
        let is_later = offset != 0;
        // What IPv6 calls a later fragment is what its first began with (RFC 8200 4.5).
        if !matches!(protocol, 6 | 17 | 132) && (is_v4 || !is_later) {
            return None;
        }
        if is_later {
            let vip = self.requests.iter().find(|it| it.to.is_ipv4() == is_v4)?.to;
            let is_known = self.firsts.contains(name);
            return is_known.then(|| Fate::Either(Some(restored(frame, headers, vip))));
        }
        let (from, to) = (half(frame, l4)?, half(frame, l4 + 2)?);
        let vip = self.asked(frame, headers, from, to)?;
        let sum = l4
            + match protocol {
                6 => 16,
                17 => 6,
                _ => 8,
            };
        let end = sum + if protocol == 132 { 4 } else { 2 };
        let is_cut = frame.len() < end
            || protocol == 132 && (has_more || self::end(frame, is_v4)? < l4 + 12);
        if has_more && protocol != 132 {
            self.firsts.insert(name.clone());
        }
        Some(if is_cut { Fate::Dropped } else { Fate::Restored(restored(frame, headers, vip)) })
    }

    /// What a client asked for, if the frame is the answer.
    fn asked(&self, frame: &[u8], headers: &Headers, from: u16, to: u16) -> Option<SocketAddr> {
        let is_answer = |request: &&Frame| {
            let pod = pod(request.to.ip(), true);
            request.to.is_ipv4() == headers.is_v4
                && request.protocol == headers.protocol
                && (pod.port(), request.from.port()) == (from, to)
                && frame[source(headers.is_v4)] == octets(pod.ip())
                && frame[destination(headers.is_v4)] == octets(request.from.ip())
        };
        Some(self.requests.iter().find(is_answer)?.to)
    }

    /// The same frame restored behind its tags, if it would be without them.
    fn behind_tags(&mut self, frame: &[u8]) -> Option<Expected> {
        let tags = if matches!(half(frame, 16), Some(0x8100 | 0x88a8)) { 8 } else { 4 };
        let bare = [frame.get(..12)?, frame.get(12 + tags..)?].concat();
        let headers = walk(&bare)?;
        let (Fate::Restored(mut expected) | Fate::Either(Some(mut expected))) =
            self.of(&bare, &headers)?
        else {
            return None;
        };
        let place = |octet: usize| if octet < 12 { octet } else { octet + tags };
        for sum in &mut expected.sums {
            sum.at = place(sum.at);
            for range in &mut sum.covers {
                *range = place(range.start)..place(range.end);
            }
        }
        expected.frame.splice(12..12, frame[12..12 + tags].iter().copied());
        Some(expected)
    }
}

/// The frame with the VIP as its source, and its port if that is in it.
fn restored(frame: &[u8], headers: &Headers, vip: SocketAddr) -> Expected {
    let Headers { l4, protocol, is_v4, offset, .. } = *headers;
    let mut out = frame.to_vec();
    out[source(is_v4)].copy_from_slice(&octets(vip.ip()));
    let mut sums = Vec::new();
    if is_v4 {
        sums.push(Sum { at: 24, covers: one(14..34), kind: Kind::Internet });
    }
    if offset == 0 {
        out[l4..l4 + 2].copy_from_slice(&vip.port().to_be_bytes());
        sums.push(match protocol {
            132 => {
                let end = end(frame, is_v4).unwrap_or(l4);
                let covers = one(l4..frame.len().min(end));
                Sum { at: l4 + 8, covers, kind: Kind::Sctp(end - l4) }
            }
            _ => {
                let at = l4 + if protocol == 17 { 6 } else { 16 };
                let covers = vec![source(is_v4), l4..l4 + 2, at..at + 2];
                Sum { at, covers, kind: kind(protocol) }
            }
        });
    }
    Expected { action: Action::Pass, frame: out, sums }
}

/// Where the IP header says that the packet ends.
fn end(frame: &[u8], is_v4: bool) -> Option<usize> {
    Some(match is_v4 {
        true => 14 + usize::from(half(frame, 16)?),
        false => 54 + usize::from(half(frame, 18)?),
    })
}

fn source(is_v4: bool) -> std::ops::Range<usize> {
    if is_v4 { 26..30 } else { 22..38 }
}

fn destination(is_v4: bool) -> std::ops::Range<usize> {
    if is_v4 { 30..34 } else { 38..54 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Replies of every kind to the requests.
fn seeds(requests: &[Frame]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for request in requests {
        let from = pod(request.to.ip(), true);
        let to = request.from;
        let reply = Frame { destination: CLIENT, source: OURS, from, to, ..request.clone() };
        let bytes = reply.bytes();
        seeds.push(bytes.clone());
        seeds.push(tagged(&bytes, &[(0x8100, 7)]));
        seeds.extend(fragments(&reply));
        if request.to.is_ipv6() {
            let options = [&[reply.protocol, 0, 1, 4, 0, 0, 0, 0], &bytes[54..]].concat();
            seeds.push(reply.ipv6(60, &options));
            seeds.extend(pieces_with_options(&reply));
        } else {
            let mut options = bytes;
            options[14] = 0x46;
            options.splice(34..34, [1, 1, 1, 0]);
            seeds.push(options);
        }
    }
    seeds
}

#[test]
fn never_restores_a_reply_wrongly() {
    let requests = requests();
    let seeds = seeds(&requests);
    let mut kernel = Kernel::with(&picture(Pods::Here));
    for request in &requests {
        let (action, _) = kernel.run(&request.bytes());
        assert_eq!(action, Action::Pass, "{request:?}");
    }
    let mut model = Model { requests, firsts: HashSet::new() };
    let mut random = Random(SEED);
    let (mut left, mut restored, mut dropped) = (0, 0, 0);
    for number in 0..2 * FRAMES {
        let seed = random.below(seeds.len());
        let frame = random.mutate(&seeds[seed]);
        // The kernel makes no packet of headers cut short: one in nine.
        let Ok((leaves, out)) = kernel.try_leave(&frame) else { continue };
        let is_same = leaves && out == frame;
        let verdict = match model.fate(&frame) {
            Fate::Untouched if is_same => Ok(()),
            Fate::Untouched => Err("it should leave untouched".to_owned()),
            Fate::Dropped if !leaves => {
                dropped += 1;
                Ok(())
            }
            Fate::Dropped => Err("it should be dropped".to_owned()),
            Fate::Either(_) if is_same || !leaves => Ok(()),
            Fate::Either(None) => Err("it should be left alone or dropped".to_owned()),
            Fate::Restored(_) if !leaves => Err("it should not be dropped".to_owned()),
            Fate::Restored(expected) | Fate::Either(Some(expected)) => {
                restored += 1;
                expected.check(&frame, Action::Pass, &out)
            }
        };
        if let Err(why) = verdict {
            panic!(
                "frame {number} of seed {SEED:#x}: {why}\n in {frame:02x?}\nout {leaves} {out:02x?}"
            );
        }
        left += 1;
        if left == FRAMES {
            break;
        }
    }
    assert_eq!(left, FRAMES);
    assert!(restored > FRAMES / 4, "the mutations leave enough to restore: {restored}");
    assert!(dropped > 0, "what cannot be restored is met");
}
