//! Members that come and go over real sockets and files: what `membership` shows in virtual time,
//! once through the edges. Deadlines are generous: other builds may share the machine.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod lan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use herald_leader_election::{
    ClaimKey, Eligible, Key, NodeName, Patience, RaftConfig, Voters, Wanted,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use self::lan::{GENEROUS, Speaker, TIMING, name, own_addresses, vip};

/// Dead voters are not replaced while this lasts, deleted nodes are soon forgotten.
const PATIENCE: Patience =
    Patience { replace_after: Duration::from_secs(3600), forget_after: Duration::from_secs(1) };

struct Lan {
    directory: TempDir,
    addresses: BTreeMap<NodeName, SocketAddr>,
    speakers: BTreeMap<NodeName, Speaker>,
}

fn names(nodes: impl IntoIterator<Item = usize>) -> BTreeSet<NodeName> {
    nodes.into_iter().map(name).collect()
}

impl Lan {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { directory, addresses: own_addresses(8), speakers: BTreeMap::new() }
    }

    fn config(&self, node: usize, listed: &BTreeSet<NodeName>, voters: Voters) -> RaftConfig {
        let listed = |node: &NodeName| listed.contains(node);
        let nodes = self.addresses.iter().filter(|(node, _)| listed(node));
        RaftConfig {
            cluster: "lan".to_owned(),
            node: name(node),
            nodes: nodes.map(|(node, address)| (node.clone(), *address)).collect(),
            voters,
            patience: PATIENCE,
            listen: self.addresses[&name(node)],
            state_dir: self.directory.path().join(name(node).as_str()),
            timing: TIMING,
            facts: Vec::new(),
        }
    }

    fn start(&mut self, node: usize, listed: &BTreeSet<NodeName>) {
        let config = self.config(node, listed, Voters::Automatic);
        self.start_with(config, [1; 32]);
    }

    fn start_with(&mut self, config: RaftConfig, key: [u8; 32]) {
        let node = config.node.clone();
        let speaker = Speaker::start(config, Some(Key::from_bytes(key)));
        speaker.handle.set_wanted(wanted());
        self.speakers.insert(node, speaker);
    }

    /// Tells everybody which nodes the source has.
    fn list(&self, listed: &BTreeSet<NodeName>) {
        let nodes = self.addresses.iter().filter(|(node, _)| listed.contains(*node));
        let nodes: BTreeMap<NodeName, SocketAddr> =
            nodes.map(|(node, address)| (node.clone(), *address)).collect();
        for speaker in self.speakers.values() {
            speaker.handle.set_nodes(nodes.clone());
        }
    }

    async fn kill(&mut self, node: usize) {
        self.speakers.remove(&name(node)).unwrap().kill().await;
    }

    fn members(&self, node: usize) -> BTreeMap<NodeName, bool> {
        self.speakers[&name(node)].handle.members()
    }

    fn speaks(&self, node: usize, key: ClaimKey) -> bool {
        let speaker = &self.speakers[&name(node)];
        let view = speaker.handle.view().borrow().clone();
        view.held(&name(node), &key).is_some() && speaker.fence.is_open()
    }

    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let members = || self.speakers.iter().map(|(n, s)| (n, s.handle.members()));
        lan::until(|| so(self), || format!("{what}: {:?}", members().collect::<Vec<_>>())).await;
    }

    /// Waits until these nodes, and no others, take part by everybody's word, and these vote.
    async fn until_members(
        &self,
        what: &str,
        members: BTreeSet<NodeName>,
        voters: BTreeSet<NodeName>,
    ) {
        let expected: BTreeMap<NodeName, bool> =
            members.iter().map(|node| (node.clone(), voters.contains(node))).collect();
        self.until(what, |lan| lan.speakers.values().all(|s| s.handle.members() == expected)).await;
    }

    async fn all_spoken_for(&self, what: &str) {
        self.until(what, |lan| {
            wanted().claims.iter().filter(|(_, eligible)| eligible.nodes().count() > 1).all(
                |(key, _)| {
                    (0..8).any(|n| lan.speakers.contains_key(&name(n)) && lan.speaks(n, *key))
                },
            )
        })
        .await;
    }
}

