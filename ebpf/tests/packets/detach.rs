//! Programs are taken off interfaces that nobody serves any more. In a network namespace of the
//! test's own thread.

use herald_ebpf::{Detached, Error, Mode, Removed, Wanted, detach};

use crate::kernel::Kernel;
use crate::{Pods, picture};

#[test]
fn nothing_is_left_of_a_speaker_that_is_gone_for_good() {
    let mut kernel = Kernel::with(&picture(Pods::Here));
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let pins = kernel.directory.path();
    let both = ["xdp-generic", "egress"]
        .map(|program| Detached { interface: "lo".to_owned(), program })
        .to_vec();
    let wanted = Wanted::Only(Mode::Generic);

    kernel.datapath.attach("lo", wanted).unwrap();
    assert_eq!(kernel.datapath.detach_others(&["lo".to_owned()]), []);
    assert_eq!(kernel.datapath.detach_others(&["eth0".to_owned()]), both);

    kernel.datapath.attach("lo", wanted).unwrap();
    let removed = detach(pins).unwrap();
    assert_eq!(removed.programs, both);
    assert!(removed.pins > 20, "{removed:?}");
    assert_eq!(detach(pins).unwrap(), Removed::default(), "there is nothing left");
    assert_eq!(detach(&pins.join("nowhere")).unwrap(), Removed::default());
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("v1")).unwrap();
    assert!(matches!(detach(elsewhere.path()), Err(Error::NotBpffs(_))));
    assert!(elsewhere.path().join("v1").exists(), "not ours");
}
