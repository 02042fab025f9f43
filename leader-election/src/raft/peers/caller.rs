//! The calling side: one connection to one peer, made again whenever it ends.
//!
//! It must never delay another peer's, and never say anything before the other side has proved that
//! it is the node that was meant (if there is a key).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::channel::{Broken, Channel};
use super::outbox::Outbox;
use crate::model::NodeName;
use crate::raft::key::Key;
use crate::raft::refusals::Refusals;

/// A connection attempt that takes longer goes nowhere: this is a LAN.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// The other side answers within this time, once connected.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);
/// Unacknowledged data for this long ends a connection (tcp(7), TCP_USER_TIMEOUT): without it, a
/// link that was cut for a moment comes back only with TCP's own next retransmission.
const USER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whom to call, and how to say who is calling.
pub(super) struct Caller {
    pub(super) node: NodeName,
    pub(super) address: SocketAddr,
    pub(super) hello: Arc<[u8]>,
    pub(super) key: Option<Key>,
    pub(super) outbox: Arc<Outbox>,
    /// Between attempts, growing.
    pub(super) backoff: (Duration, Duration),
    /// The peer has called this node.
    pub(super) called: Arc<Notify>,
    pub(super) refusals: Refusals,
}

impl Caller {
    /// Keeps a connection to the peer and sends what is queued for it.
    pub(super) async fn run(self) {
        let (shortest, longest) = self.backoff;
        let mut backoff = shortest;
        loop {
            match self.connect().await {
                Ok((stream, channel)) => {
                    backoff = shortest;
                    self.talk(stream, channel).await;
                }
                Err(Broken::Refused(reason)) => self.refusals.count(self.node.as_str(), reason),
                Err(Broken::Ended) => {}
            }
            // What waited is old news by the time the peer is back.
            self.outbox.clear();
            // Whoever calls is there. A speaker that was started again needs its leader's word
            // before its deadline in the kernel passes, and must not wait for a backoff that grew
            // while it was away.
            tokio::select! {
                () = sleep(backoff) => backoff = (backoff * 2).min(longest),
                () = self.called.notified() => backoff = shortest,
            }
        }
    }

    async fn connect(&self) -> Result<(TcpStream, Channel), Broken> {
        let connecting = TcpStream::connect(self.address);
        let mut stream =
            timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| Broken::Ended)??;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        let greeting = async {
            let mut channel = Channel::call(&mut stream, self.key.as_ref(), &self.node).await?;
            channel.send(&mut stream, &self.hello).await?;
            Ok::<Channel, Broken>(channel)
        };
        let channel = timeout(GREETING_TIMEOUT, greeting).await.map_err(|_| Broken::Ended)??;
        Ok((stream, channel))
    }

    /// Sends until the connection ends.
    async fn talk(&self, mut stream: TcpStream, mut channel: Channel) {
        let (mut from, mut to) = stream.split();
        let sending = async {
            loop {
                let frame = self.outbox.pop().await;
                let sending = channel.send(&mut to, &frame);
                if !matches!(timeout(USER_TIMEOUT, sending).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        let mut nothing = [0; 1];
        tokio::select! {
            () = sending => {}
            // The other side never talks on this connection: anything here is its end. Without
            // looking, a restarted peer would cost the first frame, lost on the dead connection.
            _ = from.read(&mut nothing) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn calls_a_peer_that_called_at_once_however_long_it_would_have_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let called = Arc::new(Notify::new());
        let caller = Caller {
            node: NodeName::from("b"),
            address: listener.local_addr().unwrap(),
            hello: b"hello".as_slice().into(),
            key: None,
            outbox: Arc::new(Outbox::default()),
            backoff: (Duration::from_secs(3600), Duration::from_secs(3600)),
            called: Arc::clone(&called),
            refusals: Refusals::default(),
        };
        let calling = tokio::spawn(caller.run());
        let next = || timeout(Duration::from_secs(30), listener.accept());
        // The peer ends, and is there again.
        drop(next().await.unwrap().unwrap());
        called.notify_one();
        next().await.expect("it waits for its backoff").unwrap();
        calling.abort();
    }
}
