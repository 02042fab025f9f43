//! Frames to and from the other nodes, over TCP.
//!
//! Each node keeps one connection to every other one and only talks on it ([`caller`]); it only
//! listens on those it accepts ([`door`]). How frames are protected on the way is [`channel`]'s
//! matter. Raft copes with loss, so nothing here waits: a full queue drops its oldest frame, an
//! unreachable peer loses all. A peer that is cut off must never delay the others.

mod caller;
mod channel;
mod door;
mod outbox;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::caller::Caller;
use self::door::{Door, Rooms};
use self::outbox::Outbox;
use super::RaftConfig;
use super::frame::Frame;
use super::key::Key;
use super::refusals::Refusals;
use crate::error::Error;
use crate::model::NodeName;

/// Between attempts, growing.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Frames that wait for the driver; readers pause when it is full.
const INBOX: usize = 256;
/// How long the last frames of a closing node may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// The connections of one node.
pub(super) struct Peers {
    me: NodeName,
    hello: Arc<[u8]>,
    key: Option<Key>,
    refusals: Refusals,
    peers: BTreeMap<NodeName, Peer>,
    door: Arc<Door>,
    inbox: mpsc::Receiver<(NodeName, Frame)>,
    /// One sender for each peer, and the listener. They end when this is dropped.
    tasks: JoinSet<()>,
}

/// One other node.
struct Peer {
    address: SocketAddr,
    outbox: Arc<Outbox>,
    /// It has called us, so it is there.
    called: Arc<Notify>,
    calling: AbortHandle,
}

impl Peers {
    /// Listens, and starts calling all others.
    pub(super) fn start(
        config: &RaftConfig,
        key: Option<&Key>,
        refusals: Refusals,
    ) -> Result<Self, Error> {
        let address = config.listen;
        let listener = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrNotAvailable => {
                Error::Elsewhere { address, node: config.node.clone() }
            }
            _ => Error::Listen { address, source },
        })?;
        let mut tasks = JoinSet::new();
        let hello = Frame::Hello { cluster: config.cluster.clone(), node: config.node.clone() };
        let (deliver, inbox) = mpsc::channel(INBOX);
        let door = Arc::new(Door {
            cluster: config.cluster.clone(),
            me: config.node.clone(),
            key: key.cloned(),
            peers: Mutex::new(BTreeMap::new()),
            deliver,
            refusals: refusals.clone(),
            rooms: Mutex::new(Rooms::default()),
        });
        tasks.spawn(Arc::clone(&door).keep(listener));
        let mut peers = Self {
            me: config.node.clone(),
            hello: hello.encode().into(),
            key: key.cloned(),
            refusals,
            peers: BTreeMap::new(),
            door,
            inbox,
            tasks,
        };
        peers.set(&config.nodes);
        Ok(peers)
    }

    /// Calls these nodes from now on, this one excepted, and lets no others in.
    pub(super) fn set(&mut self, nodes: &BTreeMap<NodeName, SocketAddr>) {
        self.peers.retain(|node, peer| {
            let stays = nodes.get(node) == Some(&peer.address) && *node != self.me;
            if !stays {
                peer.calling.abort();
            }
            stays
        });
        for (node, &address) in nodes.iter().filter(|(node, _)| **node != self.me) {
            if self.peers.contains_key(node) {
                continue;
            }
            let outbox = Arc::new(Outbox::default());
            let called = Arc::new(Notify::new());
            let caller = Caller {
                node: node.clone(),
                address,
                hello: Arc::clone(&self.hello),
                key: self.key.clone(),
                outbox: Arc::clone(&outbox),
                backoff: BACKOFF,
                called: Arc::clone(&called),
                refusals: self.refusals.clone(),
            };
            let calling = self.tasks.spawn(caller.run());
            self.peers.insert(node.clone(), Peer { address, outbox, called, calling });
        }
        let called = |(node, peer): (&NodeName, &Peer)| (node.clone(), Arc::clone(&peer.called));
        self.door.admits(self.peers.iter().map(called).collect());
    }

    /// Queues a frame. Never waits.
    pub(super) fn send(&self, to: &NodeName, frame: &Frame) {
        if let Some(peer) = self.peers.get(to) {
            peer.outbox.push(frame.encode().into());
        }
    }

    /// The next frame from anybody.
    ///
    /// # Errors
    /// If a task ended, which none does by itself.
    pub(super) async fn next(&mut self) -> Result<(NodeName, Frame), Error> {
        loop {
            let ended = tokio::select! {
                Some(received) = self.inbox.recv() => return Ok(received),
                ended = self.tasks.join_next() => ended,
            };
            let reason = match ended {
                // A node that is called no more.
                Some(Err(error)) if error.is_cancelled() => continue,
                Some(Err(error)) => error.to_string(),
                _ => "a task returned".to_owned(),
            };
            return Err(Error::Transport(reason));
        }
    }

    /// Lets the last frames leave, for a moment.
    pub(super) async fn flush(&self) {
        let empty = async {
            while self.peers.values().any(|peer| !peer.outbox.is_empty()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        // A peer that cannot be reached now misses them, as it would anyway.
        let _ = timeout(FLUSH_TIMEOUT, empty).await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted speaker must not wait for connections of the one before (TIME_WAIT).
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(64)
}
