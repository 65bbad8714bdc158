#!/usr/bin/env bash
# Installs what makes packages, and what the tests of packages judge them with: cargo-deb and cargo-generate-rpm into
# target/package-tools, the rest from the distribution. May be run again at any time: what is there is left alone.
#
#   packaging/install-package-tools.sh              both
#   packaging/install-package-tools.sh --release    also what builds programs for old C libraries (build-programs.sh)
#
# Deliberately not here: a tool for SBOMs. The one that there is for cargo takes 85 s of a processor to build, and
# packaging/sbom.py says the same.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
tools="$root/target/package-tools"
release=false
case "${1:-}" in
    "") ;;
    --release) release=true ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
export PATH="$tools/bin:$PATH:$HOME/.cargo/bin"

# Without optimisation: each runs for a second. The two share what they are made of.
cargo_tool() {
    local name=$1 version=$2
    [ "$("$tools/bin/$name" --version 2>/dev/null | sed 's/.* //')" != "$version" ] || return 0
    say "building $name $version, once"
    CARGO_TARGET_DIR="$tools/build" retry cargo install -q --locked --debug --force --root "$tools" --version "$version" "$name"
}

# The compiler that knows the symbols of every version of the C library, and what has cargo use it.
zig() {
    [ -x "$tools/zig/bin/cargo-zigbuild" ] && return 0
    say "installing ziglang and cargo-zigbuild"
    python3 -m venv "$tools/zig"
    retry "$tools/zig/bin/pip" install -q --disable-pip-version-check --prefer-binary ziglang==0.17.* cargo-zigbuild==0.24.*
}

distribution() {
    command -v apt-get >/dev/null || { say "no apt-get here: lintian and rpmlint are not installed" >&2; return 0; }
    debian_packages binutils dpkg-dev fakeroot lintian rpm rpmlint systemd
}

main() {
    distribution
    cargo_tool cargo-deb 3.8.0
    cargo_tool cargo-generate-rpm 0.21.1
    rm -rf "$tools/build"
    if $release; then zig; fi
    say "done"
}

main </dev/null
