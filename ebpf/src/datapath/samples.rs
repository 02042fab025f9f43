//! Flow samples out of the ring buffer `SAMPLES` (edge). One reader at a time: it owns the ring's
//! end. It never waits; whoever holds it waits for its file descriptor.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use herald_ebpf_common::sample::Sampler;
use herald_ebpf_common::{
    ReverseKey, ReverseKey4, ReverseValue, ReverseValue4, address, ip, mapped,
};

use super::maps::Maps;
use super::{Datapath, failed, take};
use crate::Error;
use crate::sample::{End, FlowSample, Unreadable};

/// The reader of flow samples.
pub struct Samples {
    ring: RingBuf<MapData>,
    sampling: Array<MapData, u32>,
    sampler: PerCpuArray<MapData, Sampler>,
    reverse: HashMap<MapData, ReverseKey, ReverseValue>,
    reverse4: HashMap<MapData, ReverseKey4, ReverseValue4>,
}

/// What became of samples in the kernel since the maps were first pinned, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Written into the ring.
    pub written: u64,
    /// Not written, because a CPU had written enough lately.
    pub limited: u64,
    /// Not written, because the ring was full.
    pub full: u64,
}

impl Datapath {
    /// The reader of flow samples, once.
    pub const fn samples(&mut self) -> Option<Samples> {
        self.samples.take()
    }
}

impl Samples {
    pub(super) fn open(maps: &mut Maps) -> Result<Self, Error> {
        Ok(Self {
            ring: take(maps, "SAMPLES", RingBuf::try_from)?,
            sampling: take(maps, "SAMPLING", Array::try_from)?,
            sampler: take(maps, "SAMPLER", PerCpuArray::try_from)?,
            reverse: take(maps, "REVERSE", HashMap::try_from)?,
            reverse4: take(maps, "REVERSE4", HashMap::try_from)?,
        })
    }

    /// Has one packet of so many sampled from now on, none with zero. What was drawn before stays
    /// drawn: it can take twice as many packets as before, or a thousand if there were none.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn set_every(&mut self, every: u32) -> Result<(), Error> {
        self.sampling.set(0, every, 0).map_err(failed("write", "SAMPLING"))
    }

    /// What became of samples in the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Map`].
    pub fn taken(&self) -> Result<Taken, Error> {
        let cpus = self.sampler.get(&0, 0).map_err(failed("read", "SAMPLER"))?;
        Ok(cpus.iter().fold(Taken::default(), |sum, cpu| Taken {
            written: sum.written + cpu.written,
            limited: sum.limited + cpu.limited,
            full: sum.full + cpu.full,
        }))
    }

    /// The VIP a packet was for that has its pod's address now: as its replies will be told it.
    fn vip(&self, sample: &FlowSample) -> Option<End> {
        let pod = sample.pod?.with_port()?;
        let client = sample.client.with_port()?;
        let protocol = sample.protocol.number();
        let (vip, port_be) = match (pod, client) {
            (SocketAddr::V4(pod), SocketAddr::V4(client)) => {
                let end =
                    |it: SocketAddrV4| (u32::from_ne_bytes(it.ip().octets()), it.port().to_be());
                let key = ReverseKey4::new(end(pod), end(client), protocol);
                let known = self.reverse4.get(&key, 0).ok()?;
                (mapped(known.vip()), known.port_be())
            }
            _ => {
                let key = ReverseKey {
                    pod: address(pod.ip()),
                    client: address(client.ip()),
                    pod_port_be: pod.port().to_be(),
                    client_port_be: client.port().to_be(),
                    protocol: u32::from(protocol),
                };
                let known = self.reverse.get(&key, 0).ok()?;
                (known.vip, known.port_be)
            }
        };
        Some(End { ip: ip(&vip), port: Some(u16::from_be(port_be)) })
    }
}

/// What is in the ring: each sample, or why a record is none. At its end there may be more later.
impl Iterator for Samples {
    type Item = Result<FlowSample, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        let decoded = FlowSample::decode(&self.ring.next()?);
        Some(decoded.map(|mut sample| {
            sample.vip = sample.vip.or_else(|| self.vip(&sample));
            sample
        }))
    }
}

impl AsRawFd for Samples {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
