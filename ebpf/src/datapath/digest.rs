//! The maps `NODE` and `VIP_FILTER`: what other maps hold, in a form the usual packet reads
//! without hashing. Both may say "perhaps" where the answer is no, never "no" where it is yes; how
//! large a Service's table is may be wrong for a while.

use aya::maps::{Array, MapData};
use herald_ebpf_common::{
    self as common, GUESSES, Guess, NODE_LINKS, Node, NodeLink, PEER_BITS, ServiceKey, VIP_BUCKETS,
    mac_number, peer_bit,
};

use super::failed;
use crate::Error;
use crate::picture::Picture;

pub(super) struct Digest {
    node: Array<MapData, Node>,
    filter: Array<MapData, u64>,
    /// What `VIP_FILTER` holds, if that is certain.
    admitted: Option<Vec<u64>>,
}

impl Digest {
    pub(super) const fn new(node: Array<MapData, Node>, filter: Array<MapData, u64>) -> Self {
        Self { node, filter, admitted: None }
    }

    /// Writes our interfaces and peers.
    pub(super) fn meet(&mut self, picture: &Picture) -> Result<(), Error> {
        self.node.set(0, node(picture), 0).map_err(failed("write", "NODE"))
    }

    /// Lets packets for these VIPs be looked up, before there is something to find.
    pub(super) fn admit<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a ServiceKey, Guess)>,
    ) -> Result<(), Error> {
        let admitted = self.admitted()?;
        let mut filter = Filter(admitted.clone());
        for (key, guess) in services {
            if filter.guess(key) == Guess::NONE {
                filter.set(key, guess);
            }
        }
        self.write(filter.0, &admitted)
    }

    /// Lets only those be, after there is nothing else to find.
    pub(super) fn admit_only<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a ServiceKey, Guess)>,
    ) -> Result<(), Error> {
        let mut filter = Filter(vec![0; (VIP_BUCKETS / GUESSES) as usize]);
        for (key, guess) in services {
            // Of two sizes the larger one: then most flows of the smaller take the long way, and
            // are few.
            filter.set(key, guess.max(filter.guess(key)));
        }
        let admitted = self.admitted()?;
        self.write(filter.0, &admitted)
    }

    fn admitted(&self) -> Result<Vec<u64>, Error> {
        match &self.admitted {
            Some(admitted) => Ok(admitted.clone()),
            None => {
                let words = self.filter.iter().collect::<Result<_, _>>();
                words.map_err(failed("read", "VIP_FILTER"))
            }
        }
    }

    /// Reading the map takes a call for each of its words, so who has read it hands it on.
    fn write(&mut self, wanted: Vec<u64>, old: &[u64]) -> Result<(), Error> {
        self.admitted = None;
        for (index, (word, _)) in
            (0..).zip(wanted.iter().zip(old)).filter(|(_, (word, old))| word != old)
        {
            self.filter.set(index, word, 0).map_err(failed("write", "VIP_FILTER"))?;
        }
        self.admitted = Some(wanted);
        Ok(())
    }
}

fn node(picture: &Picture) -> Node {
    let none = NodeLink { mac: 0, ifindex: 0, reserved: 0 };
    let mut node = Node { links: [none; NODE_LINKS], peers: [0; PEER_BITS as usize / 64] };
    for (ifindex, mac) in &picture.links {
        let place = &mut node.links[*ifindex as usize % NODE_LINKS];
        // Who comes second is served by the map `LINKS`.
        if place.ifindex == 0 {
            *place =
                NodeLink { mac: mac_number(&common::mac(*mac)), ifindex: *ifindex, reserved: 0 };
        }
    }
    for mac in picture.peers.keys() {
        set(&mut node.peers, peer_bit(mac_number(&common::mac(*mac))));
    }
    node
}

/// The words of `VIP_FILTER`.
struct Filter(Vec<u64>);

impl Filter {
    fn guess(&self, key: &ServiceKey) -> Guess {
        let bucket = Guess::bucket(key.vip[3]);
        Guess::read(self.0[(bucket / GUESSES) as usize], bucket)
    }

    fn set(&mut self, key: &ServiceKey, guess: Guess) {
        let bucket = Guess::bucket(key.vip[3]);
        let word = &mut self.0[(bucket / GUESSES) as usize];
        let change = Guess::read(*word, bucket).number() ^ guess.number();
        *word ^= u64::from(change) << (bucket % GUESSES * 4);
    }
}

fn set(words: &mut [u64], bit: u32) {
    words[bit as usize / 64] |= 1 << (bit % 64);
}
