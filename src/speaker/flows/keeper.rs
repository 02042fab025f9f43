//! Keeps the last flow samples and what all of them add up to (pure).
//!
//! Both are bounded: clients choose the flows, so that neither may grow with their number. Sums
//! have no client in them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::SystemTime;

use herald_ebpf::Taken;
use herald_ebpf::sample::{End, FlowSample, Unreadable};

use crate::status::{Flow, FlowSum};

/// Samples shown one by one.
const RECENT: usize = 256;
/// Sums of different Services, nodes and verdicts.
const SUMS: usize = 4096;

/// The samples.
#[derive(Debug, Default)]
pub struct Keeper {
    recent: VecDeque<Kept>,
    sums: BTreeMap<Key, Sum>,
    unreadable: BTreeMap<&'static str, u64>,
    /// Not summed, because there are too many sums.
    unsummed: u64,
    read: u64,
}

/// What a sample's addresses are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names {
    /// The Service, as `namespace/name`.
    pub service: Option<String>,
    /// The node whose pod got the packet.
    pub node: Option<String>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    time: SystemTime,
    sample: FlowSample,
    names: Names,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    vip: Option<IpAddr>,
    port: Option<u16>,
    protocol: &'static str,
    verdict: &'static str,
    names: Names,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    samples: u64,
    packets: u64,
}

impl Keeper {
    /// Takes in a sample that was taken at `time`.
    pub fn keep(&mut self, sample: FlowSample, time: SystemTime, names: Names) {
        self.read += 1;
        let key = Key {
            vip: sample.vip.map(|vip| vip.ip),
            port: sample.vip.and_then(|vip| vip.port),
            protocol: sample.protocol.label(),
            verdict: sample.reason.label(),
            names: names.clone(),
        };
        if self.sums.len() < SUMS || self.sums.contains_key(&key) {
            let sum = self.sums.entry(key).or_default();
            sum.samples += 1;
            sum.packets += sample.packets;
        } else {
            self.unsummed += 1;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Kept { number: self.read, time, sample, names });
    }

    /// Takes note of a record that was none.
    pub fn refuse(&mut self, why: Unreadable) {
        *self.unreadable.entry(why.label()).or_default() += 1;
    }

