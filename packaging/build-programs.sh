#!/usr/bin/env bash
# Builds the programs that packages carry, one for each architecture: they run on every distribution with glibc 2.31 or newer
# (Debian 11, Ubuntu 20.04, RHEL 9 and what came after). Puts them into target/programs.
#
#   packaging/build-programs.sh                  for this machine's architecture
#   packaging/build-programs.sh aarch64          for another one
#   packaging/build-programs.sh --check DIR      only says whether the programs in DIR need a newer C library
#
# Not static: names are looked up by what the system is configured with (nsswitch), which a static program cannot load, and
# musl's allocator would be at work in every thread that compresses. So the linker is zig's, which has the symbols of every glibc
# and takes the versions that 2.31 had. RHEL 8 has 2.28, and a kernel for which there is no tracker.
#
# Reproducible: no path of this machine and no time gets into a program, but for what debuggers are told of the few lines of C library that
# the linker compiles; packages and the extension carry programs without that. Deliberately not here: packages (build.sh).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
glibc=2.31
programs=(mobility-agent recovery-service mobility-extension)

check() {
    local program newest
    for program in "${programs[@]}"; do
        newest=$(objdump -T "$1/$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
        if [ "$(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1)" != "GLIBC_$glibc" ]; then
            say "$1/$program needs $newest, and may need GLIBC_$glibc at most" >&2
            return 1
        fi
        say "$program needs $newest"
    done
}

if [ "${1:-}" = --check ]; then
    check "${2:?}"
    exit
fi

architecture=${1:-$(uname -m)}
target="$architecture-unknown-linux-gnu"
export PATH="$root/target/package-tools/zig/bin:$PATH:$HOME/.cargo/bin"
if ! command -v cargo-zigbuild >/dev/null; then
    say "no cargo-zigbuild: run packaging/install-package-tools.sh --release" >&2
    exit 1
fi
build="${CARGO_TARGET_DIR:-$root/target}"
registry="${CARGO_HOME:-$HOME/.cargo}"
sysroot=$(rustc --print sysroot)
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}"
export RUSTFLAGS="--remap-path-prefix=$root=/source --remap-path-prefix=$build=/build --remap-path-prefix=$registry=/cargo --remap-path-prefix=$sysroot=/rust"
export CFLAGS="-ffile-prefix-map=$root=/source -ffile-prefix-map=$build=/build -ffile-prefix-map=$registry=/cargo"
export CARGO_INCREMENTAL=0
cd "$root"
cargo zigbuild --locked --release --target "$target.$glibc" -p mobility-agent -p mobility-recovery -p mobility-extension --bins
mkdir -p "$root/target/programs"
for program in "${programs[@]}"; do
    cp "$build/$target/release/$program" "$root/target/programs/"
done
check "$root/target/programs"
