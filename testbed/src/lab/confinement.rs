//! What a container's runtime takes away from a process (edge): every capability but a few, and the
//! way to get them back. To be applied between fork and exec, after everything that needs more.

use std::io;

use anyhow::Context;

/// The capabilities that are left, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement(Vec<u32>);

/// As Kubernetes calls them, which is without `CAP_`; linux/capability.h.
const NAMES: [(&str, u32); 41] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("DAC_READ_SEARCH", 2),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("LINUX_IMMUTABLE", 9),
    ("NET_BIND_SERVICE", 10),
    ("NET_BROADCAST", 11),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("IPC_OWNER", 15),
    ("SYS_MODULE", 16),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_PACCT", 20),
    ("SYS_ADMIN", 21),
    ("SYS_BOOT", 22),
    ("SYS_NICE", 23),
    ("SYS_RESOURCE", 24),
    ("SYS_TIME", 25),
    ("SYS_TTY_CONFIG", 26),
    ("MKNOD", 27),
    ("LEASE", 28),
    ("AUDIT_WRITE", 29),
    ("AUDIT_CONTROL", 30),
    ("SETFCAP", 31),
    ("MAC_OVERRIDE", 32),
    ("MAC_ADMIN", 33),
    ("SYSLOG", 34),
    ("WAKE_ALARM", 35),
    ("BLOCK_SUSPEND", 36),
    ("AUDIT_READ", 37),
    ("PERFMON", 38),
    ("BPF", 39),
    ("CHECKPOINT_RESTORE", 40),
];

impl Confinement {
    /// To the capabilities of these names.
    ///
    /// # Errors
    ///
    /// If there is no capability of a name.
    pub fn to<'a>(names: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let number = |name: &str| {
            let found = NAMES.iter().find(|(known, _)| *known == name);
            found.map(|(_, number)| *number).with_context(|| format!("no capability is {name}"))
        };
        Ok(Self(names.into_iter().map(number).collect::<anyhow::Result<_>>()?))
    }

    /// As `/proc/<pid>/status` shows them.
    pub fn mask(&self) -> u64 {
        self.0.iter().fold(0, |mask, number| mask | 1 << number)
    }

    /// For `pre_exec`: takes all others away from the calling process and from what it executes.
    pub(crate) fn apply(&self) -> io::Result<()> {
        for (_, number) in NAMES.iter().filter(|(_, number)| !self.0.contains(number)) {
            // A kernel that does not know a capability has none to take away.
            // SAFETY: takes numbers.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *number, 0, 0, 0) };
            if dropped != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: takes numbers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mask = self.mask();
        let [low, high] = [mask as u32, (mask >> 32) as u32];
        // Effective, permitted, inheritable: first the lower 32 of each, then the higher ones.
        let sets = [[low, low, 0], [high, high, 0]];
        let header = [VERSION_3, 0];
        // SAFETY: header and sets are laid out as capset(2) wants them for this version, and
        // outlive the call.
        match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_capabilities_by_the_names_of_manifests() {
        let confinement = Confinement::to(["NET_ADMIN", "NET_RAW", "PERFMON", "BPF"]).unwrap();
        assert_eq!(confinement.mask(), 0xc0_0000_3000);
        assert!(Confinement::to(["CAP_BPF"]).is_err());
    }
}
