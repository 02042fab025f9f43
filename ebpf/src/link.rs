//! Detaching a pinned link at once (edge): BPF_LINK_DETACH. To remove its pin would do the same,
//! but some time later (kernel/bpf/inode.c frees the inode after a grace period), while the next
//! program waits for the interface.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// linux/bpf.h, `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct Pinned {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Detaches what is pinned there, if that is a link; the pin stays.
pub(crate) fn detach(pin: &Path) {
    let Ok(path) = CString::new(pin.as_os_str().as_bytes()) else { return };
    let pinned = Pinned { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    let Some(descriptor) = bpf(BPF_OBJ_GET, &pinned).and_then(|it| i32::try_from(it).ok()) else {
        return;
    };
    // SAFETY: the kernel has just made it for us.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // A link whose interface is gone is detached already; nothing to do about any other refusal,
    // which the next attachment meets and reports.
    let _ = bpf(BPF_LINK_DETACH, &link.as_raw_fd());
}

/// The call's result, if it succeeded.
fn bpf<T>(command: libc::c_int, attributes: &T) -> Option<i64> {
    // SAFETY: the kernel reads `size_of::<T>()` octets of a value without padding, and takes the
    // rest of its union as zero; a path in it outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    (result >= 0).then_some(result)
}
