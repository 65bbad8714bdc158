#!/usr/bin/env bash
# Fetches the guest agent of Azure, whose code drives the VM extension in tests, and cloud-init, whose schema the example is held to,
# into target/guest-agent. They are unpacked and not installed: as services they would take over the machine. May be run again at
# any time: what is there is left alone.
#
#   packaging/install-guest-agent.sh
#
# Deliberately not here: systems without apt-get. The tests that need it say that they cannot run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
there="$root/target/guest-agent"
# Both, and the Python packages that they need for this.
packages=(waagent python3-distro python3-pkg-resources cloud-init python3-yaml)

fetch() {
    local work=$1
    (cd "$work" && retry apt-get download -q "${packages[@]}") >/dev/null
}

main() {
    [ ! -e "$there/made" ] || [ "$(cat "$there/made")" != "${packages[*]}" ] || return 0
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        say "no guest agent without apt-get" >&2
        return 0
    fi
    say "fetching ${packages[*]}"
    rm -rf "$there"
    mkdir -p "$there/packages"
    # Who downloads gives its rights away, and must be able to write there all the same.
    chmod 777 "$there/packages"
    if ! fetch "$there/packages" 2>/dev/null; then
        as_root apt-get update -qq
        fetch "$there/packages"
    fi
    local package
    for package in "$there"/packages/*.deb; do dpkg-deb -x "$package" "$there"; done
    rm -rf "$there/packages"
    printf '%s\n' "${packages[*]}" >"$there/made"
}

main </dev/null
say "done"
