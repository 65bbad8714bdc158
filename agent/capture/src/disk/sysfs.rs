//! One block device's directory in `/sys`: its attributes, and the devices above and below it.
//!
//! A value of [`SysBlock`] is nothing but the directory, so that tests can make one out of plain files for hardware that
//! no test machine has. Everything is read when asked: the kernel changes it at any time, and an attribute that is not
//! there is `None`, never an error.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use mobility_format::ByteCount;

use super::{DeviceNumber, Partition};

/// `/sys` counts in these, whatever the device's sectors are.
const SECTOR: u64 = 512;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SysBlock {
    dir: PathBuf,
}

impl SysBlock {
    pub(crate) fn of(device: DeviceNumber) -> Option<Self> {
        Self::at(&PathBuf::from(format!("/sys/dev/block/{device}")))
    }

    pub(crate) fn at(dir: &Path) -> Option<Self> {
        dir.canonicalize().ok().map(|dir| SysBlock { dir })
    }

    /// The attribute's text without the white space around it; `None` where it is missing or empty.
    pub(crate) fn text(&self, attribute: &str) -> Option<String> {
        let bytes = fs::read(self.dir.join(attribute)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(crate) fn number(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.parse().ok()
    }

    pub(crate) fn size(&self) -> Option<ByteCount> {
        Some(ByteCount(self.number("size")?.checked_mul(SECTOR)?))
    }

    pub(crate) fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the device's node is, on a system that names nodes as the kernel does.
    pub(crate) fn device_path(&self) -> PathBuf {
        // The kernel writes "!" for a "/" in a name, as in "cciss!c0d0".
        Path::new("/dev").join(self.name().replace('!', "/"))
    }

    pub(crate) fn device(&self) -> Option<DeviceNumber> {
        let text = self.text("dev")?;
        let (major, minor) = text.split_once(':')?;
        Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The whole disk, where this is a partition.
    pub(crate) fn whole_disk(&self) -> Option<SysBlock> {
        self.dir.join("partition").exists().then_some(())?;
        Some(SysBlock { dir: self.dir.parent()?.to_owned() })
    }

    /// In order of their start.
    pub(crate) fn partitions(&self) -> Vec<SysBlock> {
        let mut found = self.children("");
        found.retain(|child| child.dir.join("partition").exists());
        found.sort_by_key(|partition| partition.number("start"));
        found
    }

    pub(crate) fn as_partition(&self) -> Option<Partition> {
        let start = ByteCount(self.number("start")?.checked_mul(SECTOR)?);
        Some(Partition { name: self.name(), device: self.device()?, start, size: self.size()? })
    }

    fn children(&self, directory: &str) -> Vec<SysBlock> {
        let Ok(entries) = fs::read_dir(self.dir.join(directory)) else { return Vec::new() };
        let mut found: Vec<_> = entries.flatten().filter_map(|entry| SysBlock::at(&entry.path())).collect();
        found.sort();
        found
    }

    /// The devices that this one is directly made of; a partition's is its disk.
    pub(crate) fn below(&self) -> Vec<SysBlock> {
        let mut found = self.children("slaves");
        found.extend(self.whole_disk());
        found
    }

    /// Everything that is stacked on this disk or on its partitions, at any height.
    pub(crate) fn above(&self) -> Vec<SysBlock> {
        let mut found = BTreeSet::new();
        let mut to_visit = vec![self.clone()];
        while let Some(block) = to_visit.pop() {
            to_visit.extend(block.partitions());
            for holder in block.children("holders") {
                if found.insert(holder.clone()) {
                    to_visit.push(holder);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Why writes to this disk do not pass the request tracepoints under its own numbers, if they do not.
    ///
    /// A device whose driver works on requests has a directory `mq`; one that works on bios passes them on, changed
    /// and under another device's numbers.
    pub(crate) fn untrackable(&self) -> Option<String> {
        if self.dir.join("mq").exists() && !self.dir.join("dm").exists() {
            return None;
        }
        let kind = match self.name() {
            _ if self.dir.join("dm").exists() => "a device-mapper device",
            _ if self.dir.join("md").exists() => "an md array",
            name if name.starts_with("zram") || name.starts_with("ram") => "a disk in memory",
            name if name.starts_with("nvme") => "the head of NVMe multipath",
            _ => "a device that works on bios",
        };
        let below: Vec<_> = self.below().iter().map(SysBlock::name).collect();
        let remedy = match below.is_empty() {
            true => "protect it by scan".to_owned(),
            false => format!("protect the disks below it ({}), or scan", below.join(", ")),
        };
        Some(format!("{} is {kind}, whose writes never become requests of its own; {remedy}", self.name()))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
