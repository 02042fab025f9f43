//! The loaded programs in the kernel, run on one packet at a time (`BPF_PROG_TEST_RUN`). The
//! kernel gives test packets the loopback interface as their ingress: index 1.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aya::programs::{ProgramError, TestRun, TestRunOptions};
use herald_ebpf::{Datapath, Picture, SessionFence};
use tempfile::TempDir;

pub const IFINDEX: u32 = 1;

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop,
    Pass,
    Transmit,
}

/// The data plane on a BPF filesystem of its own, which goes with it.
pub struct Kernel {
    pub datapath: Datapath,
    pub fence: SessionFence,
    pub directory: TempDir,
}

impl Kernel {
    pub fn with(picture: &Picture) -> Self {
        let directory = TempDir::new().unwrap();
        mount_bpffs(&directory);
        let (mut datapath, mut fence) = Datapath::open(directory.path()).unwrap();
        datapath.apply(picture).unwrap();
        fence.set(Duration::MAX).unwrap();
        Self { datapath, fence, directory }
    }

    /// Runs the XDP program; returns the action, the packet after it, and the reason counted.
    pub fn xdp(&mut self, packet: &[u8]) -> (Action, Vec<u8>, &'static str) {
        let before = self.counters();
        let (action, out) = self.run(packet);
        (action, out, self.counted_since(&before))
    }

    /// Runs the XDP program; returns the action and the packet after it.
    pub fn run(&mut self, packet: &[u8]) -> (Action, Vec<u8>) {
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = self.datapath.xdp_program().unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            other => panic!("XDP action {other}"),
        };
        (action, out)
    }

    /// Runs the XDP program so many times on a packet that it leaves as it is; returns the reason
    /// that was counted each time.
    pub fn repeat(&mut self, packet: &[u8], times: u32) -> &'static str {
        let before = self.counters();
        let options =
            TestRunOptions { data_in: Some(packet), repeat: times, ..TestRunOptions::new() };
        self.datapath.xdp_program().unwrap().test_run(options).unwrap();
        let grown = |(label, packets): &(&'static str, u64)| {
            packets - before.get(label).unwrap_or(&0) == u64::from(times)
        };
        self.counters().into_iter().find(grown).unwrap().0
    }

    /// Runs the egress program on a packet it lets go on; returns the packet after it, and the
    /// reason counted, if one was.
    pub fn egress(&mut self, packet: &[u8]) -> (Vec<u8>, Option<&'static str>) {
        let before = self.counters();
        let (leaves, out) = self.leave(packet);
        assert!(leaves, "dropped: {packet:?}");
        let reason = (self.counters() != before).then(|| self.counted_since(&before));
        (out, reason)
    }

    /// Asserts that the egress program leaves a packet alone.
    pub fn leaves_alone(&mut self, packet: &[u8], what: &str) {
        assert_eq!(self.egress(packet), (packet.to_vec(), None), "{what}");
    }

    /// Runs the egress program on a packet it drops; returns the reason counted.
    pub fn held_back(&mut self, packet: &[u8]) -> Option<&'static str> {
        let before = self.counters();
        let (leaves, _) = self.leave(packet);
        (!leaves).then(|| self.counted_since(&before))
    }

    /// Whether a packet leaves, and how.
    fn leave(&mut self, packet: &[u8]) -> (bool, Vec<u8>) {
        self.try_leave(packet).unwrap()
    }

    /// As [`Kernel::leave`]; the kernel itself refuses to make a packet of headers cut short.
    pub fn try_leave(&mut self, packet: &[u8]) -> Result<(bool, Vec<u8>), ProgramError> {
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = self.datapath.egress_program().unwrap().test_run(options)?;
        out.truncate(result.data_size_out as usize);
        match result.return_value {
            // TC_ACT_PIPE: on to the next program.
            3 => Ok((true, out)),
            // TC_ACT_SHOT.
            2 => Ok((false, out)),
            other => panic!("tc action {other}"),
        }
    }

    /// How many packets had each end.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        let counters = self.datapath.counters().unwrap();
        counters.into_iter().map(|counter| (counter.reason.label(), counter.packets)).collect()
    }

    fn counted_since(&self, before: &BTreeMap<&'static str, u64>) -> &'static str {
        let grown: Vec<_> = self
            .counters()
            .into_iter()
            .filter(|(label, packets)| packets - before.get(label).unwrap_or(&0) == 1)
            .collect();
        assert_eq!(grown.len(), 1, "one reason a packet");
        grown[0].0
    }
}

/// Keeps this thread on the CPU it runs on now.
pub fn stay_on_this_cpu() {
    // SAFETY: a set that is valid when empty and outlives the calls.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap(), &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let path = CString::new(self.directory.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: a terminated path that outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// In a mount namespace of this thread's own, so that an aborted test leaves no mount behind.
fn mount_bpffs(directory: &TempDir) {
    let path = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
    // SAFETY: all pointers are to terminated strings that outlive the calls, or null.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "the packet tests must run as root");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let null = std::ptr::null();
        assert_eq!(libc::mount(null, c"/".as_ptr(), null, private, null.cast()), 0);
        let bpf = c"bpf".as_ptr();
        assert_eq!(libc::mount(bpf, path.as_ptr(), bpf, 0, null.cast()), 0);
    }
}
