//! What the names of devices in a machine's files mean at the target, where the same disks have other names.
//!
//! A name such as `/dev/sda1` is known by the disk that the machine's inventory called `sda`, whatever place that disk has now.
//! Deliberately not here: the files (`fstab`, `boot`), and finding out what is on the disks (`guest`).

/// A disk of the machine's, in the order in which the appliance has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// What the machine called it, without `/dev/`.
    pub(super) name: String,
    /// The serial number that the machine saw.
    pub(super) serial: String,
    /// Whether the machine's root is on it.
    pub(super) is_root: bool,
}

/// Something on the restored disks that has an identity of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// What the appliance calls it.
    pub(super) node: String,
    /// On which disk it is, and as which partition; nothing for what spans disks.
    pub(super) at: Option<(usize, Option<u32>)>,
    /// The file system's identity and label.
    pub(super) uuid: String,
    pub(super) label: String,
    /// What is there, such as `ext4` or `swap`.
    pub(super) kind: String,
    /// The partition's identity and name.
    pub(super) part_uuid: String,
    pub(super) part_label: String,
}

/// All that is on the restored disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) disks: Vec<Named>,
    pub(super) all: Vec<Device>,
    /// Which of them holds the root file system.
    pub(super) root: Option<usize>,
    /// Names below `/dev/mapper` that appear when the machine starts, as its table of encrypted devices says.
    pub(super) mapped: Vec<String>,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// It holds at the target as it did at the source.
    Holds,
    /// It is another one's there.
    Is(&'a Device),
    /// It is on none of the disks.
    Gone,
    /// Nobody can say which disk is meant.
    Unclear,
}

/// What comes and goes by itself, or is made by the kernel wherever it runs.
const ANYWHERE: [&str; 8] = ["sr", "cdrom", "dvd", "fd", "loop", "ram", "zram", "shm"];

