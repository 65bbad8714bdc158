//! What this machine is: for people and policies at the service, and to tell it from a copy of it.
//!
//! Nothing is secured by it, so whatever cannot be found out is left empty. Deliberately not here: which of the disks are
//! protected (`policy`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use mobility_capture::disk::Disk;
use mobility_format::{
    Digest,
    control::{DiskInventory, Inventory, MAX_DISKS, MAX_TEXT},
};

use crate::check::whole_disks;

/// Mounts and labels of a disk that are told of.
const MOST_NAMES: usize = 64;

/// What this machine is now.
pub(crate) fn collect() -> Inventory {
    let system = rustix::system::uname();
    let root = Path::new("/");
    let disks = whole_disks().into_iter().filter_map(|path| Disk::inspect(&path).ok());
    Inventory {
        name: text(&system.nodename().to_string_lossy()),
        system: text(&os_release(root)),
        kernel: text(&system.release().to_string_lossy()),
        architecture: text(&system.machine().to_string_lossy()),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        hardware: hardware(root),
        disks: disks.take(MAX_DISKS).map(|disk| describe(root, &disk)).collect(),
    }
}

/// What the service is told of a disk.
pub(crate) fn of_disk(disk: &Disk) -> DiskInventory {
    describe(Path::new("/"), disk)
}

fn describe(root: &Path, disk: &Disk) -> DiskInventory {
    let names = names_of(root, &disk.path);
    let mut mounts: Vec<_> = disk.mounts.iter().map(|mount| text(&mount.point.to_string_lossy())).collect();
    mounts.dedup();
    mounts.truncate(MOST_NAMES);
    let temporary = is_temporary(root, &disk.name, &names);
    let mut labels = vec![text(&disk.identity)];
    labels.extend(names.iter().filter_map(|path| Some(text(&path.file_name()?.to_string_lossy()))));
    labels.truncate(MOST_NAMES);
    DiskInventory { id: disk.id, name: text(&disk.name), size: disk.size, mounts, labels, temporary }
}

/// The links below `/dev/disk` that lead to a disk, in the order of their names.
fn names_of(root: &Path, device: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["by-id", "azure", "cloud"] {
        let entries = fs::read_dir(root.join("dev/disk").join(directory)).into_iter().flatten().flatten();
        found.extend(
            entries.map(|entry| entry.path()).filter(|path| path.canonicalize().is_ok_and(|to| to == device)),
        );
    }
    found.sort();
    found
}

/// Whether a cloud says that the disk's content does not outlive a move of the machine.
fn is_temporary(root: &Path, name: &str, links: &[PathBuf]) -> bool {
    let model = fs::read_to_string(root.join(format!("sys/block/{name}/device/model"))).unwrap_or_default();
    // AWS names the kind of disk, Azure and Google name the disk.
    model.trim() == "Amazon EC2 NVMe Instance Storage"
        || links.iter().filter_map(|path| path.file_name()?.to_str()).any(|link| {
            link == "resource"
                || link == "azure_resource"
                || link.starts_with("google-local-ssd-")
                || link.starts_with("google-local-nvme-ssd-")
        })
}

fn os_release(root: &Path) -> String {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let all = read("etc/os-release").or_else(|| read("usr/lib/os-release")).unwrap_or_default();
    let value = all.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

/// A digest of what differs between this machine and a copy of it that runs elsewhere: the firmware's id for it, and its
/// network cards' addresses. The system's own id is there for machines whose firmware has none; a copy shares it.
fn hardware(root: &Path) -> String {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_lowercase();
    let mut parts = vec![read("sys/class/dmi/id/product_uuid"), read("etc/machine-id")];
    let cards = fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
    // Only cards have a device: bridges and tunnels come and go.
    let mut addresses: Vec<_> = cards
        .filter(|card| card.path().join("device").exists())
        .filter_map(|card| fs::read_to_string(card.path().join("address")).ok())
        .map(|address| address.trim().to_lowercase())
        .collect();
    addresses.sort();
    parts.extend(addresses);
    Digest::of(parts.join("\n").as_bytes()).to_string()
}

/// Cut to what a message may hold.
fn text(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use mobility_format::control::Limited;

    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn this_machine_can_be_described_within_the_limits() {
        let inventory = collect();
        inventory.check().unwrap();
        assert!(!inventory.name.is_empty() && !inventory.kernel.is_empty());
        assert_eq!(inventory.hardware, collect().hardware, "it stays the same");
    }

    #[test]
    fn a_copy_on_other_hardware_is_told_apart() {
        let card = ("sys/class/net/eth0/device/x", "");
        let files =
            [("sys/class/dmi/id/product_uuid", "A-1\n"), ("sys/class/net/eth0/address", "00:11\n"), card];
        let here = hardware(root(&files).path());
        let moved =
            [("sys/class/dmi/id/product_uuid", "A-2\n"), ("sys/class/net/eth0/address", "00:11\n"), card];
        assert_ne!(here, hardware(root(&moved).path()));
        let other_card = [files[0], ("sys/class/net/eth0/address", "00:22\n"), card];
        assert_ne!(here, hardware(root(&other_card).path()));
        let bridge = [files[0], files[1], card, ("sys/class/net/br0/address", "22:33\n")];
        assert_eq!(here, hardware(root(&bridge).path()), "a bridge comes and goes");
        hardware(Path::new("/nonexistent"));
    }

    #[test]
    fn temporary_disks_are_what_the_clouds_say() {
        let aws = root(&[("sys/block/nvme1n1/device/model", "Amazon EC2 NVMe Instance Storage        \n")]);
        assert!(is_temporary(aws.path(), "nvme1n1", &[]) && !is_temporary(aws.path(), "nvme0n1", &[]));
        let cloud = root(&[("dev/sdb", ""), ("dev/sdc", "")]);
        for (directory, link) in [("azure", "resource"), ("by-id", "google-local-ssd-0")] {
            let directory = cloud.path().join("dev/disk").join(directory);
            fs::create_dir_all(&directory).unwrap();
            symlink(cloud.path().join("dev/sdb"), directory.join(link)).unwrap();
        }
        let device = |name: &str| cloud.path().join("dev").join(name).canonicalize().unwrap();
        let names = names_of(cloud.path(), &device("sdb"));
        assert_eq!(names.len(), 2);
        assert!(is_temporary(cloud.path(), "sdb", &names));
        assert!(names_of(cloud.path(), &device("sdc")).is_empty());
    }

    #[test]
    fn the_system_is_named_as_it_names_itself() {
        let root = root(&[("etc/os-release", "NAME=\"X\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n")]);
        assert_eq!(os_release(root.path()), "Debian GNU/Linux 12");
        assert_eq!(os_release(Path::new("/nonexistent")), "");
        assert_eq!(text(&"é".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }
}
