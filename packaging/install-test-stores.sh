#!/usr/bin/env bash
# Installs the object stores that tests talk to: Azurite, which is Azure Blob Storage for tests, and s3s-fs, an S3 server over
# a directory. Both go into target/stores and are run from there by the tests, each in a directory of its own.
# May be run again at any time: what is there in the right version is left alone, and nothing is asked.
#
#   packaging/install-test-stores.sh            both
#   packaging/install-test-stores.sh azurite    only that; likewise: s3
#
# Deliberately not here: Node.js, which Azurite needs (20 or newer), and Rust. Without them that store is left out.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
stores="$root/target/stores"
# The newest that run with what Debian 12 and this project's `rust-version` have: later ones need Node.js 21 and Rust 1.96.
azurite_version=3.35.0
s3s_version=0.14.1

azurite() {
    local there
    there=$(sed -n 's/^ *"version": "\(.*\)",$/\1/p' "$stores/node_modules/azurite/package.json" 2>/dev/null || true)
    [ "$there" != "$azurite_version" ] || return 0
    if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
        say "neither Azurite nor its tests without node and npm: install Node.js 20 or newer" >&2
        return 0
    fi
    say "installing Azurite $azurite_version"
    mkdir -p "$stores"
    # Node's own version decides which; its packages run no scripts of theirs here.
    retry npm install --prefix "$stores" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
        "azurite@$azurite_version"
}

# Where cargo has unpacked the source of s3s-fs.
s3s_source() {
    local empty=$1
    mkdir -p "$empty/src"
    touch "$empty/src/lib.rs"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\ns3s-fs = "=%s"\n[workspace]\n' \
        "$s3s_version" >"$empty/Cargo.toml"
    cargo metadata --format-version 1 --manifest-path "$empty/Cargo.toml" 2>/dev/null | tr ',' '\n' |
        sed -n 's|^"manifest_path":"\(.*/s3s-fs-[^/]*\)/Cargo.toml"$|\1|p' | head -1
}

s3() {
    local made="$s3s_version with $(cksum <"$root/packaging/s3s-fs.patch")" work="$root/target/tools/s3s" source
    [ "$(cat "$stores/bin/s3s-fs.made" 2>/dev/null || true)" != "$made" ] || return 0
    export PATH="$HOME/.cargo/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        say "no S3 server without cargo" >&2
        return 0
    fi
    say "building s3s-fs $s3s_version, once"
    rm -rf "$work"
    source=$(s3s_source "$work/fetch")
    cp -r "$source" "$work/source"
    patch -s -p1 -d "$work/source" <"$root/packaging/s3s-fs.patch"
    printf '\n[workspace]\n' >>"$work/source/Cargo.toml"
    # Not the best code, but quick to make, and quick enough.
    CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$work/target" \
        retry cargo install -q --locked --debug --force --root "$stores" --features binary --path "$work/source"
    printf '%s\n' "$made" >"$stores/bin/s3s-fs.made"
    rm -rf "$work"
}

case "${1:-both}" in
    both) azurite; s3 ;;
    azurite) azurite ;;
    s3) s3 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
say "done"
