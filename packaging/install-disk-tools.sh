#!/usr/bin/env bash
# Installs what judges disk images, reads them as others do, changes files in them and runs machines from them: qemu-img and its kin, nbdkit
# and nbdfuse, guestfish, QEMU, libvirt. On Debian and its kin. May be run again at any time: what is there is left alone, and nothing is asked.
#
#   packaging/install-disk-tools.sh
#
# The small machine in which guestfish works needs a kernel. Where this machine has none, one is unpacked in target/guestfs, and not
# installed. Libvirt is installed without what would start it with this machine: tests start one of their own. Deliberately not here: the
# disk images of machines (install-test-vm.sh).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
guestfs="$root/target/guestfs"
export PATH="$PATH:/usr/sbin:/sbin"

# Debian's kernel for virtual machines, in a directory.
kernel() {
    local package version
    rm -rf "$guestfs"
    mkdir -p "$guestfs/kernel" "$guestfs/cache"
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -1)
    (cd "$guestfs" && retry apt-get download -qq "$package")
    dpkg-deb --extract "$guestfs"/linux-image-*.deb "$guestfs/kernel"
    rm "$guestfs"/linux-image-*.deb
    version=$(ls "$guestfs/kernel/lib/modules")
    depmod -b "$guestfs/kernel" "$version"
    printf '%s\n' "$version" >"$guestfs/version"
}

debian_packages qemu-utils qemu-system-x86 nbdkit libnbd-bin fuse3 fdisk util-linux e2fsprogs kmod guestfish libguestfs-xfs
# What one package holds in one release is in several in the next.
libvirt=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base iptables iproute2 ovmf)
for package in libvirt-daemon-driver-network libvirt-daemon-log; do
    if apt-cache show "$package" >/dev/null 2>&1; then libvirt+=("$package"); fi
done
debian_packages "${libvirt[@]}"
# QEMU's own way over HTTPS. It has to be of the very version of the rest, which may be from elsewhere.
if apt-get install --simulate -qq qemu-block-extra >/dev/null 2>&1; then
    debian_packages qemu-block-extra
else
    say "no qemu-block-extra fits the QEMU that is installed: tests read exports by nbdkit alone"
fi
if ! ls /boot/vmlinuz-* >/dev/null 2>&1 && [ ! -e "$guestfs/version" ] && [ "$(uname -m)" = x86_64 ]; then
    say "unpacking a kernel for guestfish"
    kernel
fi
# Looked at whatever kernel is named.
[ -d /lib/modules ] || as_root mkdir -p /lib/modules
