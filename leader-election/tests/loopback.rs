//! Three real elections over loopback: sockets, files, the boot clock and the fence as in
//! production.
//!
//! What is promised at every instant is shown in virtual time (`simulation`); this shows that the
//! edges do what the core says. Deadlines are generous: other builds may share the machine.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

mod lan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use herald_leader_election::clock::boot_now;
use herald_leader_election::{
    ClaimKey, Guard, Handle, Key, NodeName, Patience, RaftConfig, SessionState, Voters, Wanted,
    start,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use self::lan::{GENEROUS, Remembered, Speaker, TIMING, name, own_addresses, vip};

struct Lan {
    directory: TempDir,
    key: Option<Key>,
    voters: BTreeMap<NodeName, SocketAddr>,
    speakers: BTreeMap<NodeName, Speaker>,
}

fn config(
    node: &NodeName,
    voters: &BTreeMap<NodeName, SocketAddr>,
    directory: &Path,
) -> RaftConfig {
    RaftConfig {
        cluster: "lan".to_owned(),
        node: node.clone(),
        nodes: voters.clone(),
        voters: Voters::Exactly(voters.keys().cloned().collect()),
        patience: Patience::default(),
        listen: voters[node],
        state_dir: directory.join(node.as_str()),
        timing: TIMING,
        facts: node.as_str().as_bytes().to_vec(),
    }
}

impl Lan {
    fn new(count: u16) -> Self {
        Self::with_key(count, Some(Key::from_bytes([1; 32])))
    }

    fn with_key(count: u16, key: Option<Key>) -> Self {
        let voters = own_addresses(count);
        let directory = TempDir::new().unwrap();
        let mut lan = Self { directory, key, voters, speakers: BTreeMap::new() };
        for n in 0..count {
            lan.start(&name(n.into()));
        }
        lan
    }

    fn start(&mut self, node: &NodeName) {
        let config = config(node, &self.voters, self.directory.path());
        let speaker = Speaker::start(config, self.key.clone());
        let nodes: BTreeSet<NodeName> = self.voters.keys().cloned().collect();
        let keys = (0..6).map(vip).chain([ClaimKey::Allocator]);
        let claims = keys.map(|key| (key, nodes.clone().into())).collect();
        speaker.handle.set_wanted(Wanted { claims });
        self.speakers.insert(node.clone(), speaker);
    }

    async fn kill(&mut self, node: &NodeName) {
        self.speakers.remove(node).unwrap().kill().await;
    }

    fn keys(&self) -> impl Iterator<Item = ClaimKey> {
        (0..6).map(vip).chain([ClaimKey::Allocator])
    }

    /// Who holds and may speak for each key, by the holders' own views and fences.
    fn speakers(&self) -> BTreeMap<ClaimKey, NodeName> {
        let mut found = BTreeMap::new();
        for (node, speaker) in &self.speakers {
            let view = speaker.handle.view().borrow().clone();
            if speaker.fence.is_open() {
                found.extend(view.claims_of(node).map(|claim| (claim.key, node.clone())));
            }
        }
        found
    }

    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) -> Duration {
        let start = boot_now();
        lan::until(|| so(self), || format!("{what}: {:?}", self.speakers())).await;
        boot_now().since(start)
    }

    async fn all_spoken_for(&self) -> Duration {
        self.until("all spoken for", |lan| lan.speakers().len() == lan.keys().count()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elects_takes_over_stays_put_and_gives_away() {
    let mut lan = Lan::new(3);
    lan.all_spoken_for().await;
    let before = lan.speakers();
    for speaker in lan.speakers.values() {
        let view = speaker.handle.view().borrow().clone();
        assert_eq!(&*view.sessions[&name(1)].facts, b"n1");
    }

    // One dies; its VIPs move, nobody else's do.
    let view = lan.speakers[&name(0)].handle.view().borrow().clone();
    let victim = view.leader.clone().unwrap();
    lan.kill(&victim).await;
    let took = lan.all_spoken_for().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    let after = lan.speakers();
    for (key, holder) in before.iter().filter(|(_, holder)| **holder != victim) {
        assert_eq!(after[key], *holder, "{key}");
    }

    // It returns and takes nothing back.
    lan.start(&victim);
    lan.until("settled", |lan| lan.speakers[&victim].handle.view().borrow().is_settled()).await;
    sleep(Duration::from_secs(1)).await;
    lan.all_spoken_for().await;
    assert_eq!(lan.speakers(), after);

    // One drains: all of its VIPs go to others, and it stays up.
    let leaver = after[&vip(0)].clone();
    lan.speakers[&leaver].handle.drain();
    let without = |lan: &Lan| {
        let speakers = lan.speakers();
        speakers.len() == lan.keys().count() && speakers.values().all(|node| *node != leaver)
    };
    lan.until("drained", without).await;

    // It closes: silent, gone, and the others know.
    let speaker = lan.speakers.remove(&leaver).unwrap();
    timeout(GENEROUS, speaker.handle.close()).await.unwrap();
    assert_eq!(speaker.fence.deadline(), 0);
    timeout(GENEROUS, speaker.task).await.unwrap().unwrap().unwrap();
    let closed = |lan: &Lan| {
        let view = lan.speakers.values().next().map(|s| s.handle.view().borrow().clone());
        view.is_some_and(|view| view.sessions[&leaver].state == SessionState::Closed)
    };
    lan.until("closed", closed).await;
    lan.all_spoken_for().await;
}

/// What a speaker does when its view asks for it: silence (here: nothing to silence), then hand
/// over.
fn oblige(handle: &Handle) -> JoinHandle<()> {
    let (mut view, handle) = (handle.view(), handle.clone());
    tokio::spawn(async move {
        while view.changed().await.is_ok() {
            let asked: Vec<ClaimKey> = view.borrow_and_update().handovers.keys().copied().collect();
            asked.into_iter().for_each(|key| handle.hand_over(key));
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_move_and_nodes_are_drained_on_request_from_anywhere() {
    let lan = Lan::new(3);
    lan.all_spoken_for().await;
    let obliging: Vec<_> = lan.speakers.values().map(|s| oblige(&s.handle)).collect();
    for asked_at in 0..3 {
        let from = lan.speakers()[&vip(0)].clone();
        let to = (0..3).map(name).find(|node| *node != from).unwrap();
        // Whoever is asked judges by its own view, which may be a heartbeat behind the holders'.
        let asked =
            |lan: &Lan| lan.speakers[&name(asked_at)].handle.move_to(vip(0), to.clone()).is_ok();
        lan.until("asked", asked).await;
        lan.until("moved", |lan| lan.speakers().get(&vip(0)) == Some(&to)).await;
        let refused = lan.speakers[&name(asked_at)].handle.move_to(vip(0), name(9)).unwrap_err();
        assert_eq!(refused.label(), "unknown_node");
    }
    let emptied = lan.speakers()[&vip(1)].clone();
    let asked_at = (0..3).map(name).find(|node| *node != emptied).unwrap();
    lan.speakers[&asked_at].handle.drain_node(emptied.clone()).unwrap();
    let without = |lan: &Lan| {
        let speakers = lan.speakers();
        speakers.len() == lan.keys().count() && speakers.values().all(|node| *node != emptied)
    };
    lan.until("drained", without).await;
    let refused = |lan: &Lan| {
        let asked = &lan.speakers[&asked_at].handle;
        asked.move_to(vip(1), emptied.clone()).is_err_and(|why| why.label() == "drained")
    };
    lan.until("refused", refused).await;
    lan.speakers[&emptied].handle.undrain_node(emptied.clone()).unwrap();
    let usable = |lan: &Lan| {
        lan.speakers[&asked_at].handle.move_to(vip(1), emptied.clone()).is_ok()
            || lan.speakers().get(&vip(1)) == Some(&emptied)
    };
    lan.until("undrained", usable).await;
    lan.until("moved back", |lan| lan.speakers().get(&vip(1)) == Some(&emptied)).await;
    obliging.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_survive_a_restart_of_everybody() {
    let mut lan = Lan::new(3);
    lan.all_spoken_for().await;
    let allocator = lan.speakers()[&ClaimKey::Allocator].clone();
    let view = lan.speakers[&allocator].handle.view().borrow().clone();
    let claim = view.held(&allocator, &ClaimKey::Allocator).unwrap();
    let guard = Guard { key: ClaimKey::Allocator, term: claim.term };
    let value = Some(b"192.168.1.240".to_vec());
    lan.speakers[&allocator].handle.put("default/web".to_owned(), value, guard);
    let written = |lan: &Lan| {
        lan.speakers
            .values()
            .all(|speaker| speaker.handle.view().borrow().records.contains_key("default/web"))
    };
    lan.until("written", written).await;
    for n in 0..3 {
        lan.kill(&name(n)).await;
    }
    for n in 0..3 {
        lan.start(&name(n));
    }
    lan.until("read back", written).await;
    lan.all_spoken_for().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_needs_nobody_and_ends_with_its_last_handle() {
    let mut lan = Lan::new(1);
    let took = lan.all_spoken_for().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let Speaker { handle, task, fence, .. } = lan.speakers.remove(&name(0)).unwrap();
    drop(handle);
    timeout(GENEROUS, task).await.unwrap().unwrap().unwrap();
    assert_eq!(fence.deadline(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_counted() {
    let lan = Lan::with_key(1, None);
    let address = lan.voters[&name(0)];
    let hello = |cluster: &str, node: &str| {
        let mut bytes = vec![1];
        for text in [cluster, node] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    };
    for said in [hello("other", "n1"), hello("lan", "stranger"), hello("lan", "n0"), vec![9; 50]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_u32(u32::try_from(said.len()).unwrap()).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let ended = timeout(GENEROUS, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_u32(u32::MAX).await.unwrap();
    let _ = timeout(GENEROUS, stream.read(&mut [0; 1])).await.unwrap();
    let expected =
        [("foreign_cluster", 1), ("malformed", 1), ("oversized", 1), ("unknown_sender", 2)];
    assert_eq!(lan.speakers[&name(0)].handle.refusals(), expected.into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_or_none_takes_no_part() {
    let mut lan = Lan::new(3);
    lan.all_spoken_for().await;
    let leader = lan.speakers[&name(0)].handle.view().borrow().leader.clone().unwrap();
    let outsider = (0..3).map(name).find(|node| *node != leader).unwrap();
    lan.kill(&outsider).await;
    lan.all_spoken_for().await;
    // A plain caller's length prefix reads as a first message of no bytes.
    for (key, reason) in [(Some(Key::from_bytes([2; 32])), "wrong_key"), (None, "malformed")] {
        lan.key = key;
        lan.start(&outsider);
        let refused = |lan: &Lan| {
            let mut others = lan.speakers.iter().filter(|(node, _)| **node != outsider);
            others.all(|(_, s)| s.handle.refusals().contains_key(reason))
        };
        lan.until(reason, refused).await;
        sleep(Duration::from_millis(500)).await;
        lan.all_spoken_for().await;
        assert_eq!(lan.speakers[&outsider].fence.deadline(), 0);
        lan.kill(&outsider).await;
    }
    lan.key = Some(Key::from_bytes([1; 32]));
    lan.start(&outsider);
    lan.until("settled", |lan| lan.speakers[&outsider].handle.view().borrow().is_settled()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_say_nothing_are_few_and_soon_gone() {
    let lan = Lan::new(1);
    lan.all_spoken_for().await;
    let address = lan.voters[&name(0)];
    let mut callers = Vec::new();
    for _ in 0..20 {
        callers.push(TcpStream::connect(address).await.unwrap());
    }
    let counted = |reason: &'static str, count: u64| {
        move |lan: &Lan| lan.speakers[&name(0)].handle.refusals().get(reason) == Some(&count)
    };
    lan.until("too many", counted("too_many_callers", 12)).await;
    lan.until("timed out", counted("handshake_timeout", 8)).await;
    for mut caller in callers {
        let ended = timeout(GENEROUS, caller.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_the_same_name_is_not_listened_to() {
    let mut lan = Lan::new(3);
    lan.all_spoken_for().await;
    let leader = lan.speakers[&name(0)].handle.view().borrow().leader.clone().unwrap();
    let name_of_two = lan.voters.keys().find(|node| **node != leader).unwrap().clone();
    // The double has a state directory and an address of its own, as on another machine.
    let elsewhere = TempDir::new().unwrap();
    let mut double = config(&name_of_two, &lan.voters, elsewhere.path());
    double.listen = own_addresses(1)[&name(0)];
    let Speaker { handle, task, fence, .. } = Speaker::start(double, lan.key.clone());
    let refused =
        |lan: &Lan| lan.speakers[&leader].handle.refusals().contains_key("duplicate_name");
    lan.until("refused", refused).await;
    sleep(TIMING.ttl).await;
    lan.all_spoken_for().await;
    assert_eq!(fence.deadline(), 0);
    drop(handle);
    task.abort();
    lan.kill(&name_of_two).await;
}

#[tokio::test]
async fn impossible_configurations_are_refused_with_their_reason() {
    let directory = TempDir::new().unwrap();
    let voters = own_addresses(2);
    let refused = |config: RaftConfig| {
        start(config, Box::new(Remembered::default())).err().unwrap().to_string()
    };
    let good = config(&name(0), &voters, directory.path());
    let mut short = good.clone();
    short.timing.ttl = Duration::from_millis(300);
    assert!(refused(short).contains("ttl 300ms is too short"));
    let stranger = RaftConfig { node: name(7), ..good.clone() };
    assert!(refused(stranger).contains("n7 is not among the nodes"));
    let chatty = RaftConfig { facts: vec![0; 5000], ..good.clone() };
    assert!(refused(chatty).contains("5000 bytes"));
    let _taken = TcpListener::bind(good.listen).unwrap();
    assert!(refused(good.clone()).contains("listen for peers on 127."));
    // Of the range for documentation (RFC 5737): no machine has it.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 7946));
    let double = RaftConfig { listen: elsewhere, ..good.clone() };
    assert!(refused(double).contains("does not have 192.0.2.1:7946, the address of node n0"));
    let other = RaftConfig { cluster: "other".to_owned(), ..good };
    assert!(refused(other).contains("in cluster \"lan\", not of n0 in \"other\""));
}

/// A fence set from the task is seen before any view that relies on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_announced_deadline_is_the_fences() {
    let lan = Lan::new(1);
    lan.all_spoken_for().await;
    let speaker = &lan.speakers[&name(0)];
    let mut deadline = speaker.handle.deadline();
    let mut seen = Vec::new();
    for _ in 0..3 {
        timeout(GENEROUS, deadline.changed()).await.unwrap().unwrap();
        let announced = *deadline.borrow_and_update();
        seen.push(announced);
        let fence = speaker.fence.deadline();
        assert!(fence >= announced.unwrap().as_nanos());
    }
    assert!(seen.is_sorted());
}
