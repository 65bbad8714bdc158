//! Whether the kernels of a machine find their root at the target: the drivers of its disks have to be in the kernel, or in the first
//! file system that is loaded with it.
//!
//! Deliberately not here: asking (`guest`).

use std::cmp::Ordering;

/// What QEMU's disks and cards need.
pub(super) const NEEDED: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// How many kernels are looked at, the newest first.
pub(super) const MOST_KERNELS: usize = 3;
/// What the tools of Debian and its kin read.
pub(super) const INITRAMFS_TOOLS: &str = "/etc/initramfs-tools/modules";
/// What is written for the tools of Fedora and its kin.
pub(super) const DRACUT: &str = "/etc/dracut.conf.d/99-mobility-failover.conf";
/// By what LVM knows disks, in a first file system.
const LVM_DEVICES: &str = "etc/lvm/devices/system.devices";

/// Those drivers that are in none of the listings: of a first file system's files, and of what a kernel holds itself.
pub(super) fn missing(listing: &str) -> Vec<&'static str> {
    let names: Vec<String> = listing
        .lines()
        .filter_map(|line| line.trim().rsplit('/').next()?.split(".ko").next())
        .map(|name| name.replace('-', "_"))
        .collect();
    NEEDED.into_iter().filter(|needed| !names.iter().any(|name| name == needed)).collect()
}

/// Whether a first file system, of this listing, knows the disks that LVM may use by what they are called at the source.
pub(super) fn names_disks(listing: &str) -> bool {
    listing.lines().any(|line| line.trim().ends_with(LVM_DEVICES))
}

/// The versions of kernels that can be started, of the names of files in `/boot`; the newest first.
pub(super) fn kernels(boot: &[String]) -> Vec<String> {
    let version = |path: &String| Some(path.rsplit('/').next()?.strip_prefix("vmlinuz-")?.to_owned());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
    let mut versions: Vec<String> = boot
        .iter()
        .filter_map(version)
        .filter(|version| !version.contains("rescue") && version.chars().all(plain))
        .collect();
    versions.sort_by(|a, b| newer(a, b));
    versions.dedup();
    versions.truncate(MOST_KERNELS);
    versions
}

/// The order of versions, with numbers by their value; the greater first.
fn newer(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.map(|word| (word.parse::<u64>().ok(), word.to_owned())).collect::<Vec<_>>()
    };
    parts(b).cmp(&parts(a))
}

/// The first file system of a kernel, of the names of files in `/boot`.
pub(super) fn first_file_system(boot: &[String], version: &str) -> Option<String> {
    let names =
        [format!("initrd.img-{version}"), format!("initramfs-{version}.img"), format!("initrd-{version}")];
    boot.iter().find(|path| names.iter().any(|name| path.rsplit('/').next() == Some(name))).cloned()
}

/// What `INITRAMFS_TOOLS` is to hold.
pub(super) fn modules(text: &str) -> String {
    let lacks: Vec<&str> =
        NEEDED.into_iter().filter(|name| !text.lines().any(|line| line.trim() == *name)).collect();
    match lacks.is_empty() {
        true => text.to_owned(),
        false => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            format!("{text}{end}{}\n", lacks.join("\n"))
        }
    }
}

/// What `DRACUT` is to hold: the drivers, and these files, which give network cards their names. Whatever is in the first file system
/// names the cards first, and not every system names them a second time.
pub(super) fn dracut(links: &[String]) -> String {
    let head = "# Written by the recovery service before the first boot after a failover.";
    let items = match links.is_empty() {
        true => String::new(),
        false => format!("install_items+=\" {} \"\n", links.join(" ")),
    };
    format!("{head}\nadd_drivers+=\" {} \"\n{items}", NEEDED.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_in_the_kernel_or_loaded_with_it() {
        let debian = "usr/lib/modules/6.1.0-18-amd64/kernel/drivers/virtio/virtio_pci.ko\nusr/lib/modules/6.1.0/kernel/drivers/block/virtio_blk.ko.xz";
        assert!(missing(debian).is_empty());
        let built_in = "kernel/drivers/virtio/virtio_pci.ko\n";
        assert_eq!(missing(built_in), ["virtio_blk"]);
        let azure = "kernel/drivers/virtio/virtio_pci_modern_dev.ko\nkernel/drivers/hv/hv_storvsc.ko";
        assert_eq!(missing(azure), NEEDED);
        let fedora =
            "-rw-r--r--   1 root root 9 Jan  1  1970 usr/lib/modules/6.8/virtio-pci.ko.zst\nx/virtio_blk.ko";
        assert!(missing(fedora).is_empty());
        assert_eq!(missing(""), NEEDED);
    }

    #[test]
    fn a_first_file_system_may_know_disks_by_their_serial_numbers() {
        let listing = "drwxr-xr-x 2 root root 0 May 4 2026 etc/lvm/devices\n-rw------- 1 root root 141 May  4  2026 etc/lvm/devices/system.devices\n";
        assert!(
            names_disks(listing) && !names_disks("etc/lvm/devices\netc/lvm/lvm.conf\n") && !names_disks("")
        );
    }

    #[test]
    fn the_newest_kernels_are_looked_at() {
        let names = |names: &[&str]| names.iter().map(|name| format!("/boot/{name}")).collect::<Vec<_>>();
        let boot = names(&[
            "vmlinuz-5.10.0-9-amd64",
            "vmlinuz-5.10.0-30-amd64",
            "vmlinuz-6.1.0-2",
            "vmlinuz-4.18.0",
            "vmlinuz-0-rescue-ab",
            "config-7",
            "initrd.img-6.1.0-2",
            "initramfs-4.18.0.img",
        ]);
        assert_eq!(kernels(&boot), ["6.1.0-2", "5.10.0-30-amd64", "5.10.0-9-amd64"]);
        assert_eq!(first_file_system(&boot, "6.1.0-2").as_deref(), Some("/boot/initrd.img-6.1.0-2"));
        assert_eq!(first_file_system(&boot, "4.18.0").as_deref(), Some("/boot/initramfs-4.18.0.img"));
        assert_eq!(first_file_system(&boot, "9"), None);
    }

    #[test]
    fn what_is_there_is_not_added_again() {
        assert_eq!(modules("# list\next4"), "# list\next4\nvirtio_pci\nvirtio_blk\n");
        assert_eq!(modules("virtio_pci\n"), "virtio_pci\nvirtio_blk\n");
        let whole = modules("");
        assert_eq!(modules(&whole), whole);
        let (plain, with_cards) =
            (dracut(&[]), dracut(&["/etc/a.link".to_owned(), "/etc/b.link".to_owned()]));
        assert!(plain.ends_with("\nadd_drivers+=\" virtio_pci virtio_blk \"\n"), "{plain}");
        assert_eq!(with_cards, plain + "install_items+=\" /etc/a.link /etc/b.link \"\n");
    }
}
