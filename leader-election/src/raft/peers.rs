//! Frames to and from the other nodes, over TCP.
//!
//! Each node keeps one connection to every other one and only talks on it; it only listens on those
//! it accepts. A frame is a 32-bit length and that many bytes; the first is a `Hello`. Raft copes with
//! loss, so nothing here waits: a full queue drops its oldest frame, an unreachable peer loses
//! all. A peer that is cut off must never delay the others. There is no authentication (see
//! [`super`]); what strangers can do is bounded in size, number and time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::RaftConfig;
use super::frame::{Frame, MAX_FRAME};
use super::refusals::Refusals;
use super::sanity::Refusal;
use crate::error::Error;
use crate::model::NodeName;

/// A connection attempt that takes longer goes nowhere: this is a LAN.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Unacknowledged data for this long ends a connection (tcp(7), TCP_USER_TIMEOUT): without it, a
/// link that was cut for a moment comes back only with TCP's own next retransmission.
const USER_TIMEOUT: Duration = Duration::from_secs(1);
/// Between attempts, growing.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Frames that wait for one peer.
const QUEUE: usize = 256;
/// Bytes that wait for one peer.
const QUEUE_SIZE: usize = 4 * MAX_FRAME;
/// Frames that wait for the driver; readers pause when it is full.
const INBOX: usize = 256;
/// A caller says who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// A frame that was begun is complete within this time.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections accepted at once, for each voter: one alive, the rest dying or strangers.
const CONNECTIONS_PER_VOTER: usize = 8;
/// How long the last frames of a closing node may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// The connections of one node.
pub(super) struct Peers {
    outboxes: BTreeMap<NodeName, Arc<Outbox>>,
    inbox: mpsc::Receiver<(NodeName, Frame)>,
    /// One sender for each peer, and the listener. They end when this is dropped.
    tasks: JoinSet<()>,
}

impl Peers {
    /// Listens, and starts calling all others.
    pub(super) fn start(config: &RaftConfig, refusals: Refusals) -> Result<Self, Error> {
        let address = config.listen;
        let listener = listen(address).map_err(|source| Error::Listen { address, source })?;
        let mut tasks = JoinSet::new();
        let mut outboxes = BTreeMap::new();
        let hello = Frame::Hello { cluster: config.cluster.clone(), node: config.node.clone() };
        let hello = prefixed(&hello);
        for (node, &address) in config.voters.iter().filter(|(node, _)| **node != config.node) {
            let outbox = Arc::new(Outbox::default());
            tasks.spawn(call(address, hello.clone(), Arc::clone(&outbox)));
            outboxes.insert(node.clone(), outbox);
        }
        let (deliver, inbox) = mpsc::channel(INBOX);
        let door = Door {
            cluster: config.cluster.clone(),
            peers: outboxes.keys().cloned().collect(),
            deliver,
            refusals,
        };
        let connections = CONNECTIONS_PER_VOTER * config.voters.len();
        tasks.spawn(accept(listener, Arc::new(door), connections));
        Ok(Self { outboxes, inbox, tasks })
    }

    /// Queues a frame. Never waits.
    pub(super) fn send(&self, to: &NodeName, frame: &Frame) {
        if let Some(outbox) = self.outboxes.get(to) {
            outbox.push(prefixed(frame));
        }
    }

    /// The next frame from anybody.
    ///
    /// # Errors
    /// If a task ended, which none does by itself.
    pub(super) async fn next(&mut self) -> Result<(NodeName, Frame), Error> {
        tokio::select! {
            Some(received) = self.inbox.recv() => Ok(received),
            ended = self.tasks.join_next() => {
                let reason = match ended {
                    Some(Err(error)) => error.to_string(),
                    _ => "a task returned".to_owned(),
                };
                Err(Error::Transport(reason))
            }
        }
    }

