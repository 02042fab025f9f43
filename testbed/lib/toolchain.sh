#!/usr/bin/env bash
# Installs what the eBPF programs are built with, where it is missing: Debian's rustc-web with the
# standard library's source, LLVM 22, and bpf-linker. A rustup nightly with rust-src serves as
# well and is then left alone (ebpf/build.rs chooses). Run as root; safe to repeat.
set -euo pipefail

linker_version=0.13.0
export PATH="$HOME/.cargo/bin:$PATH"

nightly_is_ready() {
    local rustc
    rustc=$(rustup which --toolchain nightly rustc 2>/dev/null) || return 1
    [ -e "$(dirname "$(dirname "$rustc")")/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

debian_is_ready() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] &&
        [ -e /usr/lib/rustlib/src/rust/library/core/src/lib.rs ]
}

if ! nightly_is_ready && ! debian_is_ready; then
    echo "installing the eBPF compiler: rustc-web, cargo-web, rust-web-src (Debian)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        rustc-web cargo-web rust-web-src >/dev/null
fi

if ! command -v bpf-linker >/dev/null || ! bpf-linker --version | grep -qF "$linker_version"; then
    if [ ! -d /usr/lib/llvm-22 ]; then
        echo "installing LLVM 22 (Debian)"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            llvm-22-dev >/dev/null
    fi
    echo "building bpf-linker $linker_version (about a minute)"
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version "$linker_version" --locked \
        --quiet --no-default-features --features llvm-22
fi
