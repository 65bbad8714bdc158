#!/usr/bin/env bash
# Installs what judges disk images and reads them as others do: qemu-img and its kin, nbdkit and nbdfuse. On Debian and its kin.
# May be run again at any time: what is there is left alone, and nothing is asked.
#
#   packaging/install-disk-tools.sh
#
# Deliberately not here: what runs a machine from an image (install-test-vm.sh).
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/installing.sh"

debian_packages qemu-utils qemu-system-x86 nbdkit libnbd-bin fuse3 fdisk util-linux
# QEMU's own way over HTTPS. It has to be of the very version of the rest, which may be from elsewhere.
if apt-get install --simulate -qq qemu-block-extra >/dev/null 2>&1; then
    debian_packages qemu-block-extra
else
    say "no qemu-block-extra fits the QEMU that is installed: tests read exports by nbdkit alone"
fi
