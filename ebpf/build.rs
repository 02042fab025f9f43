//! Builds the eBPF programs with whichever compiler this machine has for them, and refuses an
//! object that calls memcpy and its kin: BPF has none, and the byte loops that stand in for them
//! cost more than the rest of the program.
//!
//! The order: `HERALD_EBPF_OBJECT` (a ready object, the benchmark's `herald-ebpf-bench` beside
//! it), a rustup nightly with rust-src, Debian's
//! rustc-web with rust-web-src. `testbed/lib/toolchain.sh` installs the last.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let programs = PathBuf::from(env_of("CARGO_MANIFEST_DIR")).join("programs");
    for path in ["programs/src", "programs/Cargo.toml", "programs/Cargo.lock", "common/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=HERALD_EBPF_OBJECT");
    let out = PathBuf::from(env_of("OUT_DIR"));
    let object = match env::var_os("HERALD_EBPF_OBJECT") {
        Some(ready) => PathBuf::from(ready),
        None => build(&programs, &out.join("programs")),
    };
    keep(&object, &out.join("herald-ebpf.o"));
    keep(&object.with_file_name("herald-ebpf-bench"), &out.join("herald-ebpf-bench.o"));
}

/// Copies an object that calls nothing BPF has not.
fn keep(object: &Path, to: &Path) {
    let bytes = fs::read(object).unwrap_or_else(|error| {
        panic!("cannot read the eBPF object {}: {error}", object.display())
    });
    refuse_mem_calls(&bytes);
    fs::write(to, bytes).unwrap_or_else(|error| {
        panic!("cannot write the eBPF object to {}: {error}", to.display())
    });
}

fn env_of(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}

/// A compiler that can build for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
}

fn build(programs: &Path, target_dir: &Path) -> PathBuf {
    let Some(toolchain) = nightly().or_else(debian) else {
        panic!(
            "no compiler for the eBPF programs: run testbed/lib/toolchain.sh as root (Debian), or \
             `rustup toolchain install nightly --component rust-src`, or set HERALD_EBPF_OBJECT \
             to a built object"
        );
    };
    let mut command = Command::new(&toolchain.cargo);
    // Cargo and clippy wrap and flag the compiler for the host's build; none of it is for BPF.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("CARGO") && text != "CARGO_HOME"
            || text.starts_with("RUST") && text != "RUSTUP_HOME";
        if inherited {
            command.env_remove(&name);
        }
    }
    let status = command
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target_dir)
        // 32-bit registers and comparisons (Linux 5.1): without them every mix of a hash takes
        // masks and shifts of 64 bits.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-cpu=v3")
        .args(["build", "--release", "--locked", "--target", TARGET, "-Zbuild-std=core"])
        .current_dir(programs)
        .status();
    match status {
        Ok(status) if status.success() => target_dir.join(TARGET).join("release/herald-ebpf"),
        Ok(status) => {
            panic!("building the eBPF programs in {} failed: {status}", programs.display())
        }
        Err(error) => panic!("cannot run {}: {error}", toolchain.cargo.display()),
    }
}

/// Rustup's nightly, if it has the standard library's source and a linker is installed.
fn nightly() -> Option<Toolchain> {
    let of = |tool: &str| {
        let output =
            Command::new("rustup").args(["which", "--toolchain", "nightly", tool]).output().ok()?;
        output
            .status
            .success()
            .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    };
    let (cargo, rustc) = (of("cargo")?, of("rustc")?);
    has_source(rustc.parent()?.parent()?).then_some(Toolchain { cargo, rustc })
}

fn debian() -> Option<Toolchain> {
    let toolchain = Toolchain { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into() };
    (toolchain.rustc.exists() && has_source(Path::new("/usr"))).then_some(toolchain)
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

fn refuse_mem_calls(bytes: &[u8]) {
    let file = object::File::parse(bytes)
        .unwrap_or_else(|error| panic!("the eBPF object is no ELF file: {error}"));
    for section in file.sections() {
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let name = file.symbol_by_index(index).and_then(|symbol| symbol.name());
            if let Ok(name @ ("memcpy" | "memmove" | "memset" | "memcmp" | "bcmp")) = name {
                let section = section.name().unwrap_or("?");
                panic!("the eBPF object calls {name} at {section}+{offset:#x}: copy by words");
            }
        }
    }
}
