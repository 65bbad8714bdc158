#!/usr/bin/env bash
# Installs what the tests in a virtual machine need: QEMU, and disk images with Debian 12 and a boot loader, in target/vm: one with the
# kernels of three Debian releases, one with a database, and a small one as Fedora and its kin are made, for other hardware than QEMU's.
# May be run again at any time: images that were made by these very files are left alone, and nothing is asked.
#
#   packaging/install-test-vm.sh
#
# Changes nothing of this machine but for the packages that it installs. Needs root, since a system is unpacked with its owners.
# Deliberately not here: the agent, which tests put into a copy of the image.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
guest="$root/tests/vm/guest"
vm="$root/target/vm"
# Small, and with room for a package or two: all of it is read through an emulated processor.
size_mib=1024
# Of the one that is mended: with room for a second first file system beside the first.
mended_mib=512
# One that is older than the system around it, and one that is younger.
# Of the first, a package from the release itself: its own list names updates that come and go.
declare -A kernels=(
    [bullseye]='?and(?name(^linux-image-5.10.0-[0-9]+-cloud-amd64$),?codename(^bullseye$))'
    [trixie]=linux-image-cloud-amd64
)
work=

# What a try before this one left is in the way.
fresh() {
    local into=$1
    shift
    rm -rf --one-file-system "$into"
    mmdebstrap "$@"
}

# A release's system in a directory; what follows are options of mmdebstrap.
bootstrap() {
    local release=$1 into=$2
    shift 2
    retry fresh "$into" --quiet --mode=root --aptopt='APT::Install-Recommends "0"' "$@" "$release" "$into"
}