    /// Samples taken in.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Samples that were not taken or not understood, by the named reason.
    pub fn lost(&self, taken: Taken) -> BTreeMap<String, u64> {
        let counts = [
            ("rate_limited", taken.limited),
            ("ring_full", taken.full),
            ("too_many_sums", self.unsummed),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts = counts.map(|(why, count)| (why.to_owned(), count));
        let unreadable = self.unreadable.iter();
        counts.chain(unreadable.map(|(why, n)| (format!("unreadable_{why}"), *n))).collect()
    }

    /// The sums.
    pub fn sums(&self) -> Vec<FlowSum> {
        let row = |(key, sum): (&Key, &Sum)| FlowSum {
            vip: key.vip,
            port: key.port,
            protocol: key.protocol,
            service: key.names.service.clone(),
            verdict: key.verdict,
            node: key.names.node.clone(),
            samples: sum.samples,
            packets: sum.packets,
        };
        self.sums.iter().map(row).collect()
    }

    /// The last samples behind the one of this number, the oldest first; all, if there is no such
    /// number yet: it is from a process before this.
    pub fn recent(&self, after: u64) -> Vec<Flow> {
        let after = if after > self.read { 0 } else { after };
        self.recent.iter().filter(|kept| kept.number > after).map(Kept::row).collect()
    }
}

impl Kept {
    fn row(&self) -> Flow {
        let sample = &self.sample;
        let end = |end: Option<End>| end.map(|it| it.to_string());
        Flow {
            number: self.number,
            time: humantime::format_rfc3339_millis(self.time).to_string(),
            protocol: sample.protocol.label(),
            client: sample.client.to_string(),
            vip: end(sample.vip),
            service: self.names.service.clone(),
            verdict: sample.reason.label(),
            node: self.names.node.clone(),
            pod: end(sample.pod),
            length: sample.length,
            packets: sample.packets,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_ebpf::Protocol;
    use herald_ebpf::common::Reason;

    use super::*;

    fn sample(reason: Reason, client_port: u16, packets: u64) -> FlowSample {
        let end = |ip: &str, port| End { ip: ip.parse().unwrap(), port: Some(port) };
        let is_delivered = reason == Reason::Delivered;
        FlowSample {
            at: Duration::ZERO,
            reason,
            packets,
            ifindex: 2,
            length: 74,
            protocol: Protocol::Tcp,
            client: end("192.168.1.100", client_port),
            vip: Some(end("192.168.1.240", 80)),
            next_hop: (reason == Reason::Forwarded).then_some([2, 0, 0, 0, 1, 12]),
            pod: is_delivered.then(|| end("10.244.1.2", 8080)),
        }
    }

    fn names(service: &str, node: &str) -> Names {
        Names { service: Some(service.to_owned()), node: Some(node.to_owned()) }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn sums_by_service_node_and_verdict_whoever_the_client_is() {
        let mut keeper = Keeper::default();
        for port in 1..=10 {
            keeper.keep(sample(Reason::Forwarded, port, 7), at(0), names("default/echo", "n2"));
        }
        keeper.keep(sample(Reason::Forwarded, 1, 5), at(0), names("default/echo", "n3"));
        keeper.keep(sample(Reason::Rejected, 1, 2), at(0), Names::default());
        let sums = keeper.sums();
        let sums: Vec<_> = sums
            .iter()
            .map(|sum| (sum.verdict, sum.node.as_deref(), sum.samples, sum.packets))
            .collect();
        let expected = [
            ("forwarded", Some("n2"), 10, 70),
            ("forwarded", Some("n3"), 1, 5),
            ("rejected_no_backend", None, 1, 2),
        ];
        assert_eq!(sums, expected);
    }

    #[test]
    fn shows_a_sample_whole() {
        let mut keeper = Keeper::default();
        keeper.keep(sample(Reason::Delivered, 40_001, 3), at(1), names("default/echo", "n1"));
        let expected = Flow {
            number: 1,
            time: "1970-01-01T00:00:01.000Z".to_owned(),
            protocol: "TCP",
            client: "192.168.1.100:40001".to_owned(),
            vip: Some("192.168.1.240:80".to_owned()),
            service: Some("default/echo".to_owned()),
            verdict: "delivered",
            node: Some("n1".to_owned()),
            pod: Some("10.244.1.2:8080".to_owned()),
            length: 74,
            packets: 3,
        };
        assert_eq!(keeper.recent(0), [expected]);
    }

    #[test]
    fn shows_the_last_ones_once() {
        let mut keeper = Keeper::default();
        let numbers = |keeper: &Keeper, after| {
            let recent = keeper.recent(after);
            (recent.len(), recent.first().map(|it| it.number), recent.last().map(|it| it.number))
        };
        assert_eq!(numbers(&keeper, 0), (0, None, None));
        for _ in 0..300 {
            keeper.keep(sample(Reason::Forwarded, 1, 1), at(0), Names::default());
        }
        assert_eq!(numbers(&keeper, 0), (256, Some(45), Some(300)));
        assert_eq!(numbers(&keeper, 298), (2, Some(299), Some(300)));
        assert_eq!(numbers(&keeper, 300), (0, None, None));
        assert_eq!(numbers(&keeper, 301), (256, Some(45), Some(300)), "of a process before");
    }

    #[test]
    fn sums_are_bounded_and_what_is_lost_is_said() {
        let mut keeper = Keeper::default();
        for number in 0..SUMS + 3 {
            let names = names(&format!("default/s{number}"), "n2");
            keeper.keep(sample(Reason::Forwarded, 1, 1), at(0), names);
        }
        keeper.keep(sample(Reason::Forwarded, 1, 1), at(0), names("default/s0", "n2"));
        keeper.refuse(Unreadable::Cut);
        keeper.refuse(Unreadable::Cut);
        assert_eq!(keeper.sums().len(), SUMS);
        let lost = keeper.lost(Taken { written: 9, limited: 5, full: 0 });
        let expected = [("rate_limited", 5), ("too_many_sums", 3), ("unreadable_cut", 2)];
        assert_eq!(lost, expected.map(|(why, count)| (why.to_owned(), count)).into());
        let first =
            keeper.sums().into_iter().find(|sum| sum.service.as_deref() == Some("default/s0"));
        assert_eq!(first.map(|sum| sum.samples), Some(2));
    }
}
