#!/usr/bin/env bash
# Installs what the lab and the build need, where it is missing, by name and from Debian and
# crates.io only: iproute2 (ip, bridge), ethtool, a linker for Rust, and the eBPF compiler. With
# --check also libfaketime, cargo-nextest and cargo-deny, and what kube-proxy makes its rules with:
# nftables and iptables; with --bench these and keepalived, as rivals. Run as root; safe to repeat;
# says only what it does.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$HOME/.cargo/bin:$PATH"
nextest_version=0.9.151
deny_version=0.20.2

[ "$(id -u)" = 0 ] || { echo "this makes network namespaces and needs root" >&2; exit 1; }
command -v cargo >/dev/null || {
    echo "cargo is missing: install stable Rust 1.95 or newer with rustup first" >&2
    exit 1
}

packages=()
command -v ip >/dev/null && command -v bridge >/dev/null || packages+=(iproute2)
command -v ethtool >/dev/null || packages+=(ethtool)
command -v cc >/dev/null || packages+=(gcc libc6-dev)
if [ "${1:-}" = --check ] && ! compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; then
    packages+=(libfaketime)
fi
if [ "${1:-}" = --bench ]; then
    command -v keepalived >/dev/null || packages+=(keepalived)
fi
if [ "${1:-}" = --bench ] || [ "${1:-}" = --check ]; then
    command -v nft >/dev/null || packages+=(nftables)
    command -v iptables-legacy-restore >/dev/null || packages+=(iptables)
fi
if [ ${#packages[@]} -gt 0 ]; then
    echo "installing ${packages[*]} (Debian)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${packages[@]}" >/dev/null
fi

"$here/toolchain.sh"

# A cargo subcommand of exactly one version, so that its findings do not change under us.
subcommand() {
    local name=$1 version=$2 minutes=$3
    shift 3
    if cargo "$name" --version 2>/dev/null | grep -qF "$version"; then return; fi
    echo "building cargo-$name $version (about $minutes minutes, once)"
    # A target directory of the caller's is for Herald; tools are built aside.
    env -u CARGO_TARGET_DIR cargo install --locked --debug --quiet "cargo-$name" \
        --version "$version" "$@"
}

if [ "${1:-}" = --check ]; then
    subcommand nextest "$nextest_version" 3 --no-default-features --features default-no-update
    subcommand deny "$deny_version" 3
fi