impl Devices {
    /// What a name such as `/dev/sda1` or `UUID=...` means.
    pub(super) fn meaning(&self, name: &str) -> Meaning<'_> {
        if let Some((key, value)) = name.split_once('=') {
            return self.tagged(key, value);
        }
        let Some(path) = name.strip_prefix("/dev/") else { return Meaning::Holds };
        if let Some(of) = path.strip_prefix("disk/") {
            return self.linked(of);
        }
        if let Some(mapped) = path.strip_prefix("mapper/") {
            let holds = mapped == "control" || self.mapped.iter().any(|name| name == mapped);
            return if holds || self.is_volume(name) { Meaning::Holds } else { Meaning::Gone };
        }
        if ANYWHERE.iter().any(|prefix| path.starts_with(prefix)) || path.starts_with("md") {
            return Meaning::Holds;
        }
        match split(path) {
            Some((disk, partition)) => self.at(disk, partition),
            None if self.is_volume(name) => Meaning::Holds,
            None if path.contains('/') => Meaning::Gone,
            None => Meaning::Holds,
        }
    }

    /// The root file system.
    pub(super) fn root(&self) -> Option<&Device> {
        self.root.and_then(|root| self.all.get(root))
    }

    /// What the appliance calls what a name such as `UUID=...` means.
    pub(super) fn node_of(&self, name: &str) -> Option<String> {
        let (key, value) = name.split_once('=')?;
        self.by_tag(key, value).map(|device| device.node.clone())
    }

    fn by_tag(&self, key: &str, value: &str) -> Option<&Device> {
        let value = value.trim_matches(['"', '\'']);
        self.all.iter().filter(|_| !value.is_empty()).find(|device| match key {
            "UUID" => device.uuid.eq_ignore_ascii_case(value),
            "LABEL" => device.label == value,
            "PARTUUID" => device.part_uuid.eq_ignore_ascii_case(value),
            "PARTLABEL" => device.part_label == value,
            _ => false,
        })
    }

    fn tagged(&self, key: &str, value: &str) -> Meaning<'_> {
        let is_known = ["UUID", "LABEL", "PARTUUID", "PARTLABEL"].contains(&key);
        match is_known && !value.is_empty() && self.by_tag(key, value).is_none() {
            true => Meaning::Gone,
            false => Meaning::Holds,
        }
    }

    /// A link below `/dev/disk`.
    fn linked(&self, link: &str) -> Meaning<'_> {
        let (kind, name) = link.split_once('/').unwrap_or((link, ""));
        match kind {
            "by-uuid" => return self.tagged("UUID", name),
            "by-label" => return self.tagged("LABEL", name),
            "by-partuuid" => return self.tagged("PARTUUID", name),
            "by-partlabel" => return self.tagged("PARTLABEL", name),
            _ => {}
        }
        let (name, partition) = match name.rsplit_once("-part") {
            Some((name, number)) => match number.parse() {
                Ok(number) => (name, Some(number)),
                Err(_) => return Meaning::Unclear,
            },
            None => (name, None),
        };
        // What clouds call a disk whose content is lost with every move.
        if name.contains("resource") && (kind == "azure" || kind == "cloud") {
            return Meaning::Gone;
        }
        let number = match (kind, name) {
            ("azure", "root") | ("cloud", "azure_root") => self.disks.iter().position(|disk| disk.is_root),
            ("by-id", name) => {
                // Shorter ones are in other names by chance.
                let holds = |disk: &Named| disk.serial.len() >= 4 && name.contains(&disk.serial);
                self.disks.iter().position(holds)
            }
            _ => None,
        };
        number.and_then(|disk| self.found(disk, partition)).map_or(Meaning::Unclear, Meaning::Is)
    }

    fn at(&self, disk: &str, partition: Option<u32>) -> Meaning<'_> {
        match self.disks.iter().position(|named| named.name == disk) {
            None => Meaning::Gone,
            Some(number) => self.found(number, partition).map_or(Meaning::Unclear, Meaning::Is),
        }
    }

    fn found(&self, disk: usize, partition: Option<u32>) -> Option<&Device> {
        let there = |device: &&Device| device.at == Some((disk, partition)) && !device.uuid.is_empty();
        self.all.iter().find(there)
    }

    /// Whether a logical volume, `GROUP/VOLUME`, is on none of the disks. Where no volume at all was found nobody can say.
    pub(super) fn lacks_volume(&self, volume: &str) -> bool {
        let has_volumes = self.all.iter().any(|device| device.at.is_none());
        has_volumes && !self.is_volume(&format!("/dev/{volume}"))
    }

    /// Whether it is a logical volume: `/dev/GROUP/VOLUME`, or the same as `/dev/mapper/GROUP-VOLUME`.
    fn is_volume(&self, name: &str) -> bool {
        let mapped = |node: &str| {
            let (group, volume) = node.strip_prefix("/dev/")?.split_once('/')?;
            Some(format!("/dev/mapper/{}-{}", group.replace('-', "--"), volume.replace('-', "--")))
        };
        self.all
            .iter()
            .filter(|device| device.at.is_none())
            .any(|device| device.node == name || mapped(&device.node).as_deref() == Some(name))
    }
}

