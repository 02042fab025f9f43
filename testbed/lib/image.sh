#!/usr/bin/env bash
# Builds what manifests/Dockerfile puts into the image, by its own steps but without docker, from the
# committed files; shows that the result is static and runs in an empty root, as the image is. Takes
# minutes: a release build. Run as root on Debian 12 with rustup's Rust; safe to repeat. A first
# argument is a binary that was built before: then only that is shown.
set -euo pipefail

target=x86_64-unknown-linux-musl
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH="$HOME/.cargo/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/image"

binary=${1:-}
if [ -z "$binary" ]; then
    if ! command -v musl-gcc >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends musl-tools >/dev/null
    fi
    rustup target add "$target"
    "$here/toolchain.sh"
    # Like `COPY . .`: nothing of an earlier build, and no history.
    git -C "$root" archive HEAD | tar -x -C "$work/source"
    output=${CARGO_TARGET_DIR:-$root/target}
    (cd "$work/source" && CARGO_TARGET_DIR=$output \
        cargo build --release --locked --target "$target" --bin herald)
    binary=$output/$target/release/herald
fi

# An interpreter would have to be in the image too.
if readelf --program-headers "$binary" | grep -q INTERP; then
    echo "image.sh: $binary is not static" >&2
    exit 1
fi
cp "$binary" "$work/image/herald"
env -i PATH=/ "$(command -v chroot)" "$work/image" herald --version
env -i PATH=/ "$(command -v chroot)" "$work/image" herald speaker --help >/dev/null
echo "static, runs in an empty root: $(du -h "$work/image/herald" | cut -f1)"
