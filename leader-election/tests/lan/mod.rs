//! Real elections over loopback: what their tests set up. Sockets, files and the boot clock are as
//! in production; the fence is one that only remembers. Deadlines are generous, for other builds
//! may share the machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herald_leader_election::clock::boot_now;
use herald_leader_election::{
    BootTime, ClaimKey, Error, Fence, Handle, Key, NodeName, RaftConfig, Timing, start_with_key,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long anything may take.
pub const GENEROUS: Duration = Duration::from_secs(40);
/// Slower than in production: a process that a busy machine does not run for a while is not dead.
pub const TIMING: Timing =
    Timing { heartbeat: Duration::from_millis(200), ttl: Duration::from_millis(2000) };

/// A fence that remembers what it was set to, as the kernel's map does.
#[derive(Clone, Default)]
pub struct Remembered(Arc<AtomicU64>);

impl Fence for Remembered {
    fn set_deadline(&mut self, until: BootTime) {
        self.0.store(until.as_nanos(), Ordering::SeqCst);
    }
}

impl Remembered {
    /// What it was set to, in nanoseconds of the boot clock; zero if it never was.
    pub fn deadline(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn is_open(&self) -> bool {
        self.deadline() > boot_now().as_nanos()
    }
}

/// A running election.
pub struct Speaker {
    pub handle: Handle,
    pub task: JoinHandle<Result<(), Error>>,
    pub fence: Remembered,
    listen: SocketAddr,
}

impl Speaker {
    pub fn start(config: RaftConfig, key: Option<Key>) -> Self {
        let (fence, listen) = (Remembered::default(), config.listen);
        let (handle, task) = start_with_key(config, key, Box::new(fence.clone())).unwrap();
        Self { handle, task, fence, listen }
    }

    /// Ends the task as kill -9 ends the process: once this returns, its listener is closed too,
    /// which the runtime does a moment after the abort.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        until(|| TcpListener::bind(self.listen).is_ok(), || "not closed".to_owned()).await;
    }
}

pub fn name(n: usize) -> NodeName {
    NodeName::from(format!("n{n}"))
}

pub fn vip(last: u8) -> ClaimKey {
    ClaimKey::Vip(Ipv4Addr::new(192, 168, 1, last).into())
}

/// Addresses nobody else uses, for `n0` and so on: a loopback address of this test's own, and ports
/// that the kernel gives to no outgoing connection. A port that was only found free may be taken by
/// another test's connection while its speaker is down.
pub fn own_addresses(count: u16) -> BTreeMap<NodeName, SocketAddr> {
    static LANS: AtomicU64 = AtomicU64::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | high, middle, low);
    let lan = u16::try_from(LANS.fetch_add(1, Ordering::SeqCst)).unwrap();
    (0..count).map(|n| (name(n.into()), (address, 7_000 + 16 * lan + n).into())).collect()
}

/// Waits until something is so; `shown` is what a failure tells.
pub async fn until(so: impl Fn() -> bool, shown: impl Fn() -> String) {
    let waiting = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(GENEROUS, waiting).await.is_ok(), "{}", shown());
}