# The kernel of another release: no more of it than its image and its modules, of its newest one.
kernel_of() {
    local release=$1 package=$2 there="$work/$1" version modules
    bootstrap "$release" "$there" --variant=extract "--include=$package"
    version=$(basename "$(printf '%s\n' "$there"/boot/vmlinuz-* | sort -V | tail -1)")
    version=${version#vmlinuz-}
    cp -a "$there"/boot/*-"$version" "$work/root/boot/"
    # Modules are in /lib in one release, in /usr/lib in the next.
    for modules in "$there"{,/usr}/lib/modules/"$version"; do
        [ ! -d "$modules" ] || cp -a "$modules" "$work/root/usr/lib/modules/"
    done
    rm -rf "$there"
}

# Debian 12, with these packages besides.
system() {
    local no=() path packages
    printf -v packages ',%s' "$@"
    packages=systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,kmod,zstd,iproute2,libcap2-bin,openssl,grub-pc-bin${packages%,}
    for path in doc locale man info; do no+=("--dpkgopt=path-exclude=/usr/share/$path/*"); done
    bootstrap bookworm "$work/root" --variant=minbase "${no[@]}" "--include=$packages"
}

# What makes it a guest of the tests.
settle() {
    local top="$work/root" unit
    # Only what this machine's one kind of disk needs, in every kernel's first file system.
    printf 'MODULES=list\nCOMPRESS=zstd\n' >"$top/etc/initramfs-tools/conf.d/small"
    printf 'virtio_pci\nvirtio_blk\next4\n' >>"$top/etc/initramfs-tools/modules"
    rm -f "$top"/boot/initrd.img-*
    chroot "$top" update-initramfs -c -k all
    printf '/dev/vda1 / ext4 errors=remount-ro 0 1\n' >"$top/etc/fstab"
    printf 'guest\n' >"$top/etc/hostname"
    printf '[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nIPv6AcceptRA=no\n' >"$top/etc/systemd/network/10-tests.network"
    # The journal is in memory: what a test finds changed on the disk was changed by it.
    mkdir -p "$top/etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\n' >"$top/etc/systemd/journald.conf.d/tests.conf"
    install -m 755 "$guest/shell.sh" "$top/usr/local/lib/test-shell"
    install -m 644 "$guest/shell.service" "$top/etc/systemd/system/test-shell.service"
    chroot "$top" systemctl -q enable systemd-networkd test-shell
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
        dpkg-db-backup.timer getty@tty1.service; do
        chroot "$top" systemctl -q mask "$unit"
    done
    mkdir -p "$top/boot/grub"
    sed "s/@KERNEL@/$(basename "$top"/boot/vmlinuz-6.1.* | sed s/vmlinuz-//)/" "$guest/grub.cfg" >"$top/boot/grub/grub.cfg"
}

# Turns the system into one as Fedora and its kin are, on a machine with an NVMe disk: one kernel, whose first file system is dracut's and has
# only what it was told that the machine has, and everything by the names of devices.
of_dracut() {
    local top="$work/root" version modules disk=/dev/nvme0n1p1
    version=$(basename "$top"/boot/vmlinuz-6.1.* | sed s/vmlinuz-//)
    chroot "$top" dpkg --purge --force-depends initramfs-tools initramfs-tools-core
    find "$top/boot" -maxdepth 1 -type f ! -name "vmlinuz-$version" -delete
    for modules in "$top"/usr/lib/modules/*; do
        [ "$(basename "$modules")" = "$version" ] || rm -rf "$modules"
    done
    rm -rf "$top"/var/lib/apt/lists/* "$top"/var/cache/apt/*
    printf 'hostonly=yes\nhostonly_cmdline=no\ncompress=zstd\n' >"$top/etc/dracut.conf.d/01-dist.conf"
    # No more than starts it: an emulated processor makes it again.
    printf 'early_microcode=no\ndo_strip=no\ndrivers=" nvme ext4 "\ndracutmodules=" systemd-initrd dracut-systemd udev-rules kernel-modules rootfs-block "\n' \
        >"$top/etc/dracut.conf.d/02-small.conf"
    # Dracut asks the machine that it runs on, which may have QEMU's disks itself: those are left out.
    unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount -t sysfs sys "$0/sys" && mount --rbind /dev "$0/dev" &&
        mount -t tmpfs run "$0/run" && exec chroot "$0" "$@"' "$top" dracut --quiet --omit-drivers "virtio_blk virtio_pci virtio_scsi virtio_net" \
        "/boot/initramfs-$version.img" "$version"
    printf '%s / ext4 errors=remount-ro 0 1\n' "$disk" >"$top/etc/fstab"
    printf 'GRUB_CMDLINE_LINUX="root=%s"\nGRUB_ENABLE_BLSCFG=true\n' "$disk" >"$top/etc/default/grub"
    mkdir -p "$top/boot/loader/entries" "$top/etc/lvm/devices" "$top/etc/cloud"
    printf 'title Debian\nlinux /boot/vmlinuz-%s\ninitrd /boot/initramfs-%s.img\noptions root=%s ro\n' \
        "$version" "$version" "$disk" >"$top/boot/loader/entries/debian-$version.conf"
    # Not for ever is waited for a disk.
    printf 'set root=(hd0,msdos1)\nlinux /boot/vmlinuz-%s root=%s ro console=ttyS0 loglevel=4 mitigations=off rd.retry=20\ninitrd /boot/initramfs-%s.img\nboot\n' \
        "$version" "$disk" "$version" >"$top/boot/grub/grub.cfg"
    ln -s grub.cfg "$top/boot/grub/menu.lst"
    printf 'VERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=eui.0025 DEVNAME=/dev/nvme0n1p9 PVID=none PART=9\n' >"$top/etc/lvm/devices/system.devices"
    printf 'users: []\n' >"$top/etc/cloud/cloud.cfg"
    install -m 644 "$guest/facts.service" "$top/etc/systemd/system/facts.service"
    chroot "$top" systemctl -q enable facts
}

# One partition, and a boot loader before it: the first sector loads the next, which hold GRUB.
disk() {
    local image=$1 size_mib=$2 grub="$work/root/usr/lib/grub/i386-pc"
    truncate --size "${size_mib}M" "$image"
    printf '2048,,L,*\n' | sfdisk --quiet --label dos "$image"
    mke2fs -q -t ext4 -L root -d "$work/root" -E "offset=$((1 << 20)),lazy_itable_init=0" "$image" $(((size_mib - 1) * 1024))
    chroot "$work/root" grub-mkimage -O i386-pc -o /run/core.img -p '(hd0,msdos1)/boot/grub' \
        biosdisk part_msdos ext2 linux normal configfile test echo serial
    dd if="$grub/boot.img" of="$image" bs=440 count=1 conv=notrunc status=none
    dd if="$work/root/run/core.img" of="$image" bs=512 seek=1 conv=notrunc status=none
}

# Runs as root.
image() {
    local made=$1 release
    mkdir -p "$vm"
    work=$(mktemp -d "$vm/work.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    say "making a disk image with Debian 12 and kernels of ${!kernels[*]}"
    system
    for release in "${!kernels[@]}"; do kernel_of "$release" "${kernels[$release]}"; done
    settle >/dev/null
    disk "$work/base.img" "$size_mib"
    say "making a disk image with Debian 12 and PostgreSQL"
    system postgresql
    settle >/dev/null
    disk "$work/database.img" "$size_mib"
    say "making a disk image whose first file system is dracut's"
    # In a system of its own: where dracut is, it has a part in how a machine is switched off.
    system dracut-core
    settle >/dev/null
    of_dracut >/dev/null
    disk "$work/dracut.img" "$mended_mib"
    mv "$work/base.img" "$work/dracut.img" "$work/database.img" "$vm/"
    printf '%s\n' "$made" >"$vm/base.made"
}

case "${1:-}" in
    "") ;;
    # What the script starts itself as, when it is not root.
    --image) image "$2"; exit ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
    say "no virtual machine for tests: it needs Debian or its kin on x86_64" >&2
    exit 0
fi
debian_packages qemu-system-x86 mmdebstrap e2fsprogs fdisk
made=$(cat "${BASH_SOURCE[0]}" "$guest"/* | sha256sum | cut -c1-32)
[ "$(cat "$vm/base.made" 2>/dev/null || true)" = "$made" ] || as_root "${BASH_SOURCE[0]}" --image "$made"
say "done"