/// A disk's name and the number of a partition, of a name such as `sda1` or `nvme0n1p2`; nothing for other devices.
pub(super) fn split(name: &str) -> Option<(&str, Option<u32>)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    for kind in ["nvme", "mmcblk"] {
        if let Some(rest) = name.strip_prefix(kind) {
            let parts = rest.rsplit_once('p').filter(|(disk, number)| {
                is_number(number) && disk.ends_with(|last: char| last.is_ascii_digit())
            });
            return Some(match parts {
                Some((disk, number)) => (&name[..kind.len() + disk.len()], number.parse().ok()),
                None => (name, None),
            });
        }
    }
    let kind = ["xvd", "sd", "vd", "hd"].into_iter().find(|kind| name.starts_with(kind))?;
    let letters = name[kind.len()..].bytes().take_while(u8::is_ascii_lowercase).count();
    let (disk, number) = name.split_at(kind.len() + letters);
    match (letters, number) {
        (0, _) => None,
        (_, "") => Some((disk, None)),
        (_, number) => is_number(number).then(|| (disk, number.parse().ok())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two disks, `sda` and `sdc`, with a root, swap, an encrypted partition and a volume; `sdb` was not protected.
    pub(in super::super) fn two_disks() -> Devices {
        let disk = |name: &str, serial: &str, is_root| Named {
            name: name.to_owned(),
            serial: serial.to_owned(),
            is_root,
        };
        let device = |node: &str, at, uuid: &str, kind: &str| Device {
            node: node.to_owned(),
            at,
            uuid: uuid.to_owned(),
            kind: kind.to_owned(),
            part_uuid: format!("part-of-{uuid}"),
            label: format!("label-{uuid}"),
            ..Device::default()
        };
        Devices {
            disks: vec![disk("sda", "", true), disk("sdc", "S3Z9NB0K", false)],
            all: vec![
                device("/dev/sda1", Some((0, Some(1))), "0a3407de-014b-458b-b5c1-848e92a327a3", "ext4"),
                device("/dev/sda5", Some((0, Some(5))), "f9fe0b69-a280-415d-a03a-a32752370dee", "swap"),
                device("/dev/sdb1", Some((1, Some(1))), "7D3C-1A2B", "vfat"),
                device(
                    "/dev/sdb2",
                    Some((1, Some(2))),
                    "cafe0000-1111-2222-3333-444455556666",
                    "crypto_LUKS",
                ),
                device("/dev/vg-data/log-1", None, "lv", "xfs"),
            ],
            root: Some(0),
            mapped: vec!["secret".to_owned()],
        }
    }

    #[test]
    fn names_are_taken_apart() {
        let table = [
            ("sda", Some(("sda", None))),
            ("sda1", Some(("sda", Some(1)))),
            ("sdab12", Some(("sdab", Some(12)))),
            ("xvda1", Some(("xvda", Some(1)))),
            ("vdb", Some(("vdb", None))),
            ("nvme0n1", Some(("nvme0n1", None))),
            ("nvme0n1p15", Some(("nvme0n1", Some(15)))),
            ("mmcblk0p2", Some(("mmcblk0", Some(2)))),
            ("sd", None),
            ("sd1", None),
            ("sda1x", None),
            ("mapper/vg-lv", None),
            ("", None),
        ];
        for (name, parts) in table {
            assert_eq!(split(name), parts, "{name}");
        }
    }

    #[test]
    fn a_name_means_what_the_machine_meant() {
        let devices = two_disks();
        let is = |number: usize| Meaning::Is(&devices.all[number]);
        let table = [
            ("/dev/sda1", is(0)),
            ("/dev/sda5", is(1)),
            // It was the third disk at the source, and is the second one here.
            ("/dev/sdc1", is(2)),
            ("/dev/sdb1", Meaning::Gone),
            ("/dev/sda2", Meaning::Unclear),
            ("/dev/nvme0n1p1", Meaning::Gone),
            ("/dev/disk/by-id/ata-Samsung_SSD_860_S3Z9NB0K-part1", is(2)),
            ("/dev/disk/by-id/scsi-0Google_PersistentDisk_disk-1-part1", Meaning::Unclear),
            ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1", Meaning::Unclear),
            ("/dev/disk/azure/root-part1", is(0)),
            ("/dev/disk/cloud/azure_resource-part1", Meaning::Gone),
            ("/dev/disk/by-uuid/7d3c-1a2b", Meaning::Holds),
            ("/dev/disk/by-uuid/0000-0000", Meaning::Gone),
            ("UUID=0A3407DE-014B-458B-B5C1-848E92A327A3", Meaning::Holds),
            ("UUID=\"0a3407de-014b-458b-b5c1-848e92a327a3\"", Meaning::Holds),
            ("UUID=ffffffff-014b-458b-b5c1-848e92a327a3", Meaning::Gone),
            ("LABEL=label-lv", Meaning::Holds),
            ("LABEL=other", Meaning::Gone),
            ("PARTUUID=part-of-7d3c-1a2b", Meaning::Holds),
            ("/dev/vg-data/log-1", Meaning::Holds),
            ("/dev/mapper/vg--data-log--1", Meaning::Holds),
            ("/dev/mapper/vg-other", Meaning::Gone),
            ("/dev/mapper/secret", Meaning::Holds),
            ("/dev/vg2/x", Meaning::Gone),
            ("/dev/md0", Meaning::Holds),
            ("/dev/sr0", Meaning::Holds),
            ("/dev/fd0", Meaning::Holds),
            ("proc", Meaning::Holds),
            ("server:/export", Meaning::Holds),
        ];
        for (name, meaning) in table {
            assert_eq!(devices.meaning(name), meaning, "{name}");
        }
    }
}
