//! The called side: who may come in, and what they say from then on.
//!
//! A caller is nobody until its `Hello` has come through the authenticated channel; from then on it
//! speaks under that name and no other. What strangers can take is bounded: connections that are
//! nobody's yet, in all and for each address, their time, and their bytes. Of one name only one
//! connection is listened to, and while it is talking another one is refused: two processes under
//! one name would be two voters that raft takes for one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::BACKOFF;
use super::channel::{Broken, Channel, MAX_HELLO};
use crate::clock::boot_now;
use crate::model::{BootTime, NodeName};
use crate::raft::frame::{Frame, MAX_FRAME};
use crate::raft::key::Key;
use crate::raft::refusals::Refusals;
use crate::raft::sanity::Refusal;

/// A caller says who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Callers that are nobody yet, in all.
const MOST_NOBODIES: usize = 64;
/// Callers that are nobody yet, from one address.
const MOST_NOBODIES_PER_ADDRESS: usize = 8;
/// A connection that talked within this time is alive: another one of the same name is a double.
/// As long as a caller tries to get through on a dead connection before it makes a new one.
const ALIVE: Duration = Duration::from_secs(1);

/// What is asked of callers, and where their frames go.
pub(super) struct Door {
    pub(super) cluster: String,
    pub(super) me: NodeName,
    pub(super) key: Option<Key>,
    /// Who may come in, and whom to tell that it did.
    pub(super) peers: Mutex<BTreeMap<NodeName, Arc<Notify>>>,
    pub(super) deliver: mpsc::Sender<(NodeName, Frame)>,
    pub(super) refusals: Refusals,
    pub(super) rooms: Mutex<Rooms>,
}

/// Who is inside.
#[derive(Default)]
pub(super) struct Rooms {
    nobodies: BTreeMap<IpAddr, usize>,
    guests: BTreeMap<NodeName, Arc<Guest>>,
}

/// A connection with a name.
#[derive(Default)]
struct Guest {
    /// When it last said anything, in nanoseconds since boot.
    heard: AtomicU64,
    /// Somebody else has its name now.
    replaced: Notify,
}

impl Door {
    /// Lets in these nodes from now on; the others are shown out.
    pub(super) fn admits(&self, peers: BTreeMap<NodeName, Arc<Notify>>) {
        self.rooms().guests.retain(|node, guest| {
            let stays = peers.contains_key(node);
            if !stays {
                guest.replaced.notify_one();
            }
            stays
        });
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Accepts callers; all of them end with this task.
    pub(super) async fn keep(self: Arc<Self>, listener: TcpListener) {
        let mut readers = JoinSet::new();
        loop {
            while readers.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(nobody) = Nobody::enter(&self, from.ip()) else {
                        self.refusals.count(&from.ip().to_string(), Refusal::TooManyCallers);
                        continue;
                    };
                    readers.spawn(Arc::clone(&self).listen_to(stream, from, nobody));
                }
                // Out of file descriptors, or the caller is gone already (accept(2)).
                Err(_) => sleep(BACKOFF.0).await,
            }
        }
    }

    async fn listen_to(self: Arc<Self>, mut stream: TcpStream, from: SocketAddr, nobody: Nobody) {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(3))
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        // Only a connection to a vanished peer lasts longer without it.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let _ = stream.set_nodelay(true);
        let greeted = timeout(HELLO_TIMEOUT, self.greet(&mut stream)).await;
        let entered = match greeted {
            Ok(Ok((node, channel))) => self.admit(&node).map(|guest| (node, channel, guest)),
            Ok(Err(Broken::Refused(reason))) => Err(reason),
            Err(_) => Err(Refusal::HandshakeTimeout),
            // A port scan: whoever says nothing is not worth a line.
            Ok(Err(Broken::Ended)) => return,
        };
        let (node, channel, guest) = match entered {
            Ok(entered) => entered,
            Err(reason) => {
                self.refusals.count(&from.ip().to_string(), reason);
                return;
            }
        };
        drop(nobody);
        tokio::select! {
            reason = self.listen(&mut stream, channel, &node, &guest) => {
                if let Broken::Refused(reason) = reason {
                    self.refusals.count(node.as_str(), reason);
                }
            }
            () = guest.replaced.notified() => {}
        }
        let mut rooms = self.rooms();
        if rooms.guests.get(&node).is_some_and(|present| Arc::ptr_eq(present, &guest)) {
            rooms.guests.remove(&node);
        }
    }

    /// Who is calling, by its own word under the shared key.
    async fn greet(&self, stream: &mut TcpStream) -> Result<(NodeName, Channel), Broken> {
        let mut channel = Channel::answer(stream, self.key.as_ref(), &self.me).await?;
        let hello = channel.receive(stream, MAX_HELLO).await?;
        let (cluster, node) = match Frame::decode(&hello) {
            Ok(Frame::Hello { cluster, node }) => (cluster, node),
            Ok(_) | Err(_) => return Err(Broken::Refused(Refusal::Malformed)),
        };
        if cluster != self.cluster {
            return Err(Broken::Refused(Refusal::ForeignCluster));
        }
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get(&node) {
            Some(called) => {
                called.notify_one();
                Ok((node, channel))
            }
            None => Err(Broken::Refused(Refusal::UnknownSender)),
        }
    }

    /// Gives the caller its name, unless somebody is talking under it.
    fn admit(&self, node: &NodeName) -> Result<Arc<Guest>, Refusal> {
        let now = boot_now();
        let mut rooms = self.rooms();
        if let Some(present) = rooms.guests.get(node) {
            let heard = BootTime::from_nanos(present.heard.load(Ordering::Relaxed));
            if now.since(heard) < ALIVE {
                return Err(Refusal::DuplicateName);
            }
            present.replaced.notify_one();
        }
        let guest = Arc::new(Guest::default());
        rooms.guests.insert(node.clone(), Arc::clone(&guest));
        Ok(guest)
    }

    async fn listen(
        &self,
        stream: &mut TcpStream,
        mut channel: Channel,
        node: &NodeName,
        guest: &Guest,
    ) -> Broken {
        loop {
            let frame = match channel.receive(stream, MAX_FRAME).await {
                Ok(frame) => frame,
                Err(broken) => return broken,
            };
            let Ok(frame) = Frame::decode(&frame) else {
                return Broken::Refused(Refusal::Malformed);
            };
            guest.heard.store(boot_now().as_nanos(), Ordering::Relaxed);
            if self.deliver.send((node.clone(), frame)).await.is_err() {
                return Broken::Ended;
            }
        }
    }

    /// Whole after every statement, also after a panic.
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a caller that is nobody yet; free again when dropped.
struct Nobody {
    door: Arc<Door>,
    address: IpAddr,
}

impl Nobody {
    fn enter(door: &Arc<Door>, address: IpAddr) -> Option<Self> {
        let mut rooms = door.rooms();
        let all: usize = rooms.nobodies.values().sum();
        let here = rooms.nobodies.get(&address).copied().unwrap_or(0);
        if all >= MOST_NOBODIES || here >= MOST_NOBODIES_PER_ADDRESS {
            return None;
        }
        rooms.nobodies.insert(address, here + 1);
        Some(Self { door: Arc::clone(door), address })
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let mut rooms = self.door.rooms();
        let here = rooms.nobodies.remove(&self.address).unwrap_or(0);
        if here > 1 {
            rooms.nobodies.insert(self.address, here - 1);
        }
    }
}