/// Four keys for everybody, and one for the fourth node alone.
fn wanted() -> Wanted {
    let everybody = names(0..8);
    let keys = (0..3).map(vip).chain([ClaimKey::Allocator]);
    let mut claims: BTreeMap<_, Eligible> =
        keys.map(|key| (key, everybody.iter().cloned().collect())).collect();
    claims.insert(vip(33), names([3]).into_iter().collect());
    Wanted { claims }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_found_two_join_one_leaves_and_one_loses_its_disk() {
    let mut lan = Lan::new();
    for n in 0..3 {
        lan.start(n, &names(0..3));
    }
    lan.until_members("founded", names(0..3), names(0..3)).await;
    lan.all_spoken_for("by the founders").await;

    // The fourth takes part without a vote, and holds what it may.
    lan.list(&names(0..4));
    lan.start(3, &names(0..4));
    lan.until_members("a fourth", names(0..4), names(0..3)).await;
    lan.until("a learner speaks", |lan| lan.speaks(3, vip(33))).await;

    // With the fifth, all vote.
    lan.list(&names(0..5));
    lan.start(4, &names(0..5));
    lan.until_members("five vote", names(0..5), names(0..5)).await;

    // One leaves for good; of four, three vote.
    let leaver = lan.speakers.remove(&name(4)).unwrap();
    timeout(GENEROUS, leaver.handle.close()).await.unwrap();
    timeout(GENEROUS, leaver.task).await.unwrap().unwrap().unwrap();
    lan.list(&names(0..4));
    let voters = |lan: &Lan| lan.members(0).values().filter(|votes| **votes).count();
    lan.until("four are left", |lan| {
        (0..4).all(|n| lan.members(n).keys().cloned().collect::<BTreeSet<_>>() == names(0..4))
            && voters(lan) == 3
    })
    .await;
    lan.all_spoken_for("after one left").await;

    // A voter loses its disk, and votes again.
    let voting: BTreeSet<NodeName> =
        lan.members(0).into_iter().filter(|(_, votes)| *votes).map(|(node, _)| node).collect();
    let victim = (0..3).find(|n| voting.contains(&name(*n))).unwrap();
    lan.kill(victim).await;
    std::fs::remove_dir_all(lan.directory.path().join(name(victim).as_str())).unwrap();
    lan.start(victim, &names(0..4));
    lan.until("the lost disk's node is back", |lan| {
        let settled = lan.speakers[&name(victim)].handle.view().borrow().is_settled();
        settled && (0..4).all(|n| lan.members(n).len() == 4) && voters(lan) == 3
    })
    .await;
    lan.all_spoken_for("after the lost disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_or_cluster_does_not_get_in_and_is_counted() {
    let mut lan = Lan::new();
    for n in 0..3 {
        lan.start(n, &names(0..4));
    }
    lan.until_members("founded", names(0..3), names(0..3)).await;
    let good = lan.config(3, &names(0..4), Voters::Automatic);
    let foreign = RaftConfig {
        cluster: "other".to_owned(),
        state_dir: lan.directory.path().join("foreign"),
        ..good.clone()
    };
    for (config, key, reason) in
        [(good.clone(), [2; 32], "wrong_key"), (foreign, [1; 32], "foreign_cluster")]
    {
        lan.start_with(config, key);
        let counted = |lan: &Lan| {
            (0..3).any(|n| lan.speakers[&name(n)].handle.refusals().contains_key(reason))
        };
        lan.until(reason, counted).await;
        sleep(TIMING.ttl).await;
        let outsider = &lan.speakers[&name(3)];
        assert_eq!(outsider.fence.deadline(), 0);
        assert!(outsider.handle.members().is_empty());
        assert_eq!(lan.members(0).len(), 3);
        lan.kill(3).await;
    }
    lan.start_with(good, [1; 32]);
    lan.until_members("with the right key", names(0..4), names(0..3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_of_different_opinion_found_nothing_and_say_so() {
    let mut lan = Lan::new();
    let listed = names(0..3);
    for (n, voters) in [(0, names(0..2)), (1, names(0..3)), (2, names(0..3))] {
        let config = lan.config(n, &listed, Voters::Exactly(voters));
        lan.start_with(config, [1; 32]);
    }
    let counted =
        |lan: &Lan| lan.speakers[&name(1)].handle.refusals().contains_key("other_founders");
    lan.until("refused", counted).await;
    sleep(TIMING.ttl).await;
    assert!((0..3).all(|n| lan.members(n).is_empty()));
    // Once they are of one mind, they found it.
    lan.kill(0).await;
    std::fs::remove_dir_all(lan.directory.path().join("n0")).unwrap();
    let config = lan.config(0, &listed, Voters::Exactly(names(0..3)));
    lan.start_with(config, [1; 32]);
    lan.until_members("agreed", names(0..3), names(0..3)).await;
}
