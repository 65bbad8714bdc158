#!/usr/bin/env bash
# Installs what the tests in a virtual machine need: QEMU, and disk images with Debian 12 and a boot loader, in target/vm: one with the
# kernels of three Debian releases, and one with a database. May be run again at any time: images that were made by these very files are left alone, and nothing is asked.
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

# One partition, and a boot loader before it: the first sector loads the next, which hold GRUB.
disk() {
    local image=$1 grub="$work/root/usr/lib/grub/i386-pc"
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
    disk "$work/base.img"
    say "making a disk image with Debian 12 and PostgreSQL"
    system postgresql
    settle >/dev/null
    disk "$work/database.img"
    mv "$work/base.img" "$work/database.img" "$vm/"
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
