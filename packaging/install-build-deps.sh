#!/usr/bin/env bash
# Installs what building and testing need, on Debian, Ubuntu and their kin; on Fedora and its kin as well as it goes.
# May be run again at any time: what is there is left alone, and nothing is asked.
#
#   packaging/install-build-deps.sh            everything the tests use
#   packaging/install-build-deps.sh --build    only what building and `mobility-agent demo` use
#
# Deliberately not here: packages that only the installed agent needs (it needs none).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
only_build=false
case "${1:-}" in
    "") ;;
    --build) only_build=true ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac

debian() {
    # gcc compiles zstd and the assembly of BLAKE3. clang and llvm-strip only rebuild the BPF object to compare it.
    local wanted=(gcc make libc6-dev git ca-certificates curl util-linux kmod e2fsprogs)
    if ! $only_build; then
        wanted+=(clang llvm fio xfsprogs btrfs-progs sqlite3 python3 python3-venv postgresql mariadb-server patch
            iproute2 nftables tcpdump tinyproxy-bin faketime)
    fi
    debian_packages "${wanted[@]}"
}

fedora() {
    local wanted=(gcc make glibc-devel git ca-certificates curl util-linux kmod e2fsprogs) missing=() package
    if ! $only_build; then
        wanted+=(clang llvm fio xfsprogs btrfs-progs sqlite python3 postgresql-server mariadb-server patch
            iproute nftables tcpdump tinyproxy libfaketime)
    fi
    for package in "${wanted[@]}"; do
        rpm -q --quiet --whatprovides "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    retry as_root dnf install -q -y --setopt=install_weak_deps=False "${missing[@]}"
}

rust() {
    command -v cargo >/dev/null && return 0
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        say "cargo is in ~/.cargo/bin, which is not in PATH" >&2
        return 0
    fi
    say "installing Rust with rustup, for this user"
    retry curl --proto '=https' --tlsv1.2 -sSf -o /tmp/rustup-init.$$ https://sh.rustup.rs
    sh /tmp/rustup-init.$$ -y -q --profile minimal --component clippy --component rustfmt --no-modify-path
    rm -f /tmp/rustup-init.$$
}

# Kept away from the system's Python: what the second reader of the format needs, and Microsoft's models of what Azure takes, which are
# read and not run, so that what they depend on is left out, and compiling them.
python_packages() {
    local venv="$root/target/python" packages=(blake3==1.0.* zstandard==0.25.* pynacl==1.6.*) program all=true
    local models=(azure-mgmt-compute==33.0.0 azure-mgmt-network==28.1.0)
    for program in format_reader/reader.py azure_models/checker.py; do
        "$venv/bin/python3" -B "$root/tests/$program" packages 2>/dev/null || all=false
    done
    ! $all || return 0
    say "installing Python packages into target/python"
    rm -rf "$venv"
    mkdir -p "$root/target"
    python3 -m venv "$venv"
    retry "$venv/bin/pip" install -q --disable-pip-version-check --prefer-binary "${packages[@]}"
    retry "$venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-compile "${models[@]}"
}

# cargo-deny has no package and is built here. Without optimisation: it runs for a second and would compile for minutes.
cargo_deny() {
    cargo deny --version >/dev/null 2>&1 && return 0
    say "building cargo-deny, once"
    CARGO_TARGET_DIR="$root/target/tools" retry cargo install -q --locked --debug cargo-deny
    rm -rf "$root/target/tools"
}

main() {
    if command -v apt-get >/dev/null; then debian
    elif command -v dnf >/dev/null; then fedora
    else say "neither apt-get nor dnf here: install gcc, clang, fio, xfsprogs, btrfs-progs, sqlite3, python3 yourself" >&2
    fi
    rust
    export PATH="$HOME/.cargo/bin:$PATH"
    if ! $only_build; then
        python_packages
        cargo_deny
    fi
    say "done"
}

main </dev/null