    /// Lets the last frames leave, for a moment.
    pub(super) async fn flush(&self) {
        let empty = async {
            while self.outboxes.values().any(|outbox| !outbox.is_empty()) {
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

fn prefixed(frame: &Frame) -> Arc<[u8]> {
    let bytes = frame.encode();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length, bytes.as_slice()].concat().into()
}

/// Frames that wait to be sent to one peer.
#[derive(Default)]
struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Arc<[u8]>>,
    size: usize,
}

impl Outbox {
    fn push(&self, frame: Arc<[u8]>) {
        let mut queue = self.lock();
        queue.size += frame.len();
        queue.frames.push_back(frame);
        while queue.frames.len() > QUEUE || queue.size > QUEUE_SIZE {
            queue.size -= queue.frames.pop_front().map_or(0, |oldest| oldest.len());
        }
        drop(queue);
        self.filled.notify_one();
    }

    async fn pop(&self) -> Arc<[u8]> {
        loop {
            if let Some(frame) = self.try_pop() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    fn try_pop(&self) -> Option<Arc<[u8]>> {
        let mut queue = self.lock();
        let frame = queue.frames.pop_front()?;
        queue.size -= frame.len();
        Some(frame)
    }

    fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    fn clear(&self) {
        *self.lock() = Queue::default();
    }

    /// The queue is whole whenever the lock is free, also after a panic.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection to one peer and sends what is queued for it.
async fn call(address: SocketAddr, hello: Arc<[u8]>, outbox: Arc<Outbox>) {
    let mut backoff = BACKOFF.0;
    loop {
        if let Ok(stream) = connect(address, &hello).await {
            backoff = BACKOFF.0;
            talk(stream, &outbox).await;
        }
        // What waited is old news by the time the peer is back.
        outbox.clear();
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

async fn connect(address: SocketAddr, hello: &[u8]) -> io::Result<TcpStream> {
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        stream.write_all(hello).await?;
        Ok(stream)
    };
    timeout(CONNECT_TIMEOUT, connecting).await?
}

/// Sends until the connection ends.
async fn talk(mut stream: TcpStream, outbox: &Outbox) {
    let (mut from, mut to) = stream.split();
    let sending = async {
        loop {
            let frame = outbox.pop().await;
            if !matches!(timeout(USER_TIMEOUT, to.write_all(&frame)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    let mut nothing = [0; 1];
    tokio::select! {
        () = sending => {}
        // The other side never talks on this connection: anything here is its end. Without looking,
        // a restarted peer would cost the first frame that is lost on the dead connection.
        _ = from.read(&mut nothing) => {}
    }
}

/// What is asked of callers, and where their frames go.
struct Door {
    cluster: String,
    peers: Vec<NodeName>,
    deliver: mpsc::Sender<(NodeName, Frame)>,
    refusals: Refusals,
}

/// Accepts callers; all of them end with this task.
async fn accept(listener: TcpListener, door: Arc<Door>, connections: usize) {
    let permits = Arc::new(Semaphore::new(connections));
    let mut readers = JoinSet::new();
    loop {
        while readers.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                readers.spawn(listen_to(stream, from, Arc::clone(&door), permit));
            }
            // Out of file descriptors, or the caller is gone already (accept(2)): the next may do.
            Err(_) => sleep(BACKOFF.0).await,
        }
    }
}

async fn listen_to(
    mut stream: TcpStream,
    from: SocketAddr,
    door: Arc<Door>,
    _permit: OwnedSemaphorePermit,
) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(3))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    // Only a connection to a vanished peer lasts longer without it.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let node = match timeout(HELLO_TIMEOUT, read_frame(&mut stream)).await {
        Ok(Ok(Frame::Hello { cluster, .. })) if cluster != door.cluster => {
            door.refusals.count(&from.ip().to_string(), Refusal::ForeignCluster);
            return;
        }
        Ok(Ok(Frame::Hello { node, .. })) if door.peers.contains(&node) => node,
        Ok(Ok(Frame::Hello { .. })) => {
            door.refusals.count(&from.ip().to_string(), Refusal::UnknownSender);
            return;
        }
        // A port scan: whoever says nothing is not worth a line.
        Ok(Err(ReadError::Ended)) | Err(_) => return,
        Ok(Ok(_) | Err(ReadError::Malformed)) => {
            door.refusals.count(&from.ip().to_string(), Refusal::Malformed);
            return;
        }
    };
    loop {
        match read_frame(&mut stream).await {
            Ok(frame) => {
                if door.deliver.send((node.clone(), frame)).await.is_err() {
                    return;
                }
            }
            Err(ReadError::Malformed) => {
                door.refusals.count(node.as_str(), Refusal::Malformed);
                return;
            }
            Err(ReadError::Ended) => return,
        }
    }
}

enum ReadError {
    Ended,
    Malformed,
}

async fn read_frame(stream: &mut TcpStream) -> Result<Frame, ReadError> {
    let length = stream.read_u32().await.map_err(|_| ReadError::Ended)?;
    let length = usize::try_from(length).map_err(|_| ReadError::Malformed)?;
    if length > MAX_FRAME {
        return Err(ReadError::Malformed);
    }
    let mut bytes = vec![0; length];
    match timeout(FRAME_TIMEOUT, stream.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => Frame::decode(&bytes).map_err(|_| ReadError::Malformed),
        Ok(Err(_)) | Err(_) => Err(ReadError::Ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8, length: usize) -> Arc<[u8]> {
        vec![byte; length].into()
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let outbox = Outbox::default();
        for n in 0..=u8::MAX {
            outbox.push(frame(n, 1));
        }
        outbox.push(frame(7, 1));
        assert_eq!(outbox.try_pop(), Some(frame(1, 1)));
        for _ in 0..5 {
            outbox.push(frame(9, MAX_FRAME));
        }
        assert!(outbox.lock().size <= QUEUE_SIZE);
        assert_eq!(outbox.try_pop(), Some(frame(9, MAX_FRAME)));
    }
}
