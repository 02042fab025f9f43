//! Requests that wait for their turn (pure): this node's own session first, then sessions of
//! others, then claims, so that a thousand claims to be taken cost nobody a session; claims that
//! never had a holder last, since nobody is without an answer that he had.
//!
//! At most one request of a kind waits for each object: the election gives a write up before it
//! asks for another, so the later one is the one that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_leader_election::lease::{ApiRequest, ObjectKey};
use herald_leader_election::{BootTime, NodeName};

/// The queue of one node.
#[derive(Debug)]
pub struct Queue {
    me: NodeName,
    /// After this the election has given a request up.
    limit: Duration,
    waiting: BTreeMap<Slot, (ApiRequest, BootTime)>,
}

/// Order of service, and what makes two requests the same.
type Slot = (Rank, ObjectKey, Kind);

/// How urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// This node's own session: never waits.
    Own,
    /// A session of another node.
    Other,
    /// A claim.
    Claim,
    /// A claim that is not there yet.
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Write,
    Read,
}

impl Queue {
    /// An empty one; requests that waited for `limit` are forgotten.
    pub fn new(me: NodeName, limit: Duration) -> Self {
        Self { me, limit, waiting: BTreeMap::new() }
    }

    /// Adds a request that was made now.
    pub fn push(&mut self, request: ApiRequest, now: BootTime) {
        let (key, kind) = match &request {
            ApiRequest::Write(write) => (write.key.clone(), Kind::Write),
            ApiRequest::Read(key) => (key.clone(), Kind::Read),
        };
        for rank in [Rank::Claim, Rank::New] {
            self.waiting.remove(&(rank, key.clone(), kind));
        }
        self.waiting.insert((self.rank(&request), key, kind), (request, now));
    }

    /// The next request that is at least as urgent as `least`, with its rank.
    pub fn pop(&mut self, least: Rank, now: BootTime) -> Option<(Rank, ApiRequest)> {
        loop {
            let first = self.waiting.first_entry()?;
            let rank = first.key().0;
            if rank > least {
                return None;
            }
            let (request, since) = first.remove();
            if now.since(since) < self.limit {
                return Some((rank, request));
            }
        }
    }

    fn rank(&self, request: &ApiRequest) -> Rank {
        let (key, is_new) = match request {
            ApiRequest::Write(write) => (&write.key, write.expected.is_none()),
            ApiRequest::Read(key) => (key, false),
        };
        match key {
            ObjectKey::Session(node) if *node == self.me => Rank::Own,
            ObjectKey::Session(_) => Rank::Other,
            ObjectKey::Claim(_) if is_new => Rank::New,
            ObjectKey::Claim(_) => Rank::Claim,
        }
    }
}

#[cfg(test)]
mod tests {
    use herald_leader_election::ClaimKey;
    use herald_leader_election::lease::{ClaimObject, Object, Version, Write};

    use super::*;

    fn at(milliseconds: u64) -> BootTime {
        BootTime(Duration::from_millis(milliseconds))
    }

    fn queue() -> Queue {
        Queue::new("n1".into(), Duration::from_millis(1500))
    }

    fn read(node: &str) -> ApiRequest {
        ApiRequest::Read(ObjectKey::Session(node.into()))
    }

    fn take(id: u64) -> ApiRequest {
        let object =
            Object::Claim(ClaimObject { holder: None, term: 1, move_to: None, record: None });
        let key = ObjectKey::Claim(ClaimKey::Allocator);
        ApiRequest::Write(Write { id, key, expected: None, object })
    }

    fn pop(queue: &mut Queue, least: Rank, now: u64) -> Option<ApiRequest> {
        queue.pop(least, at(now)).map(|(_, request)| request)
    }

    /// Takes over a claim that is there.
    fn take_over(id: u64) -> ApiRequest {
        let ApiRequest::Write(write) = take(id) else { unreachable!() };
        ApiRequest::Write(Write { expected: Some(Version("1".into())), ..write })
    }

    #[test]
    fn what_had_a_holder_goes_before_what_had_none() {
        let mut queue = queue();
        let ApiRequest::Write(write) = take(1) else { unreachable!() };
        let vip = ObjectKey::Claim(ClaimKey::Vip([192, 0, 2, 1].into()));
        let vip = ApiRequest::Write(Write { key: vip, ..write });
        queue.push(vip.clone(), at(0));
        queue.push(take_over(2), at(0));
        assert_eq!(queue.pop(Rank::Claim, at(1)), Some((Rank::Claim, take_over(2))));
        assert_eq!(queue.pop(Rank::Claim, at(1)), None, "the new one waits for its turn");
        assert_eq!(queue.pop(Rank::New, at(1)), Some((Rank::New, vip)));
    }

    #[test]
    fn a_claim_that_turned_out_to_be_there_is_asked_for_once() {
        let mut queue = queue();
        queue.push(take(1), at(0));
        queue.push(take_over(2), at(0));
        assert_eq!(pop(&mut queue, Rank::New, 1), Some(take_over(2)));
        assert_eq!(pop(&mut queue, Rank::New, 1), None);
    }

    #[test]
    fn the_own_session_goes_first_and_claims_last() {
        let mut queue = queue();
        for request in [take(1), read("n0"), read("n1")] {
            queue.push(request, at(0));
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, Rank::New, 1)).collect();
        assert_eq!(order, [read("n1"), read("n0"), take(1)]);
    }

    #[test]
    fn only_the_own_session_goes_where_nothing_else_may() {
        let mut queue = queue();
        queue.push(take(1), at(0));
        assert_eq!(pop(&mut queue, Rank::Own, 1), None);
        queue.push(read("n1"), at(0));
        assert_eq!(pop(&mut queue, Rank::Own, 1), Some(read("n1")));
        assert_eq!(pop(&mut queue, Rank::New, 1), Some(take(1)), "it still waits");
    }

    #[test]
    fn the_later_write_of_an_object_replaces_the_one_given_up() {
        let mut queue = queue();
        queue.push(take(1), at(0));
        queue.push(take(2), at(5));
        assert_eq!(pop(&mut queue, Rank::New, 6), Some(take(2)));
        assert_eq!(pop(&mut queue, Rank::New, 6), None);
    }

    #[test]
    fn what_waited_too_long_is_forgotten() {
        let mut queue = queue();
        queue.push(take(1), at(0));
        assert_eq!(pop(&mut queue, Rank::New, 1500), None);
    }
}
