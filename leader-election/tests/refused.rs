//! What is refused at the peers' port, over loopback: said by a peer that should know better,
//! recorded and said again, or made up. Each is counted by its reason, and costs nobody anything.

#![allow(clippy::unwrap_used, reason = "test helpers; a panic is a failed test")]

#[allow(dead_code, reason = "no speaker is ended here")]
mod lan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use herald_leader_election::raft::command::Command;
use herald_leader_election::raft::frame::Frame;
use herald_leader_election::{Key, NodeName, Patience, RaftConfig, Voters, Wanted};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use self::lan::{GENEROUS, Speaker, TIMING, name, own_addresses, until, vip};

fn config(node: &NodeName, nodes: BTreeMap<NodeName, SocketAddr>, directory: &Path) -> RaftConfig {
    RaftConfig {
        cluster: "lan".to_owned(),
        node: node.clone(),
        listen: nodes[node],
        voters: Voters::Exactly(nodes.keys().cloned().collect()),
        nodes,
        patience: Patience::default(),
        state_dir: directory.join(node.as_str()),
        timing: TIMING,
        facts: Vec::new(),
    }
}

/// Until the other side closes the connection.
async fn shown_out(stream: &mut TcpStream) {
    // It may as well be reset, for what was said last was never read.
    let _ = timeout(GENEROUS, stream.read_to_end(&mut Vec::new())).await.unwrap();
}

fn refusals(speaker: &Speaker, reasons: &[&'static str]) -> Vec<u64> {
    let counted = speaker.handle.refusals();
    reasons.iter().map(|reason| counted.get(reason).copied().unwrap_or(0)).collect()
}

/// Without a key anybody who reaches the port can say that it is a peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_can_mean_is_counted_by_its_reason_and_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let addresses = own_addresses(2);
    let (me, peer) = (name(0), name(1));
    let speaker = Speaker::start(config(&me, addresses.clone(), directory.path()), None);
    let before = speaker.handle.view().borrow().clone();
    let hello = Frame::Hello { cluster: "lan".to_owned(), node: peer };
    let of_another = Frame::Propose(Command::CloseSession { node: me.clone(), epoch: 1 });
    let large = u32::MAX.to_be_bytes().to_vec();
    // The last thing said ends the connection.
    for last in [[&[0, 0, 0, 1], &[99][..]].concat(), large] {
        let mut stream = TcpStream::connect(addresses[&me]).await.unwrap();
        for frame in [&hello, &hello, &of_another] {
            let bytes = frame.encode();
            stream.write_u32(u32::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        stream.write_all(&last).await.unwrap();
        shown_out(&mut stream).await;
    }
    let reasons = ["malformed", "oversized", "unexpected_hello", "foreign_command"];
    let told = || refusals(&speaker, &reasons);
    until(|| told() == [1, 1, 2, 2], || format!("{reasons:?}: {:?}", told())).await;
    assert_eq!(*speaker.handle.view().borrow(), before);
    assert_eq!(speaker.fence.deadline(), 0);
}

/// What callers said on each connection through [`overhear`].
type Recordings = Arc<Mutex<Vec<Vec<u8>>>>;

/// Passes on what callers say to the node at this address, and remembers it.
async fn overhear(listener: TcpListener, to: SocketAddr, recordings: Recordings) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        // Until the node listens, its callers are shown out.
        let Ok(far) = TcpStream::connect(to).await else { continue };
        let ((from_near, mut to_near), (mut from_far, to_far)) =
            (near.into_split(), far.into_split());
        tokio::spawn(record(from_near, to_far, Arc::clone(&recordings)));
        tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
    }
}

async fn record(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    recordings: Recordings,
) {
    let number = {
        let mut all = recordings.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        recordings.lock().unwrap()[number].extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A whole conversation of a real peer, from its first message on, and what anybody can make up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_or_made_up_is_counted_by_its_reason_and_costs_nobody_anything() {
    let directory = TempDir::new().unwrap();
    let key = Some(Key::from_bytes([1; 32]));
    let addresses = own_addresses(3);
    let [called, overheard] = [addresses[&name(1)], addresses[&name(2)]];
    let recordings = Recordings::default();
    let listener = TcpListener::bind(overheard).await.unwrap();
    let listening = tokio::spawn(overhear(listener, called, Arc::clone(&recordings)));
    let start = |node: NodeName, of_other: (NodeName, SocketAddr)| {
        let nodes = [(node.clone(), addresses[&node]), of_other].into();
        Speaker::start(config(&node, nodes, directory.path()), key.clone())
    };
    let speakers =
        [start(name(0), (name(1), overheard)), start(name(1), (name(0), addresses[&name(0)]))];
    for speaker in &speakers {
        let eligible: BTreeSet<NodeName> = (0..2).map(name).collect();
        speaker.handle.set_wanted(Wanted { claims: [(vip(0), eligible.into())].into() });
    }
    // Both have a session and may speak, and one holds the VIP.
    let well = || {
        let holder = speakers[1].handle.view().borrow().holder(&vip(0)).cloned();
        holder.is_some() && speakers.iter().all(|speaker| speaker.fence.is_open())
    };
    until(well, || "nothing is held".to_owned()).await;
    let (recording, conversations) = {
        let all = recordings.lock().unwrap();
        (all.last().unwrap().clone(), all.len())
    };

    let replayed = std::iter::repeat_n(recording, 3);
    let wrong_key = [&48_u16.to_be_bytes()[..], &[7; 48]].concat();
    let oversized = u16::MAX.to_be_bytes().to_vec();
    let malformed = [&5_u16.to_be_bytes()[..], &[7; 5]].concat();
    for said in replayed.chain([wrong_key, oversized, malformed]) {
        let mut stream = TcpStream::connect(called).await.unwrap();
        // It may be shown out before it has said all of it.
        let _ = stream.write_all(&said).await;
        shown_out(&mut stream).await;
    }
    let reasons = ["unauthentic", "wrong_key", "oversized", "malformed"];
    let told = || refusals(&speakers[1], &reasons);
    until(|| told() == [3, 1, 1, 1], || format!("{reasons:?}: {:?}", told())).await;
    until(well, || "the VIP was lost".to_owned()).await;
    // The real peer's connection was not taken for one of these, nor was one of these for it.
    assert_eq!(recordings.lock().unwrap().len(), conversations);
    listening.abort();
}
