//! A network namespace for one test, and a tap that records what passes on a port.

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use herald_announcer::clock::boot_now;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Runs a test on a thread of its own, in a namespace of its own.
pub fn namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: no memory is involved; the namespace is this thread's alone.
        let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let error = std::io::Error::last_os_error();
        assert_eq!(entered, 0, "cannot make a network namespace ({error}): run this test as root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Another machine, with a namespace of its own on a thread of its own.
pub struct Host {
    commands: Option<mpsc::Sender<String>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

#[allow(dead_code, reason = "each file of tests uses a part")]
impl Host {
    /// Gives an interface of this namespace to a new machine.
    pub fn with(interface: &str) -> Self {
        let (commands, received) = mpsc::channel::<String>();
        let (finished, done) = mpsc::channel();
        let (entered, thread_id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: no memory is involved in either call; the namespace is this thread's alone.
            let entry = unsafe { (libc::unshare(libc::CLONE_NEWNET), libc::gettid()) };
            assert_eq!(entry.0, 0, "{}", std::io::Error::last_os_error());
            entered.send(entry.1).unwrap();
            for command in received {
                ip(&command);
                finished.send(()).unwrap();
            }
        });
        let id = thread_id.recv().unwrap();
        ip(&format!("link set {interface} netns {id}"));
        let host = Self { commands: Some(commands), done, thread: Some(thread) };
        host.ip(&format!("link set {interface} up"));
        host
    }

    /// Runs `ip` on that machine.
    pub fn ip(&self, arguments: &str) {
        self.commands.as_ref().unwrap().send(arguments.to_owned()).unwrap();
        self.done.recv().expect("the command failed");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes every capability from this thread.
#[allow(dead_code, reason = "each file of tests uses a part")]
pub fn become_nobody() {
    // SAFETY: no memory is involved. The raw call changes this thread only, unlike libc's.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    ip_output(arguments);
}

/// As [`ip`], with what it prints.
pub fn ip_output(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.expect("cannot run `ip`: install iproute2");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Recorded = Arc<Mutex<Vec<(Duration, Vec<u8>)>>>;

/// Everything that comes out at a port, with the time since boot.
pub struct Tap {
    socket: Arc<Socket>,
    recorded: Recorded,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    pub fn open(interface: &str) -> Self {
        let every = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every))).unwrap();
        socket.bind(&address(interface)).unwrap();
        ignore_outgoing(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (socket, recorded) = (Arc::new(socket), Recorded::default());
        let stop = Arc::new(AtomicBool::new(false));
        let recorder = {
            let (socket, recorded, stop) = (socket.clone(), recorded.clone(), stop.clone());
            move || record(&socket, &recorded, &stop)
        };
        let thread = Some(std::thread::spawn(recorder));
        Self { socket, recorded, stop, thread }
    }

    pub fn send(&self, frame: &[u8]) {
        self.socket.send(frame).unwrap();
    }

    pub fn forget(&self) {
        self.recorded.lock().unwrap().clear();
    }

    pub fn frames(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let recorded = self.recorded.lock().unwrap();
        recorded.iter().filter(|(_, frame)| wanted(frame)).map(|(_, frame)| frame.clone()).collect()
    }

    pub fn times(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Duration> {
        let recorded = self.recorded.lock().unwrap();
        recorded.iter().filter(|(_, frame)| wanted(frame)).map(|(time, _)| *time).collect()
    }

    /// The first wanted frame, already recorded or yet to come.
    pub async fn until(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.ask_until(limit, &[], wanted).await
    }

    /// As [`Tap::until`], asking again and again: a responder may still be starting.
    pub async fn ask_until(
        &self,
        limit: Duration,
        question: &[u8],
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<u8> {
        let start = boot_now();
        loop {
            if let Some(frame) = self.frames(&wanted).into_iter().next() {
                return frame;
            }
            assert!(boot_now() - start < limit, "no such frame within {limit:?}");
            if !question.is_empty() {
                self.send(question);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Fails if an unwanted frame is recorded already or comes while we listen.
    pub async fn silent(&self, listen: Duration, unwanted: impl Fn(&[u8]) -> bool) {
        tokio::time::sleep(listen).await;
        let heard = self.frames(unwanted);
        assert!(heard.is_empty(), "expected silence, heard {:02x?}", heard[0]);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn record(socket: &Socket, recorded: &Recorded, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match (&mut &*socket).read(&mut buffer) {
            Ok(length) => {
                recorded.lock().unwrap().push((boot_now(), buffer[..length].to_vec()));
            }
            // Nothing came, or the port went down under us.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => panic!("tap: {error}"),
        }
    }
}

fn address(interface: &str) -> SockAddr {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large and aligned enough for any socket address; zero is a value of
    // every field left out.
    unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = libc::AF_PACKET as u16;
        link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        link.sll_ifindex = index as i32;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}

fn ignore_outgoing(socket: &Socket) {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the length given.
    let set = unsafe {
        let value = (&raw const on).cast();
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING);
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
