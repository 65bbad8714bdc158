//! Which file systems lie on the disks of a cut, and in which order to freeze them.
//!
//! One file system may be mounted many times, and may be hidden; it is frozen once, by its superblock. Deliberately not
//! here: freezing, and file systems that are mounted in other mount namespaces only, which this process cannot see.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{layers::Layers, opened};
use crate::disk::{
    DeviceNumber, Disk,
    mounts::{self, Mount},
};

/// Those whose freeze is known to leave the disk consistent.
const FREEZABLE: [&str; 5] = ["btrfs", "ext2", "ext3", "ext4", "xfs"];

/// A file system that can be frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystem {
    /// Where it is mounted and can be reached.
    pub point: PathBuf,
    /// Its type, for instance `ext4`.
    pub kind: String,
    /// The kernel's number for it.
    pub superblock: DeviceNumber,
    /// The block devices that it lies on.
    pub devices: Vec<DeviceNumber>,
    /// The mount at [`FileSystem::point`].
    mount: u64,
}

impl FileSystem {
    /// Its directory, if it is still what is mounted there.
    pub(super) fn open(&self) -> Option<OwnedFd> {
        opened::open(&self.point, self.mount)
    }
}

/// A file system on the disks that is not frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its type.
    pub kind: String,
    /// The kernel's number for it.
    pub superblock: DeviceNumber,
    /// Why it is not frozen.
    pub reason: SkipReason,
}

impl Skipped {
    /// Whether writes to it go on during a freeze.
    #[must_use]
    pub fn is_written_to(&self) -> bool {
        self.reason != SkipReason::ReadOnly
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) is not frozen: {}", self.point.display(), self.kind, self.reason)
    }
}

/// Why a file system is not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// Nothing is written to it.
    ReadOnly,
    /// Its type is not one that can be frozen.
    Kind,
    /// Other mounts hide all of its mount points.
    Hidden,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::ReadOnly => "it is mounted read-only",
            SkipReason::Kind => "file systems of this type cannot be frozen",
            SkipReason::Hidden => "other mounts hide it; mount it somewhere else, too",
        })
    }
}

/// What [`file_systems`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystems {
    /// In the order in which to freeze them. Thawing goes the other way.
    pub to_freeze: Vec<FileSystem>,
    /// The others on the same disks.
    pub skipped: Vec<Skipped>,
}

/// The file systems that lie on `disks`: on a disk itself, on its partitions, on what is stacked on these, on several disks
/// of which one is given, and on loop devices whose files lie on such file systems.
///
/// Those on top of others come first, the root file system comes last, and otherwise what was mounted later comes first.
#[must_use]
pub fn file_systems(disks: &[&Disk]) -> FileSystems {
    let mounts = mounts::all();
    let layers = Layers::above(disks, &mounts);
    let open = |mount: &Mount| opened::open(&mount.point, mount.id).is_some();
    choose(&mounts, |mount| layers.level(&mounts::devices_of(mount)), open)
}

/// The same, with the machine's answers given.
fn choose(
    mounts: &[Mount],
    level: impl Fn(&Mount) -> Option<u32>,
    can_open: impl Fn(&Mount) -> bool,
) -> FileSystems {
    // By superblock, in the order of their first mounts.
    let mut order: Vec<DeviceNumber> = Vec::new();
    let mut by_superblock: BTreeMap<DeviceNumber, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts {
        let same = by_superblock.entry(mount.superblock).or_default();
        if same.is_empty() {
            order.push(mount.superblock);
        }
        same.push(mount);
    }
    let (mut ranked, mut skipped) = (Vec::new(), Vec::new());
    for (rank, superblock) in order.iter().enumerate() {
        let same = &by_superblock[superblock];
        let Some(level) = same.iter().filter_map(|mount| level(mount)).max() else { continue };
        let is_root = same.iter().any(|mount| mount.point == Path::new("/"));
        match usable(same, &can_open) {
            Ok(mount) => {
                let found = FileSystem {
                    point: mount.point.clone(),
                    kind: mount.kind.clone(),
                    superblock: *superblock,
                    devices: mounts::devices_of(mount),
                    mount: mount.id,
                };
                ranked.push(((level, !is_root, rank), found));
            }
            Err(reason) => skipped.push(Skipped {
                point: same[0].point.clone(),
                kind: same[0].kind.clone(),
                superblock: *superblock,
                reason,
            }),
        }
    }
    ranked.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
    FileSystems { to_freeze: ranked.into_iter().map(|(_, found)| found).collect(), skipped }
}

/// The mount to freeze a file system by.
fn usable<'a>(same: &[&'a Mount], can_open: impl Fn(&Mount) -> bool) -> Result<&'a Mount, SkipReason> {
    match same.first() {
        Some(first) if !FREEZABLE.contains(&first.kind.as_str()) => Err(SkipReason::Kind),
        Some(_) if !same.iter().any(|mount| mount.writable) => Err(SkipReason::ReadOnly),
        _ => same.iter().find(|mount| can_open(mount)).copied().ok_or(SkipReason::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, superblock: u32, point: &str, kind: &str, writable: bool) -> Mount {
        let device = DeviceNumber { major: 8, minor: superblock };
        let (point, kind) = (point.into(), kind.to_owned());
        Mount { point, kind, source: "/dev/x".into(), device, id, superblock: device, writable }
    }

    fn order(found: &FileSystems) -> Vec<&str> {
        found.to_freeze.iter().map(|each| each.point.to_str().unwrap()).collect()
    }

    #[test]
    fn stacked_first_root_last_and_otherwise_the_youngest_first() {
        let mounts = [
            mount(1, 1, "/", "ext4", true),
            mount(2, 2, "/a", "xfs", true),
            mount(3, 3, "/a/on-top", "btrfs", true),
            mount(4, 4, "/b", "ext4", true),
            mount(5, 9, "/elsewhere", "ext4", true),
        ];
        let level = |mount: &Mount| match mount.superblock.minor {
            9 => None,
            3 => Some(1),
            _ => Some(0),
        };
        assert_eq!(order(&choose(&mounts, level, |_| true)), ["/a/on-top", "/b", "/a", "/"]);
        // A root file system on a loop device goes before what the loop device's file lies on.
        let upper_root = |mount: &Mount| Some(u32::from(mount.point == Path::new("/")));
        assert_eq!(
            order(&choose(&mounts, upper_root, |_| true)),
            ["/", "/elsewhere", "/b", "/a/on-top", "/a"]
        );
    }

    #[test]
    fn a_file_system_is_frozen_once_by_a_mount_that_can_be_reached() {
        let mounts = [
            mount(1, 1, "/hidden", "ext4", true),
            mount(2, 2, "/hidden", "ext4", true),
            mount(3, 1, "/bound", "ext4", true),
            mount(4, 3, "/efi", "vfat", true),
            mount(5, 4, "/cd", "ext4", false),
            mount(6, 5, "/under", "xfs", true),
        ];
        let found = choose(&mounts, |_| Some(0), |mount| mount.id != 1 && mount.id != 6);
        assert_eq!(order(&found), ["/hidden", "/bound"]);
        let reasons: Vec<_> =
            found.skipped.iter().map(|each| (each.point.to_str().unwrap(), each.reason)).collect();
        assert_eq!(
            reasons,
            [("/efi", SkipReason::Kind), ("/cd", SkipReason::ReadOnly), ("/under", SkipReason::Hidden)]
        );
        assert_eq!(found.skipped.iter().filter(|each| each.is_written_to()).count(), 2);
    }
}
