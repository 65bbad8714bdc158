//! What this machine is: for people and policies at the service, and to tell it from a copy of it.
//!
//! Nothing is secured by it, so whatever cannot be found out is left empty. Deliberately not here: which of the disks are
//! protected (`policy`), what the machine is made of beside them (`shape`), and what its cloud says (`metadata`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use mobility_capture::disk::Disk;
use mobility_format::{
    Digest,
    control::{DiskInventory, Inventory, MAX_DISKS, MAX_TEXT, Shape},
};

use super::{metadata, shape};
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
        shape: Some(Shape { cloud: metadata::collect(), ..shape::collect(root) }),
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
    let (controller, lun) = attached(root, &disk.name);
    DiskInventory {
        id: disk.id,
        name: text(&disk.name),
        size: disk.size,
        mounts,
        labels,
        temporary,
        controller,
        lun,
        serial: serial(root, &disk.name),
    }
}

/// What a disk is attached to, and its number there. SCSI disks have one, whose place is written as `host:channel:target:number`; what
/// they are attached to is what has the host.
fn attached(root: &Path, name: &str) -> (Option<String>, Option<u32>) {
    let Ok(device) = root.join(format!("sys/block/{name}/device")).canonicalize() else {
        return (None, None);
    };
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let last = parts.last().copied().unwrap_or_default();
    let host = parts
        .iter()
        .position(|part| part.strip_prefix("host").is_some_and(|number| number.parse::<u32>().is_ok()));
    match host.and_then(|at| parts.get(at.checked_sub(1)?)) {
        Some(controller) => {
            let lun = last.rsplit_once(':').filter(|(place, _)| place.split(':').count() == 3);
            (Some(text(controller)), lun.and_then(|(_, lun)| lun.parse().ok()))
        }
        None => (Some(text(last)), None),
    }
}

/// The serial number that a disk shows.
fn serial(root: &Path, name: &str) -> Option<String> {
    let plain = |path: &str| fs::read(root.join(format!("sys/block/{name}/{path}"))).ok();
    // A page of a SCSI disk has its kind and length first.
    let page = || plain("device/vpd_pg80").and_then(|page| Some(page.get(4..)?.to_vec()));
    let bytes = plain("serial").or_else(|| plain("device/serial")).or_else(page)?;
    let shown =
        String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
    (!shown.is_empty() && !shown.contains(char::is_control)).then(|| text(&shown))
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
    fn a_disk_says_what_it_is_attached_to_and_its_serial_number() {
        let controller = "sys/devices/vmbus/f8b3781b-1e82-4818-a1c3-63d806ec15bb";
        let scsi = format!("{controller}/host1/target1:0:0/1:0:0:3");
        let page = format!("{scsi}/vpd_pg80");
        let virtio = "sys/devices/pci0000:00/0000:00:04.0/virtio3";
        let files = [
            (page.as_str(), "\0\u{1}\0\u{4}AB12"),
            (&format!("{virtio}/x"), ""),
            ("sys/block/vda/serial", "disk-1\n"),
        ];
        let root = root(&files);
        fs::create_dir_all(root.path().join("sys/block/sdc")).unwrap();
        symlink(root.path().join(&scsi), root.path().join("sys/block/sdc/device")).unwrap();
        symlink(root.path().join(virtio), root.path().join("sys/block/vda/device")).unwrap();
        let shown = |name| (attached(root.path(), name), serial(root.path(), name));
        let bus = "f8b3781b-1e82-4818-a1c3-63d806ec15bb".to_owned();
        assert_eq!(shown("sdc"), ((Some(bus), Some(3)), Some("AB12".to_owned())));
        assert_eq!(shown("vda"), ((Some("virtio3".to_owned()), None), Some("disk-1".to_owned())));
        assert_eq!(shown("loop0"), ((None, None), None));
    }

    #[test]
    fn the_system_is_named_as_it_names_itself() {
        let root = root(&[("etc/os-release", "NAME=\"X\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n")]);
        assert_eq!(os_release(root.path()), "Debian GNU/Linux 12");
        assert_eq!(os_release(Path::new("/nonexistent")), "");
        assert_eq!(text(&"é".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }
}
